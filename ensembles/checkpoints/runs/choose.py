"""Choose checkpoints of a training run: the last, the best, or those of a window."""

from __future__ import annotations

import os
import re
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ensembles.checkpoints.runs.entries import is_average, listed
from ensembles.checkpoints.runs.members import expand, run_of
from ensembles.checkpoints.runs.metrics import has_value, is_lower_better, metric_of
from ensembles.checkpoints.runs.numbers import NUMBERS
from ensembles.checkpoints.runs.read import in_order
from ensembles.checkpoints.runs.run import (
    COUNTERS,
    Counter,
    Run,
    RunCheckpoint,
    common_counter,
)
from ensembles.checkpoints.runs.step_names import is_last, step_of
from ensembles.checkpoints.runs.windows import parse_window

Members = Run | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
MOST_MISSING = 1000  # numbers of a stride that are listed in a note
# Numbers of runs with the same names otherwise.
RUN = re.compile(
    r"(?<![a-z])(?:fold|seed|run|trial|split|stage)[-_=]?\d+", re.IGNORECASE
)
# Parameters of windows, with the counter of each.
WINDOWS: dict[str, Counter] = {"steps": "step", "epochs": "epoch", "tokens": "tokens"}


class ChosenCheckpoints(NamedTuple):
    """Checkpoints to average, with notes.

    Parameters
    ----------
    checkpoints : list of RunCheckpoint
        Checkpoints in the order of training, or in the order of the paths.
    notes : list of str
        Messages about checkpoints that were skipped or chosen, one sentence each.
    """

    checkpoints: list[RunCheckpoint]
    notes: list[str]

    @property
    def paths(self) -> list[str]:
        """Path of each checkpoint."""
        return [str(checkpoint.path) for checkpoint in self.checkpoints]

    @property
    def steps(self) -> list[Decimal | None]:
        """Step, epoch or tokens of each checkpoint; None if unknown."""
        name = common_counter(self.checkpoints)
        return [None if name is None else c.counter(name) for c in self.checkpoints]

    @property
    def key(self) -> tuple[str, ...]:
        """Keys of the state dict to average; empty finds it.

        Raises
        ------
        ValueError
            If the checkpoints have different ones.
        """
        keys = {checkpoint.key: checkpoint.path for checkpoint in self.checkpoints}
        if len(keys) > 1:
            pairs = [f"{' and '.join(k) or None} ({p.name})" for k, p in keys.items()]
            raise ValueError(
                "checkpoints must have the model at the same key, found "
                f"{', '.join(pairs)}; pass key=NAME (--key NAME)"
            )
        return next(iter(keys), ())


def choose_checkpoints(
    members: Members,
    *,
    last: int | None = None,
    best: int | None = None,
    metric: str | None = None,
    lower_is_better: bool | None = None,
    steps: str | None = None,
    epochs: str | None = None,
    tokens: str | None = None,
    by_step: bool = False,
) -> ChosenCheckpoints:
    """Choose checkpoints of a training run, or expand patterns to paths.

    Windows are applied first, then ``last`` or ``best``.

    Parameters
    ----------
    members : Run, path, or sequence of paths
        A run, its folder, or paths and glob patterns. Without other parameters, a
        pattern expands to its matches, sorted by step, and paths are returned as they
        are. Otherwise a folder expands to the checkpoints in it, if it has any, and
        only checkpoints among the matches of a pattern count.
    last : int or None, default=None
        Number of checkpoints with the highest step, epoch or number of tokens.
    best : int or None, default=None
        Number of checkpoints with the best values of ``metric``. Of equal values, the
        earlier checkpoint is chosen.
    metric : str or None, default=None
        Name of a metric of the run. None takes the one by which the trainer chooses
        its best checkpoint, or the only one.
    lower_is_better : bool or None, default=None
        Whether lower values of ``metric`` are better. None takes what the run says,
        else decides by words such as "loss" or "accuracy" in the name.
    steps, epochs, tokens : str or None, default=None
        Window of checkpoints, ``START:STOP`` with both ends included, such as
        ``"1000:5000"``, ``":20"`` or ``"100B:600B"``. ``START:STOP:STRIDE`` chooses
        the numbers at START plus multiples of STRIDE, and notes which are missing.
    by_step : bool, default=False
        Whether all checkpoints of a run are chosen, in the order of training, if no
        other parameter is given; schedules need this.

    Returns
    -------
    ChosenCheckpoints

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing, or a path does not exist.
    ValueError
        If a folder has no readable checkpoints, there are fewer checkpoints than
        ``last`` or ``best``, steps are missing, not distinct, or of different kinds
        (such as epochs and updates), or the metric or its direction is unknown.
    """
    _check_options(last, best, metric, lower_is_better)
    texts = {"steps": steps, "epochs": epochs, "tokens": tokens}
    windows = {name: text for name, text in texts.items() if text is not None}
    if isinstance(members, Run):
        run = members
    else:
        if isinstance(members, str | os.PathLike):
            members = [members]
        paths = [os.fspath(member) for member in members]
        if last is None and best is None and not windows and not by_step:
            expanded = [RunCheckpoint(path=Path(path)) for path in expand(paths)]
            return ChosenCheckpoints(expanded, [])
        run = run_of(paths)
    notes = [*run.notes, *_skipped(run)]
    chosen = _candidates(run)
    for name, text in windows.items():
        chosen = _inside(run, chosen, name, text, notes)
    _check_order(chosen)
    chosen = list(in_order(chosen))
    if last is not None:
        chosen = _last(run, chosen, last)
    if best is not None:
        by = metric_of(run, metric)
        if lower_is_better is None:
            lower_is_better = is_lower_better(run, by)
        chosen = _best(run, chosen, best, by, lower_is_better, notes)
        if metric is None:
            direction = "lower" if lower_is_better else "higher"
            notes.append(f"the best by {by}, {direction} is better")
    notes.extend(_unlike(run, chosen))
    return ChosenCheckpoints(chosen, notes)


