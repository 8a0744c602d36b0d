"""Black-box optimization of weights on the simplex, by Optuna."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._sklearn import check_bool
from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import SELECTIONS, Record, check_integer

INSTALL = "pip install 'ensemble-avg[optuna]'"
SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler"}
SMALLEST_DRAW = 1e-9  # -log(0) would give a member all the weight


def _check_optuna(
    n_members: int,
    *,
    n_trials: int,
    sampler: Any,
    equal_weights: bool,
    random_state: int | None,
) -> None:
    """Raise if a parameter of `optuna` is not valid, or it is not installed."""
    check_integer(n_trials=n_trials)
    check_bool("equal_weights", equal_weights)
    if n_trials < 1:
        raise ValueError(f"n_trials must be at least 1, found {n_trials}")
    _study(sampler, random_state)


# Trials sample the weights of the members in their order.
@register(
    SELECTIONS,
    check=_check_optuna,
    samples_params=True,
    symmetric=False,
    n_scores=lambda n: n + 50,
)
def optuna(
    n_members: int,
    score: CachedScore,
    *,
    n_trials: int = 50,
    sampler: Any = "tpe",
    equal_weights: bool = False,
    random_state: int | None = 0,
    record: Record,
) -> Trial:
    """Best weights among trials of Optuna and the single members.

    Each trial samples u in (0, 1) for every member; its weights are -log(u) divided by
    their sum, which is uniform on the simplex for random sampling. If the score has
    ranges of the rule's parameters, such as a density, each trial samples them too.

    Parameters
    ----------
    n_members : int, at least 1
        Number of members.
    score : CachedScore
        Score of weights; greater is better. Called for each member alone and for each
        trial; the first trial has equal weights, and the first value of each range.
    n_trials : int, at least 1, default=50
        Number of trials.
    sampler : {"tpe", "random", "gp"} or Optuna sampler, default="tpe"
        ``"tpe"`` is a tree-structured Parzen estimator, ``"random"`` random search, and
        ``"gp"`` a Gaussian process, which needs PyTorch.
    equal_weights : bool, default=False
        Whether all members have equal weights, so that only the parameters of the rule
        are sampled.
    random_state : int or None, default=0
        Seed of a sampler given by name; None samples different weights in each call.
    record : callable
        Called with each `Trial`, in order.

    Returns
    -------
    Trial
        The best trial or single member; weights are non-negative, with sum 1.

    Raises
    ------
    ImportError
        If Optuna is not installed.
    ValueError
        If a parameter is wrong, a score is not finite, or nothing is left to sample.
    TypeError
        If ``n_trials`` or ``random_state`` is not an integer, or ``sampler`` is neither
        a name nor an Optuna sampler.

    References
    ----------
    Bergstra, Bardenet, Bengio and Kegl (2011), "Algorithms for hyper-parameter
    optimization", NeurIPS, section 4; Akiba et al. (2019), "Optuna: a next-generation
    hyperparameter optimization framework", KDD.
    """
    if equal_weights and not score.ranges:
        raise ValueError(
            "equal_weights=True needs a score with ranges of the rule's parameters; "
            "otherwise there is nothing to sample"
        )
    study = _study(sampler, random_state)
    scores = score.member_scores(n_members)
    tried = [Trial(np.eye(n_members)[np.argmax(scores)], float(scores.max()))]
    names = [] if equal_weights else [f"member_{index}" for index in range(n_members)]
    first = {name: entry.first for name, entry in score.ranges.items()}
    study.enqueue_trial(dict.fromkeys(names, 0.5) | first)
    for _ in range(n_trials):
        trial = study.ask()
        weights = np.full(n_members, 1 / n_members)
        if names:
            draws = [
                trial.suggest_float(name, SMALLEST_DRAW, 1 - SMALLEST_DRAW)
                for name in names
            ]
            parts = -np.log(draws)
            weights = parts / parts.sum()
        tried.append(_scored(trial, weights, score))
        record(tried[-1])
        study.tell(trial, tried[-1].score)
    return max(tried, key=lambda trial: trial.score)


def _scored(trial: Any, weights: Float64, score: CachedScore) -> Trial:
    """Score of weights, with values from a trial for the parameters of the rule."""
    if not score.ranges:
        return Trial(weights, score(weights))
    params: dict[str, float] = {}
    for name, (low, high, _, is_integer) in score.ranges.items():
        suggest = trial.suggest_int if is_integer else trial.suggest_float
        params[name] = suggest(name, low, high)
    return Trial(weights, score.score_params(weights, params), params=params)


def _study(sampler: Any, random_state: int | None) -> Any:
    """Optuna study that maximizes, with a sampler or the sampler of that name."""
    try:
        import optuna as package
    except ImportError:
        raise ImportError(
            f"selection 'optuna' needs the package optuna: {INSTALL}"
        ) from None
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(
                f"sampler must be one of {', '.join(SAMPLERS)} or an Optuna sampler, "
                f"found {sampler!r}"
            )
        if random_state is not None:
            check_integer(random_state=random_state)
        sampler = getattr(package.samplers, SAMPLERS[sampler])(seed=random_state)
    elif not isinstance(sampler, package.samplers.BaseSampler):
        raise TypeError(
            f"sampler must be a name or an Optuna sampler, found {sampler!r}"
        )
    before = package.logging.get_verbosity()
    package.logging.set_verbosity(package.logging.WARNING)
    try:
        return package.create_study(direction="maximize", sampler=sampler)
    finally:
        package.logging.set_verbosity(before)
