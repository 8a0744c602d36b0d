"""Hints for names of merge methods and parameters from other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEAN = "it is the rule 'mean', with weights"
# A task vector is a difference from the base: a sum of them is a signed mean.
TASK_VECTORS = (
    "it is not among the rules; task arithmetic is the rule 'mean' with signed "
    "weights, 1 in all: base -1, a 1, b 1 (base:-1 a:1 b:1); to add a rule, register "
    "it with needs_base=True (docs/extending.md)"
)
FOREIGN = {
    **dict.fromkeys(
        ("linear", "average", "avg", "uniform", "weighted", "weighted_average"), MEAN
    ),
    **dict.fromkeys(("weighted_mean", "lerp", "sum", "weighted_sum", "soup"), MEAN),
    **dict.fromkeys(("uniform_soup", "arithmetic_mean", "swa", "lawa"), MEAN),
    "ema": "it is the rule 'mean', with weights that fall by a constant factor from "
    "the last member to the first",
    "task_arithmetic": "it is the rule 'mean' with signed weights, 1 in all: base -1, "
    "a 1, b 1 (base:-1 a:1 b:1)",
    **dict.fromkeys(("nuslerp", "sphere", "spherical"), "the nearest is 'slerp'"),
    **dict.fromkeys(("multislerp", "karcher"), "the nearest is 'karcher_mean'"),
    **dict.fromkeys(("greedy_soup", "greedy"), "it is a selection: ensemble soup"),
}
WITH_A_BASE = (
    *("ties", "dare", "della", "breadcrumbs", "model_stock", "stock", "sce", "ram"),
    *("nearswap", "arcee_fusion", "passthrough", "fisher", "regmean", "magprune"),
)
PARAMS = {
    "t": "the share of the second member is its weight: 1 - t, t (a:.7 b:.3)",
    "alpha": "the share of the second member is its weight: 1 - t, t (a:.7 b:.3)",
    "weight": "weights are given for the members (a:.7 b:.3)",
    "weights": "weights are given for the members (a:.7 b:.3)",
    "normalize": "a mean is always divided by the sum of its weights",
    "density": "rules that drop parameters are not among the rules",
    "lambda": "scale the weights of the members instead",
}


def named_here(name: Any) -> str:
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
    >>> named_here("linear")
    "; it is the rule 'mean', with weights"
    >>> named_here("maen")
    ''
    """
    plain = str(name).casefold().replace("-", "_")
    if plain in FOREIGN:
        return f"; {FOREIGN[plain]}"
    if any(plain.startswith(other) for other in WITH_A_BASE):
        return f"; {TASK_VECTORS}"
    return ""


def parameter_here(params: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Equivalent of another tool's parameter, as the end of an error message.

    Parameters
    ----------
    params : mapping of str to value
        Parameters from the user.
    known : mapping of str to value
        Parameters of the rule.

    Returns
    -------
    str
        Hint for the first unknown parameter that has one, empty if none has.

    Examples
    --------
    >>> parameter_here({"t": 0.3}, {})
    '; the share of the second member is its weight: 1 - t, t (a:.7 b:.3)'
    """
    unknown = [name for name in params if name not in known and name in PARAMS]
    return f"; {PARAMS[unknown[0]]}" if unknown else ""
