"""Scores of member weights on held-out predictions, fast for common scorers."""

from __future__ import annotations

from typing import Any

from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.accuracy import Accuracy
from ensembles.predictions.metrics.log_loss import LogLoss
from ensembles.predictions.metrics.roc_auc import RocAuc
from ensembles.predictions.metrics.scorer import (
    BoundedScore,
    Combine,
    NotApplicable,
    ScorerScore,
)
from ensembles.predictions.metrics.squared_error import (
    R2,
    BrierScore,
    RootSquaredError,
    SquaredError,
)

OF_CLASSES: dict[Any, type[BoundedScore]] = {
    None: LogLoss,
    "neg_log_loss": LogLoss,
    "accuracy": Accuracy,
    "roc_auc": RocAuc,
    "neg_brier_score": BrierScore,
}
OF_VALUES: dict[Any, type[BoundedScore]] = {
    None: SquaredError,
    "neg_mean_squared_error": SquaredError,
    "neg_root_mean_squared_error": RootSquaredError,
    "r2": R2,
}


def make_score(
    held: OutOfFold, combiner: Combiner, combine: Combine, scoring: Any
) -> ScorerScore:
    """Score of member weights on held-out predictions.

    For the rule "mean", the scorers in `OF_CLASSES` and `OF_VALUES` have fast gains.
    Other rules, scorers and formats of predictions run the scorer for each candidate,
    which may take minutes per greedy round (see `ScorerScore`). In both cases the score
    of weights is the value of scikit-learn's scorer, and a greedy selection adds the
    same members in the same order.

    Parameters
    ----------
    held : OutOfFold
        Held-out predictions of the members, with the true targets.
    combiner : Combiner
        Rule of the ensemble; only "mean" has fast scores.
    combine : callable
        ``(stacks, weights) -> answer``, with the rule of the ensemble.
    scoring : str, callable or None
        As in scikit-learn; None is the negative log-loss for classifiers and the
        negative mean squared error for regressors.

    Returns
    -------
    ScorerScore
        Callable as ``score(weights)``; a `BoundedScore` if there is a fast score.
    """
    known = OF_CLASSES if isinstance(held.outputs, ClassOutputs) else OF_VALUES
    kind = known.get(scoring) if scoring is None or isinstance(scoring, str) else None
    if kind is not None and combiner.name == "mean":
        try:
            fast = kind(held, combine, scoring)
        except NotApplicable:
            return ScorerScore(held, combine, scoring)
        if fast.matches_scorer():
            return fast
    return ScorerScore(held, combine, scoring)
