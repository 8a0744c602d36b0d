"""The `Pool`: a function that pools quantile forecasts unit by unit; table of pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from ensembles._sklearn import warn_caller
from ensembles._typing import Array, Float64
from ensembles.predictions.combiners.accumulation import row_blocks
from ensembles.predictions.forecasts.quantiles import (
    Crossing,
    as_numbers,
    check_levels,
    check_quantiles,
    first_index,
)
from ensembles.registry import RegisteredFunction, Table
from ensembles.weights import check_weights, moderate


class Pool(RegisteredFunction):
    """A function that pools quantile forecasts unit by unit.

    A member that is absent from a unit, with NaN at all levels, is left out there, and
    the weights of the others are rescaled.

    Parameters
    ----------
    function : callable
        ``(stack, weights, levels, **params) -> quantiles`` with a stack of shape
        (n_members, n_units, n_levels) and weights of shape (n_members, n_units), not
        normalized. Members with weight 0 have infinite quantiles.
    check : callable (**params) or None, default=None
        Raises if a parameter is not valid; None if the function has none.
    averages : {"quantiles", "probabilities"} or None, default=None
        Whether the pool is the weighted mean of the members' quantiles, or of their
        distribution functions. Then weights are learned faster.
    """

    noun = "rule"
    n_inputs = 3
    # Properties of weights that a `Combiner` declares, and all pools share.
    signed: ClassVar[bool] = False
    weight_sum_matters: ClassVar[bool] = False
    equal_weights_sum_to_one: ClassVar[bool] = False

    def __init__(
        self,
        function: Any,
        *,
        check: Any = None,
        averages: Literal["quantiles", "probabilities"] | None = None,
    ) -> None:
        super().__init__(function)
        self.check = check
        self.averages = averages

    def __call__(
        self,
        stack: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        levels: ArrayLike,
        crossing: Crossing = "raise",
        **params: Any,
    ) -> Float64:
        """Pool quantile forecasts.

        Parameters
        ----------
        stack : array-like of shape (n_members, n_units, n_levels)
            Quantiles of each member, in ascending order; NaN at all levels of the units
            from which the member is absent.
        weights : array-like of shape (n_members,) or (n_members, n_units), or None
            Non-negative weights of the members, for all units or for each; None weights
            all members equally. In a unit where all members that are present have the
            weight 0, they count equally.
        levels : array-like of shape (n_levels,)
            Quantile levels in ascending order.
        crossing : {"raise", "sort"}, default="raise"
            If quantiles of a member decrease from one level to the next: raise, or sort
            them.
        **params
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (n_units, n_levels), float64
            Quantiles of the pool, in ascending order.

        Raises
        ------
        ValueError, TypeError
            If the stack, the weights, the levels or a parameter are not valid, or no
            member is present in a unit.

        Warns
        -----
        UserWarning
            If all members that are present in a unit have the weight 0.
        """
        self.check_params(params)
        levels = check_levels(levels)
        stack = check_quantiles(stack, levels, crossing=crossing)
        if stack.ndim != 3:
            raise ValueError(
                "stack must have the shape (n_members, n_units, n_levels), found "
                f"{stack.shape}"
            )
        weights = unit_weights(weights, ~np.isnan(stack[..., 0]))
        return self.pool(stack, weights, levels, params)

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raise if a parameter is unknown or not valid.

        Parameters
        ----------
        params : mapping of str to value
            Parameters of the rule; the others have their defaults.
        """
        self.check_names(params)
        if self.check is not None:
            self.check(**{**self.params, **params})

    def pool(
        self,
        stack: Float64,
        weights: Float64,
        levels: Float64,
        params: Mapping[str, Any],
    ) -> Float64:
        """Pool validated forecasts in blocks of units.

        Parameters
        ----------
        stack : ndarray of shape (n_members, n_units, n_levels)
            Quantiles of the members.
        weights : ndarray of shape (n_members, n_units)
            Weights of each unit, as ``unit_weights`` returns them.
        levels : ndarray of shape (n_levels,)
            Quantile levels.
        params : mapping of str to value
            Parameters of the rule.

        Returns
        -------
        ndarray of shape (n_units, n_levels)
        """
        n_members, n_units, n_levels = stack.shape
        out: Float64 = np.empty((n_units, n_levels))
        for rows in row_blocks(n_units, n_members * n_levels):
            part = weights[:, rows]
            block = np.where(part[..., None] > 0, stack[:, rows], np.inf)
            pooled = self.function(block, part, levels, **params)
            # Rounding may make quantiles that are equal cross.
            out[rows] = np.maximum.accumulate(pooled, axis=1)
        return out


POOLS: Table[Pool] = Table("rule", Pool)


def unit_weights(weights: ArrayLike | None, is_present: Array) -> Float64:
    """Weights of the members in each unit.

    Parameters
    ----------
    weights : array-like of shape (n_members,) or (n_members, n_units), or None
        Non-negative weights of the members; None weights all members equally.
    is_present : ndarray of shape (n_members, n_units), bool
        Whether a member is present in a unit.

    Returns
    -------
    ndarray of shape (n_members, n_units)
        0 for members that are absent. Equal for all members of a unit that have only
        the weight 0 otherwise.

    Raises
    ------
    ValueError, TypeError
        If weights are not valid, or a unit has no member.

    Warns
    -----
    UserWarning
        If all members that are present in a unit have the weight 0.
    """
    check_present(is_present)
    if weights is None or np.ndim(weights) < 2:
        per_unit = check_weights(weights, len(is_present))[:, None]
    else:
        per_unit = as_numbers("weights", weights)
        if per_unit.shape != is_present.shape:
            raise ValueError(
                "weights must have the shape (n_members,) or (n_members, n_units), "
                f"here {is_present.shape}: found {per_unit.shape}"
            )
        is_invalid = ~(per_unit >= 0)
        if is_invalid.any():
            where = first_index(is_invalid)
            raise ValueError(
                f"weights must not be negative or NaN: weights{list(where)} is "
                f"{per_unit[where]}"
            )
    counted = np.where(is_present, moderate(per_unit), 0.0)
    is_unweighted = np.asarray(~counted.any(0))
    if is_unweighted.any():
        warn_caller(
            f"{is_unweighted.sum()} of {len(is_unweighted)} units have only members "
            "with weight 0, which count equally there: the first is unit "
            f"{first_index(is_unweighted)[0]}"
        )
        counted[:, is_unweighted] = is_present[:, is_unweighted]
    return counted


def check_present(is_present: Array) -> None:
    """Raise unless each unit has a member.

    Parameters
    ----------
    is_present : ndarray of shape (n_members, n_units), bool
        Whether a member is present in a unit.

    Raises
    ------
    ValueError
        If a unit has no member.
    """
    is_empty = np.asarray(~is_present.any(0))
    if is_empty.any():
        raise ValueError(
            "each unit must have at least one member that is present: unit "
            f"{first_index(is_empty)[0]} has none ({is_empty.sum()} of "
            f"{len(is_empty)} units); leave these units out"
        )
