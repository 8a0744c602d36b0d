"""Floating-point formats: their bits, and which of them are numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ensembles._typing import Array, Float64


class Format(NamedTuple):
    """How a float is laid out in bits: sign, exponent, mantissa.

    Parameters
    ----------
    mantissa : int
        Explicit bits of the mantissa.
    bias : int
        What the stored exponent is above the true one.
    special : int
        The smallest magnitude, as bits, that is no finite number: what a value too
        large becomes.
    largest : int
        The largest magnitude, as bits, that is not NaN.
    """

    dtype: np.dtype[Any]
    mantissa: int
    bias: int
    special: int
    largest: int

    @property
    def bits(self) -> np.dtype[Any]:
        """Unsigned integer of the same size."""
        return np.dtype(f"u{self.dtype.itemsize}")

    @property
    def smallest_normal(self) -> float:
        """Below this the mantissa loses bits."""
        return float(2.0 ** (1 - self.bias))


def _ieee(name: Any, mantissa: int, bias: int) -> Format:
    infinity = (2 * bias + 1) << mantissa
    return Format(np.dtype(name), mantissa, bias, infinity, infinity)


FLOATS = {
    entry.dtype: entry
    for entry in (
        _ieee(np.float64, 52, 1023),
        _ieee(np.float32, 23, 127),
        _ieee(np.float16, 10, 15),
        _ieee(ml_dtypes.bfloat16, 7, 127),
        _ieee(ml_dtypes.float8_e5m2, 2, 15),
        # No infinity: all exponents are numbers, and only S.1111.111 is NaN (OCP
        # 8-bit floating point specification 1.0, 2023, table 1).
        Format(np.dtype(ml_dtypes.float8_e4m3fn), 3, 7, 0x7F, 0x7E),
    )
}


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether members of this dtype can be averaged."""
    return dtype in FLOATS


def round_to(values: Array, dtype: np.dtype[Any]) -> Array:
    """Float64 values rounded once, to the nearest of ``dtype``, ties to even.

    A plain ``astype`` of numpy's extra formats goes by way of float32 and rounds
    twice: 1 + 2**-8 + 2**-40 would become 1 in bfloat16.

    Parameters
    ----------
    values : ndarray, float64
    dtype : dtype, one of ``FLOATS``

    Returns
    -------
    ndarray of the same shape, of ``dtype``

    Examples
    --------
    >>> import ml_dtypes
    >>> round_to(np.array([1 + 2**-8 + 2**-40]), np.dtype(ml_dtypes.bfloat16))
    array([1.00781], dtype=bfloat16)
    """
    target = FLOATS[np.dtype(dtype)]
    if target.mantissa >= 23:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.asarray(values).astype(target.dtype)
    return _round_small(np.asarray(values, np.float64), target)


def _round_small(values: Float64, target: Format) -> Array:
    magnitude = np.abs(values)
    with np.errstate(invalid="ignore", over="ignore"):  # NaNs, some of them signalling
        # frexp gives an exponent one above the usual one.
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, 1 - target.bias)
        ulp = np.ldexp(1.0, exponent - target.mantissa)
        nearest = np.copysign(np.rint(magnitude / ulp) * ulp, values)
        result = nearest.astype(np.float32).astype(target.dtype)  # exact, or over
    bits = result.view(target.bits)
    sign = bits & target.bits.type(1 << (8 * target.dtype.itemsize - 1))
    finite = np.array(target.special - 1, target.bits).view(target.dtype)
    over = np.abs(nearest) > float(finite)
    found = np.where(over, sign | target.bits.type(target.special), bits)
    return np.asarray(found.view(target.dtype))
