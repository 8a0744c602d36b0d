"""Blends of a round of a forecast hub, with weights learned from earlier rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Array, Float64
from ensembles.predictions.files.hub.folder import Hub
from ensembles.predictions.files.hub.model_rounds import (
    OUTPUT_TYPE,
    ModelRounds,
    choose_models,
    choose_target,
    read_rounds,
)
from ensembles.predictions.files.hub.outcomes import Outcomes, cutoff, read_outcomes
from ensembles.predictions.files.hub.submission import accepts_units, write_submission
from ensembles.predictions.files.hub.tasks import DATE
from ensembles.predictions.files.rows import describe
from ensembles.predictions.forecasts.quantiles import Crossing
from ensembles.predictions.forecasts.rounds import RoundForecasts, combine_rounds
from ensembles.predictions.forecasts.scores import weighted_interval_score

N_ROUNDS = 20  # earlier rounds that weights are learned from
BLEND, EQUAL = "blend", "equal weights"


class HubScore(NamedTuple):
    """Mean score of a model or of a blend in earlier rounds.

    Parameters
    ----------
    name : str
        Name of the model, ``"blend"`` or ``"equal weights"``.
    weight : float or None
        Weight of the model in the round that is blended; None for blends.
    score : float
        Mean weighted interval score; smaller is better, NaN without outcomes.
    relative : float
        The score, divided by the score of equal weights on the same units.
    n_units : int
        Number of units with an outcome and a forecast.
    """

    name: str
    weight: float | None
    score: float
    relative: float
    n_units: int


@dataclass(frozen=True)
class HubBlend:
    """Blended forecasts of a round, as `blend_round` returns them.

    Parameters
    ----------
    hub : Hub
        The hub.
    round_name : str
        Name of the round.
    names : tuple of str
        Names of the models.
    weights : ndarray of shape (n_members,)
        Weights of the models with sum 1; 0 for models without forecasts in the round.
    ids : polars.DataFrame
        Task IDs of the units, as text.
    levels : ndarray of shape (n_levels,)
        Levels of the quantiles.
    quantiles : ndarray of shape (n_units, n_levels)
        Blended quantiles.
    scores : tuple of HubScore
        Scores in earlier rounds: of the blend and of equal weights, each computed with
        weights from rounds before, then of the models. Empty without outcomes.
    n_earlier : int
        Number of earlier rounds that were read.
    notes : tuple of str
        Sentences about choices, and about models that are left out.
    """

    hub: Hub
    round_name: str
    names: tuple[str, ...]
    weights: Float64
    ids: Any
    levels: Float64
    quantiles: Float64
    scores: tuple[HubScore, ...]
    n_earlier: int
    notes: tuple[str, ...]

    def write(
        self, model: str, out: Path | None = None, *, force: bool = False
    ) -> tuple[Path, tuple[str, ...]]:
        """Write the blend as a submission to the hub, and check it.

        Parameters
        ----------
        model : str
            Name of the blend, such as ``TEAM-blend``.
        out : Path or None, default=None
            File to write; None writes to the folder of the model in the hub.
        force : bool, default=False
            Whether an existing file is replaced.

        Returns
        -------
        path : Path
            File that was written.
        notes : tuple of str
            Sentences about values that were rounded.

        Raises
        ------
        ValueError
            If the submission does not meet the hub's ``tasks.json``.
        FileExistsError
            If the file exists and not ``force``.
        """
        return write_submission(
            self.hub,
            model,
            self.round_name,
            self.ids,
            OUTPUT_TYPE,
            self.levels,
            self.quantiles,
            out=out,
            force=force,
        )


def blend_round(
    hub: Hub,
    round_name: str | None = None,
    *,
    models: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    target: Path | None = None,
    rule: str | Sequence[str] | None = None,
    rule_params: Mapping[str, Any] | None = None,
    weights: str | None = "skill",
    weights_params: Mapping[str, Any] | None = None,
    crossing: Crossing = "raise",
    n_rounds: int | None = N_ROUNDS,
) -> HubBlend:
    """Blend the quantile forecasts of a round.

    Weights are learned from earlier rounds, and from outcomes as they were known on the
    last day of submissions, or before the date of the round if the hub does not have
    such a day or it is later. The scores of the blend in earlier rounds are computed in
    the same way: the weights of each round from the rounds before it.

    Parameters
    ----------
    hub : Hub
        The hub.
    round_name : str or None, default=None
        Round to blend; None takes the newest with a submission.
    models : sequence of str or None, default=None
        Models to combine; None takes all models but the ones whose metadata describe
        them as ensembles of the hub's models.
    exclude : sequence of str, default=()
        Models to leave out.
    where : mapping of str to value, or None, default=None
        Values of task IDs that rows must have, such as ``{"target": "wk inc flu
        hosp"}``. None takes the only target with quantiles.
    target : Path or None, default=None
        File with the outcomes; None takes the one in ``target-data``.
    rule : str, sequence of str or None, default=None
        Name of a rule in `ensembles.predictions.forecasts.POOLS`, or several, whose
        quantiles are averaged; None takes the default of `combine_rounds`.
    rule_params : mapping or None, default=None
        Parameters of the rule.
    weights : {"skill"} or None, default="skill"
        "skill" learns weights from earlier rounds; None weights models equally.
    weights_params : mapping or None, default=None
        Parameters of `ensembles.predictions.forecasts.skill_weights`.
    crossing : {"raise", "sort"}, default="raise"
        If quantiles of a model decrease from one level to the next: raise, or sort
        them.
    n_rounds : int or None, default=20
        Number of earlier rounds to read; None reads all.

    Returns
    -------
    HubBlend

    Raises
    ------
    FileNotFoundError
        If the hub has no models or no outcomes.
    ValueError
        If the round, a model or a column does not exist, or forecasts are damaged.
    """
    names, notes = choose_models(hub, models, exclude)
    submissions = {name: hub.submissions(name) for name in names}
    round_name, earlier = _choose_rounds(hub, submissions, round_name, n_rounds)
    wanted = choose_target(hub, round_name, where)
    forecasts = read_rounds(
        hub,
        submissions,
        [*earlier, round_name],
        hub.tasks.round_of(round_name).round_id,
        wanted,
        crossing=crossing,
    )
    now = np.datetime64(round_name, "D")
    units, ids, unit_notes = _units(hub, round_name, forecasts, wanted)
    outcomes, outcome_notes = _outcomes(
        hub, forecasts, target, wanted, needed=weights is not None
    )

    def known(date: Any) -> Float64:
        return outcomes(cutoff(hub.tasks, date, hub.tasks.round_of(round_name)))

    options: dict[str, Any] = {"levels": forecasts.levels, "rule_params": rule_params}
    if rule is not None:
        options["rule"] = rule
    combine = partial(
        combine_rounds, forecasts.stack, forecasts.rounds, known, **options
    )
    equal = combined = combine(weights=None)
    if weights is not None or weights_params:
        combined = combine(weights=weights, weights_params=weights_params)
    scores = _scores(forecasts, known(now), combined, equal)
    return HubBlend(
        hub,
        round_name,
        tuple(forecasts.names),
        combined.weights[-1],
        ids,
        forecasts.levels,
        combined.quantiles[units],
        scores,
        len(earlier),
        (*notes, *forecasts.notes, *unit_notes, *outcome_notes),
    )


def _units(
    hub: Hub, round_name: str, forecasts: ModelRounds, target: Mapping[str, str]
) -> tuple[Array, Any, list[str]]:
    """Indices and task IDs of the units of a round that the hub accepts, and notes.

    Models may have others, such as misspelled places.
    """
    import polars as pl

    units = np.flatnonzero(forecasts.rounds == np.datetime64(round_name, "D"))
    ids = forecasts.ids[units].with_columns(
        pl.lit(value).alias(name) for name, value in target.items()
    )
    tasks = hub.tasks.round_of(round_name).model_tasks
    accepted = np.any(
        [accepts_units(t, ids) for t in tasks if OUTPUT_TYPE in t.output_types], axis=0
    )
    if not accepted.any():
        raise ValueError(
            f"round {round_name!r} must have quantiles of units that {hub.tasks.path} "
            f"accepts, found {f'only {describe(ids, 0)}' if len(ids) else 'none'}"
        )
    if accepted.all():
        return units, ids, []
    first = describe(ids, int(np.flatnonzero(~accepted)[0]))
    n = int((~accepted).sum())
    note = (
        f"{n} units of models left out, because the hub does not accept them: {first}"
    )
    return units[accepted], ids.filter(accepted.tolist()), [note]


def _choose_rounds(
    hub: Hub,
    submissions: Mapping[str, Mapping[str, Path]],
    round_name: str | None,
    n_rounds: int | None,
) -> tuple[str, list[str]]:
    """Round to blend, and the earlier ones to read."""
    names = sorted({name for paths in submissions.values() for name in paths})
    names = [name for name in names if DATE.fullmatch(name)]  # not of a template
    if not names:
        raise ValueError(
            f"{hub.settings.model_output} must have submissions named after the date "
            "of their round, such as 2024-11-23-TEAM-MODEL.csv"
        )
    if round_name is None:
        round_name = names[-1]
    rounds = hub.tasks.round_of(round_name)
    if not rounds.from_variable:
        raise ValueError(
            f"{hub.tasks.path} must have rounds that a task ID names, found the round "
            f"{rounds.round_id!r} with round_id_from_variable=false"
        )
    if round_name not in names:
        raise ValueError(
            f"round {round_name!r} must have submissions, found {names[0]} to "
            f"{names[-1]}"
        )
    earlier = [name for name in names if name < round_name]
    n_read = len(earlier) if n_rounds is None else min(n_rounds, len(earlier))
    return round_name, earlier[len(earlier) - n_read :]


def _outcomes(
    hub: Hub,
    forecasts: ModelRounds,
    target: Path | None,
    where: Mapping[str, str],
    *,
    needed: bool,
) -> tuple[Callable[[Any], Float64], list[str]]:
    """Outcomes before each date, and notes; unknown ones if a hub has none."""
    try:
        table, owner = read_outcomes(
            hub.path,
            target,
            where=where,
            output_type=OUTPUT_TYPE,
            dates=forecasts.ids.columns,
        )
    except FileNotFoundError as error:
        if needed or target is not None:
            raise
        return lambda _: np.full(len(forecasts.rounds), np.nan), [str(error)]
    outcomes = Outcomes(forecasts.ids, forecasts.rounds, table, owner)
    return outcomes.before, outcomes.notes


def _scores(
    forecasts: ModelRounds,
    y: Float64,
    combined: RoundForecasts,
    equal: RoundForecasts,
) -> tuple[HubScore, ...]:
    """Scores on the units with an outcome; none without outcomes."""
    known = ~np.isnan(y)
    if not known.any():
        return ()
    named = [(BLEND, None, combined.quantiles), (EQUAL, None, equal.quantiles)]
    weights = combined.weights[-1].tolist()
    named += zip(forecasts.names, weights, forecasts.stack, strict=True)
    reference = np.full(len(y), np.nan)
    reference[known] = weighted_interval_score(
        y[known], equal.quantiles[known], forecasts.levels
    )
    scores = []
    for name, weight, quantiles in named:
        units = known & ~np.isnan(quantiles[:, 0])
        if not units.any():
            continue
        score = weighted_interval_score(y[units], quantiles[units], forecasts.levels)
        mean, of_equal = float(score.mean()), float(reference[units].mean())
        relative = mean / of_equal if of_equal > 0 else float("nan")
        scores.append(HubScore(name, weight, mean, relative, int(units.sum())))
    return tuple(scores)