def _check_options(
    last: int | None, best: int | None, metric: str | None, lower_is_better: bool | None
) -> None:
    """Raise if options contradict each other."""
    if last is not None and best is not None:
        raise ValueError(
            "pass last=N (--last N) or best=N (--best N), not both: found "
            f"{last} and {best}; steps=START:STOP (--steps) limits either"
        )
    if best is None and metric is not None:
        raise ValueError("metric=NAME (--metric NAME) needs best=N (--best N)")
    if best is None and lower_is_better is not None:
        raise ValueError(
            "lower_is_better (--lower-is-better, --higher-is-better) needs best=N "
            "(--best N)"
        )


def _candidates(run: Run) -> list[RunCheckpoint]:
    """Checkpoints that count: in a folder without steps all that are finished."""
    counted = [c for c in run.checkpoints if c.role == "checkpoint"]
    has_steps = any(common_counter([c]) for c in run.checkpoints)
    if not counted and run.layout == NUMBERS and not has_steps:
        counted = [c for c in run.checkpoints if c.role != "unfinished"]
    if not counted:
        names = listed(map(run.name_of, run.checkpoints))
        raise ValueError(
            f"{run.folder} must have a complete checkpoint of its own, found {names}"
            + "".join(f"; {note}" for note in run.notes)
        )
    return counted


def _skipped(run: Run) -> Iterator[str]:
    """Notes on checkpoints that do not count, with the reason."""
    counted = _candidates(run)
    reasons: dict[str, list[str]] = {}
    for checkpoint in run.checkpoints:
        if checkpoint not in counted and checkpoint.role != "unfinished":
            names = reasons.setdefault(_reason(run, checkpoint), [])
            names.append(run.name_of(checkpoint))
    for reason, names in reasons.items():
        yield f"{run.folder}: skipped {listed(names)}: {reason}"


def _reason(run: Run, checkpoint: RunCheckpoint) -> str:
    """Reason why a checkpoint does not count."""
    if checkpoint.role == "average" and is_average(checkpoint.path):
        return "their metadata say that they are averages"
    name = common_counter([checkpoint])
    if checkpoint.path.is_symlink() and checkpoint.role == "copy":
        return "they are links to other checkpoints"
    if name is None and run.layout != NUMBERS and step_of((checkpoint.path.name,)):
        return f"their names are not of the layout {run.layout!r}"
    if name is None:
        return "their names have no training step"
    if checkpoint.role == "average":
        return "their names are those of averages"
    if any(c.counter(name) == checkpoint.counter(name) for c in _candidates(run)):
        return "another checkpoint has the same step"
    return "their names are those of copies of other checkpoints"


def _inside(
    run: Run,
    checkpoints: list[RunCheckpoint],
    name: str,
    text: str,
    notes: list[str],
) -> list[RunCheckpoint]:
    """Checkpoints in a window."""
    window, counter = parse_window(text, name), WINDOWS[name]
    numbers = {c.path: c.counter(counter) for c in checkpoints}
    unknown = [run.name_of(c) for c in checkpoints if numbers[c.path] is None]
    if len(unknown) == len(checkpoints):
        known = [
            c for c in COUNTERS if any(x.counter(c) is not None for x in checkpoints)
        ]
        raise ValueError(
            f"{name}=… (--{name} …) needs checkpoints whose {counter} is known, and "
            f"{run.folder} (layout {run.layout!r}) has {' and '.join(known) or 'none'}"
        )
    if unknown:
        notes.append(f"skipped {listed(unknown)}: their {counter} is unknown")
    existing = [number for number in numbers.values() if number is not None]
    inside = [c for c in checkpoints if numbers[c.path] in window]
    if not inside:
        raise ValueError(
            f"no checkpoint in {run.folder} is in {name}={text!r} (--{name} {text}): "
            f"found {counter} {min(existing):f} to {max(existing):f}"
        )
    last, start, stop, stride = max(existing), *window
    if start is not None and stop is not None and not stride and last < stop:
        notes.append(f"the last {counter} is {last:f}, before the end of {name}={text}")
    missing = [f"{n:f}" for n in islice(window.missing(existing), MOST_MISSING)]
    if missing:
        at_least = ", at least" if len(missing) == MOST_MISSING else ""
        notes.append(f"no checkpoints at {counter} {listed(missing)}{at_least}")
    return inside


