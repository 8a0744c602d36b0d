"""Weights drawn from the simplex, each draw learning from those before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.registry import register
from ensembles.selection.score import Score, Trial, own_scores, score_of
from ensembles.selection.table import SELECTIONS, Record, check_whole

INSTALL = "pip install 'ensemble-avg[optuna]'"
SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler"}
LEAST = 1e-9  # a draw of 0 would give a member all the weight


@register(SELECTIONS, n_scores=lambda n: n + 50)
def optuna(
    n_members: int,
    score: Score,
    *,
    n_trials: int = 50,
    sampler: Any = "tpe",
    random_state: int | None = 0,
    record: Record,
) -> Float64:
    """Best of the weights that optuna proposes, and of equal and single ones.

    Each member draws u in (0, 1], and has the weight -log(u) over the sum of all: draws
    at random are uniform on the simplex.

    Parameters
    ----------
    n_members : int, at least 1
    score : Score
        Called ``n_trials`` times besides the members' own; the first trial is that of
        equal weights.
    n_trials : int, at least 1, default=50
    sampler : {"tpe", "random", "gp"} or optuna sampler, default="tpe"
        Bayesian by Parzen estimators, at random, or Bayesian by a Gaussian process
        (which needs torch).
    random_state : int or None, default=0
        Seeds a sampler that is named; None draws other weights each time.
    record : callable
        Called with the `Trial` of each draw.

    Returns
    -------
    ndarray of shape (n_members,), float64, non-negative, sum 1

    Raises
    ------
    ImportError
        If optuna is not installed.
    ValueError
        If a parameter is wrong or a score is not finite.
    TypeError
        If ``n_trials`` or ``random_state`` is no whole number, or ``sampler`` none.

    References
    ----------
    Bergstra, Bardenet, Bengio and Kegl (2011), "Algorithms for hyper-parameter
    optimization", NeurIPS, section 4; Akiba et al. (2019), "Optuna: a next-generation
    hyperparameter optimization framework", KDD.
    """
    check_whole(n_trials=n_trials)
    if n_trials < 1:
        raise ValueError(f"n_trials must be at least 1, found {n_trials}")
    study = _study(sampler, random_state)
    own = own_scores(n_members, score)
    member = int(np.argmax(own))
    tried = [Trial(np.eye(n_members)[member], float(own[member]))]
    names = [f"member_{index}" for index in range(n_members)]
    study.enqueue_trial(dict.fromkeys(names, 0.5))
    for _ in range(n_trials):
        trial = study.ask()
        draws = [trial.suggest_float(name, LEAST, 1 - LEAST) for name in names]
        parts = -np.log(draws)
        weights = parts / parts.sum()
        tried.append(Trial(weights, score_of(score, weights)))
        record(tried[-1])
        study.tell(trial, tried[-1].score)
    return max(tried, key=lambda trial: trial.score).weights


def _study(sampler: Any, random_state: int | None) -> Any:
    """Study that maximises, by a sampler of that name."""
    try:
        import optuna as package
    except ImportError:
        raise ImportError(
            f"selection 'optuna' needs the package optuna: {INSTALL}"
        ) from None
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(
                f"sampler must be one of {', '.join(SAMPLERS)} or a sampler of "
                f"optuna's, found {sampler!r}"
            )
        if random_state is not None:
            check_whole(random_state=random_state)
        sampler = getattr(package.samplers, SAMPLERS[sampler])(seed=random_state)
    elif not isinstance(sampler, package.samplers.BaseSampler):
        raise TypeError(
            f"sampler must be a name or a sampler of optuna's, found {sampler!r}"
        )
    before = package.logging.get_verbosity()
    package.logging.set_verbosity(package.logging.WARNING)
    try:
        return package.create_study(direction="maximize", sampler=sampler)
    finally:
        package.logging.set_verbosity(before)
