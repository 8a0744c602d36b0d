"""Checks of averages and their weights against independent loops, for `bench_runs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import run_averages
import run_training
import torch
from run_averages import SIGMAS
from run_training import DIRECT_SIGMA, HALF_LIVES, STORED_SIGMAS, Run, Settings

from ensembles.checkpoints import schedule_weights
from ensembles_cli.demo.nanogpt import GPT, Size

CHECKED = Settings(n_steps=40, rate=4e-3)
FLOAT32 = 2e-6  # rounding of an average kept in float32, relative to its largest entry


def check() -> str:
    """Check everything that the results depend on; returns a sentence for the report.

    Raises
    ------
    AssertionError
        If a result differs from its independent computation.
    """
    check_equal_tokens()
    check_weights()
    width = check_post_hoc()
    with TemporaryDirectory() as folder:
        check_short_run(Path(folder))
    return (
        "Checked before: branches continue the run bit for bit; weights, averages of "
        "files and averages kept while training agree with float64 loops; the weights "
        f"of steps in post-hoc EMA are within {width:.1%} of the wanted ones, in total "
        "variation."
    )


def check_equal_tokens() -> None:
    """A run compared with another has as many steps, and a decay ends near zero."""
    settings = Settings(2000, 1.0)
    for run in run_training.runs(settings):
        factors = [
            run_training.rate_factor(run, settings, step)
            for step in range(1, run.n_steps + 1)
        ]
        assert run.n_steps in (1000, 2000), run
        assert max(factors) == 1.0, run
        assert (factors[-1] < 0.01) == (run.shape is not None), run


def check_weights() -> None:
    """Weights of schedules equal those of loops over the snapshots, written out."""
    steps = list(range(60, 2401, 60))
    for n in (4, 8, 32):
        equal = [0.0] * (40 - n) + [1 / n] * n
        assert_weights(equal, steps, "uniform", n=n)
        assert_weights(equal, steps, "lawa", k=n)
        assert_weights([1 / n] * n, steps[-n:], "wsm", shape="linear")
        # The updates after snapshot i count as in a decay by 1 - sqrt.
        rates = [1 - (i / n) ** 0.5 for i in range(n)] + [0.0]
        falls = [rates[i] - rates[i + 1] for i in range(n)]
        assert_weights(falls, steps[-n:], "wsm", shape="minus-sqrt")
    for half_life in (30.0, 480.0):
        first, *rest = np.eye(len(steps))
        mean = first
        for row in rest:
            mean = row + 0.5 ** (60 / half_life) * (mean - row)
        assert_weights(mean, steps, "ema", half_life=half_life)


def assert_weights(
    expected: Any, steps: Sequence[int], schedule: str, **params: float | str
) -> None:
    """Weights of a schedule equal the expected ones."""
    weights = schedule_weights(steps, schedule, **params)
    np.testing.assert_allclose(weights, expected, rtol=1e-12, atol=1e-14)


def check_post_hoc() -> float:
    """Largest total variation of post-hoc EMA from its aim, as weights of steps."""
    times = list(range(60, 2401, 60))
    stored = [(sigma, step) for sigma in STORED_SIGMAS for step in times]
    profiles = [power_profile(sigma, step, times[-1]) for sigma, step in stored]
    distances = []
    for sigma in SIGMAS:
        weights = run_averages.post_hoc(stored, sigma)
        aim = power_profile(sigma, times[-1], times[-1])
        distances.append(float(np.abs(weights @ profiles - aim).sum() / 2))
    return max(distances)


def power_profile(sigma: float, step: int, n_steps: int) -> Any:
    """Weights of all steps in a power-function average, by its recursion."""
    gamma = gamma_of(sigma)
    profile = np.zeros(n_steps)
    for time in range(1, step + 1):
        keep = (1 - 1 / time) ** (gamma + 1)
        profile *= keep
        profile[time - 1] += 1 - keep
    return profile


def gamma_of(sigma: float) -> float:
    """Exponent of the power function of this relative width, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        gamma = (low + high) / 2
        width = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
        low, high = (gamma, high) if width > sigma else (low, gamma)
    return low


