"""Experiments: members with a wrong class prior, and many members on few rows.

Samples are drawn anew. Balanced members are recorded as those of the sets are; the
fifteen are fitted by the ensemble itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import prediction_sets
import recording
from prediction_ways import BEST, DEFAULT, STACKING, BestSingle, WithoutPrior
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier

N_TEST = 8000
N_DRAWS = 8
N_ROWS = 200
# Shapes of rare classes: rows to fit on, and what they are made by.
RARE = {
    "one in 25": (1500, {"weights": [0.96], "flip_y": 0.01}),
    "one in 33, noisy": (4000, {"weights": [0.97], "flip_y": 0.02, "class_sep": 0.8}),
}
SEEDS = range(1000, 1006)  # the defaults were chosen on others
HONEST = (
    "breast cancer",
    "diabetes above median",
    "one in ten, noisy",
    "shells",
)
Facts = dict[str, Any]


def balanced_members() -> list[tuple[str, Any]]:
    """Three members that take each class for equally frequent."""
    return [
        (
            "LR",
            make_pipeline(
                StandardScaler(),
                LogisticRegression(class_weight="balanced", max_iter=1000),
            ),
        ),
        (
            "tree",
            DecisionTreeClassifier(
                class_weight="balanced", max_depth=5, random_state=0
            ),
        ),
        (
            "HGB",
            HistGradientBoostingClassifier(class_weight="balanced", random_state=0),
        ),
    ]


def fifteen_members() -> list[tuple[str, Any]]:
    """Four kinds in several settings each."""
    linear = [
        (
            f"LR {C}",
            make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)),
        )
        for C in (0.01, 0.1, 1, 10)
    ]
    near = [
        (f"kNN {k}", make_pipeline(StandardScaler(), KNeighborsClassifier(k)))
        for k in (3, 7, 15, 31)
    ]
    trees = [
        (f"tree {depth}", DecisionTreeClassifier(max_depth=depth, random_state=0))
        for depth in (2, 3, 5, None)
    ]
    bayes = [
        (f"NB {smoothing}", GaussianNB(var_smoothing=smoothing))
        for smoothing in (1e-9, 1e-2, 0.3)
    ]
    return linear + near + trees + bayes


def balanced() -> dict[str, dict[str, list[float]]]:
    """Test log-loss of ways to combine balanced members, a seed each."""
    ways = {
        BEST: BestSingle,
        STACKING: StackingClassifier,
        "ours, without the prior": WithoutPrior,
        DEFAULT: EnsembleClassifier,
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name, (n_train, params) in RARE.items():
        found[name] = {way: [] for way in ways}
        for seed in SEEDS:
            X, y = make_classification(
                n_train + N_TEST,
                20,
                n_informative=6,
                random_state=seed,
                **params,
            )
            parts = np.arange(n_train), np.arange(n_train, len(y))
            split = recording.record(
                X, y, parts, classes=True, pairs=balanced_members()
            )
            for way, make in ways.items():
                fitted = make(split.members(classes=True))
                said = fitted.fit(split.train, split.y_train).predict_proba(split.test)
                found[name][way].append(float(log_loss(split.y_test, said)))
    return found


def honesty() -> dict[str, dict[str, list[float]]]:
    """Reported and test log-loss of fifteen members on 200 rows."""
    return {
        one.name: _reported(one)
        for one in prediction_sets.CLASSES
        if one.name in HONEST
    }


def _reported(one: prediction_sets.DataSet) -> dict[str, list[float]]:
    keys = ("reported", "where it was learned", "test", "best, reported", "best, test")
    found: dict[str, list[float]] = {key: [] for key in keys}
    for X, y, X_test, y_test in _draws(*one.load()):
        fitted = EnsembleClassifier(fifteen_members()).fit(X, y)
        best = fitted.estimators_[fitted.best_index_]
        losses = (
            -fitted.oof_score_,
            -fitted.history_[0].score,
            log_loss(y_test, fitted.predict_proba(X_test)),
            -fitted.scores_.max(),
            log_loss(y_test, best.predict_proba(X_test)),
        )
        for key, loss in zip(keys, losses, strict=True):
            found[key].append(float(loss))
    return found


def _draws(X: Any, y: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    for draw in range(N_DRAWS):
        order = np.random.default_rng(draw).permutation(len(y))
        some, rest = order[:N_ROWS], order[N_ROWS:]
        yield X[some], y[some], X[rest], y[rest]


def markdown(facts: Facts) -> list[str]:
    """All of it, and the pool with and without the prior on every set, for people."""
    lines = _by_set(facts["ways"])
    if facts.get("balanced"):
        lines += _balanced(facts["balanced"])
    if facts.get("honesty"):
        lines += _honesty(facts["honesty"])
    return lines


def _apart(ours: Any, other: Any) -> tuple[float, float]:
    """Mean difference, and its standard error over draws."""
    apart = np.subtract(ours, other)
    error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else 0.0
    return float(apart.mean()), float(error)


def _by_set(ways: Facts) -> list[str]:
    known = {n: w for n, w in ways.items() if "ours, without the prior" in w}
    if not known:
        return []
    lines = [
        "",
        "## With the class prior in the pool",
        "",
        "Log-loss of the default without intercepts, and with one for each class; "
        "± is the standard error of the difference over the splits.",
        "",
        "| set | without | with | difference |",
        "|---|--:|--:|--:|",
    ]
    worse = 0
    for name, found in known.items():
        old, new = found["ours, without the prior"]["loss"], found[DEFAULT]["loss"]
        apart, error = _apart(new, old)
        worse += apart > 2 * error and apart > 1e-9
        cells = f"{np.mean(old):.4g} | {np.mean(new):.4g} | {apart:+.2g} ± {error:.1g}"
        lines.append(f"| {name} | {cells} |")
    return [*lines, "", f"Worse by more than two standard errors: {worse} sets."]


def _balanced(found: dict[str, dict[str, list[float]]]) -> list[str]:
    lines = [
        "",
        'Three members, all with `class_weight="balanced"`, mean of '
        f"{len(SEEDS)} samples; the ratio is the mean log-loss divided by that of "
        "stacking.",
        "",
        "| set | way | log-loss | to stacking | difference |",
        "|---|---|--:|--:|--:|",
    ]
    for name, ways in found.items():
        for way, losses in ways.items():
            apart, error = _apart(losses, ways[STACKING])
            ratio = np.mean(losses) / np.mean(ways[STACKING])
            lines.append(
                f"| {name} | {way} | {np.mean(losses):.4f} | {ratio:.3f} "
                f"| {apart:+.4f} ± {error:.4f} |"
            )
    return lines


def _honesty(found: dict[str, dict[str, list[float]]]) -> list[str]:
    lines = [
        "",
        "## Reported score compared with the score on test rows",
        "",
        f"{len(fifteen_members())} members on {N_ROWS} rows, default parameters, mean "
        f"log-loss over {N_DRAWS} draws: reported by `oof_score_`, on the rows that "
        "the weights were learned from, and on all other rows (test). Too good: test "
        "minus reported, ± its standard error over the draws.",
        "",
        "| set | reported | training rows | test | too good | best single: "
        "reported | test |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in found.items():
        apart, error = _apart(one["test"], one["reported"])
        means = {key: f"{np.mean(values):.4f}" for key, values in one.items()}
        lines.append(
            f"| {name} | {means['reported']} | {means['where it was learned']} "
            f"| {means['test']} | {apart:+.4f} ± {error:.4f} "
            f"| {means['best, reported']} | {means['best, test']} |"
        )
    return lines


def checked() -> int:
    """Number of predictions of the pool that equal its formula, with intercepts."""
    n_train, params = RARE["one in 25"]
    X, y = make_classification(n_train, 20, n_informative=6, random_state=0, **params)
    fitted = EnsembleClassifier(balanced_members()).fit(X, y)
    said = np.array([member.predict_proba(X) for member in fitted.estimators_])
    floor = fitted.rule_params_["floor"]
    logs = np.tensordot(fitted.weights_, np.log(np.maximum(said, floor)), 1)
    logs += fitted.intercept_
    expected = np.exp(logs - logs.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    apart = np.abs(fitted.predict_proba(X) - expected).max()
    if not apart <= 1e-12:
        raise AssertionError(f"pool with intercepts: predictions differ by {apart}")
    return int(expected.size)
