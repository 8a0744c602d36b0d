"""Names of methods and parameters from other tools are named as they are here."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import plan
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.planning.foreign_rules import (
    EQUIVALENTS,
    OTHERS,
    PARAMETER_HINTS,
    parameter_hint,
    rule_hint,
)

STATE = {"w": np.ones(2)}
# Merge methods of mergekit 0.1.5, combination types of peft 0.21, algorithms of
# fusion_bench 0.2.33 and merge methods of sd-mecha 1.1.5.
MERGEKIT = (
    "linear slerp nuslerp passthrough multislerp karcher task_arithmetic ties "
    "dare_ties dare_linear della della_linear breadcrumbs breadcrumbs_ties model_stock "
    "sce ram ramplus_tl nearswap arcee_fusion"
)
PEFT = (
    "svd linear cat ties ties_svd dare_ties dare_linear dare_ties_svd dare_linear_svd "
    "magnitude_prune magnitude_prune_svd"
)
FUSION_BENCH = (
    "simple_average weighted_average task_arithmetic ties_merging dare model_stock "
    "fisher_merging regmean regmean_plusplus wudi slerp isotropic_merging"
)
SD_MECHA = "weighted_sum slerp add_difference n_average ties_sum_with_dropout"
NAMES = sorted({*f"{MERGEKIT} {PEFT} {FUSION_BENCH} {SD_MECHA}".split()})


@pytest.mark.parametrize("name", NAMES)
def test_a_method_of_another_tool_is_a_rule_or_has_a_hint(name: str) -> None:
    assert name in RULES or rule_hint(name).startswith("; it ")


def test_hints_name_rules_and_no_rule_hides_behind_a_hint() -> None:
    named = {
        word
        for name in [*OTHERS, *" ".join(EQUIVALENTS.values()).split()]
        for word in re.findall(r"rule '(\w+)'|'(\w+)' elects", rule_hint(name))
        for word in word
        if word
    }
    assert named <= RULES.keys()
    assert not {*OTHERS, *" ".join(EQUIVALENTS.values()).split()} & RULES.keys()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("weighted-average", "it is the rule 'mean', with weights"),
        ("TIES-Merging", "it is the rule 'ties'"),
        ("della", "it is the rule 'della_ties'; 'della_linear' elects no signs"),
        ("breadcrumbs", "it is the rule 'breadcrumbs_linear'; 'breadcrumbs_ties' elec"),
        ("Add difference", "it is the rule 'task_arithmetic', with base=PATH"),
        (
            "ramplus_tl",
            "it is the rule 'ram' with r=0.1, alpha=0.2, scope='tensor' .--param r=0.1",
        ),
        ("stock", "it is the rule 'model_stock'"),
        (
            "passthrough",
            "it stacks layers of members: write them as slices of a recipe",
        ),
        ("ties_svd", "it merges adapters; merge each adapter into its model"),
        ("ema", "it is the rule 'mean', with weights that fall by a constant factor"),
        ("greedy-soup", "it is a selection: ensemble soup"),
    ],
)
def test_the_error_names_the_rule(rule: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"unknown rule '{rule}'; {words}"):
        plan([STATE, STATE], rule=rule)


@pytest.mark.parametrize(
    ("rule", "param", "words"),
    [
        ("slerp", "t", r"weights of both members: 1 - t, t \(a:.7 b:.3\)$"),
        ("task_arithmetic", "lambda", r"pass it as scale \(--param scale=0.5\)$"),
        ("task_arithmetic", "scaling_factor", "pass it as scale"),
        ("task_arithmetic", "alpha", "pass it as scale"),
        ("task_arithmetic", "weight", r"a weight for each member \(a:.7 b:.3\)$"),
        ("task_arithmetic", "density", "this rule drops no entries"),
        ("task_arithmetic", "int8_mask", "leave it out"),
        ("mean", "lambda", "scale the weights of the members instead"),
        ("mean", "normalize", "this rule has no choice of it"),
        ("model_stock", "filter_wise", "it is vectors='row'"),
        ("ram", "rescale_factor", r"pass it minus 1 as r \(--param r=0.2\)"),
        ("ram", "threshold", r"pass it as epsilon \(--param epsilon=1e-5\)"),
        ("karcher_mean", "max_iter", "the precision of float64; leave it out"),
        ("mean", "out_dtype", r"dtype='bfloat16' \(--dtype bfloat16\)"),
    ],
)
def test_the_error_names_the_parameter(rule: str, param: str, words: str) -> None:
    base = {name: tensor.copy() for name, tensor in STATE.items()}
    how: Any = {"base": base} if RULES[rule].needs_base else {}
    with pytest.raises(ValueError, match=f"has no parameter '{param}'.*; .*{words}"):
        plan([STATE] * 2, rule=rule, rule_params={param: 1}, **how)


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("k", "as density (--param density=0.2)"),
        ("select_topk", "as density (--param density=0.2)"),
        ("threshold", "as density, 0.2 for 20 % (--param density=0.2)"),
        ("drop_rate", "pass 1 minus it, the share to keep, as density"),
        ("majority_sign_method", "sign='mass' or sign='count' (--param sign=count)"),
        ("random_seed", "pass it as seed (--param seed=0)"),
    ],
)
def test_parameters_of_methods_that_drop_entries(param: str, words: str) -> None:
    assert words in parameter_hint({param: 1}, {"density": 1, "sign": 1, "seed": 0})


def test_a_hint_names_a_parameter_that_the_rule_has() -> None:
    for _, replacement, hint in PARAMETER_HINTS:
        for name in re.findall(r"--param (\w+)=", hint):
            assert name == replacement
    assert parameter_hint({"q": 1}, {}) == ""
    assert parameter_hint({"scale": 1}, {"scale": 1}) == ""
