"""Does an ensemble with default parameters predict better than its best member?

Every set is split into training and test rows, five times over where it is small. The
members are fitted once a split, on five folds and on all training rows; all ways to
combine them, scikit-learn's and ours, are given members that answer from that record
(`recording.py`), so that they differ by how they combine and by nothing else. The best
single member is chosen as everything else is learned: out of fold.

Besides, the default with and without the class prior in its pool; three balanced
members against stacking; and what fifteen members on 200 rows are reported to score
against what they do (`prediction_priors.py`).

The defaults were chosen on other sets, `--development` (`prediction_shapes.py`).
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import prediction_checks
import prediction_priors
import prediction_report
import prediction_sets
import prediction_shapes
import prediction_ways
import recording
from joblib import Memory, Parallel, delayed
from prediction_sets import DataSet
from recording import Recording
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent
MIB = 1 << 20
Outcome = dict[str, float]  # loss, right (accuracy or R²), fit and predict seconds


def main() -> None:
    """Record members, verify, combine, and save the results."""
    options, started = parse(), time.time()
    threadpool_limits(1)  # seconds of the processor are of one thread
    warnings.simplefilter("ignore")  # a selection that helps nothing says so
    sets = prediction_sets.CLASSES + prediction_sets.VALUES
    if options.development:
        sets = list(prediction_shapes.development())
    sets = [one for one in sets if options.only in one.name]
    n_checked = prediction_priors.checked()
    records = recorded(sets, options)
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "checked": n_checked + prediction_checks.check(sets, records),
        "sets": [described(*pair) for pair in zip(sets, records, strict=True)],
        "ways": {},
        "leaks": {},
    }
    for one, splits in zip(sets, records, strict=True):
        say(f"combining {one.name}")
        facts["ways"][one.name] = combined(one, splits)
        if one.classes:
            facts["leaks"][one.name] = leaks(splits)
    if not options.development and options.only in "balanced members":
        say("combining balanced members")
        facts["balanced"] = prediction_priors.balanced()
    if not options.development and options.only in "honest scores":
        say("scoring fifteen members on 200 rows")
        facts["honesty"] = prediction_priors.honesty()
    for peer in options.peer:
        ask(peer, sets, records, facts)
    if facts["leaks"] and sets:
        facts["memory"] = memory(sets, records)
    facts["minutes"] = (time.time() - started) / 60
    text = prediction_report.markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        name = "predictions-development" if options.development else "predictions"
        (options.results / f"{name}.md").write_text(text)
        (options.results / f"{name}.json").write_text(json.dumps(facts))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--jobs", type=int, default=2, help="members fitted at the same time")
    add(
        "--peer",
        metavar="PYTHON",
        action="append",
        default=[],
        help="interpreter that has AutoGluon or DESlib; may be given twice",
    )
    add("--development", action="store_true", help="the sets defaults were chosen on")
    add(
        "--only",
        default="",
        help="sets whose name has this in it; 'balanced members' and 'honest scores' "
        "are two more",
    )
    add("--kept", metavar="FOLDER", help="where records are kept for the next time")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def recorded(
    sets: Sequence[DataSet], options: argparse.Namespace
) -> list[list[Recording]]:
    """Recorded predictions of the members on each split of each set."""
    record = Memory(options.kept, verbose=0).cache(recording.record)
    jobs, owners = [], []
    for place, one in enumerate(sets):
        X, y = one.load()
        for split in one.splits(y):
            jobs.append((record, X, y, split, one.classes))
            owners.append(place)
    say(f"fitting members on {len(jobs)} splits of {len(sets)} sets")
    found = Parallel(options.jobs, verbose=1)(delayed(_record)(*job) for job in jobs)
    return [
        [one for owner, one in zip(owners, found, strict=True) if owner == place]
        for place in range(len(sets))
    ]


def _record(record: Any, X: Any, y: Any, split: Any, classes: bool) -> Recording:
    warnings.simplefilter("ignore")
    return Recording(*record(X, y, split, classes=classes))


def described(one: DataSet, splits: Sequence[Recording]) -> dict[str, Any]:
    """Size of a set, and the cost of its members per split."""
    return {
        "name": one.name,
        "classes": one.classes,
        "n_rows": len(splits[0].y),
        "n_columns": splits[0].held.shape[2],
        "n_splits": len(splits),
        "members_cpu": float(np.mean([split.cpu.sum() for split in splits])),
    }


def combined(
    one: DataSet, splits: Sequence[Recording]
) -> dict[str, dict[str, list[float]]]:
    """Every way's outcome on each split."""
    ways = prediction_ways.CLASSES if one.classes else prediction_ways.VALUES
    found: dict[str, dict[str, list[float]]] = {}
    for name, way in ways.items():
        every = [outcome(way, split, one.classes) for split in splits]
        found[name] = {key: [each[key] for each in every] for key in every[0]}
    return found


