"""Write a soup of checkpoints on disk, selected by the score of a callable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensembles._sklearn import check_bool, check_choice, check_mapping, warn_caller
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.merging.average import MergeReport, write
from ensembles.checkpoints.merging.relations import (
    averages_among,
    copies,
    different_initializations,
)
from ensembles.checkpoints.planning.options import MEMORY, Integers, Missing
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.planning.warnings import warn_of_candidates
from ensembles.checkpoints.soup_search.candidates import (
    Candidate,
    CandidateScorer,
    ScoreFile,
    ScoringJob,
    candidate_suffix,
)
from ensembles.checkpoints.soup_search.checks import (
    check_members,
    check_output,
    check_selection,
    plan_rules,
)
from ensembles.checkpoints.soup_search.journal import Journal
from ensembles.checkpoints.soup_search.rule_parameters import resolve_rules
from ensembles.checkpoints.soup_search.rule_search import (
    Comparison,
    RuleResult,
    compare_rules,
)
from ensembles.checkpoints.soup_selection import with_patience
from ensembles.rules.rule import Rule


@dataclass(frozen=True)
class SoupReport:
    """Members, weights and scores of a soup.

    Parameters
    ----------
    out : Path
        Path of the soup.
    members : tuple of str
        Names of all members, without the base.
    scores : tuple of float or None
        Score of each member alone; None if it failed.
    weights : tuple of float
        Weight of each member; with ``base_weight`` they sum to 1, or to the number of
        members in use for a rule that needs a base.
    base : str or None
        Name of the base; None without a base.
    base_score : float or None
        Score of the base; None without a base.
    base_weight : float
        Weight of the base; 0 without a base, and for a rule that needs a base.
    score : float
        Score of the soup.
    uniform_score : float or None
        Score of the average of all members with a score, without the base; None if it
        failed.
    lower_is_better : bool
        Whether lower scores are better.
    candidates : tuple of Candidate
        All scored candidates, in order.
    history : tuple of Candidate
        Candidates that the selection recorded, in order, such as each window of
        ``"windows"`` or the weights of each round of ``"greedy"``; rule by rule.
    rules : tuple of RuleResult
        Best combination by each rule, and the number of its scores.
    compares_rules : bool
        Whether there are several rules, a rule that needs a base, or ranges of
        parameters. ``uniform_score`` is then that of the mean of the members.
    chosen : Candidate
        Candidate that was written.
    written : MergeReport
        Report of the average that was written; its plan has the members in order.
    checkpoints : tuple of Checkpoint
        All members, without the base.
    base_checkpoint : Checkpoint or None
        The base; None without a base.
    """

    out: Path
    members: tuple[str, ...]
    scores: tuple[float | None, ...]
    weights: tuple[float, ...]
    base: str | None
    base_score: float | None
    base_weight: float
    score: float
    uniform_score: float | None
    lower_is_better: bool
    candidates: tuple[Candidate, ...] = field(repr=False)
    history: tuple[Candidate, ...] = field(repr=False)
    rules: tuple[RuleResult, ...] = field(repr=False)
    compares_rules: bool
    chosen: Candidate = field(repr=False)
    written: MergeReport = field(repr=False)
    checkpoints: tuple[Checkpoint, ...] = field(repr=False)
    base_checkpoint: Checkpoint | None = field(repr=False)

    @property
    def best(self) -> tuple[str, float]:
        """Name and score of the best single member, or of the base if as good."""
        names = [str(self.base), *self.members]
        scores = [self.base_score, *self.scores]
        scored = [(n, s) for n, s in zip(names, scores, strict=True) if s is not None]
        sign = -1 if self.lower_is_better else 1
        return max(scored, key=lambda pair: sign * pair[1])

    @property
    def beats_best_member(self) -> bool:
        """Whether the soup scores better than each single member and the base."""
        return self._is_better(self.score, self.best[1])

    @property
    def uniform_is_better(self) -> bool:
        """Whether the average of all members scores better than the soup."""
        uniform = self.uniform_score
        return uniform is not None and self._is_better(uniform, self.score)

    def _is_better(self, score: float, other: float) -> bool:
        return score < other if self.lower_is_better else score > other


def _ignore(_: Any) -> None:
    """Default of ``record`` and ``progress``, which does nothing."""


def make_soup(
    members: Sequence[str | os.PathLike[str]],
    score: ScoreFile,
    out: str | os.PathLike[str],
    *,
    select: str | None = None,
    weights_params: Mapping[str, Any] | None = None,
    base: str | os.PathLike[str] | None = None,
    rule: str | Rule | Sequence[str | Rule] = "mean",
    rule_params: Mapping[str, Any] | None = None,
    rule_ranges: Mapping[str, tuple[float, float]] | None = None,
    lower_is_better: bool = False,
    on_error: str = "raise",
    journal: Journal | None = None,
    record: Callable[[Candidate], None] = _ignore,
    progress: Callable[[int], None] = _ignore,
    dtype: str | None = None,
    integers: Integers = "error",
    missing: Missing = "error",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    shard_size: int | None = None,
    only_weights: bool | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    force: bool = False,
) -> SoupReport:
    """Select the checkpoints whose average scores best, and write that average.

    Single members are scored in place. Any other combination is written beside the
    output, in the format of the first member, scored and removed. Several rules are
    compared with each other, with the mean of all members, and with single members: the
    checkpoint that scores best is written, the simplest one in a tie.

    Parameters
    ----------
    members : sequence of paths
        Paths of the members; with the base at least two, all different.
    score : callable (path) -> float
        Score of the checkpoint at a path; must be finite.
    out : path
        Output, as in `average`. The file is identical, byte for byte, to the output of
        `average` for the members and weights in ``written.plan`` of the report.
    select : str or None, default=None
        Selection of the weights: a name in `ensembles.selection.SELECTIONS`. None is
        ``"greedy_soup"`` for a single rule that needs no base; several rules, or one
        that needs a base, combine all members with equal weights, as `average` does.
    weights_params : mapping of str to value or None, default=None
        Parameters of the selection; None means defaults.
    base : path or None, default=None
        Common ancestor of the fine-tuned members; required by ``"wise_ft"`` and by
        rules with ``needs_base=True``, else None.
    rule : str, Rule, or sequence of them, default="mean"
        Rule that combines the members, as in `average`, or several rules to compare.
        Selected weights sum to 1; for a rule that needs a base they are scaled to a
        mean of 1 over the members in use, and a single member is used as it is.
    rule_params : mapping of str to value or None, default=None
        Parameters of the rules; None means defaults. Of several rules, each gets the
        parameters that it has.
    rule_ranges : mapping of str to (low, high) or None, default=None
        Parameters of the rules that ``select="optuna"`` chooses too, such as
        ``{"density": (0.1, 0.9)}``; None means none.
    lower_is_better : bool, default=False
        Whether lower scores are better.
    on_error : {"raise", "drop"}, default="raise"
        How to handle a score that raises or is not finite. With "raise" the error is
        raised. With "drop" a member is left out with a warning, and a combination
        counts as the worst.
    journal : Journal or None, default=None
        File in which scores are kept as soon as they are known, and found again by
        later runs. It is opened and closed here; None keeps no scores.
    record : callable, default does nothing
        Called with each `Candidate` when its score is known.
    progress : callable, default does nothing
        Called from any thread with the number of bytes read since the last call.
    dtype, integers, missing, include, exclude, key
        Options of every average, as in `average`.
    shard_size, only_weights, memory, threads
        Options of every average, as in `average`.
    force : bool, default=False
        Whether an existing output is replaced.

    Returns
    -------
    SoupReport

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    FileExistsError
        If ``out`` exists and ``force`` is False.
    BlockingIOError
        If another run has locked the journal.
    TypeError, ValueError
        If an argument is invalid or the members do not match, before the first score;
        or if no member, or not the selected combination, can be scored.

    Warns
    -----
    UserWarning
        If a member may not be fine-tuned from the same initialization as the first, is
        a copy or itself an average, or is left out, or if all scores are equal.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML.
    """
    check_choice("on_error", on_error, ("raise", "drop"))
    for name, value in (("lower_is_better", lower_is_better), ("force", force)):
        check_bool(name, value)
    check_members(members, base)
    fixed = check_mapping("rule_params", rule_params)
    spaces = resolve_rules(rule, fixed, check_mapping("rule_ranges", rule_ranges))
    params = check_mapping("weights_params", weights_params)
    selection = check_selection(select, params, base, spaces, len(members))
    if selection is not None:
        params = with_patience(selection, params, len(members))
    options: dict[str, Any] = {
        "dtype": dtype,
        "integers": integers,
        "missing": missing,
        "include": include,
        "exclude": exclude,
        "key": key,
        "shard_size": shard_size,
        "only_weights": only_weights,
        "memory": memory,
        "threads": threads,
        "force": force,
    }
    planned = plan_rules(members, base, out, spaces, options)
    assert planned.out is not None
    check_output(planned, journal)
    _warn_of_members(planned)
    sources, base_checkpoint = list(planned.members), planned.base
    if base_checkpoint is not None:  # named "base ..." in messages of the plan
        base_checkpoint = replace(base_checkpoint, name=str(base))
    elif base is not None:
        base_checkpoint = sources.pop(0)
    job = ScoringJob(
        score=score,
        out=planned.out,
        options=options,
        on_error=on_error,
        lower_is_better=lower_is_better,
        journal=journal,
        record=record,
        progress=progress,
    )
    with journal or nullcontext():
        scorer = CandidateScorer(sources, base_checkpoint, job)
        scorer.score_members()
        found = compare_rules(scorer, spaces, selection, params)
        final = scorer.final_plan(found.chosen)
        written = write(final, progress=progress, stream=scorer.stream)
    return _report(scorer, found, written)


def _warn_of_members(planned: Plan) -> None:
    """Warn about members whose average may be useless, before the first score."""
    unrelated = different_initializations(planned)
    notes = [] if unrelated is None else [unrelated]
    for note in (*notes, *averages_among(planned), *copies(planned.members)):
        warn_caller(note)
    warn_of_candidates(planned, f"candidate{candidate_suffix(planned.members[0])}")


def _report(
    scorer: CandidateScorer, found: Comparison, written: MergeReport
) -> SoupReport:
    chosen = found.chosen
    weight_of = dict(zip(chosen.members, chosen.weights, strict=True))
    rows = [
        (source, scorer.single(index).score, weight_of.get(source.name, 0.0))
        for index, source in enumerate(scorer.sources)
    ]
    base, base_score, base_weight = None, None, 0.0
    if scorer.base is not None:
        base, base_score, base_weight = rows.pop(0)
    checkpoints, scores, member_weights = zip(*rows, strict=True)
    return SoupReport(
        out=written.out,
        members=tuple(member.name for member in checkpoints),
        scores=scores,
        weights=member_weights,
        base=None if base is None else base.name,
        base_score=base_score,
        base_weight=base_weight,
        score=math.nan if chosen.score is None else chosen.score,
        uniform_score=found.uniform.score,
        lower_is_better=scorer.job.lower_is_better,
        candidates=tuple(scorer.candidates),
        history=found.history,
        rules=found.results,
        compares_rules=found.compares_rules,
        chosen=chosen,
        written=written,
        checkpoints=checkpoints,
        base_checkpoint=base,
    )
