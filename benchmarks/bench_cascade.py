"""How many members does a cascade evaluate, and how many labels does it change?

Members are fitted once per fold and kept in a cache, so that every cascade and the
ensemble of all members combine the same predictions. First the labels without a margin
are compared with those of the ensemble: they must be equal in every row. CPU time of
``predict`` is that of the members themselves, overhead of the cascade included.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from ensembles.predictions import CascadeClassifier, EnsembleClassifier

Members = list[tuple[str, Any]]


class Case(NamedTuple):
    """A data set with its members.

    Parameters
    ----------
    name : str
    load : callable
        ``() -> (X, y)``
    members : callable
        ``() -> members``
    costs : str or None
        Of `CascadeClassifier`; time where the members differ.
    """

    name: str
    load: Callable[[], Any]
    members: Callable[[], Members]
    costs: str | None


class Way(NamedTuple):
    """A rule, weights and a margin."""

    rule: str
    weights: str | None
    margin: str | None


WAYS = [
    Way(rule, weights, margin)
    for rule, weights in (("mean", None), ("vote", None), ("log_pool", "convex"))
    for margin in (None, "auto")
]


def nets() -> Members:
    """Sixteen networks that differ by their initialization alone."""
    return [
        (
            f"net {seed}",
            make_pipeline(
                StandardScaler(), MLPClassifier((32,), max_iter=60, random_state=seed)
            ),
        )
        for seed in range(16)
    ]


def trees() -> Members:
    """Trees, each of random features at its splits."""
    return [
        (
            f"tree {seed}",
            DecisionTreeClassifier(max_features="sqrt", random_state=seed),
        )
        for seed in range(32)
    ]


def mixed() -> Members:
    """Seven members whose costs differ by a factor of a hundred."""
    scaled = StandardScaler()
    return [
        ("LR", make_pipeline(scaled, LogisticRegression(max_iter=1000))),
        ("GNB", GaussianNB()),
        ("KNN", make_pipeline(scaled, KNeighborsClassifier(15))),
        ("MLP", make_pipeline(scaled, MLPClassifier((64,), random_state=0))),
        ("RF", RandomForestClassifier(random_state=0)),
        ("ET", ExtraTreesClassifier(random_state=0)),
        ("HGB", HistGradientBoostingClassifier(max_iter=50, random_state=0)),
    ]


def five_classes() -> Any:
    """Classes that members confuse in part."""
    return make_classification(
        6000,
        30,
        n_classes=5,
        n_informative=12,
        n_redundant=5,
        n_clusters_per_class=2,
        random_state=3,
    )


CASES = [
    Case("digits, 16 networks", lambda: load_digits(return_X_y=True), nets, None),
    Case("digits, 32 trees", lambda: load_digits(return_X_y=True), trees, None),
    Case(
        "breast cancer, 7 models",
        lambda: load_breast_cancer(return_X_y=True),
        mixed,
        "time",
    ),
    Case("five classes, 7 models", five_classes, mixed, "time"),
]


def main() -> None:
    """Measure, print and save the results."""
    options, started = parse(), time.time()
    threadpool_limits(1)
    warnings.simplefilter("ignore")  # of networks that have not converged
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "splits": options.splits,
        "rows_checked": 0,
        "results": [],
    }
    for case in CASES:
        if options.only in case.name:
            measure(case, options.splits, facts)
    facts["minutes"] = (time.time() - started) / 60
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "cascade.md").write_text(text)
        (options.results / "cascade.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--splits", type=int, default=3, help="random halves to fit and to test on")
    add("--only", default="", help="cases whose name has this in it")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def measure(case: Case, n_splits: int, facts: dict[str, Any]) -> None:
    """Add the results of every way on one case."""
    X, y = case.load()
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in WAYS}
    for split in range(n_splits):
        parts = train_test_split(X, y, test_size=0.5, stratify=y, random_state=split)
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                say(f"{case.name}, split {split + 1}, {way}")
                found[way].append(outcome(case, way, parts, folder))
                if way.margin is None:
                    facts["rows_checked"] += len(parts[1])
    for way, outcomes in found.items():
        values = {key: [one[key] for one in outcomes] for key in outcomes[0]}
        facts["results"].append({"case": case.name, **way._asdict(), **values})


def outcome(case: Case, way: Way, parts: Any, folder: str) -> dict[str, float]:
    """Members evaluated, labels changed, accuracies and seconds of one way."""
    X, X_test, y, y_test = parts
    params: dict[str, Any] = {"rule": way.rule, "weights": way.weights}
    params |= {"memory": folder, "cv": 3}
    cascade = CascadeClassifier(
        case.members(), margin=way.margin, costs=case.costs, **params
    ).fit(X, y)
    ensemble = EnsembleClassifier(case.members(), **params).fit(X, y)
    prediction = cascade.predict_cascade(X_test)
    labels = ensemble.predict(X_test)
    changed = float((prediction.labels != labels).mean())
    assert way.margin == "auto" or changed == 0
    n_members = int(np.count_nonzero(cascade.weights_))
    return {
        "n_members": len(cascade.weights_),
        "n_used": n_members,
        "evaluated": prediction.mean_members,
        "expected": cascade.mean_members_ or np.nan,
        "random_order": shuffled(cascade, X_test),
        "changed": changed,
        "accuracy": float((prediction.labels == y_test).mean()),
        "accuracy_of_all": float((labels == y_test).mean()),
        "cpu": seconds(cascade, X_test),
        "cpu_of_all": seconds(ensemble, X_test),
    }


def shuffled(cascade: CascadeClassifier, X: Any) -> float:
    """Mean number of members evaluated in three random orders."""
    order, counts = cascade.order_, []
    for seed in range(3):
        cascade.order_ = np.random.default_rng(seed).permutation(order)
        counts.append(cascade.predict_cascade(X).mean_members)
    cascade.order_ = order
    return float(np.mean(counts))


def seconds(estimator: Any, X: Any) -> float:
    """Median CPU seconds of ``predict`` over five calls."""
    runs = []
    for _ in range(5):
        started = time.process_time()
        estimator.predict(X)
        runs.append(time.process_time() - started)
    return float(np.median(runs))


def markdown(facts: dict[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Cascades, {facts['date']}",
        "",
        f"`{facts['command']}`, {facts['minutes']:.0f} minutes.",
        "",
        f"{machine}.",
        "",
        f"Without a margin, the labels of {facts['rows_checked']:,} test rows were "
        "equal to those of the ensemble of all members.",
        "",
        f"Mean ± standard deviation over {facts['splits']} random halves. Evaluated: "
        "mean number of members for a test row. Expected: the same, estimated out of "
        "fold by `fit`. Random: in random orders of the members. Used: members with "
        "nonzero weight. Changed: labels that differ from those of the ensemble. CPU: "
        "time of `predict`, divided by that of the ensemble.",
        "",
        "| case | rule | margin | used | evaluated | share of used | expected | random "
        "| changed % | accuracy | of all members | CPU |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in facts["results"]:
        evaluated, used = np.array(row["evaluated"]), np.array(row["n_used"])
        expected = np.mean(row["expected"])
        cells = [
            row["case"],
            row["rule"] + (f", {row['weights']}" if row["weights"] else ""),
            row["margin"] or "none",
            f"{used.mean():.1f}",
            f"{evaluated.mean():.2f} ± {evaluated.std(ddof=1):.2f}",
            f"{np.mean(evaluated / used):.0%}",
            "" if np.isnan(expected) else f"{expected:.2f}",
            f"{np.mean(row['random_order']):.2f}",
            f"{100 * np.mean(row['changed']):.2f}",
            f"{np.mean(row['accuracy']):.4f}",
            f"{np.mean(row['accuracy_of_all']):.4f}",
            f"{np.mean(np.divide(row['cpu'], row['cpu_of_all'])):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def say(words: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
