"""Predictions and costs of members, averages and ensembles, and their table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.bootstrap import percentile_interval
from ensembles.checkpoints.model_soup.soup_score import no_grad
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.fitting.weight_fitting import WeightSettings, fit_weights
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    OutputSpec,
    Predictions,
    check_class_targets,
    check_regression_targets,
)
from ensembles.reports.comparison import Comparison, ComparisonRow, Kind
from ensembles.reports.cost import Cost, measure_cost, total_cost
from ensembles.reports.members import Data, Members, one_member
from ensembles.reports.run_averages import run_averages
from ensembles.reports.scores import HeldOutScore, spearman_scorer
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import run_selection

LEAST_DEFINED = 0.5  # share of the resamples with a score, for intervals to be shown


class Contender(NamedTuple):
    """A model of the comparison, before it is scored.

    Parameters
    ----------
    model : str
        Name of the model.
    kind : str
        How it was made.
    weights : ndarray of shape (n_members,)
        Weights of the members.
    predictions : Predictions
        Predictions for the reported data.
    cost : Cost
        Cost of a prediction.
    """

    model: str
    kind: Kind
    weights: Float64
    predictions: Predictions
    cost: Cost


class Contest:
    """Models on the same data, added one after the other.

    Parameters
    ----------
    members : Members
        The members.
    data : Data
        Data that the scores are reported on.
    select : Data or None
        Data that models are chosen on; None chooses none.
    scoring : str or callable
        Score of predictions.
    batch_size : int
        Largest number of samples that costs are measured on.
    n_repeats : int
        Number of measured predictions.

    Raises
    ------
    ValueError
        If the targets or the classes of the members do not match.
    """

    def __init__(
        self,
        members: Members,
        data: Data,
        select: Data | None,
        *,
        scoring: Any,
        batch_size: int,
        n_repeats: int,
    ) -> None:
        self.members = members
        self.data = data
        self.select = select
        self.contenders: list[Contender] = []
        self.notes = list(members.notes)
        self.outputs, y = _targets(members, data.y, scoring)
        self.score = HeldOutScore(y, self.outputs, scoring)
        self._n_repeats = n_repeats
        self._batch, self._n_measured = members.first(data.X, batch_size)
        self._select_score: HeldOutScore | None = None
        self._select_predictions: list[Predictions] = []
        self._select_scores: list[float] = []
        if select is not None:
            y_select = _targets(members, select.y, scoring)[1]
            self._select_score = HeldOutScore(y_select, self.outputs, scoring)

    @property
    def n_members(self) -> int:
        """Number of members."""
        return len(self.members.names)

    def add_members(self) -> None:
        """Add each member; it is loaded, predicts, and is released."""
        for index, name in enumerate(self.members.names):
            model = self.members.load(index)
            self._add(name, "member", one_member(index, self.n_members), model)
            if self.select is not None and self._select_score is not None:
                predictions = self._predict(name, model, self.select.X)
                self._select_predictions.append(predictions)
                self._select_scores.append(self._select_score(predictions))

    def add_averages(self, *, is_run: bool) -> None:
        """Add the uniform and the greedy soup, and averages along a run.

        Parameters
        ----------
        is_run : bool
            Whether the members are checkpoints of one run, in order.
        """
        with noting(self.notes):
            try:
                merged = self.members.merge()
            except (TypeError, ValueError) as error:
                self.notes.append(f"averages of parameters are left out: {error}")
                return
        n_members = self.n_members

        def add(name: str, kind: Kind, weights: Float64, counts: Any = None) -> None:
            self._add(name, kind, weights, merged.set_weights(weights, counts))

        equal = np.ones(n_members, np.int64)
        add("uniform soup", "soup", equal / n_members, equal)
        if self.select is not None:
            weights, counts = self._greedy_soup(merged)
            add("greedy soup", "soup", weights, counts)
        if is_run:
            for name, weights in run_averages(n_members).items():
                add(name, "run average", weights)

    def _greedy_soup(self, merged: Any) -> tuple[Float64, Counts | None]:
        """Weights of the greedy soup on the selection data."""

        def score(weights: Float64) -> float:
            assert self.select is not None
            assert self._select_score is not None
            used = np.flatnonzero(weights)
            if len(used) == 1:
                return self._select_scores[int(used[0])]
            model = merged.set_weights(weights, (weights > 0).astype(np.int64))
            return self._select_score(
                self._predict("the greedy soup", model, self.select.X)
            )

        selection = SELECTIONS["greedy_soup"]
        result = run_selection(selection, self.n_members, score)
        return result.weights, result.counts

    def add_ensembles(self) -> None:
        """Add the ensembles of the predictions, with equal and with fitted weights."""
        rule = "vote" if getattr(self.outputs, "voting", False) else "mean"
        combiner = FittedCombiner(COMBINERS[rule], {}, self.outputs)
        equal = COMBINERS[rule].equal_weights(self.n_members)
        self._add_ensemble("prediction ensemble", combiner, equal)
        if rule == "vote":
            self.notes.append(
                "members without predict_proba are compared by their labels: the "
                "prediction ensemble is a majority vote, and the fitted one is left out"
            )
        if rule == "vote" or self.select is None:
            return
        with noting(self.notes):
            self._add_ensemble("fitted ensemble", *self._fitted_combiner())

    def _fitted_combiner(self) -> tuple[FittedCombiner, Float64]:
        """Combiner and weights that the ensembles learn by default."""
        assert self._select_score is not None
        rule, settings = "mean", WeightSettings("convex", {}, None)
        if self.members.is_classifier:
            rule = "log_pool"
        elif self.members.scoring is spearman_scorer:
            # Squared errors of cosines against ratings on another scale mean nothing.
            settings = WeightSettings("greedy", {}, self.score.scoring)
        fit = fit_weights(
            settings,
            FittedCombiner(COMBINERS[rule], {}, self.outputs),
            OutOfFold(
                _stacks(self._select_predictions),
                self._select_score.y,
                self.outputs,
                None,
            ),
            None,
            self.members.names,
        )
        return fit.combiner, fit.selected.weights

    def _add_ensemble(
        self, name: str, combiner: FittedCombiner, weights: Float64
    ) -> None:
        members = self.contenders[: self.n_members]
        stacks = _stacks([member.predictions for member in members])
        used = [members[index].cost for index in np.flatnonzero(weights)]
        self.contenders.append(
            Contender(
                name, "ensemble", weights, combiner(stacks, weights), total_cost(used)
            )
        )

    def _add(self, name: str, kind: Kind, weights: Float64, model: Any) -> None:
        predictions = self._predict(name, model, self.data.X)
        predictor = self.members.predictor(model)
        has_proba = self.members.is_classifier and hasattr(predictor, "predict_proba")
        predict = predictor.predict_proba if has_proba else predictor.predict
        with no_grad():
            cost = measure_cost(
                model, lambda: predict(self._batch), self._n_measured, self._n_repeats
            )
        self.contenders.append(Contender(name, kind, weights, predictions, cost))

    def _predict(self, name: str, model: Any, X: Any) -> Predictions:
        predictor = self.members.predictor(model)
        with no_grad():
            predictions = self.outputs.predict(name, predictor, X)
        self.outputs.check(name, predictor)
        return predictions

    def result(self, *, n_resamples: int, level: float, seed: int) -> Comparison:
        """Score all models, on the data and on resamples.

        Parameters
        ----------
        n_resamples : int
            Number of resamples.
        level : float
            Level of the intervals.
        seed : int
            Seed of the resampling.

        Returns
        -------
        Comparison
        """
        predictions = [contender.predictions for contender in self.contenders]
        scores = np.array([self.score(model) for model in predictions])
        resampled = self._defined(
            self.score.resampled(predictions, n_resamples=n_resamples, seed=seed)
        )
        best, median = self._best_index(), median_index(scores[: self.n_members])
        reference = median if best is None else best
        rows = []
        for index, contender in enumerate(self.contenders):
            row = self._row(contender, scores[index], scores[index] - scores[reference])
            if resampled is not None:
                drawn, against = resampled[index], resampled[reference]
                row |= {
                    "interval": percentile_interval(0, drawn, level)[1:],
                    "difference_interval": percentile_interval(
                        0, drawn - against, level
                    )[1:],
                }
            is_best, is_median = index == best, index == median
            rows.append(
                ComparisonRow(**row, is_best_member=is_best, is_median_member=is_median)
            )
        self._add_notes(best, resampled is not None)
        flat = [row.model for row in rows if row.interval and len({*row.interval}) == 1]
        if flat:
            self.notes.append(
                f"the intervals of {', '.join(flat)} have zero width: each sample is "
                "scored the same, so that resampling shows no spread; use more samples"
            )
        return Comparison(
            rows=tuple(rows),
            metric=_metric(self.score.scoring),
            reference=self.members.names[reference],
            n_samples=len(self.score.y),
            n_resamples=None if resampled is None else resampled.shape[1],
            level=level,
            seed=seed,
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def _best_index(self) -> int | None:
        """Index of the best member on the selection data; None without these."""
        return int(np.argmax(self._select_scores)) if self._select_scores else None

    def _row(
        self, contender: Contender, score: float, difference: float
    ) -> dict[str, Any]:
        used = np.flatnonzero(contender.weights)
        return {
            "model": contender.model,
            "kind": contender.kind,
            "members": tuple(self.members.names[index] for index in used),
            "weights": tuple(contender.weights[used].tolist()),
            "score": float(score),
            "difference": float(difference),
            "cost": contender.cost,
        }

    def _defined(self, resampled: Float64) -> Float64 | None:
        """Resamples on which all models have a score; None if there are too few."""
        is_defined = np.asarray(np.isfinite(resampled).all(axis=0))
        n_lost = int((~is_defined).sum())
        if not n_lost:
            return resampled
        reason = "on which the score is undefined, e.g. because a class is missing"
        if is_defined.mean() < LEAST_DEFINED:
            self.notes.append(
                f"intervals are left out: {n_lost} of {len(is_defined)} resamples are "
                f"samples {reason}"
            )
            return None
        self.notes.append(
            f"{n_lost} of {len(is_defined)} resamples are left out, {reason}"
        )
        return resampled[:, is_defined]

    def _add_notes(self, best: int | None, has_intervals: bool) -> None:
        """Notes on what was chosen on which data, and what the numbers mean."""
        n_select = 0 if self._select_score is None else len(self._select_score.y)
        if best is None:
            self.notes.append(
                "without selection data, differences are to the median member, and the "
                "best single member, the greedy soup and the fitted ensemble are left "
                "out; pass X_select and y_select"
            )
        else:
            self.notes.append(
                "the best single member, the greedy soup and the fitted ensemble are "
                f"chosen on {n_select} other samples"
            )
        if has_intervals:
            self.notes.append(
                f"percentile bootstrap intervals over {len(self.score.y)} samples, "
                "with the same resamples for all rows; they do not cover other "
                "training runs, or the choice of the best row"
            )
        self.notes.append(
            f"time per {self.members.prediction}: median and quartiles of "
            f"{self._n_repeats} predictions of {self._n_measured} samples, after one "
            "for warming up; of an ensemble, the sum over its members"
        )
        if any(contender.cost.flops is None for contender in self.contenders):
            self.notes.append(
                "FLOPs are known for PyTorch modules, linear models and multilayer "
                "perceptrons only"
            )


def _targets(members: Members, y: Any, scoring: Any) -> tuple[OutputSpec, Any]:
    """Format of the predictions, and validated targets."""
    if not members.is_classifier:
        return check_regression_targets(y, quantiles=False)
    voters = [n for n, p in members.classes if not hasattr(p, "predict_proba")]
    if voters and _needs_probabilities(scoring):
        raise ValueError(
            f"scoring {scoring!r} needs probabilities, which {voters[0]} does not "
            "predict; pass scoring='accuracy', or wrap it in CalibratedClassifierCV"
        )
    return check_class_targets(
        y, members.classes, voting=bool(voters), missing_class="error"
    )


def _needs_probabilities(scoring: Any) -> bool:
    from sklearn.metrics import get_scorer

    method = getattr(get_scorer(scoring), "_response_method", "predict")
    return bool(method != "predict")


def median_index(scores: Float64) -> int:
    """Index of the median of scores; of two in the middle, that of the higher one.

    Parameters
    ----------
    scores : ndarray of shape (n_members,)
        Scores; greater is better.

    Returns
    -------
    int
    """
    return int(np.argsort(-scores, kind="stable")[(len(scores) - 1) // 2])


def _stacks(predictions: Sequence[Predictions]) -> list[Float64]:
    """Predictions of all members, stacked for each output."""
    return [np.stack(output) for output in zip(*predictions, strict=True)]


def _metric(scoring: Any) -> str:
    if scoring is spearman_scorer:
        return "Spearman"
    if isinstance(scoring, str):
        return scoring
    return str(getattr(scoring, "__name__", None) or scoring)


@contextmanager
def noting(notes: list[str]) -> Iterator[None]:
    """Keep warnings of the library as notes; other warnings are shown.

    Parameters
    ----------
    notes : list of str
        List that the messages are appended to.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if warning.category is UserWarning:
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
