"""Choices on the validation part, intervals over seeds, and tables of `bench_runs`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import run_training
from run_averages import LAST
from run_training import Settings
from scipy.stats import t

LEVEL = 0.95
FAMILIES = {
    "LAWA": "LAWA",
    "SWA": "SWA",
    "EMA of all steps": "EMA of all steps, float32",
    "EMA of snapshots": "EMA of snapshots",
    "WSM, linear": "WSM, linear (equal weights)",
    "WSM, minus-sqrt": "WSM, minus-sqrt",
    "post-hoc EMA": "post-hoc EMA from two power functions",
}
PAIRS = [
    ("EMA of all steps", "LAWA"),
    ("post-hoc EMA", "EMA of all steps"),
    ("WSM, minus-sqrt", "WSM, linear"),
]
Key = tuple[str, int, str, str]  # run, step, family, parameter


class Chosen(NamedTuple):
    """Test losses of one way and the chosen averages, each per seed."""

    test: Any
    choices: Sequence[tuple[str, str]]


class Difference(NamedTuple):
    """Mean of paired differences, and half of its confidence interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        if np.isnan(self.half):
            return f"{self.mean:+.4f} (one seed)"
        return f"{self.mean:+.4f} ± {self.half:.4f}"


class Losses:
    """Losses of one text: validation and test, a pair of values per seed.

    Parameters
    ----------
    rows : sequence of mapping
        Entries with the keys run, step, family, parameter, validation and test; the
        last two are lists with a value per seed.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._pairs: dict[Key, Any] = {
            (row["run"], row["step"], row["family"], row["parameter"]): np.array(
                [row["validation"], row["test"]]
            )
            for row in rows
        }

    def choose(
        self, ways: Sequence[tuple[str, int]], families: Sequence[str]
    ) -> Chosen:
        """Test losses of the averages with the lowest validation loss of each seed.

        Parameters
        ----------
        ways : sequence of (str, int)
            Runs and steps.
        families : sequence of str
            Kinds of averages to choose from.
        """
        keys = [
            key for key in self._pairs if key[:2] in set(ways) and key[2] in families
        ]
        pairs = np.array([self._pairs[key] for key in keys])
        best = pairs[:, 0].argmin(axis=0)
        test = np.take_along_axis(pairs[:, 1], best[None], axis=0)[0]
        return Chosen(test, [keys[i][2:] for i in best])

    def last(self, run: str, step: int) -> Any:
        """Test losses of a run's snapshot."""
        return self._pairs[run, step, LAST, ""][1]

    def steps(self, run: str, family: str = LAST) -> list[int]:
        """Steps at which a kind of average was evaluated."""
        return sorted({k[1] for k in self._pairs if (k[0], k[2]) == (run, family)})

    def parameters(self, run: str, step: int) -> list[tuple[str, str]]:
        """Kinds and parameters of all averages after a step."""
        return [key[2:] for key in self._pairs if key[:2] == (run, step)]

    def test(self, key: Key) -> Any:
        """Test losses of one average."""
        return self._pairs[key][1]


def difference(a: Any, b: Any) -> Difference:
    """Mean of a - b over seeds, with a Student's t interval of the pairs."""
    values = np.asarray(a) - np.asarray(b)
    if len(values) < 2:
        return Difference(float(values.mean()), float("nan"))
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * error
    return Difference(float(values.mean()), float(half))


