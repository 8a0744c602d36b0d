"""Averages of the snapshots of a run: members and weights, for `bench_runs`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import run_training
from run_training import HALF_LIVES, STORED_SIGMAS, Settings

from ensembles.checkpoints import average, post_hoc_weights, schedule_weights

LAWA = (2, 4, 8, 12, 16, 24)  # snapshots
LAWA_ON_THE_WAY = (2, 4, 8)
SWA = (0.25, 0.5, 0.75)  # start, as a share of the run
SNAPSHOT_HALF_LIVES = (0.5, 1, 2, 4, 8)  # in snapshots
WSM = (4, 8, 12, 16, 24, 32)  # merge duration in snapshots
SIGMAS = (0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
LAST = "last snapshot"


class Average(NamedTuple):
    """Members of an average and their weights.

    Parameters
    ----------
    family : str
        Name of the kind of average.
    parameter : str
        Its window, half-life or width; it is chosen on the validation part.
    members : sequence of Path
    weights : sequence of float
    """

    family: str
    parameter: str
    members: Sequence[Path]
    weights: Sequence[float]


def averages_on_the_way(run: Path, step: int) -> list[Average]:
    """The last snapshot and means of the last ones, after a step of a run."""
    steps, paths = zip(*run_training.snapshots(run, step), strict=True)
    windows = [n for n in LAWA_ON_THE_WAY if n <= len(paths)]
    means = [scheduled("LAWA", f"last {n}", steps, paths, "lawa", k=n) for n in windows]
    return [Average(LAST, "", paths[-1:], [1.0]), *means]


def averages_at_the_end(run: Path, step: int, settings: Settings) -> Iterator[Average]:
    """All averages of a run's snapshots after a step."""
    steps, paths = zip(*run_training.snapshots(run, step), strict=True)
    yield Average(LAST, "", paths[-1:], [1.0])
    for n in (n for n in LAWA if n <= len(paths)):
        yield scheduled("LAWA", f"last {n}", steps, paths, "lawa", k=n)
    for share in SWA:
        n = sum(other > share * step for other in steps)
        yield scheduled("SWA", f"from {share:.0%}", steps, paths, "uniform", n=n)
    for half_life in SNAPSHOT_HALF_LIVES:
        length = half_life * settings.every
        name = f"half-life {length:g} steps"
        yield scheduled("EMA of snapshots", name, steps, paths, "ema", half_life=length)
    for n in (n for n in WSM if n <= len(paths)):
        for shape in ("linear", "minus-sqrt"):
            window = steps[-n:], paths[-n:]
            name = f"last {n}"
            yield scheduled(f"WSM, {shape}", name, *window, "wsm", shape=shape)
    yield from kept_in_training(run, steps, settings)


def scheduled(
    family: str,
    parameter: str,
    steps: Sequence[int],
    paths: Sequence[Path],
    schedule: str,
    **params: float | str,
) -> Average:
    """Average of snapshots with the weights of a schedule; zeros are left out."""
    weights = schedule_weights(steps, schedule, **params)
    used = np.flatnonzero(weights)
    return Average(family, parameter, [paths[i] for i in used], weights[used].tolist())


def kept_in_training(
    run: Path, steps: Sequence[int], settings: Settings
) -> Iterator[Average]:
    """Averages that were kept in every step, and post-hoc EMA from two of them."""
    if not run_training.kept_path(
        run, f"half-life-{HALF_LIVES[0]}", steps[-1]
    ).exists():
        return
    for half_life in HALF_LIVES:
        path = run_training.kept_path(run, f"half-life-{half_life}", steps[-1])
        name = f"half-life {half_life * settings.every:g} steps"
        yield Average("EMA of all steps", name, [path], [1.0])
    for sigma in SIGMAS:
        yield post_hoc_average(run, steps, sigma)


def post_hoc_average(run: Path, steps: Sequence[int], sigma: float) -> Average:
    """Power-function average of a width, from the stored ones of two other widths."""
    stored = [(width, step) for width in STORED_SIGMAS for step in steps]
    members = [run_training.kept_path(run, f"power-{w}", step) for w, step in stored]
    weights = post_hoc(stored, sigma).tolist()
    return Average("post-hoc EMA", f"sigma_rel {sigma:g}", members, weights)


def post_hoc(stored: Sequence[tuple[float, int]], sigma: float) -> Any:
    """Weights of stored power-function averages, pairs of their width and step."""
    sigmas, steps = zip(*stored, strict=True)
    return post_hoc_weights(steps, sigmas, target=sigma).weights


def tensors(kind: Average) -> dict[str, Any]:
    """Tensors of an average, computed from its files by the library."""
    paths = [str(path) for path in kind.members]
    with warnings.catch_warnings():
        # Post-hoc EMA has members from the beginning of the run.
        warnings.filterwarnings("ignore", ".* may not be fine-tuned from the same")
        return average(paths, weights=list(kind.weights), threads=1)
