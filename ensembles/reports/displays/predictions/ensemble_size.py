"""Display of the score of an ensemble against its number of members."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Counts, Float64
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import make_score
from ensembles.reports.displays.display import Display, as_json, finite_or_nan
from ensembles.reports.displays.figures import (
    BLUE,
    GRAY,
    GREEN,
    clear_spines,
    import_pyplot,
)
from ensembles.reports.displays.predictions.member_predictions import (
    MemberPredictions,
    check_predictions,
    metric_of,
    predict_members,
)

MOST_SIZES = 20  # numbers of members that are scored
BAND = (0.1, 0.9)  # quantiles over the random orders


class _SizeScores(NamedTuple):
    """Scores of ensembles with equal weights, for each number of members."""

    sizes: Counts
    random: Float64
    best_first: Float64


class EnsembleSizeDisplay(Display):
    """Score of ensembles with equal weights against their number of members.

    One curve is the mean over members in random orders, with the range from the 10 % to
    the 90 % quantile. The other one adds members from the best to the worst; it is
    drawn on the rows that the members are sorted by, and so is slightly optimistic.
    Scores of labels are those of the most probable labels, without thresholds.

    Parameters
    ----------
    sizes : array-like of shape (n_sizes,)
        Numbers of members.
    random : array-like of shape (n_orders, n_sizes)
        Scores of ensembles of members in random orders.
    best_first : array-like of shape (n_sizes,) or None, default=None
        Scores of ensembles of the best members; None draws none.
    score : float or None, default=None
        Score of the ensemble with its weights; None draws none.
    metric : str, default="score"
        Name of the score.
    lower_is_better : bool, default=False
        Whether the score is a loss or an error.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If the shapes do not match, or no score is finite.

    Examples
    --------
    >>> EnsembleSizeDisplay([1, 2], [[0.8, 0.9], [0.7, 0.9]]).summary
    'mean score 0.75 with 1 member, 0.9 with 2'
    """

    def __init__(
        self,
        sizes: ArrayLike,
        random: ArrayLike,
        *,
        best_first: ArrayLike | None = None,
        score: float | None = None,
        metric: str = "score",
        lower_is_better: bool = False,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.random = finite_or_nan(random)
        self.best_first = None if best_first is None else finite_or_nan(best_first)
        self.score = score
        self.metric = metric
        self.lower_is_better = lower_is_better
        last = () if self.best_first is None else self.best_first.shape
        if self.random.ndim != 2 or self.random.shape[1:] != self.sizes.shape:
            raise ValueError(
                f"random must have a column for each of {len(self.sizes)} sizes, found "
                f"shape {self.random.shape}"
            )
        if last not in ((), self.sizes.shape):
            raise ValueError(
                f"best_first must have a score for each of {len(self.sizes)} sizes, "
                f"found shape {last}"
            )
        if not np.isfinite(self.random).all():
            raise ValueError("scores of random orders must be finite, found NaN")

    @classmethod
    def from_estimator(
        cls,
        ensemble: Any,
        X: Any,
        y: Any,
        *,
        scoring: Any = None,
        n_orders: int = 20,
        random_state: int | None = 0,
        ax: Any = None,
    ) -> Self:
        """Score the members of a fitted ensemble, and draw the scores.

        The rule is that of the ensemble, with equal weights.

        Parameters
        ----------
        ensemble : EnsembleClassifier or EnsembleRegressor
            Fitted ensemble with a single target.
        X : array-like of shape (n_rows, ...)
            Rows that the ensemble was not fitted to.
        y : array-like of shape (n_rows,)
            True labels or values.
        scoring : str, callable or None, default=None
            Scorer; None uses the scoring of the ensemble.
        n_orders : int, default=20
            Number of random orders.
        random_state : int or None, default=0
            Seed of the random orders; None gives different orders in each call.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        EnsembleSizeDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        sklearn.exceptions.NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the ensemble has several targets.
        """
        import_pyplot()
        members = predict_members(ensemble, X, y)
        return cls._of_members(
            members,
            ensemble._combined_predictions(X)[0],
            ensemble.rule,
            ensemble.rule_params,
            ensemble.scoring if scoring is None else scoring,
            n_orders,
            random_state,
        ).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        predictions: Any,
        *,
        combined: Any = None,
        classes: Any = None,
        sample_weight: Any = None,
        rule: Any = "mean",
        rule_params: Any = None,
        scoring: Any = None,
        n_orders: int = 20,
        random_state: int | None = 0,
        ax: Any = None,
    ) -> Self:
        """Score ensembles of some of the members, and draw the scores.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            True labels or values.
        predictions : array-like of shape (n_members, n_rows[, n_classes])
            Class probabilities, or values of a regression, for rows that the members
            were not fitted to.
        combined : array-like of shape (n_rows[, n_classes]) or None, default=None
            Predictions of the ensemble with its weights; None draws no line for it.
        classes : array-like of shape (n_classes,) or None, default=None
            Sorted labels of the columns; None uses the labels in ``y_true``.
        sample_weight : array-like of shape (n_rows,) or None, default=None
            Sample weights of the score; None weights all rows equally.
        rule : str, Combiner or Rule, default="mean"
            Rule that combines the predictions.
        rule_params : dict or None, default=None
            Parameters of the rule; None means its defaults.
        scoring : str, callable or None, default=None
            Scorer; None means the log-loss or the mean squared error.
        n_orders : int, default=20
            Number of random orders.
        random_state : int or None, default=0
            Seed of the random orders; None gives different orders in each call.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        EnsembleSizeDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, or a prediction is not finite.
        """
        import_pyplot()
        members = check_predictions(
            y_true, predictions, classes=classes, sample_weight=sample_weight
        )
        return cls._of_members(
            members, combined, rule, rule_params, scoring, n_orders, random_state
        ).plot(ax)

    @classmethod
    def _of_members(
        cls,
        members: MemberPredictions,
        combined: Any,
        rule: Any,
        rule_params: Any,
        scoring: Any,
        n_orders: int,
        random_state: int | None,
    ) -> Self:
        score = make_score(
            members.out_of_fold, members.combiner(rule, rule_params), scoring
        )
        metric = metric_of(scoring, is_classifier=members.is_classifier)
        scores = _size_scores(score, len(members.names), n_orders, random_state)
        value = None
        if combined is not None:
            value = float(metric.values(score.evaluate([members.one_output(combined)])))
        return cls(
            scores.sizes,
            metric.values(scores.random),
            best_first=metric.values(scores.best_first),
            score=value,
            metric=metric.name,
            lower_is_better=metric.lower_is_better,
        )

    @property
    def summary(self) -> str:
        """One line with the mean scores of the smallest and the largest ensemble."""
        means = self.random.mean(axis=0)
        first, last = self.sizes[0], self.sizes[-1]
        text = f"mean {self.metric} {means[0]:.6g} with {first} "
        text += "member" if first == 1 else "members"
        if len(self.sizes) > 1:
            text += f", {means[-1]:.6g} with {last}"
        if self.score is None:
            return text
        return f"{text}; ensemble with its weights {self.score:.6g}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "sizes": as_json(self.sizes),
            "random": as_json(self.random),
            "best_first": as_json(self.best_first),
            "score": as_json(self.score),
        }

    def _draw(self, ax: Any) -> None:
        low, high = np.quantile(self.random, BAND, axis=0)
        ax.fill_between(self.sizes, low, high, color=BLUE, alpha=0.2, linewidth=0)
        mean = self.random.mean(axis=0)
        label = "random members: mean, 10 to 90 %"
        ax.plot(self.sizes, mean, "o-", color=BLUE, markersize=4, label=label)
        if self.best_first is not None:
            style = {"color": GREEN, "markersize": 4, "label": "best members first"}
            ax.plot(self.sizes, self.best_first, "s--", **style)
        if self.score is not None:
            label = "ensemble with its weights"
            ax.axhline(self.score, color=GRAY, linestyle=":", label=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("number of members, with equal weights")
        ax.set_ylabel(self.metric + " (lower is better)" * self.lower_is_better)
        ax.legend(frameon=False)
        clear_spines(ax)


def _size_scores(
    score: ScorerScore, n_members: int, n_orders: int, random_state: int | None
) -> _SizeScores:
    """Scores of ensembles with equal weights of members in random and sorted orders."""
    if n_orders < 1:
        raise ValueError(f"n_orders must be at least 1, found {n_orders}")
    grid = np.geomspace(1, n_members, MOST_SIZES).round()
    sizes = np.unique(grid).astype(np.int64)
    combiner = score.combiner.combiner

    def scores_of(order: Counts) -> list[float]:
        values = []
        for size in sizes:
            weights = np.zeros(n_members)
            weights[order[:size]] = combiner.equal_weights(int(size))
            values.append(score(weights))
        return values

    alone = np.array([score(weights) for weights in np.eye(n_members)])
    rng = np.random.default_rng(random_state)
    orders = [rng.permutation(n_members) for _ in range(n_orders)]
    random = np.array([scores_of(order) for order in orders])
    best_first = scores_of(np.argsort(-alone, kind="stable"))
    return _SizeScores(sizes, random, np.array(best_first))
