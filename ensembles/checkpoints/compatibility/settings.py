"""Weights and parameters of a rule for one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import ArrayLike


class TensorSettings(NamedTuple):
    """Weights of the members and parameters of the rule, for some tensors.

    Parameters
    ----------
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each member; None gives all members the same weight.
    rule_params : mapping of str to value, default={}
        Parameters of the rule, by name.
    """

    weights: ArrayLike | None = None
    rule_params: Mapping[str, Any] = {}
