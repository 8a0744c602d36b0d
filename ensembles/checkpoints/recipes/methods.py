"""mergekit's merge methods, in terms of the rules and their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.recipes.method import Method, Values
from ensembles.checkpoints.recipes.parameters import Parameter

# mergekit divides by 1 in place of sums of weights that are smaller.
SMALLEST_SUM = 1e-8


def _linear(values: Values) -> TensorSettings:
    total = math.fsum(values.weights)
    if values.shared["normalize"] and not total:
        raise ValueError(
            f"weights of linear must not sum to 0, found {values.weights}; with "
            "normalize: false, they are not divided by their sum"
        )
    if values.rule == "mean":
        return TensorSettings(values.weights)
    scale = 1 / total if values.shared["normalize"] else 1.0
    if not any(values.weights):
        return TensorSettings(None, {"scale": 0.0})
    return TensorSettings(values.weights, {"scale": scale})


def _scaled_copy(values: Values) -> TensorSettings:
    (scale,) = values.of_models["scale"]
    return TensorSettings([1.0], {"scale": 1.0 if scale is None else scale})


def _interpolation(values: Values) -> TensorSettings:
    t = values.shared["t"]
    return TensorSettings([1 - t, t])


def _spherical_pair(values: Values) -> TensorSettings:
    weights = values.weights
    if abs(sum(weights)) < 1e-6:
        weights = [1.0, 1.0]
    # mergekit names the columns rows, and ignores them for flat tensors.
    vectors = "column" if values.shared["nuslerp_row_wise"] else "row"
    if values.shared["nuslerp_flatten"]:
        vectors = "tensor"
    return TensorSettings(weights, {"vectors": vectors})


def _directions(values: Values) -> TensorSettings:
    params = {
        "normalize": values.shared["normalize_weights"],
        "eps": values.shared["eps"],
    }
    return TensorSettings(values.weights, params)


def _equal(values: Values) -> TensorSettings:
    return TensorSettings(None)


def _nearswap(values: Values) -> TensorSettings:
    return TensorSettings(None, {"t": values.shared["t"]})


def _stock(values: Values) -> TensorSettings:
    vectors = "row" if values.shared["filter_wise"] else "tensor"
    return TensorSettings(None, {"clamp": False, "vectors": vectors})


def _selected(values: Values) -> TensorSettings:
    density = min(max(values.shared["select_topk"], 0.0), 1.0)
    return TensorSettings(None, {"density": density, "normalize": True})


def _overlaps(values: Values) -> TensorSettings:
    return TensorSettings(None, dict(values.shared))


def _overlaps_of_tensors(values: Values) -> TensorSettings:
    return TensorSettings(None, {**values.shared, "scope": "tensor"})


def _own_rule(values: Values) -> TensorSettings:
    set_values = {k: v for k, v in values.shared.items() if v is not None}
    return TensorSettings(values.of_models.get("weight"), set_values)


def _sum_of_task_vectors(values: Values) -> TensorSettings:
    return _added(values, values.weights, {})


def _added(
    values: Values, weights: Sequence[float], params: Mapping[str, Any]
) -> TensorSettings:
    """Settings of a rule that adds task vectors, without signs that are elected."""
    scale, total = values.shared["lambda"], math.fsum(values.weights)
    normalize = values.shared["normalize"] and abs(total) >= SMALLEST_SUM
    if normalize and list(weights) != values.weights:
        # A member whose entries are all dropped still counts in mergekit's divisor.
        scale, normalize = scale / total, False
    return _applied(weights, {"scale": scale, "normalize": normalize, **params})


def _applied(weights: Sequence[float], params: Mapping[str, Any]) -> TensorSettings:
    """Settings, with a factor of 0 in place of weights that are all 0."""
    if any(weights):
        return TensorSettings(list(weights), params)
    return TensorSettings(None, {**params, "scale": 0.0, "normalize": False})


def _elected(
    values: Values, weights: Sequence[float], params: Mapping[str, Any]
) -> TensorSettings:
    """Settings of a rule that merges task vectors with the elected sign."""
    fixed = {"scale": values.shared["lambda"], "normalize": values.shared["normalize"]}
    return _applied(weights, {**fixed, "zero_sum": "positive", **params})


def _kept(values: Values) -> tuple[list[float], list[float]]:
    """Weights and densities; a member with the density 0 has the weight 0."""
    pairs = list(zip(values.weights, values.of_models["density"], strict=True))
    weights = [weight if density > 0 else 0.0 for weight, density in pairs]
    return weights, [min(density, 1.0) if density > 0 else 1.0 for _, density in pairs]


def _ties(values: Values) -> TensorSettings:
    weights, densities = _kept(values)
    return _elected(values, weights, {"density": densities, "scope": "tensor"})


def _random(values: Values) -> dict[str, Any]:
    rescale = "l1" if values.shared["rescale"] else None
    seed = values.shared["seed"]
    # Other numbers are left to the rule, which refuses them.
    return {"rescale": rescale, "seed": int(seed) if seed == int(seed) else seed}


def _dare_linear(values: Values) -> TensorSettings:
    weights, densities = _kept(values)
    return _added(values, weights, {"density": densities, **_random(values)})


def _dare_ties(values: Values) -> TensorSettings:
    weights, densities = _kept(values)
    return _elected(values, weights, {"density": densities, **_random(values)})


def _ranked(values: Values) -> tuple[list[float], dict[str, Any]]:
    weights, densities = _kept(values)
    epsilons = [
        0.0 if density == 1 else epsilon
        for density, epsilon in zip(densities, values.of_models["epsilon"], strict=True)
    ]
    return weights, {"density": densities, "epsilon": epsilons, **_random(values)}


def _della_linear(values: Values) -> TensorSettings:
    return _added(values, *_ranked(values))


def _della(values: Values) -> TensorSettings:
    return _elected(values, *_ranked(values))


def _without_outliers(values: Values) -> tuple[list[float], dict[str, Any]]:
    weights, densities = _kept(values)
    gammas = [
        min(max(gamma, 0.0), 1 - density)
        for density, gamma in zip(densities, values.of_models["gamma"], strict=True)
    ]
    return weights, {"density": densities, "gamma": gammas, "scope": "tensor"}


def _breadcrumbs(values: Values) -> TensorSettings:
    return _added(values, *_without_outliers(values))


def _breadcrumbs_ties(values: Values) -> TensorSettings:
    return _elected(values, *_without_outliers(values))


def _task_parameters(
    *,
    normalize: bool = False,
    rescale: bool = False,
    trims: bool = False,
    **of_models: float,
) -> tuple[Parameter, ...]:
    """Parameters that the methods with task vectors have in mergekit.

    Trimmed task vectors cannot be rescaled.
    """
    return (
        Parameter("weight", of_model=True),
        Parameter("density", default=1.0, of_model=True),
        Parameter("lambda", default=1.0),
        Parameter("normalize", "boolean", normalize),
        Parameter("rescale", "boolean", rescale, is_refused=trims),
        *(
            Parameter(name, default=value, of_model=True)
            for name, value in of_models.items()
        ),
    )


WEIGHT = Parameter("weight", of_model=True)
SHARE = Parameter("weight", of_model=True, least=0.0)
# Not mergekit's, which ignores it in a recipe.
SEED = Parameter("seed", default=0.0)
RANDOM = (
    "the masks are drawn by another generator than mergekit's: equal in distribution, "
    "not entry by entry"
)
LARGEST = (
    "entries whose magnitudes equal the smallest that is kept are all kept, where "
    "mergekit keeps an arbitrary choice of them"
)
METHODS = {
    "linear": Method(
        "mean",
        (WEIGHT, Parameter("normalize", "boolean", True)),
        _linear,
        rule_of_sums="linear_combination",
    ),
    "passthrough": Method(
        "linear_combination",
        (Parameter("scale", default=None, of_model=True),),
        _scaled_copy,
        n_members=(1, 1),
    ),
    "slerp": Method(
        "slerp",
        (Parameter("t", least=0.0, most=1.0),),
        _interpolation,
        base="first",
        n_members=(2, 2),
        note="tensors with an angle whose cosine is above 0.9995 are interpolated on "
        "the arc, where mergekit interpolates linearly",
    ),
    "nuslerp": Method(
        "nuslerp",
        (
            SHARE,
            Parameter("nuslerp_row_wise", "boolean", False),
            Parameter("nuslerp_flatten", "boolean", True),
        ),
        _spherical_pair,
        base="optional",
        n_members=(2, 2),
        rule_with_base="nuslerp_task_vectors",
    ),
    "multislerp": Method(
        "multislerp",
        (
            SHARE,
            Parameter("normalize_weights", "boolean", True),
            Parameter("eps", default=1e-8),
        ),
        _directions,
        base="optional",
        rule_with_base="multislerp_task_vectors",
    ),
    "karcher": Method(
        "karcher_mean",
        (Parameter("max_iter", default=10.0), Parameter("tol", default=1e-5)),
        _equal,
        note="the mean is computed to the precision of float64, where mergekit stops "
        "after max_iter steps or at tol",
    ),
    "nearswap": Method(
        "nearswap",
        (Parameter("t", least=0.0),),
        _nearswap,
        base="first",
        n_members=(2, 2),
    ),
    "arcee_fusion": Method(
        "arcee_fusion",
        (),
        _equal,
        base="first",
        n_members=(2, 2),
        note="thresholds are quartiles of all entries, where mergekit draws a million "
        "entries of larger tensors at random",
    ),
    "task_arithmetic": Method(
        "task_arithmetic", _task_parameters(), _sum_of_task_vectors, base="ancestor"
    ),
    "ties": Method(
        "ties",
        _task_parameters(normalize=True, trims=True),
        _ties,
        base="ancestor",
        note=LARGEST,
    ),
    "dare_linear": Method(
        "dare_linear",
        (*_task_parameters(rescale=True), SEED),
        _dare_linear,
        base="ancestor",
        note=RANDOM,
    ),
    "dare_ties": Method(
        "dare_ties",
        (*_task_parameters(rescale=True), SEED),
        _dare_ties,
        base="ancestor",
        note=RANDOM,
    ),
    "della": Method(
        "della_ties",
        (*_task_parameters(normalize=True, rescale=True, epsilon=0.15), SEED),
        _della,
        base="ancestor",
        note=RANDOM,
    ),
    "della_linear": Method(
        "della_linear",
        (*_task_parameters(rescale=True, epsilon=0.15), SEED),
        _della_linear,
        base="ancestor",
        note=RANDOM,
    ),
    "breadcrumbs": Method(
        "breadcrumbs_linear",
        _task_parameters(trims=True, gamma=0.01),
        _breadcrumbs,
        base="ancestor",
        note=LARGEST,
    ),
    "breadcrumbs_ties": Method(
        "breadcrumbs_ties",
        _task_parameters(trims=True, gamma=0.01),
        _breadcrumbs_ties,
        base="ancestor",
        note=LARGEST,
    ),
    "model_stock": Method(
        "model_stock",
        (Parameter("filter_wise", "boolean", False),),
        _stock,
        base="ancestor",
        n_members=(2, None),
    ),
    "sce": Method(
        "sce",
        (Parameter("select_topk", default=1.0),),
        _selected,
        base="ancestor",
        note="the coefficients of the members are those of the paper, where mergekit "
        "takes equal ones if their mean squares sum to less than 1e-6",
    ),
    "ram": Method(
        "ram", (Parameter("epsilon", default=1e-5),), _overlaps, base="ancestor"
    ),
    "ramplus_tl": Method(
        "ram",
        (
            Parameter("r", default=0.1),
            Parameter("alpha", default=0.2),
            Parameter("epsilon", default=1e-5),
        ),
        _overlaps_of_tensors,
        base="ancestor",
    ),
}


def method_of(name: str) -> Method | None:
    """Merge method of mergekit, or one for a rule that mergekit does not have.

    Parameters
    ----------
    name : str
        ``merge_method`` of a recipe.

    Returns
    -------
    Method or None
        None if no method and no rule without second moments has the name.
    """
    if name in METHODS:
        return METHODS[name]
    rule = RULES.get(name)
    if rule is None or rule.needs_moments is not None:
        return None
    weight = (Parameter("weight", default=1.0, of_model=True),) * rule.weighted
    params = (Parameter(name, "any", None) for name in rule.params)
    return Method(
        name,
        (*weight, *params),
        _own_rule,
        base="ancestor" if rule.needs_base else "member",
        n_members=(rule.n_members or 1, rule.n_members),
    )
