"""Is the default ensemble first on a hundred data sets, and are its thresholds?

Seven members are fitted once on each of two splits of each set, on five inner folds
and on all training rows, and their predictions are kept. All ways to combine them get
these predictions: the best single member, scikit-learn's voting and stacking, the
greedy selection of AutoGluon, CMA-ES of phem, and ours.

Ways are compared by log-loss on all sets, by balanced accuracy on sets with a rare
class, and by the area under the ROC curve on sets with two classes.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import tabular_members
import tabular_picture
import tabular_report
import tabular_sets
import tabular_ways
from joblib import Parallel, delayed
from sklearn.metrics import log_loss
from tabular_sets import TabularSet
from tabular_ways import BEST, LOG_LOSS, WAYS
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent
Facts = dict[str, Any]


def main() -> None:
    """Record members, combine, ask peers, and save the results."""
    options, started = parse(), time.time()
    sets = [one for one in tabular_sets.every() if options.only in one.name]
    if options.recorded_only:
        sets = [one for one in sets if (options.kept / f"{one.name}.0.npz").exists()]
    options.kept.mkdir(parents=True, exist_ok=True)
    run = Parallel(options.jobs, batch_size=1)
    paths = run(delayed(recorded)(one, options.kept, options.splits) for one in sets)
    if options.fit_only:
        return
    facts: Facts = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "n_splits": options.splits,
        "sets": [described(*pair) for pair in zip(sets, paths, strict=True)],
        "results": {},
    }
    peers = {metric: asked(metric, sets, paths, options) for metric in WAYS}
    for metric in WAYS:
        chosen = _compared(metric, sets, paths)
        tables = run(
            delayed(results)(metric, files, peers[metric]) for _, files in chosen
        )
        names = [one.name for one, _ in chosen]
        facts["results"][metric] = dict(zip(names, tables, strict=True))
    facts["elo"] = elo(facts, options.peer)
    for peer in options.peer:
        for package in ("autogluon.core", "phem", "cma", "bencheval"):
            found = measuring.version_in(peer, package)
            facts["machine"].update({package: found} if found else {})
    facts["minutes"] = (time.time() - started) / 60
    text = tabular_report.markdown(facts)
    print(text)
    if options.results:
        (options.results / "tabular.md").write_text(text)
        (options.results / "tabular.json").write_text(json.dumps(facts))
        if len(sets) > 1:
            tabular_picture.draw(facts, options.results / "tabular.svg")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--kept", type=Path, required=True, help="folder of recorded predictions")
    add("--fit-only", action="store_true", help="record the members, and stop")
    add("--splits", type=int, default=2, help="halves of each set that are tested")
    add("--recorded-only", action="store_true", help="leave out sets without a record")
    add("--jobs", type=int, default=1, help="number of sets at the same time")
    add("--only", default="", help="sets whose name contains this")
    add(
        "--peer",
        metavar="PYTHON",
        action="append",
        default=[],
        help="interpreter that has AutoGluon, phem or bencheval",
    )
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def recorded(one: TabularSet, kept: Path, n_splits: int) -> list[Path]:
    """Files of the recorded predictions of a set."""
    return list(tabular_members.files(one, kept, n_splits))


def described(one: TabularSet, paths: Sequence[Path]) -> Facts:
    """Size of a set, and the cost of its members per split."""
    records = [tabular_members.read(path) for path in paths]
    counts = np.bincount(records[0].y)
    return {
        "name": one.name,
        "kind": one.kind,
        "family": one.family,
        "is_development": one.is_development,
        "n_rows": len(records[0].y),
        "n_classes": len(counts),
        "rarest": int(counts.min()),
        "members_cpu": float(np.mean([record.cpu.sum() for record in records])),
    }


def _compared(
    metric: str, sets: Sequence[TabularSet], paths: Sequence[list[Path]]
) -> list[tuple[TabularSet, list[Path]]]:
    """Sets on which ways are compared by a metric."""
    return [
        (one, files)
        for one, files in zip(sets, paths, strict=True)
        if tabular_ways.applies(
            metric, one, tabular_members.read(files[0]).held.shape[2]
        )
    ]


def results(
    metric: str, paths: Sequence[Path], peers: Sequence[Path]
) -> dict[str, Facts]:
    """Errors and CPU seconds of each way on the splits of a set."""
    warnings.simplefilter("ignore")  # weights that do not help are reported here
    table: dict[str, Facts] = {}
    y_all: list[Any] = []
    proba: dict[str, list[Any]] = {}
    with threadpool_limits(1):
        for path in paths:
            split = tabular_members.read(path)
            y, n_classes = split.y_test, split.held.shape[2]
            y_all.append(y)
            outcomes = {name: way(split) for name, way in WAYS[metric].items()}
            outcomes.update(_of_peers([folder / path.name for folder in peers]))
            for name, outcome in outcomes.items():
                entry = table.setdefault(name, {"errors": [], "cpu": []})
                value = tabular_ways.error(metric, y, outcome.y_pred, n_classes)
                entry["errors"].append(value)
                entry["cpu"].append(outcome.cpu)
                proba.setdefault(name, []).append(outcome.y_pred)
    if metric == LOG_LOSS:
        losses = {name: row_losses(y_all, parts) for name, parts in proba.items()}
        for name, entry in table.items():
            differences = losses[name] - losses[BEST]
            entry["loss"] = float(losses[name].mean())
            entry["se"] = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return table


def row_losses(y: Sequence[Any], proba: Sequence[Any]) -> Any:
    """Log-loss of each test row of a set, equal to scikit-learn's in the mean."""
    parts = []
    for codes, part in zip(y, proba, strict=True):
        eps = np.finfo(part.dtype).eps
        part = part / part.sum(axis=1, keepdims=True)
        parts.append(-np.log(np.clip(part[np.arange(len(codes)), codes], eps, 1)))
        mean = log_loss(codes, part, labels=np.arange(part.shape[1]))
        assert abs(parts[-1].mean() - mean) < 1e-9, (parts[-1].mean(), mean)
    return np.concatenate(parts)


