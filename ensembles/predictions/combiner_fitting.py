"""Calibration, weights and their score, learned from held-out predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ensembles._sklearn import warn_user
from ensembles._typing import Counts, Float64
from ensembles.predictions.calibration import Calibrator, calibrated
from ensembles.predictions.cross_fitting import cross_fitted
from ensembles.predictions.fitted_combiner import Combination
from ensembles.predictions.log_pool_weights import PoolWeights
from ensembles.predictions.members.out_of_fold import Held
from ensembles.predictions.members.outputs import Answer
from ensembles.predictions.metrics.scorer import Scored
from ensembles.predictions.metrics.table import score_for
from ensembles.predictions.preconditions import SCORER_ERRORS
from ensembles.predictions.weight_selection import learns_pool, weigh
from ensembles.selection.choose import SelectionResult
from ensembles.selection.score import ROUNDING
from ensembles.selection.table import named

SLACK = 0.01  # relative difference of scores within the noise of most data


class FittedCombiner(NamedTuple):
    """Combination of fitted members, with its weights, score and calibrators.

    Attributes
    ----------
    combination : Combination
        Rule with its parameters and learned intercepts.
    chosen : SelectionResult
        Weights, with scores on the rows that they were learned from.
    score : float or None
        Score of the combination on held-out rows, with cross-fitted weights if weights
        are learned; None if nothing is held out.
    calibrators : list of Calibrator or None
        Calibrator of each member; None leaves its predictions unchanged.
    calibrator : Calibrator or None
        Calibrator of the combination; None leaves its predictions unchanged.
    """

    combination: Combination
    chosen: SelectionResult
    score: float | None
    calibrators: Sequence[Calibrator | None]
    calibrator: Calibrator | None = None


class CombinerFit(NamedTuple):
    """Settings to learn weights and calibration.

    Parameters
    ----------
    weights : ndarray of shape (n_members,), str or None
        Weights, the name of a selection, or None for equal weights, as in `weigh`.
    params : dict
        Parameters of the selection.
    calibrate : str or None
        Calibration method, as in `Calibrator`; None means no calibration.
    scoring : str, callable or None
        Scorer of the combination; None means the negative log-loss for classifiers, the
        negative mean squared error for regressors.
    names : list of str
        Names of the members.
    """

    weights: Any
    params: dict[str, Any]
    calibrate: str | None
    scoring: Any
    names: list[str]

    def given(self, combination: Combination) -> FittedCombiner:
        """Use given or equal weights, without held-out predictions.

        Parameters
        ----------
        combination : Combination
            Rule with its parameters.

        Returns
        -------
        FittedCombiner
            Without scores and calibrators.
        """
        size = len(self.names)
        chosen, combination = weigh(self.weights, combination, size, None, None)
        return FittedCombiner(combination, chosen, None, [None] * size)

    def learned(
        self, combination: Combination, held: Held, score_weight: Float64 | None
    ) -> FittedCombiner:
        """Learn weights and calibration from held-out predictions.

        Parameters
        ----------
        combination : Combination
            Rule with its parameters.
        held : Held
            Held-out predictions, with the sample weights to learn with.
        score_weight : ndarray of shape (n_samples,) or None
            Sample weights of the score; None weights all samples equally.

        Returns
        -------
        FittedCombiner

        Warns
        -----
        UserWarning
            If the weights do not beat the best member, or the scorer fails on part of
            the rows.
        """
        calibrators: Sequence[Calibrator | None] = [None] * held.n_members
        if self.calibrate and combination.combiner.takes != "labels":
            calibrators, held = calibrated(held, self.calibrate)
        plain = combination.ranked(held)
        score = self._score(plain, held, score_weight)
        chosen, combination = weigh(
            self.weights, plain, held.n_members, held, score, **self.params
        )
        value, answer = chosen.score, None
        if isinstance(self.weights, str):
            near = None
            if combination.intercepts is not None:
                near = PoolWeights(chosen.weights, combination.intercepts)
            crossed = self._crossed(plain, held, score_weight, near)
            if crossed is not None:
                answer, best = crossed
                value = score.of(answer)
                self._compare(value, score.of(best), chosen, combination)
        fitted = FittedCombiner(combination, chosen, value, calibrators)
        if not self.calibrate:
            return fitted
        if answer is None:
            answer = combination(held.stacks, chosen.weights)
        return _calibrated(fitted, held, answer, score, self.calibrate)

    def _crossed(
        self,
        plain: Combination,
        held: Held,
        score_weight: Float64 | None,
        near: PoolWeights | None,
    ) -> tuple[Answer, Answer] | None:
        """Cross-fitted predictions of the combination, and of the best member.

        None if the rows cannot be divided, or the scorer fails on part of them.
        """

        def learn(part: Held, rows: Counts) -> tuple[Combination, Float64, int]:
            weight = None if score_weight is None else score_weight[rows]
            of_part = self._score(plain, part, weight)
            size, params = held.n_members, self.params
            found, made = weigh(
                self.weights, plain, size, part, of_part, near=near, **params
            )
            return made, found.weights, int(found.best_index or 0)

        try:
            return cross_fitted(held, learn)
        except SCORER_ERRORS as error:
            if self.scoring is None:
                raise
            warn_user(
                "oof_score_ is that of the rows that the weights were learned from: "
                f"scoring {self.scoring!r} failed on part of the rows "
                f"({type(error).__name__}: {error}); a scorer that takes any number of "
                "rows gives one by weights of the other folds"
            )
            return None

    def _score(
        self, combination: Combination, held: Held, weight: Float64 | None
    ) -> Scored:
        weighted = held._replace(sample_weight=weight)
        return score_for(weighted, combination.combiner, combination, self.scoring)

    def _compare(
        self,
        value: float,
        best: float,
        chosen: SelectionResult,
        combination: Combination,
    ) -> None:
        """Warn if the best member scores the same, or better by more than `SLACK`."""
        by_loss = self.scoring in (None, "neg_log_loss")
        if learns_pool(self.weights, combination.combiner) and not by_loss:
            return  # the fit has warned of this scoring already
        alike = math.isclose(value, best, rel_tol=ROUNDING)
        worse = alike or value < best - SLACK * abs(best)
        selection = named(self.weights)
        expected = selection is None or not selection.single_member
        if worse and expected and len(self.names) > 1:
            member = self.names[int(chosen.best_index or 0)]
            warn_user(
                f"selection {self.weights!r} did not beat the best member: learned on "
                f"the other folds, its weights score {value:.6g}, the best member "
                f"chosen there {best:.6g} (member {member!r} on all data); use "
                "weights='best', or add more diverse members"
            )


def _calibrated(
    fitted: FittedCombiner, held: Held, answer: Answer, score: Scored, method: str
) -> FittedCombiner:
    """Add the calibration of the combination, and its score after calibration."""
    combined = held._replace(stacks=[share[None] for share in answer])
    (calibrator,), combined = calibrated(combined, method)
    value = score.of([stack[0] for stack in combined.stacks])
    return fitted._replace(calibrator=calibrator, score=value)