def exponential(steps: Sequence[int], half_life: float) -> list[float]:
    """Weights that halve with every half-life before the last step."""
    raw = [0.5 ** ((steps[-1] - step) / half_life) for step in steps]
    return [weight / sum(raw) for weight in raw]


def check_short_run(folder: Path) -> None:
    """Averages of a short run equal float64 loops over all its steps."""
    torch.set_num_threads(1)
    training = torch.randint(
        90, (5000,), generator=torch.Generator().manual_seed(0)
    ).unfold(0, 65, 1)
    run_training.train_all(folder, CHECKED, training, seed=0)
    constant, *others = run_training.runs(CHECKED)
    steps, paths = zip(
        *run_training.snapshots(folder / constant.name, CHECKED.n_steps), strict=True
    )
    assert list(steps) == list(range(1, 41))  # a snapshot in every step
    states = [run_training.read(path) for path in paths]
    for half_life in HALF_LIVES:
        weights = exponential(steps, half_life)
        kept = run_training.kept_path(folder / "constant", f"half-life-{half_life}", 40)
        assert_close(run_training.read(kept), mean_of(states, weights), FLOAT32)
    for sigma in STORED_SIGMAS:
        kept = run_training.kept_path(folder / "constant", f"power-{sigma}", 40)
        weights = list(power_profile(sigma, 40, 40))
        assert_close(run_training.read(kept), mean_of(states, weights), FLOAT32)
    check_averages_of_files(folder / constant.name)
    for run in others:
        check_branch(folder, run)


def check_averages_of_files(path: Path) -> None:
    """All averages of files equal the float64 mean to float32 rounding."""
    for kind in run_averages.averages_at_the_end(path, CHECKED.n_steps, CHECKED):
        exact = mean_of([run_training.read(p) for p in kind.members], kind.weights)
        state = run_averages.tensors(kind)
        tensors = {name: torch.as_tensor(value) for name, value in state.items()}
        assert_close(tensors, exact, 1e-7)


def post_hoc_error(run: Path, settings: Settings) -> float:
    """Distance of post-hoc EMA from the average kept directly, relative to its norm."""
    steps = [step for step, _ in run_training.snapshots(run, settings.n_steps)]
    state = run_averages.tensors(
        run_averages.post_hoc_average(run, steps, DIRECT_SIGMA)
    )
    kept = run_training.read(
        run_training.kept_path(run, f"power-{DIRECT_SIGMA}", settings.n_steps)
    )
    exact = np.concatenate([value.double().numpy().ravel() for value in kept.values()])
    parts = [np.asarray(state[name], np.float64).ravel() for name in kept]
    return float(np.linalg.norm(np.concatenate(parts) - exact) / np.linalg.norm(exact))


def check_branch(folder: Path, run: Run) -> None:
    """A branch without a decay equals the run that it starts from, bit for bit."""
    if run.start and run.n_steps == CHECKED.n_steps:
        steps = dict(run_training.snapshots(folder / run.name, run.n_steps))
        twin = dict(run_training.snapshots(folder / "constant", run.n_steps))
        first = run.start + 1  # still with the whole rate
        a, b = run_training.read(steps[first]), run_training.read(twin[first])
        assert all(torch.equal(a[name], b[name]) for name in a), run


def mean_of(states: Sequence[Any], weights: Sequence[float]) -> dict[str, Any]:
    """Weighted mean of tensors in float64, by a loop."""
    total = sum(weights)
    return {
        name: sum(
            (w * s[name].double() for w, s in zip(weights, states, strict=True)),
            torch.zeros(()),
        )
        / total
        for name in states[0]
    }


def assert_close(state: Any, exact: Any, tolerance: float) -> None:
    """Tensors agree, relative to the largest entry of each."""
    assert state.keys() == exact.keys()
    for name, value in exact.items():
        largest = float(value.abs().max())
        error = float((state[name].double() - value).abs().max())
        assert error <= tolerance * max(largest, 1e-30), (name, error, largest)


def n_parameters() -> int:
    """Number of parameters of the model, tied ones once."""
    model = GPT(Size(len(run_training.CHARACTERS)))
    return sum(parameter.numel() for parameter in model.parameters())
