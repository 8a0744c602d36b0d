"""The search of a soup of files with each of its rules, and the best result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ensembles.checkpoints.soup_search.candidates import (
    Candidate,
    CandidateScorer,
)
from ensembles.checkpoints.soup_search.rule_parameters import MEAN, RuleSpace
from ensembles.checkpoints.soup_search.rule_score import RuleScore
from ensembles.selection import Selection
from ensembles.selection.choose import run_selection


class RuleResult(NamedTuple):
    """Best combination by a rule of a soup.

    Parameters
    ----------
    rule : str
        Name of the rule.
    candidate : Candidate or None
        Best combination of the members by the rule; None if none has a score.
    n_scores : int
        Number of combinations by the rule that were scored, the journal's included.
    """

    rule: str
    candidate: Candidate | None
    n_scores: int


class RuleSearch(NamedTuple):
    """What a selection chose for a rule.

    Parameters
    ----------
    result : RuleResult
        Best combination by the rule.
    chosen : Candidate
        Chosen combination or single member.
    history : tuple of Candidate
        Candidates that the selection recorded, in order.
    """

    result: RuleResult
    chosen: Candidate
    history: tuple[Candidate, ...]


class Comparison(NamedTuple):
    """Result of a soup of one or several rules.

    Parameters
    ----------
    chosen : Candidate
        Candidate to write.
    uniform : Candidate
        Combination of all members with equal weights: their mean if rules are compared,
        otherwise by the rule.
    compares_rules : bool
        Whether there are several rules, a rule that needs a base, or ranges.
    results : tuple of RuleResult
        Best combination by each rule.
    history : tuple of Candidate
        Candidates that the selection recorded, rule by rule.
    """

    chosen: Candidate
    uniform: Candidate
    compares_rules: bool
    results: tuple[RuleResult, ...]
    history: tuple[Candidate, ...]


def compare_rules(
    scorer: CandidateScorer,
    spaces: Sequence[RuleSpace],
    selection: Selection | None,
    params: Mapping[str, Any],
) -> Comparison:
    """Search with each rule, and choose the candidate with the best score.

    Parameters
    ----------
    scorer : CandidateScorer
        Scorer of the candidates, with scores of the members.
    spaces : sequence of RuleSpace
        Rules to compare. If there is only one, the choice of the selection is the
        result; otherwise it is the best of the base, the members, their mean and the
        rules.
    selection : Selection or None
        Selection of the weights; None combines all members with equal weights.
    params : mapping of str to value
        Parameters of the selection.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If the combination that the selection chose has no score.
    """
    space, is_single = spaces[0], len(spaces) == 1 and selection is not None
    is_plain = is_single and not (space.rule.needs_base or space.ranges)
    if is_plain:
        searches = [search(scorer, space, selection, params)]
        uniform = RuleScore(scorer, space.how).equal()
    else:  # first, so that the last scores of the journal are of a rule of the soup
        uniform = RuleScore(scorer, MEAN).equal()
        searches = [search(scorer, entry, selection, params) for entry in spaces]
    chosen = searches[0].chosen
    if not is_single:
        singles = [scorer.single(index) for index in range(len(scorer.sources))]
        combined = [entry.result.candidate for entry in searches]
        best = scorer.best([*singles, uniform, *(c for c in combined if c)])
        chosen = best or chosen
    if chosen.score is None:
        name = "the rule" if selection is None else repr(selection.name)
        raise ValueError(
            f"scoring the combination selected by {name} failed: {chosen.error}; use "
            "another selection"
        )
    return Comparison(
        chosen,
        uniform,
        not is_plain,
        tuple(entry.result for entry in searches),
        tuple(candidate for entry in searches for candidate in entry.history),
    )


def search(
    scorer: CandidateScorer,
    space: RuleSpace,
    selection: Selection | None,
    params: Mapping[str, Any],
) -> RuleSearch:
    """Choose the weights of the members, and parameters of the rule, for a rule.

    Parameters
    ----------
    scorer : CandidateScorer
        Scorer of the candidates, with scores of the members.
    space : RuleSpace
        Rule that combines the members.
    selection : Selection or None
        Selection that chooses; None combines all members with equal weights.
    params : mapping of str to value
        Parameters of the selection.

    Returns
    -------
    RuleSearch
    """
    score = RuleScore(scorer, space.how, space.ranges)
    history: tuple[Candidate, ...] = ()
    has_choice = bool(space.ranges) or not params.get("equal_weights", False)
    if selection is None or not has_choice:
        chosen = score.equal()
    else:
        result = run_selection(selection, len(scorer.scorable), score, **params)
        chosen = score.candidate(result.weights, result.counts, result.params)
        history = tuple(
            score.candidate(trial.weights, trial.counts, trial.params)
            for trial in result.history
        )
    combined = [c for c in scorer.candidates if c.rule == space.rule.name]
    n_scores, best = len(combined), scorer.best(combined)
    if chosen in combined and chosen.score is not None:  # the last among equals
        best = chosen
    return RuleSearch(RuleResult(space.rule.name, best, n_scores), chosen, history)
