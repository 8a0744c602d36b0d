"""Members of the tabular benchmark, and a file of their predictions for each split."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import recording
from recording import Recording
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabular_sets import TabularSet
from threadpoolctl import threadpool_limits


def members() -> list[tuple[str, Any]]:
    """Seven members, with fewer trees and iterations than scikit-learn's defaults."""
    return [
        ("LR", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
        ("GNB", GaussianNB()),
        ("KNN", make_pipeline(StandardScaler(), KNeighborsClassifier())),
        ("RF", RandomForestClassifier(50, random_state=0)),
        ("ET", ExtraTreesClassifier(50, random_state=0)),
        ("HGB", HistGradientBoostingClassifier(max_iter=50, random_state=0)),
        (
            "MLP",
            make_pipeline(StandardScaler(), MLPClassifier(max_iter=60, random_state=0)),
        ),
    ]


def files(one: TabularSet, folder: Path, n_splits: int) -> Iterator[Path]:
    """Paths of the recorded predictions; missing ones are computed first."""
    X, y = one.load()
    for index, split in enumerate(islice(one.splits(y), n_splits)):
        path = folder / f"{one.name}.{index}.npz"
        if not path.exists():
            _save(path, X, y, split)
        yield path


def _save(path: Path, X: Any, y: Any, split: tuple[Any, Any]) -> None:
    """Fit the members and save their predictions, in one step."""
    started = time.time()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # members that do not converge are members
        found = recording.record(X, y, split, classes=True, pairs=members())
    with partial.open("wb") as file:
        arrays = found._asdict()
        for name in ("held", "full"):
            arrays[name] = arrays[name].astype(np.float32)
        np.savez_compressed(file, **arrays)
    partial.rename(path)
    print(f"{path.stem}: {time.time() - started:.1f} s", flush=True)


def read(path: Path) -> Recording:
    """Recorded predictions of a file, as float64 probabilities that sum to one."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in Recording._fields}
    arrays["names"] = arrays["names"].tolist()
    for name in ("held", "full"):
        proba = arrays[name].astype(np.float64)
        arrays[name] = proba / proba.sum(axis=2, keepdims=True)
    return Recording(**arrays)
