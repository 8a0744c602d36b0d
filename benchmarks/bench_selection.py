"""How much time does greedy selection take, compared with reading the predictions?

Members are probabilities in float32, mapped from a file: 500 members, 100 000 rows and
10 classes unless asked. Selections by log-loss and accuracy run on them, one by the
area under the ROC curve on as many members of two classes. The generic loop scores
every candidate by scikit-learn's scorer; AutoGluon's `EnsembleSelection` is the peer.
All cost is of the processor, threads included, as other work on the machine does not
change it much; preparation of a score is counted where it says so.

First the answer is checked: the sequences of members that all three take. Hard and
soft votes are compared with scikit-learn's `VotingClassifier`.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
import selection_members
import selection_report
import selection_votes

from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.metrics.scorer import ScorerScore
from ensembles.predictions.metrics.table import make_score
from ensembles.selection import convex, greedy
from ensembles.selection.score import Trial

MEAN = resolve_combiner("mean")
PEER = Path(__file__).with_name("selection_peer.py")


class Way(NamedTuple):
    """A score by scikit-learn's name and the peer's, and the classes it is tried on."""

    scoring: str
    metric: str
    n_classes: int | None
    n_rounds: int | None


WAYS = (
    Way("neg_log_loss", "log_loss", None, None),
    Way("accuracy", "accuracy", None, None),
    Way("roc_auc", "roc_auc", 2, 25),
)


def main() -> None:
    """Measure, print and save the results."""
    options = parse()
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "shape": [options.members, options.rows, options.classes],
        "repeats": options.repeats,
        "results": [],
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for way in WAYS:
            n_classes = way.n_classes or options.classes
            path = Path(folder) / f"{n_classes}.npy"
            if not path.exists():
                say(f"making members of {n_classes} classes")
                selection_members.make(path, options.members, options.rows, n_classes)
            facts["results"].append(measure(way, path, options))
    say("votes")
    facts["votes"] = selection_votes.measure(options.rows, options.repeats)
    text = selection_report.markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "selection.md").write_text(text)
        (options.results / "selection.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, default=500)
    add("--rows", type=int, default=100_000)
    add("--classes", type=int, default=10)
    add("--rounds", type=int, default=50)
    add("--generic-rounds", type=int, default=2)
    add("--peer-rounds", type=int, default=3)
    add("--repeats", type=int, default=5)
    add("--peer", metavar="PYTHON", help="interpreter that has autogluon.core")
    add("--folder", type=Path, help="where members are made, 2.4 GB")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def measure(way: Way, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Costs of one score by all ways, in CPU seconds."""
    n_rounds = min(way.n_rounds or options.rounds, options.rounds)
    held = held_at(path)
    followed(held, way.scoring, 2)  # compiles, or reads what was compiled
    runs = []
    for repeat in range(options.repeats):
        say(f"{way.scoring}: {n_rounds} rounds, repeat {repeat + 1}")
        runs.append(followed(held, way.scoring, n_rounds))
    found: dict[str, Any] = {
        "scoring": way.scoring,
        "shape": list(held.stacks[0].shape),
        "rounds": n_rounds,
        "floor": measuring.spread(
            [
                selection_members.floor(held.n_members, len(held.y), n_rounds)
                for _ in range(options.repeats)
            ]
        ),
        "preparation": measuring.spread([run["preparation"] for run in runs]),
        "selection": measuring.spread([run["selection"] for run in runs]),
        "anonymous_mib": max(run["anonymous"] for run in runs) / (1 << 20),
        "order": runs[0]["order"],
        "score": runs[0]["score"],
    }
    say(f"{way.scoring}: {options.generic_rounds} rounds of the generic loop")
    found["generic"] = generic(held, way.scoring, options.generic_rounds)
    same(found, found["generic"]["order"])
    if options.peer:
        say(f"{way.scoring}: {options.peer_rounds} rounds of AutoGluon")
        found["peer"] = peer(options.peer, path, way.metric, options.peer_rounds)
        same(found, found["peer"]["order"])
    if way.scoring == "neg_log_loss":
        found["convex"] = optimum(held)
    return found


def held_at(path: Path) -> OutOfFold:
    """Predictions of the members, read on demand."""
    stack, y = selection_members.read(path)
    classes = [np.arange(stack.shape[2])]
    labels = ClassOutputs(classes, False, False, voting=False, missing_class="error")
    return OutOfFold([stack], y, labels, None)


def mean_of(held: OutOfFold) -> FittedCombiner:
    """The mean of members, rows scaled to sum 1."""
    return FittedCombiner(MEAN, {}, held.outputs)


def followed(held: OutOfFold, scoring: str, n_rounds: int) -> dict[str, Any]:
    """Costs of a fast selection, and the members that it selected."""
    started = time.process_time()
    score = make_score(held, mean_of(held), scoring)
    prepared = time.process_time()
    assert type(score) is not ScorerScore
    history, peak = [], 0

    def note(trial: Trial) -> None:
        nonlocal peak
        history.append(trial)
        peak = max(peak, measuring.anonymous(os.getpid()))

    greedy(held.n_members, score, n_rounds=n_rounds, record=note)
    return {
        "preparation": prepared - started,
        "selection": time.process_time() - prepared,
        "anonymous": peak,
        "order": order_of(history),
        "score": max(trial.score for trial in history),
    }


def order_of(history: list[Trial]) -> list[int]:
    """Members in the order of selection."""
    counts = [np.rint(trial.weights * (i + 1)) for i, trial in enumerate(history)]
    steps = np.diff(counts, axis=0, prepend=0)
    return [int(member) for member in steps.argmax(axis=1)]


def generic(held: OutOfFold, scoring: str, n_rounds: int) -> dict[str, Any]:
    """Cost per candidate of the loop that calls a generic scorer."""
    score = ScorerScore(held, mean_of(held), scoring)
    history: list[Trial] = []
    started = time.process_time()
    greedy(held.n_members, score, n_rounds=n_rounds, record=history.append)
    cpu = time.process_time() - started
    return {
        "cpu_per_candidate": cpu / n_rounds / held.n_members,
        "order": order_of(history),
    }


def peer(python: str, path: Path, metric: str, n_rounds: int) -> dict[str, Any]:
    """Cost per candidate of AutoGluon's loop."""
    command = [python, str(PEER), str(path), metric, str(n_rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def same(found: dict[str, Any], order: list[int]) -> None:
    """Raise unless all ways selected the same members."""
    if found["order"][: len(order)] != order:
        raise SystemExit(f"{found['scoring']}: {found['order']} is not {order}")


def optimum(held: OutOfFold) -> dict[str, Any]:
    """Cost of the best weights of the simplex, and their score."""
    score = make_score(held, mean_of(held), None)
    history: list[Trial] = []
    started, clock = time.process_time(), time.perf_counter()
    convex(held.n_members, score, record=history.append)
    return {
        "cpu": time.process_time() - started,
        "wall": time.perf_counter() - clock,
        "score": history[-1].score,
    }


def say(words: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
