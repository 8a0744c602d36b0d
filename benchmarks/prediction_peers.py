"""Peers in another interpreter, on recorded predictions.

Run as ``python prediction_peers.py FOLDER`` by an interpreter that has AutoGluon,
DESlib or both. Each ``FOLDER/*.npz`` is a recording with its features; ``*.said.npz``
beside it gets the predictions of each peer on the test rows, and its CPU seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

N_ROUNDS = 50  # as ours


def main(folder: Path) -> None:
    """Run the peers that are installed."""
    peers: dict[str, Callable[[Any], Any]] = {}
    if find_spec("autogluon") is not None:
        peers["AutoGluon EnsembleSelection"] = autogluon
    if find_spec("deslib") is not None:
        peers["DESlib KNORA-U"] = deslib
    for path in sorted(folder.glob("*.npz")):
        if path.stem.endswith(".said"):
            continue
        recorded, said = np.load(path), {}
        for name, ask in peers.items():
            started = time.process_time()
            found = ask(recorded)
            if found is not None:
                said[name] = found
                said[f"{name} CPU"] = np.array(time.process_time() - started)
        np.savez(path.with_suffix(".said.npz"), **said)


def autogluon(recorded: Any) -> Any:
    """Greedy selection with AutoGluon's class."""
    from autogluon.core.metrics import get_metric
    from autogluon.core.models.greedy_ensemble.ensemble_selection import (
        EnsembleSelection,
    )

    held, full, y = recorded["held"], recorded["full"], recorded["y"]
    n_train, kind, metric = held.shape[1], "multiclass", "log_loss"
    if not recorded["classes"]:
        kind, metric = "regression", "mean_squared_error"
    elif held.shape[2] == 2:
        kind = "binary"
    if kind != "multiclass":  # one column: the second class, or the value
        held, full = held[..., -1], full[..., -1]
    selection = EnsembleSelection(N_ROUNDS, kind, get_metric(metric, kind))
    selection.fit(list(held), y[:n_train])
    found = selection.predict_proba(list(full[:, n_train:]))
    if kind == "binary":
        return np.column_stack([1 - found, found])
    return found if found.ndim == 2 else found[:, None]


class Known:
    """A classifier that looks up its recorded prediction of a row.

    Parameters
    ----------
    rows : dict of bytes to int
    shares : ndarray of shape (n_rows, n_classes)
    """

    def __init__(self, rows: dict[bytes, int], shares: Any) -> None:
        self.rows = rows
        self.shares = shares
        self.classes_ = np.arange(shares.shape[1])

    def fit(self, X: Any, y: Any) -> Known:
        """Learn nothing; DESlib requires the method."""
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities as they were recorded."""
        return self.shares[[self.rows[row.tobytes()] for row in np.asarray(X)]]

    def predict(self, X: Any) -> Any:
        """The most probable class."""
        return self.predict_proba(X).argmax(axis=1)


def deslib(recorded: Any) -> Any:
    """KNORA-U: members weighted by their out-of-fold accuracy near each row."""
    from deslib.des.knora_u import KNORAU

    if not recorded["classes"]:
        return None
    X, y, held = recorded["X"], recorded["y"], recorded["held"]
    n_train = held.shape[1]
    shares = np.concatenate([held, recorded["full"][:, n_train:]], axis=1)
    rows = {row.tobytes(): place for place, row in enumerate(X)}
    peer = KNORAU([Known(rows, one) for one in shares], voting="soft", n_jobs=1)
    peer.fit(X[:n_train], y[:n_train])
    return peer.predict_proba(X[n_train:])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