def asked(
    metric: str,
    sets: Sequence[TabularSet],
    paths: Sequence[list[Path]],
    options: argparse.Namespace,
) -> list[Path]:
    """Folders of the predictions of peers, each for an interpreter."""
    folders = []
    names = [p.name for _, files in _compared(metric, sets, paths) for p in files]
    for index, peer in enumerate(options.peer):
        folder = options.kept / f"peer-{index}-{metric}"
        folder.mkdir(exist_ok=True)
        script = str(HERE / "tabular_peers.py")
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            command = [peer, script, str(options.kept), str(folder), metric, *missing]
            subprocess.run(command, check=True, stdout=sys.stderr)
        folders.append(folder)
    return folders


def _of_peers(paths: Sequence[Path]) -> dict[str, tabular_ways.Outcome]:
    """Outcomes of the peers on one split."""
    outcomes = {}
    for path in paths:
        with np.load(path) as file:
            for name in file.files:
                if not name.endswith(" CPU"):
                    cpu = float(file[f"{name} CPU"])
                    outcomes[name] = tabular_ways.Outcome(file[name], cpu)
    return outcomes


def elo(facts: Facts, peers: Sequence[str]) -> dict[str, Any]:
    """Elo ratings of bencheval, by the first interpreter that has it."""
    metrics = facts["results"]
    errors = {m: tabular_report.errors_by_set(facts, m) for m in metrics}
    for peer in peers:
        if measuring.version_in(peer, "bencheval"):
            script = str(HERE / "tabular_elo.py")
            done = subprocess.run(
                [peer, script],
                input=json.dumps(errors),
                capture_output=True,
                text=True,
                check=True,
            )
            ratings: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return ratings
    return {}


if __name__ == "__main__":
    main()
