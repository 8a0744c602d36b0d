"""Validation of the arguments of the fused pooling loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float32

Divide = Literal["weights", "count"]

RULES = frozenset(("mean", "maximum", "minimum", "power_mean"))
KINDS = "feb"  # float32, float16, int8
LARGEST_POWER = 64  # overflows float64 only for entries beyond 1e4, which vectors lack
ALIKE = np.empty(0, np.float32)
ALIKE.flags.writeable = False


class Prepared(NamedTuple):
    """Validated arguments of the pooling loops."""

    table: NDArray[Any]
    rules: tuple[str, ...]
    weights: Float32
    by_count: bool
    p: int

    @property
    def n_columns(self) -> int:
        """Number of columns of the result."""
        return len(self.rules) * int(self.table.shape[1])


def prepared(
    table: NDArray[Any],
    rules: Sequence[str],
    *,
    weights: Float32 | None,
    p: int,
    divide: str,
) -> Prepared:
    """Validate the arguments of the pooling loops.

    Parameters
    ----------
    table, rules, weights, p, divide
        As in `ensembles.embeddings.pooling.engine.pool`.

    Returns
    -------
    Prepared
        The arguments, with read-only arrays.

    Raises
    ------
    ValueError
        If an argument has the wrong dtype, shape or value.
    """
    if table.ndim != 2 or table.dtype.char not in KINDS:
        raise ValueError(
            "table must be float32, float16 or int8 of shape (n_rows, dim), found "
            f"{table.dtype} of shape {table.shape}"
        )
    if isinstance(rules, str) or not rules or not RULES.issuperset(rules):
        raise ValueError(
            f"rules must be some of {', '.join(sorted(RULES))}, found {rules!r}"
        )
    check_power(p)
    if divide not in ("weights", "count"):
        raise ValueError(f"divide must be 'weights' or 'count', found {divide!r}")
    if weights is None:
        weights = ALIKE
    elif weights.shape != (len(table),) or weights.dtype != np.float32:
        raise ValueError(
            f"weights must be float32, one for each of {len(table)} rows, found "
            f"{weights.dtype} of shape {weights.shape}"
        )
    else:
        weights = locked(weights)
    return Prepared(locked(table), tuple(rules), weights, divide == "count", int(p))


def check_power(p: Any) -> None:
    """Raise unless ``p`` is a valid power for the power mean.

    Parameters
    ----------
    p : object
        Power to check.

    Raises
    ------
    ValueError
        If ``p`` is not an integer from 1 to 64.
    """
    if not isinstance(p, int | np.integer) or not 1 <= p <= LARGEST_POWER:
        raise ValueError(
            f"p of 'power_mean' must be a positive int, found {p!r}; at most "
            f"{LARGEST_POWER}, for larger ones take its limit, rule 'maximum'"
        )


def locked(array: NDArray[Any]) -> NDArray[Any]:
    """Read-only, C-contiguous array: the loops are compiled for this layout only."""
    if not array.flags.writeable and array.flags.c_contiguous:
        return array
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array