def outcome(way: Any, split: Recording, classes: bool) -> Outcome:
    """Scores of one way, and its CPU seconds without the members."""
    estimator = way(split.members(classes=classes))
    start = time.process_time()
    estimator.fit(split.train, split.y_train)
    middle = time.process_time()
    shares = classes and hasattr(estimator, "predict_proba")  # not of a hard vote
    asked = "predict_proba" if shares else "predict"
    said = getattr(estimator, asked)(split.test)
    end = time.process_time()
    if shares or not classes:
        scored = scores(split, classes, said)
    else:
        scored = {"loss": np.nan, "right": accuracy_score(split.y_test, said)}
    return {**scored, "fit": middle - start, "predict": end - middle}


def scores(split: Recording, classes: bool, said: Any) -> Outcome:
    """Log-loss and accuracy of probabilities, or squared error and R² of values."""
    y = split.y_test
    if not classes:
        return {"loss": mean_squared_error(y, said), "right": r2_score(y, said)}
    loss = log_loss(y, said, labels=np.arange(said.shape[1]))
    return {"loss": float(loss), "right": accuracy_score(y, said.argmax(axis=1))}


def leaks(splits: Sequence[Recording]) -> dict[str, list[float]]:
    """Log-loss of ways that learned weights on the training data of the members."""
    found: dict[str, list[float]] = {}
    for way in prediction_ways.LEARNED:
        for split in splits:
            members = split.members(classes=True)
            for _, member in members:
                member.fit(split.train, split.y_train)
            fitted = prediction_ways.leaked(way, members)
            said = fitted.fit(split.train, split.y_train).predict_proba(split.test)
            found.setdefault(way, []).append(scores(split, True, said)["loss"])
    return found


def ask(
    peer: str,
    sets: Sequence[DataSet],
    records: Sequence[Sequence[Recording]],
    facts: dict[str, Any],
) -> None:
    """Predictions of peers in another interpreter, from the same records."""
    say(f"asking {peer}")
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[Path, tuple[DataSet, Recording]] = {}
        for one, splits in zip(sets, records, strict=True):
            X, y = one.load()
            for place, (rows, split) in enumerate(
                zip(one.splits(y), splits, strict=True)
            ):
                path = Path(folder, f"{one.name} {place}.npz")
                np.savez(
                    path,
                    classes=one.classes,
                    X=X[np.concatenate(rows)],
                    y=split.y,
                    held=split.held,
                    full=split.full,
                )
                paths[path] = one, split
        script = HERE / "prediction_peers.py"
        subprocess.run([peer, str(script), folder], check=True)
        for path, (one, split) in paths.items():
            hear(np.load(path.with_suffix(".said.npz")), one, split, facts)
    for package in ("autogluon.core", "deslib"):
        version = measuring.version_in(peer, package)
        if version:
            facts["machine"][package] = version


def hear(answers: Any, one: DataSet, split: Recording, facts: dict[str, Any]) -> None:
    """Score the predictions of peers on one split, and add them to the outcomes."""
    for name in answers.files:
        if name.endswith(" CPU"):
            continue
        found = facts["ways"][one.name].setdefault(name, {})
        outcomes = scores(split, one.classes, answers[name])
        outcomes["fit"] = float(answers[f"{name} CPU"])
        outcomes["predict"] = np.nan  # counted with fit
        for key, value in outcomes.items():
            found.setdefault(key, []).append(value)


def memory(
    sets: Sequence[DataSet], records: Sequence[Sequence[Recording]]
) -> dict[str, Any]:
    """MiB that each way allocates at most on the set with the most predictions."""
    largest = max(
        (pair for pair in zip(sets, records, strict=True) if pair[0].classes),
        key=lambda pair: pair[1][0].held.size,
    )
    one, splits = largest
    peaks = {}
    for name, way in prediction_ways.CLASSES.items():
        tracemalloc.start()
        outcome(way, splits[0], True)
        peaks[name] = tracemalloc.get_traced_memory()[1] / MIB
        tracemalloc.stop()
    return {"set": one.name, "held_mib": splits[0].held.nbytes / MIB, "peaks": peaks}


def say(words: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