def _check_order(checkpoints: list[RunCheckpoint]) -> None:
    """Raise unless the checkpoints have different steps of one kind."""
    if len(checkpoints) < 2:
        return
    common = common_counter(checkpoints)
    positions = [_position(checkpoint, common) for checkpoint in checkpoints]
    counts = Counts(positions)
    is_missing = any(number is None for _, number in positions)
    pairs = [
        f"{c.path} -> {position[1]}"
        for c, position in zip(checkpoints, positions, strict=True)
        if is_missing or counts[position] > 1
    ]
    if pairs:
        raise ValueError(
            f"checkpoints must have different steps, found {listed(pairs)}; name the "
            "checkpoints to average, without last=N, or pass a pattern that matches "
            "only one model, such as 'run/model_*'"
        )
    kinds = dict(zip((kind for kind, _ in positions), checkpoints, strict=True))
    if len(kinds) > 1:
        shown = ", ".join(f"{kind} ({c.path})" for kind, c in kinds.items())
        raise ValueError(
            f"checkpoints must have steps of one kind, found {shown}; choose one, as "
            "with steps=':' (--steps :) or epochs=':' (--epochs :), or pass a pattern "
            "that matches only one, such as 'run/epoch*'"
        )


def _position(
    checkpoint: RunCheckpoint, common: Counter | None
) -> tuple[str, Decimal | None]:
    """Kind and number of a step; checkpoints with a common counter have one kind."""
    counter = common or common_counter([checkpoint])
    if counter is None:
        return "", None
    return checkpoint.kind or counter, checkpoint.counter(counter)


def _last(run: Run, checkpoints: list[RunCheckpoint], last: int) -> list[RunCheckpoint]:
    _check_number("last", last, len(checkpoints), run)
    return checkpoints[-last:]


def _check_number(name: str, number: int, n_checkpoints: int, run: Run) -> None:
    if not 1 <= number <= n_checkpoints:
        raise ValueError(
            f"{name}=N (--{name} N) must be from 1 to the number of checkpoints, "
            f"{n_checkpoints} in {run.folder}: found {number}"
        )


def _best(
    run: Run,
    checkpoints: list[RunCheckpoint],
    best: int,
    metric: str,
    lower_is_better: bool,
    notes: list[str],
) -> list[RunCheckpoint]:
    """Best checkpoints by a metric, in the order of training."""
    ranked = [c for c in checkpoints if has_value(c, metric)]
    names = [run.name_of(c) for c in checkpoints if not has_value(c, metric)]
    if names:
        notes.append(f"skipped {listed(names)}: they have no finite {metric}")
    _check_number("best", best, len(ranked), run)
    sign = 1 if lower_is_better else -1
    ranked.sort(key=lambda c: sign * c.metrics[metric])  # stable: earlier steps first
    chosen, others = ranked[:best], ranked[best:]
    worst = chosen[-1].metrics[metric]
    equal = [run.name_of(c) for c in others if c.metrics[metric] == worst]
    if equal:
        notes.append(
            f"skipped {listed(equal)}: {run.name_of(chosen[-1])} has the same "
            f"{metric}, {worst:g}, and is earlier"
        )
    return [c for c in checkpoints if c in chosen]


def _unlike(run: Run, checkpoints: Sequence[RunCheckpoint]) -> Iterator[str]:
    """Note on names that differ in more than the step, as of two models or runs."""
    prefixes: dict[str, str] = {}
    numbers: dict[tuple[str, ...], str] = {}
    for checkpoint in checkpoints:
        name, shown = checkpoint.path.name, run.name_of(checkpoint)
        numbers.setdefault(tuple(RUN.findall(shown)), shown)
        prefix, *rest = re.split(r"\d", name, maxsplit=1)
        if run.layout == NUMBERS and rest and not is_last(name):
            prefixes.setdefault(prefix, shown)
    first = max(prefixes.values(), numbers.values(), key=len)
    if len(first) > 1:
        yield (
            f"{listed(first)} were chosen, and their names differ in more than the "
            "step; if they are different models, pass a pattern that matches only one "
            "of them"
        )
