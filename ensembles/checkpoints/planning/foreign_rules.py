"""Hints for names of merge methods and parameters from other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.methods.builtin import RULES
from ensembles.registry import lookup
from ensembles.rules.rule import Rule

WEIGHTS = "pass a weight for each member (a:.7 b:.3)"
SHARE = "pass it as the weights of both members: 1 - t, t (a:.7 b:.3)"
# Rules by their names in mergekit, peft, fusion_bench, sd-mecha and papers.
EQUIVALENTS = {
    "mean": "linear average avg uniform weighted weighted_average weighted_mean lerp "
    "sum weighted_sum soup uniform_soup simple_average arithmetic_mean n_average swa "
    "lawa",
    "karcher_mean": "karcher frechet_mean riemannian_mean",
    "slerp": "sphere spherical",
    "multislerp": "multi_slerp",
    "task_arithmetic": "task_vector task_vectors task_addition task_negation ta "
    "add_difference add_diff",
    "ties": "ties_merging ties_sum ties_merge add_difference_ties",
    "dare_linear": "dare dare_task_arithmetic dare_simple_average dare_sum",
    "dare_ties": "dare_ties_merging ties_sum_with_dropout ties_with_dare",
    "della_ties": "della magprune",
    "breadcrumbs_linear": "breadcrumbs breadcrumb model_breadcrumbs",
    "magnitude_prune": "magnitude_pruning magnitude magnitude_diff_pruning",
    "consensus": "tall tall_mask tall_masks consensus_ta consensus_task_arithmetic "
    "consensus_ties",
    "model_stock": "stock modelstock model_stock_for_tensor",
    "sce": "sce_merging sce_merge",
    "ram": "arm reinforced_agent_merging",
    "arcee_fusion": "fusion",
    "geometric_median": "geom_median",
    "fisher": "fisher_merging fisher_weighted",
    "regmean": "reg_mean regmean_merging regmean_plusplus regmean_plus_plus regmean++",
    "wudi": "wudi_merging wudi_v2",
    "tsv": "tsvm tsv_m task_singular_vectors task_singular_vector_merging",
    "iso_c": "isoc iso isotropic isotropic_merging iso_c_merging",
    "iso_cts": "isocts iso_cts_merging",
}
REMARKS = {
    "mean": ", with weights",
    "task_arithmetic": ", with base=PATH (--base PATH)",
    "dare_linear": "; 'dare_ties' elects signs",
    "della_ties": "; 'della_linear' elects no signs",
    "breadcrumbs_linear": "; 'breadcrumbs_ties' elects signs",
}
OTHERS = {
    "ema": "it is the rule 'mean', with weights that fall by a constant factor from "
    "the last member to the first",
    "ramplus_tl": "it is the rule 'ram' with r=0.1, alpha=0.2, scope='tensor' (--param "
    "r=0.1 --param alpha=0.2 --param scope=tensor)",
    "ramplus": "it is the rule 'ram' with r=0.2 (--param r=0.2)",
    **dict.fromkeys(("greedy_soup", "greedy"), "it is a selection: ensemble soup"),
    **dict.fromkeys(
        ("passthrough", "frankenmerge", "copy_region", "slices"),
        "it stacks layers of members: write them as slices of a recipe, and pass it to "
        "ensemble merge",
    ),
    **dict.fromkeys(
        ("cat", "svd", "ties_svd", "dare_ties_svd", "dare_linear_svd"),
        "it merges adapters; merge each adapter into its model, and pass the models to "
        "'task_arithmetic', 'ties', 'dare_ties' or 'dare_linear'",
    ),
    "magnitude_prune_svd": "it merges adapters; merge each adapter into its model, and "
    "pass the models to 'magnitude_prune'",
}
RULE_HINTS = OTHERS | {
    name: f"it is the rule {rule!r}{REMARKS.get(rule, '')}"
    for rule, names in EQUIVALENTS.items()
    for name in names.split()
}

LAMBDAS = "lambda lambda_ lamda lam scaling scaling_factor scaling_coefficient strength"
# Parameters by their names in other tools, the parameter of the rule that replaces
# them, None for any rule, and the hint. The first row that suits a rule is used.
PARAMETER_HINTS = (
    (f"{LAMBDAS} alpha", "scale", "pass it as scale (--param scale=0.5)"),
    (LAMBDAS, None, "scale the weights of the members instead"),
    ("t alpha", None, SHARE),
    ("weight weights", None, WEIGHTS),
    ("normalize_weights", "normalize", "it is normalize (--param normalize=false)"),
    ("normalize", None, "this rule has no choice of it"),
    (
        "k top_k topk select_topk trim keep keep_ratio",
        "density",
        "pass the share to keep as density (--param density=0.2)",
    ),
    (
        "sparsity sparsity_ratio drop_rate weight_mask_rate dropout p",
        "density",
        "pass 1 minus it, the share to keep, as density (--param density=0.2)",
    ),
    ("threshold tau", "epsilon", "pass it as epsilon (--param epsilon=1e-5)"),
    (
        "threshold reset_thresh tau",
        "density",
        "pass the share to keep as density, 0.2 for 20 % (--param density=0.2)",
    ),
    ("density", None, "this rule drops no entries"),
    (
        "majority_sign_method consensus_method resolve_method vote_sgn",
        "sign",
        "it is sign='mass' or sign='count' (--param sign=count)",
    ),
    ("rescale_factor", "r", "pass it minus 1 as r (--param r=0.2)"),
    ("beta", "gamma", "pass it as gamma (--param gamma=0.01)"),
    ("filter_wise", "vectors", "it is vectors='row' (--param vectors=row)"),
    (
        "nuslerp_flatten",
        "vectors",
        "false is vectors='row' (--param vectors=row), true is vectors='tensor'",
    ),
    (
        "nuslerp_row_wise",
        "vectors",
        "true is vectors='column' (--param vectors=column) of rules named nuslerp",
    ),
    (
        "max_iter max_iterations tol tolerance",
        None,
        "the result has the precision of float64; leave it out",
    ),
    ("int8_mask", None, "masks are not stored; leave it out"),
    ("random_seed generator", "seed", "pass it as seed (--param seed=0)"),
    (
        "dtype out_dtype",
        None,
        "sums are computed in float64; the format of the result is dtype='bfloat16' "
        "(--dtype bfloat16)",
    ),
)


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
    normalized = str(name).casefold().replace("-", "_").replace(" ", "_")
    return f"; {RULE_HINTS[normalized]}" if normalized in RULE_HINTS else ""


def resolve_rule(rule: str | Rule) -> Rule:
    """Rule by its name; a rule is returned as it is.

    Parameters
    ----------
    rule : str or Rule
        Name of a registered rule, or a rule.

    Returns
    -------
    Rule

    Raises
    ------
    ValueError
        If no rule has this name; the message names the equivalent of a method of
        another tool, or the most similar name.
    TypeError
        If it is neither a name nor a rule.
    """
    if isinstance(rule, Rule):
        return rule
    return lookup(RULES, rule, hint=rule_hint(rule))


def checked_rule(
    rule: str | Rule,
    n_members: int,
    params: Mapping[str, Any],
    how: Mapping[str, Any],
    problems: list[str],
) -> Rule:
    """Rule by its name, after a check of members, base, moments and parameters.

    Parameters
    ----------
    rule : str or Rule
        Name of a registered rule, or a rule.
    n_members : int
        Number of members.
    params : mapping of str to value
        Parameters of the rule.
    how : mapping of str to value
        Whether there are a base and moments, as keywords of `Rule.check`.
    problems : list of str
        Problems found so far, to which others are added.

    Returns
    -------
    Rule
        The mean if the name is unknown.
    """
    try:
        resolved = resolve_rule(rule)
    except ValueError as error:
        problems.append(str(error))
        return RULES["mean"]
    try:
        resolved.check(n_members, params, **how)
    except ValueError as error:
        problems.append(f"{error}{parameter_hint(params, resolved.params)}")
    return resolved


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
    >>> parameter_hint({"lambda": 0.5}, {"scale": 1.0})
    '; pass it as scale (--param scale=0.5)'
    """
    for name in params:
        if name in rule_params:
            continue
        for names, replacement, hint in PARAMETER_HINTS:
            is_suitable = replacement is None or replacement in rule_params
            if name.casefold() in names.split() and is_suitable:
                return f"; {hint}"
    return ""
