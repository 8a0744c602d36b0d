"""Verification of predictions, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import prediction_ways
import recording
from prediction_sets import DataSet
from recording import Recording

CLOSE = 1e-12


def check(sets: Sequence[DataSet], records: Sequence[Sequence[Recording]]) -> int:
    """Number of predictions that equal those of other libraries or formulas."""
    n_checked = 0
    for one, splits in zip(sets, records, strict=True):
        for split in splits:
            n_checked += _check_means(one, split)
    for one, splits in zip(sets, records, strict=True):
        if splits[0].n_train < 200:  # members themselves, not what is recorded of them
            n_checked += _check_record(one, splits[0])
    return n_checked


def _check_means(one: DataSet, split: Recording) -> int:
    """Soft vote and weighted means and pools, against others."""
    ways = prediction_ways.CLASSES if one.classes else prediction_ways.VALUES
    asked = "predict_proba" if one.classes else "predict"

    def fitted(name: str) -> Any:
        members = split.members(classes=one.classes)
        return ways[name](members).fit(split.train, split.y_train)

    voting = "VotingClassifier, soft" if one.classes else "VotingRegressor"
    equal = getattr(fitted("ours, mean"), asked)(split.test)
    _same(one, equal, getattr(fitted(voting), asked)(split.test))
    test = split.full[:, split.n_train :]
    convex = fitted("ours, mean, convex")
    share = np.tensordot(convex.weights_ / convex.weights_.sum(), test, 1)
    _same(one, getattr(convex, asked)(split.test).ravel(), share.ravel())
    if one.classes:
        pool = fitted("ours, log_pool, free")
        floor = pool.rule_params_["floor"]
        power = np.tensordot(pool.weights_, np.log(np.maximum(test, floor)), 1)
        power += pool.intercept_
        power = np.exp(power - power.max(axis=1, keepdims=True))
        share = power / power.sum(axis=1, keepdims=True)
        _same(one, pool.predict_proba(split.test), share)
    return int(equal.size) + share.size * (1 + one.classes)


def _check_record(one: DataSet, split: Recording) -> int:
    """The default and stacking with members, and with records of members."""
    X, y = one.load()
    train, test = next(iter(one.splits(y)))
    ways = prediction_ways.CLASSES if one.classes else prediction_ways.VALUES
    asked, n_checked = "predict_proba" if one.classes else "predict", 0
    for name in (prediction_ways.DEFAULT, prediction_ways.BEST):
        whole = ways[name](recording.members(one.classes)).fit(X[train], y[train])
        again = ways[name](split.members(classes=one.classes))
        again.fit(split.train, split.y_train)
        said = getattr(whole, asked)(X[test])
        _same(one, said, getattr(again, asked)(split.test))
        n_checked += said.size
    return n_checked


def _same(one: DataSet, ours: Any, other: Any) -> None:
    scale = max(1.0, float(np.abs(other).max()))
    apart = float(np.abs(ours - other).max()) / scale
    if not apart <= CLOSE:
        raise AssertionError(f"{one.name}: predictions differ by {apart}")
