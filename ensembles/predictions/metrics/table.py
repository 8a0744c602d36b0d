"""Scores of member weights on held-out predictions, fast for common scorers."""

from __future__ import annotations

from typing import Any

from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Labels
from ensembles.predictions.metrics.accuracy import Accuracy
from ensembles.predictions.metrics.log_loss import LogLoss
from ensembles.predictions.metrics.roc_auc import RankedPairs
from ensembles.predictions.metrics.scorer import Bounded, Combine, Scored, Unsuited
from ensembles.predictions.metrics.squared_error import R2, Brier, RootSquares, Squares

__all__ = ["Combine", "Held", "Scored", "score_for"]

OF_CLASSES: dict[Any, type[Bounded]] = {
    None: LogLoss,
    "neg_log_loss": LogLoss,
    "accuracy": Accuracy,
    "roc_auc": RankedPairs,
    "neg_brier_score": Brier,
}
OF_VALUES: dict[Any, type[Bounded]] = {
    None: Squares,
    "neg_mean_squared_error": Squares,
    "neg_root_mean_squared_error": RootSquares,
    "r2": R2,
}


def score_for(held: Held, combiner: Combiner, combine: Combine, scoring: Any) -> Scored:
    """Score of member weights on held-out predictions.

    For the rule "mean", the scorers in `OF_CLASSES` and `OF_VALUES` have fast gains.
    Other rules, scorers and formats of predictions run the scorer for each candidate,
    which may take minutes per greedy round (see `Scored`). In both cases the score of
    weights is the value of scikit-learn's scorer, and a greedy selection adds the same
    members in the same order.

    Parameters
    ----------
    held : Held
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
    Scored
        Callable as ``score(weights)``; a `Bounded` if there is a fast score.
    """
    known = OF_CLASSES if isinstance(held.answers, Labels) else OF_VALUES
    kind = known.get(scoring) if scoring is None or isinstance(scoring, str) else None
    if kind is not None and combiner.name == "mean":
        try:
            fast = kind(held, combine, scoring)
        except Unsuited:
            return Scored(held, combine, scoring)
        if fast.agrees():
            return fast
    return Scored(held, combine, scoring)
