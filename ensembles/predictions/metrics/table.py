"""Scores of weights, from held-out predictions: fast where the score is known."""

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
    """Score of weights by held-out predictions.

    Of a mean, what `OF_CLASSES` and `OF_VALUES` name comes with fast gains; any other
    scorer, rule or form of answers is scored as it is, which may take minutes a greedy
    round (see `Scored`). Either way the score of weights is scikit-learn's own, and a
    greedy selection takes the same members in the same order.

    Parameters
    ----------
    held : Held
    combiner : Combiner
    combine : callable
        ``(stacks, weights) -> answer``, with the estimator's rule.
    scoring : str, callable or None
        As in scikit-learn; None is the negative log-loss of classes, the negative
        squared error of values.

    Returns
    -------
    Scored
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
