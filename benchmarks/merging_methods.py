"""Merge methods of `bench_merging`: parameters here and in mergekit, and commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import merging_oracles as oracles
import ways

Config = Callable[[list[str]], dict[str, Any]]


class Method(NamedTuple):
    """A merge method, and how much CPU time it may take.

    Parameters
    ----------
    rule : str
        Name of the rule.
    oracle : callable
        Function of `merging_oracles`.
    params : dict
        Parameters of the rule.
    peer : str or None
        Name of the method in mergekit; None if it has none.
    peer_params : dict
        Parameters there.
    n_members : int
        Number of members.
    has_base : bool
        Whether the base is held apart.
    limit : float or None
        CPU time that is aimed at, as a multiple of the floor.
    """

    rule: str
    oracle: oracles.Oracle
    params: Mapping[str, Any]
    peer: str | None
    peer_params: Mapping[str, Any] = {}
    n_members: int = 3
    has_base: bool = True
    limit: float | None = 4

    @property
    def n_inputs(self) -> int:
        """Number of checkpoints that are read."""
        return self.n_members + self.has_base

    @property
    def is_whole_model(self) -> bool:
        """Whether a tensor of the result depends on all tensors of the members."""
        return self.rule == "ties" and "scope" not in self.params


# Parameters are those with which mergekit computes the same, except that its DARE and
# DELLA make sums of absolute differences equal, where the papers divide by the density.
POSITIVE = {"zero_sum": "positive"}
SUM = {"normalize": False, **POSITIVE}
MEAN = {"normalize": True, **POSITIVE}
SPARSE = {"density": 0.2}
RANDOM = {"density": 0.1}
CRUMBS = {"density": 0.9, "gamma": 0.01}
RANKED = {"density": 0.3, "epsilon": 0.1}
METHODS = {
    "task_arithmetic": Method(
        "task_arithmetic",
        oracles.task_arithmetic,
        {"scale": 0.4},
        "task_arithmetic",
        {"lambda": 0.4},
    ),
    "ties": Method(
        "ties",
        oracles.ties,
        {**SPARSE, **POSITIVE, "scope": "tensor"},
        "ties",
        SPARSE,
        limit=5,
    ),
    "ties, whole model": Method("ties", oracles.ties, SPARSE, None, limit=5),
    "magnitude_prune": Method(
        "magnitude_prune", oracles.magnitude_prune, SPARSE, None, limit=5
    ),
    "breadcrumbs_linear": Method(
        "breadcrumbs_linear", oracles.breadcrumbs_linear, CRUMBS, "breadcrumbs", CRUMBS
    ),
    "breadcrumbs_ties": Method(
        "breadcrumbs_ties",
        oracles.breadcrumbs_ties,
        {**CRUMBS, **SUM},
        "breadcrumbs_ties",
        CRUMBS,
    ),
    "dare_linear": Method(
        "dare_linear", oracles.dare_linear, RANDOM, "dare_linear", RANDOM
    ),
    "dare_ties": Method(
        "dare_ties", oracles.dare_ties, {**RANDOM, **SUM}, "dare_ties", RANDOM
    ),
    "della_linear": Method(
        "della_linear", oracles.della_linear, RANKED, "della_linear", RANKED
    ),
    "della_ties": Method(
        "della_ties", oracles.della_ties, {**RANKED, **MEAN}, "della", RANKED
    ),
    "model_stock": Method("model_stock", oracles.model_stock, {}, "model_stock"),
    "sce": Method(
        "sce", oracles.sce, {**RANDOM, "normalize": True}, "sce", {"select_topk": 0.1}
    ),
    "ram": Method("ram", oracles.ram, {"epsilon": 1e-5}, "ram", {"epsilon": 1e-5}),
    "karcher_mean": Method(
        "karcher_mean", oracles.karcher_mean, {}, "karcher", has_base=False, limit=8
    ),
    "multislerp": Method(
        "multislerp", oracles.multislerp, {}, "multislerp", has_base=False
    ),
    "geometric_median": Method(
        "geometric_median", oracles.geometric_median, {}, None, has_base=False
    ),
    "nuslerp": Method(
        "nuslerp", oracles.slerp, {}, "nuslerp", n_members=2, has_base=False
    ),
    "nearswap": Method(
        "nearswap",
        oracles.nearswap,
        {"t": 0.001},
        "nearswap",
        {"t": 0.001},
        n_members=2,
        has_base=False,
    ),
    "arcee_fusion": Method(
        "arcee_fusion",
        oracles.arcee_fusion,
        {},
        "arcee_fusion",
        n_members=2,
        has_base=False,
    ),
}
# In mergekit the first of two members is the base of these.
FIRST_IS_BASE = ("nearswap", "arcee_fusion")
# Parameters of mergekit that are set for each model.
PER_MODEL = ("density", "gamma", "epsilon", "weight")


def command(way: str, out: Path, inputs: Sequence[Path], peer: str | None) -> list[str]:
    """Command line of a way: of a floor, ``ensemble METHOD`` or ``mergekit METHOD``.

    Inputs are the base, if the method has one, and the members.
    """
    tool, _, name = way.partition(" ")
    if tool not in ("ensemble", "mergekit"):
        return ways.command(way, out, inputs, peer)
    method = METHODS[name]
    paths = [str(path) for path in inputs]
    if tool == "mergekit":
        recipe = out.with_suffix(".yml")
        recipe.write_text(json.dumps(peer_recipe(name, method, paths)))
        run = [peer or "", "-m", "mergekit.scripts.run_yaml", str(recipe), str(out)]
        return [*run, "--no-copy-tokenizer"]
    base = ["--base", paths.pop(0)] if method.has_base else []
    avg = [sys.executable, "-m", "ensembles_cli", "avg", *paths, "-o", str(out), *base]
    for key, value in method.params.items():
        avg += ["--param", f"{key}={str(value).lower()}"]
    return [*avg, "--force", "--rule", method.rule, "--threads", str(ways.N_THREADS)]


def peer_recipe(name: str, method: Method, paths: Sequence[str]) -> dict[str, Any]:
    """Recipe of mergekit; JSON is YAML."""
    params = dict(method.peer_params)
    of_model = {key: params.pop(key) for key in PER_MODEL if key in params}
    if name == "ram":  # here epsilon is of the whole method
        params, of_model = of_model, {}
    if name not in ("model_stock", "sce", "ram", "karcher_mean", *FIRST_IS_BASE):
        of_model |= {"weight": 1.0}
    members = paths[1:] if method.has_base else paths
    models: list[dict[str, Any]] = [{"model": path} for path in members]
    if of_model:
        models = [{**model, "parameters": of_model} for model in models]
    recipe = {"merge_method": method.peer, "dtype": "bfloat16", "models": models}
    if method.has_base or name in FIRST_IS_BASE:
        recipe["base_model"] = paths[0]
    return recipe | ({"parameters": params} if params else {})
