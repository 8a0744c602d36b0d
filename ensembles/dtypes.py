"""Floating-point formats of members: bit layouts, and correct rounding to them."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ensembles._typing import Array, Float64


class FloatFormat(NamedTuple):
    """Bit layout of a floating-point format: sign, exponent, mantissa.

    Parameters
    ----------
    dtype : dtype
        NumPy dtype of the format.
    mantissa : int
        Number of explicit bits of the mantissa.
    bias : int
        Stored exponent minus true exponent.
    special : int
        Bits of the smallest magnitude that is not finite; a value that overflows
        becomes this one.
    largest : int
        Bits of the largest magnitude that is not NaN.
    """

    dtype: np.dtype[Any]
    mantissa: int
    bias: int
    special: int
    largest: int

    @property
    def bits(self) -> np.dtype[Any]:
        """Unsigned integer dtype of the same size."""
        return np.dtype(f"u{self.dtype.itemsize}")

    @property
    def smallest_normal(self) -> float:
        """Smallest positive normal number; smaller numbers lose mantissa bits."""
        return float(2.0 ** (1 - self.bias))


def _ieee(name: Any, mantissa: int, bias: int) -> FloatFormat:
    infinity = (2 * bias + 1) << mantissa
    return FloatFormat(np.dtype(name), mantissa, bias, infinity, infinity)


FLOATS = {
    entry.dtype: entry
    for entry in (
        _ieee(np.float64, 52, 1023),
        _ieee(np.float32, 23, 127),
        _ieee(np.float16, 10, 15),
        _ieee(ml_dtypes.bfloat16, 7, 127),
        _ieee(ml_dtypes.float8_e5m2, 2, 15),
        # No infinity: every exponent encodes numbers, and only S.1111.111 is NaN (OCP
        # 8-bit floating point specification 1.0, 2023, table 1).
        FloatFormat(np.dtype(ml_dtypes.float8_e4m3fn), 3, 7, 0x7F, 0x7E),
    )
}


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether members of this dtype can be averaged."""
    return dtype in FLOATS


def round_to_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Float64 values rounded once to the nearest value of ``dtype``, ties to even.

    A plain ``astype`` to a format of ml_dtypes converts to float32 first and rounds
    twice: 1 + 2**-8 + 2**-40 would become 1 in bfloat16.

    Parameters
    ----------
    values : ndarray, float64
        Values to round; infinity and NaN are allowed.
    dtype : dtype, one of ``FLOATS``
        Target format.

    Returns
    -------
    ndarray of the same shape, of ``dtype``

    Examples
    --------
    >>> import ml_dtypes
    >>> round_to_dtype(np.array([1 + 2**-8 + 2**-40]), np.dtype(ml_dtypes.bfloat16))
    array([1.00781], dtype=bfloat16)
    """
    target = FLOATS[np.dtype(dtype)]
    if target.mantissa >= 23:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.asarray(values).astype(target.dtype)
    return _round_small(np.asarray(values, np.float64), target)


def _round_small(values: Float64, target: FloatFormat) -> Array:
    magnitude = np.abs(values)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN, also signaling
        # frexp has mantissas in [0.5, 1): its exponent is one above the stored one.
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, 1 - target.bias)
        ulp = np.ldexp(1.0, exponent - target.mantissa)
        nearest = np.copysign(np.rint(magnitude / ulp) * ulp, values)
        result = nearest.astype(np.float32).astype(target.dtype)  # exact, or overflows
    bits = result.view(target.bits)
    top = 1 << (8 * target.dtype.itemsize - 1)
    sign = bits & target.bits.type(top)
    finite = np.array(target.special - 1, target.bits).view(target.dtype)
    with np.errstate(invalid="ignore"):
        over = np.abs(nearest) > float(finite)
        missing = np.isnan(values)
    bits = np.where(over, sign | target.bits.type(target.special), bits)
    # The bits that compiled loops write for NaN.
    nan = 0x7FC0 if target.mantissa == 7 else top - 1
    bits = np.where(missing, sign | target.bits.type(nan), bits)
    return np.asarray(bits.view(target.dtype))
