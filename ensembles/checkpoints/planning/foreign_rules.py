"""Hints for names of merge methods and parameters from other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEAN = "it is the rule 'mean', with weights"
# A task vector is a difference from the base: base + (a - base) + (b - base).
TASK_ARITHMETIC = (
    "the rule 'mean' with signed weights that sum to 1, such as base -1, a 1, b 1 "
    "(base:-1 a:1 b:1)"
)
NOT_BUILT_IN = (
    "it is not built in; to add it, register a rule, with needs_base=True if it needs "
    f"the base (docs/extending.md). Task arithmetic is {TASK_ARITHMETIC}"
)
HINTS = {
    **dict.fromkeys(
        ("linear", "average", "avg", "uniform", "weighted", "weighted_average"), MEAN
    ),
    **dict.fromkeys(("weighted_mean", "lerp", "sum", "weighted_sum", "soup"), MEAN),
    **dict.fromkeys(("uniform_soup", "arithmetic_mean", "swa", "lawa"), MEAN),
    "ema": "it is the rule 'mean', with weights that fall by a constant factor from "
    "the last member to the first",
    "task_arithmetic": f"it is {TASK_ARITHMETIC}",
    **dict.fromkeys(("nuslerp", "sphere", "spherical"), "the nearest is 'slerp'"),
    **dict.fromkeys(("multislerp", "karcher"), "the nearest is 'karcher_mean'"),
    **dict.fromkeys(("greedy_soup", "greedy"), "it is a selection: ensemble soup"),
}
# Beginnings of the names of merge methods without an equivalent.
OTHER_METHODS = (
    *("ties", "dare", "della", "breadcrumbs", "model_stock", "stock", "sce", "ram"),
    *("nearswap", "arcee_fusion", "passthrough", "fisher", "regmean", "magprune"),
)
SHARE = "pass it as the weights of both members: 1 - t, t (a:.7 b:.3)"
WEIGHTS = "pass a weight for each member (a:.7 b:.3)"
PARAMETER_HINTS = {
    "t": SHARE,
    "alpha": SHARE,
    "weight": WEIGHTS,
    "weights": WEIGHTS,
    "normalize": "a mean is always divided by the sum of its weights",
    "density": "no built-in rule drops parameters",
    "lambda": "scale the weights of the members instead",
}


def rule_hint(name: Any) -> str:
    """Equivalent of another tool's merge method, as the end of an error message.

    Parameters
    ----------
    name : str
        Name of the method; case and hyphens do not matter.

    Returns
    -------
    str
        Hint that starts with a semicolon, empty for an unknown name.

    Examples
    --------
    >>> rule_hint("linear")
    "; it is the rule 'mean', with weights"
    >>> rule_hint("maen")
    ''
    """
    normalized = str(name).casefold().replace("-", "_")
    if normalized in HINTS:
        return f"; {HINTS[normalized]}"
    if normalized.startswith(OTHER_METHODS):
        return f"; {NOT_BUILT_IN}"
    return ""


def parameter_hint(params: Mapping[str, Any], rule_params: Mapping[str, Any]) -> str:
    """Equivalent of another tool's parameter, as the end of an error message.

    Parameters
    ----------
    params : mapping of str to value
        Parameters from the user.
    rule_params : mapping of str to value
        Parameters that the rule has.

    Returns
    -------
    str
        Hint for the first unknown parameter that has one, empty if none has.

    Examples
    --------
    >>> parameter_hint({"t": 0.3}, {})
    '; pass it as the weights of both members: 1 - t, t (a:.7 b:.3)'
    """
    for name in params:
        if name not in rule_params and name in PARAMETER_HINTS:
            return f"; {PARAMETER_HINTS[name]}"
    return ""
