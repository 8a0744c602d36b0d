"""Score of member weights, combined by one rule of a soup of files."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles._typing import Array, Counts, Float64
from ensembles.checkpoints.soup_search.candidates import (
    Candidate,
    CandidateScorer,
)
from ensembles.checkpoints.soup_search.journal import to_json
from ensembles.checkpoints.soup_search.rule_parameters import ParametrizedRule
from ensembles.checkpoints.soup_selection import scaled_weights, single_member
from ensembles.selection.score import ParameterRange

# Step of finite differences: smaller ones vanish in rounded parameters or scores.
STEP = 0.05
ROUNDING = 1e-12  # of a sum of weights: if it is nearer to 1, the base has weight 0


class RuleScore:
    """Score of weights over the members whose own score did not fail.

    A member with all the weight is scored itself. A combination whose score fails gets
    a lower score than all previous ones.

    Parameters
    ----------
    scorer : CandidateScorer
        Scorer of the candidates, after `CandidateScorer.score_members`.
    how : ParametrizedRule
        Rule that combines the members.
    ranges : mapping of str to ParameterRange or None, default=None
        Parameters of the rule that a selection chooses; None means none.
    """

    def __init__(
        self,
        scorer: CandidateScorer,
        how: ParametrizedRule,
        ranges: Mapping[str, ParameterRange] | None = None,
    ) -> None:
        self.scorer = scorer
        self.how = how
        self.ranges = ranges or {}
        scores = [scorer.single(index).score for index in scorer.scorable]
        self._lowest = min(self._value(s) for s in scores if s is not None)
        self._candidates: dict[str, Candidate] = {}

    def score_counts(self, counts: Counts) -> float:
        """Score of the weights ``counts / counts.sum()`` of the scorable members."""
        return self._number(self.candidate(counts / counts.sum(), counts))

    def __call__(self, weights: Float64) -> float:
        """Score of weights of shape (n_scorable,); the base has 1 minus their sum."""
        return self._number(self.candidate(weights))

    def score_params(self, weights: Float64, params: Mapping[str, float]) -> float:
        """Score of weights with values for the ``ranges`` of the rule's parameters."""
        return self._number(self.candidate(weights, params=params))

    def candidate(
        self,
        weights: Float64,
        counts: Counts | None = None,
        params: Mapping[str, float] | None = None,
    ) -> Candidate:
        """Candidate of weights of a selection, scored in the first call.

        Parameters
        ----------
        weights : ndarray of shape (n_scorable,), non-negative
            Weights with sum 1; with a smaller sum, the base has the rest. For a rule
            that needs a base they are scaled to a mean of 1.
        counts : ndarray of shape (n_scorable,), int64, or None, default=None
            How often each member was added; None if members were not added one by one.
        params : mapping of str to number or None, default=None
            Values for ``ranges``; None for selections that choose weights only.

        Returns
        -------
        Candidate
        """
        key = f"{weights.tobytes().hex()} {to_json(params)}"
        if key not in self._candidates:
            alone = single_member(weights) if params is None else None
            if alone is not None:
                candidate = self.scorer.single(self.scorer.scorable[alone])
            elif not weights.any():
                candidate = self.scorer.single(0)  # the base
            else:
                candidate = self._combination(weights, counts, params or {})
            self._candidates[key] = candidate
        return self._candidates[key]

    def equal(self) -> Candidate:
        """Candidate of all scorable members with equal weights."""
        counts = np.ones(len(self.scorer.scorable), np.int64)
        if len(counts) == 1 and not self.how.rule.needs_base:
            return self.scorer.single(self.scorer.scorable[0])
        return self._combination(counts / len(counts), counts, {})

    def _combination(
        self, weights: Float64, counts: Counts | None, params: Mapping[str, float]
    ) -> Candidate:
        """Candidate of members combined by the rule, which may be a single one."""
        scorer = self.scorer
        how = self.how._replace(params={**self.how.params, **params})
        if how.rule.needs_base:
            weights, counts = scaled_weights(weights, counts), None
        expanded = self._expanded(weights)
        if scorer.base is not None and not how.rule.needs_base:
            share = 1 - math.fsum(weights)
            expanded[0] = share if abs(share) > ROUNDING else 0.0
        counts = None if counts is None else self._expanded(counts)
        return scorer.combination(expanded, how, counts)

    def gradient(self, weights: Float64) -> Float64:
        """Slopes of the score towards each member, by finite differences of `STEP`.

        Parameters
        ----------
        weights : ndarray of shape (n_scorable,)
            Weights to start each step from.

        Returns
        -------
        ndarray of shape (n_scorable,)
            All 0 if no step improves the score, so that gradient ascent stops.

        Warns
        -----
        UserWarning
            If no step changes the score.
        """
        value = self(weights)
        steps = (1 - STEP) * weights + STEP * np.eye(len(weights))
        changes = np.array([self(step) for step in steps]) - value
        if not changes.any():
            warn_caller(
                "gradient ascent needs a score that changes with the weights, but a "
                f"step of {STEP:g} towards any member does not change it; pass "
                "select='greedy_soup' (--select greedy-soup), which needs no gradient"
            )
        return changes / STEP if changes.max() > 0 else np.zeros(len(weights))

    def _expanded(self, values: Array) -> Array:
        """Values of the scorable members for all sources, 0 for the others."""
        expanded = np.zeros(len(self.scorer.sources), values.dtype)
        expanded[self.scorer.scorable] = values
        return expanded

    def _number(self, candidate: Candidate) -> float:
        """Score, greater is better; lower than all before after a failure."""
        if candidate.score is None:
            return self._lowest - max(1.0, abs(self._lowest))
        value = self._value(candidate.score)
        self._lowest = min(self._lowest, value)
        return value

    def _value(self, score: float) -> float:
        return -score if self.scorer.job.lower_is_better else score
