"""Checks of the rule and the weights of an ensemble of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.preconditions import (
    check_param_names,
    check_rule_name,
    check_selection,
    check_weights_parameter,
)
from ensembles.weights import check_weights


def resolve_output_combiner(
    rule: Any, rule_params: Mapping[str, Any], align: str | None, n_members: int
) -> Combiner | None:
    """Combiner of a rule for outputs of transformers, with its parameters checked.

    Parameters
    ----------
    rule : str, Combiner or Rule
        Value of the ``rule`` parameter.
    rule_params : mapping of str to value
        Parameters of the rule.
    align : str or None
        Value of the ``align`` parameter.
    n_members : int
        Number of members.

    Returns
    -------
    Combiner or None
        None for "concatenate".

    Raises
    ------
    ValueError
        If the rule is unknown or does not combine values, or a parameter is invalid.
    """
    if not isinstance(rule, str) or rule != "concatenate":
        check_rule_name(rule)
        combiner = resolve_combiner(rule, of="values")
        if combiner.input != "values":
            raise ValueError(
                f"rule {combiner.name!r} combines {combiner.input}, not outputs of "
                "transformers; use 'concatenate' or an elementwise rule, such as mean "
                "or median"
            )
        combiner.check(n_members, rule_params)
        return combiner
    if rule_params:
        raise ValueError(
            "rule_params must be None or empty for rule 'concatenate', which has no "
            f"parameters: found {rule_params!r}"
        )
    if align is not None:
        raise ValueError(f"align must be None for rule 'concatenate': found {align!r}")
    return None


def check_output_weights(
    weights: Any,
    combiner: Combiner | None,
    rule_params: Mapping[str, Any],
    weights_params: Mapping[str, Any],
    n_members: int,
) -> Float64 | str:
    """Validate the weights of transformers, or the selection that chooses them.

    Parameters
    ----------
    weights : array-like of shape (n_members,), str or None
        Value of the ``weights`` parameter.
    combiner : Combiner or None
        Combiner of the ``rule`` parameter; None concatenates.
    rule_params, weights_params : mapping of str to value
        Parameters of the rule and of the selection.
    n_members : int
        Number of members, including those set to "drop".

    Returns
    -------
    ndarray of shape (n_members,) or str
        Weights, or the name of the selection.

    Raises
    ------
    ValueError, TypeError
        If weights are invalid, the selection is unknown or does not support the rule,
        or a parameter is invalid.
    """
    rule = "concatenate" if combiner is None else combiner.name
    mean = resolve_combiner("mean", of="values")
    check_param_names(combiner or mean, None, rule_params, {})
    if isinstance(weights, str):
        check_weights_parameter(weights, mean, n_members)
        if rule not in ("mean", "concatenate"):
            raise ValueError(
                f"weights={weights!r} must be used with rule 'mean' or 'concatenate', "
                f"found rule {rule!r}; pass weights as numbers"
            )
        check_selection(weights, n_members, weights_params)
        return weights
    if weights_params:
        raise ValueError(
            "weights_params must be None or empty unless weights is the name of a "
            f"selection: found {', '.join(weights_params)}"
        )
    if combiner is None and np.asarray(weights).dtype.kind in "iuf":
        # Concatenation does not divide by the sum of the weights: it may be zero.
        values = np.asarray(weights, np.float64)
        check_weights(np.abs(values), n_members, rule=rule)
        return values
    signed = combiner is not None and combiner.signed
    return check_weights(weights, n_members, signed=signed, rule=rule)