def wsd(step: int) -> list[tuple[str, int]]:
    """The decay branches that end at a step, of both shapes."""
    return [(f"WSD {shape}, {step} steps", step) for shape in ("linear", "1-sqrt")]


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    settings = Settings(**facts["settings"])
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Averages along a training run, {facts['date']}",
        "",
        f"`{facts['command']}`, {facts['cpu_minutes']:.0f} minutes of CPU for training "
        "and evaluation, in processes of one thread.",
        "",
        f"{machine}.",
        "",
        *design(facts, settings),
    ]
    for text, entry in facts["texts"].items():
        losses = Losses(entry["losses"])
        lines += ["", f"## {text}, {n_seeds(entry)}", ""]
        lines += findings(losses, settings)
        for step in (settings.n_steps, settings.n_steps // 2):
            lines += ["", *table(losses, step, settings)]
        lines += ["", *gains(losses, settings)]
    lines += ["", *all_parameters(facts, settings)]
    return "\n".join(lines) + "\n"


def n_seeds(entry: Mapping[str, Any]) -> str:
    """Number of seeds of a text."""
    return f"{entry['n_seeds']} seed{'s' if entry['n_seeds'] > 1 else ''}"


def design(facts: Mapping[str, Any], settings: Settings) -> list[str]:
    """Paragraphs about the runs, the data and the checks."""
    tokens = run_training.N_WINDOWS * run_training.Size(0).context
    return [
        f"A GPT with {facts['parameters']:,} parameters predicts characters. All runs "
        f"have batches of {tokens:,} characters, AdamW, a warm-up over the first "
        f"{run_training.WARM_UP:.0%}, and the peak learning rate {settings.rate:g}. "
        f"The long ones have {settings.n_steps:,} steps, "
        f"{tokens * settings.n_steps / 1e6:.1f} million characters. Runs of a seed "
        "have the same initialization and, in each step, the same batch. WSD decays "
        f"the rate to zero over its last {run_training.DECAY:.0%}, the run cosine over "
        f"the whole run. A snapshot is saved every {settings.every} steps.",
        "",
        "Losses are in nats per character, on the last two thirds of the last tenth of "
        f"the text, in every second window of {run_training.Size(0).context} "
        "characters. Windows of averages, half-lives, widths, and the shape of WSD are "
        "chosen for each seed on the first third. Differences are paired within seeds, "
        f"with {LEVEL:.0%} intervals (Student's t) over the seeds; negative is better.",
        "",
        f"{facts['checks']} Post-hoc EMA of width {run_training.DIRECT_SIGMA} differs "
        "from the average that was kept directly by at most "
        f"{facts['post_hoc_error']:.1e}, relative to the norm of the parameters.",
    ]


def findings(losses: Losses, settings: Settings) -> list[str]:
    """The answers to the questions, in sentences."""
    n_steps = settings.n_steps
    lines = []
    for step in (n_steps // 2, n_steps):
        merged = losses.choose([("constant", step)], list(FAMILIES)).test
        decayed = losses.choose(wsd(step), [LAST]).test
        last = losses.last("constant", step)
        lines.append(
            f"- Best average at the constant rate after {step:,} steps minus the last "
            f"snapshot: {verdict(merged, last)}; minus WSD: {verdict(merged, decayed)}."
        )
    end = losses.last("cosine", n_steps)
    averaged = losses.choose([("cosine", n_steps)], list(FAMILIES)).test
    return [
        *lines,
        "- Best average at the constant rate minus the end of the cosine decay: "
        f"{verdict(merged, end)}.",
        "- Best average at the end of the cosine decay minus its last snapshot: "
        f"{verdict(averaged, end)}.",
        *(
            f"- After {n_steps:,} steps at the constant rate, {a} minus {b}: "
            f"{paired(losses, n_steps, a, b)}."
            for a, b in PAIRS
        ),
    ]


def paired(losses: Losses, step: int, a: str, b: str) -> Difference:
    """Difference of two kinds of averages of the run with constant rate."""
    first, second = (
        losses.choose([("constant", step)], [family]).test for family in (a, b)
    )
    return difference(first, second)


def verdict(averaged: Any, other: Any) -> str:
    """Difference of an average to another model, and which one is better."""
    found = difference(averaged, other)
    if np.isnan(found.half):
        return str(found)
    if found.half >= abs(found.mean):
        return f"{found} (no significant difference)"
    return f"{found} (the average is {'better' if found.mean < 0 else 'worse'})"


def table(losses: Losses, step: int, settings: Settings) -> list[str]:
    """Table of all ways with the same number of tokens."""
    constant, branches = [("constant", step)], wsd(step)
    last = losses.last("constant", step)
    decayed = losses.choose(branches, [LAST]).test
    rows: list[tuple[str, str, Any]] = [("constant, last snapshot", "", last)]
    for family, title in FAMILIES.items():
        test, choices = losses.choose(constant, [family])
        parameters = counted([parameter for _, parameter in choices])
        rows.append((f"constant, {title}", parameters, test))
    rows.append(best_row("constant", losses, step))
    for run, _ in branches:
        rows.append((run.partition(",")[0], "", losses.last(run, step)))
    rows.append(("WSD, chosen shape", "", decayed))
    if step == settings.n_steps:
        rows.append(("cosine, last snapshot", "", losses.last("cosine", step)))
        rows.append(best_row("cosine", losses, step))
    lines = [
        f"| {step:,} steps | chosen (seeds) | test loss | minus constant | minus WSD |",
        "|---|---|--:|--:|--:|",
    ]
    for title, choices, test in rows:
        cells = [title, choices, f"{test.mean():.4f}"]
        cells += [compared(test, last), compared(test, decayed)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def best_row(run: str, losses: Losses, step: int) -> tuple[str, str, Any]:
    """Row of the best of all averages of a run."""
    test, choices = losses.choose([(run, step)], list(FAMILIES))
    return f"{run}, best of all averages", counted(map(": ".join, choices)), test


def compared(a: Any, b: Any) -> str:
    """A difference as a cell; empty for a way and itself."""
    return "" if np.array_equal(a, b) else str(difference(a, b))


def counted(choices: Iterable[str]) -> str:
    """Chosen averages with the number of seeds of each."""
    counts = Counter(choices).most_common()
    return "; ".join(f"{name} ({n_seeds})" for name, n_seeds in counts)


def gains(losses: Losses, settings: Settings) -> list[str]:
    """Table of the gain of averaging at points of each long run."""
    names = {run.name: run for run in run_training.runs(settings)}
    lines = [
        "Gain along the runs: loss of the mean of the last 2, 4 or 8 snapshots (LAWA) "
        "minus the loss of the last one. Rates are divided by the peak rate.",
        "",
        "| steps | constant, rate | gain | cosine, rate | gain |",
        "|--:|--:|--:|--:|--:|",
    ]
    for step in losses.steps("constant", "LAWA"):
        cells = [f"{step:,}"]
        for run in ("constant", "cosine"):
            rate = run_training.rate_factor(names[run], settings, step)
            cells += [f"{rate:.2f}", str(gain(losses, run, step))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def gain(losses: Losses, run: str, step: int) -> Difference:
    """Loss of the mean of the last snapshots minus the loss of the last one."""
    return difference(
        losses.choose([(run, step)], ["LAWA"]).test, losses.last(run, step)
    )


def all_parameters(facts: Mapping[str, Any], settings: Settings) -> list[str]:
    """Table of every window, half-life and width, without a choice."""
    every = {text: Losses(entry["losses"]) for text, entry in facts["texts"].items()}
    lines = [
        "## All windows, half-lives and widths",
        "",
        f"Test loss after {settings.n_steps:,} steps at the constant rate, minus the "
        "last snapshot.",
        "",
        f"| average | | {' | '.join(every)} |",
        f"|---|---|{'--:|' * len(every)}",
    ]
    run, step = "constant", settings.n_steps
    for family, parameter in next(iter(every.values())).parameters(run, step):
        if family != LAST:
            cells = [
                str(difference(losses.test((run, step, family, parameter)), last))
                for losses in every.values()
                for last in [losses.last(run, step)]
            ]
            lines.append(f"| {family} | {parameter} | {' | '.join(cells)} |")
    return lines
