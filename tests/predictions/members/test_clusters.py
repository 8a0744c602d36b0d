"""Members that are fitted by the workers of a cluster."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier

N_FITS = 3  # that a member finishes before its worker is killed


class KillsItsWorker(GaussianNB):
    """Kills the process that fits it, once, unless that is the process of the test."""

    def __init__(self, folder: str = "", parent: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.parent = parent

    def fit(self, X: Any, y: Any) -> Any:
        fitted = super().fit(X, y)
        if os.getpid() == self.parent:
            return fitted
        fits = Path(self.folder)
        with tempfile.NamedTemporaryFile(dir=fits, delete=False) as file:
            file.write(b"%d" % os.getpid())
        marker = fits.with_name("killed")
        if len(list(fits.iterdir())) >= N_FITS and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fitted


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two worker processes of Dask on this machine, and their client."""
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with (
        distributed.LocalCluster(
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            **settings,
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def processes(client: Any) -> set[int]:
    return set(client.run(os.getpid).values())


def test_a_worker_that_is_killed_does_not_change_the_ensemble(
    cluster: Any, tmp_path: Path
) -> None:
    X, y = make_classification(2000, 8, n_informative=5, random_state=0)
    before = processes(cluster)
    fits = tmp_path / "cluster"
    fits.mkdir()
    members = [
        ("logistic", LogisticRegression()),
        ("killer", KillsItsWorker(str(fits), os.getpid())),
    ]
    with joblib.parallel_config("dask"):
        remote = EnsembleClassifier(members).fit(X, y)
        proba = remote.predict_proba(X)
    pids = {int(path.read_text()) for path in fits.iterdir()}
    assert pids & before
    assert (tmp_path / "killed").exists()
    assert len(list(fits.iterdir())) > 6  # five folds, all rows, and a repeated fit
    assert processes(cluster) != before  # a new process replaced the one killed
    local = EnsembleClassifier(members).fit(X, y)
    # Rounding depends on threads and on where arrays are in memory.
    for ours, theirs in (
        (remote.oof_, local.oof_),
        (remote.weights_, local.weights_),
        (proba, local.predict_proba(X)),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("backend", ["multiprocessing", "threading"])
def test_backends_with_and_without_generators_give_the_same_ensemble(
    backend: str,
) -> None:
    X, y = make_classification(100, random_state=0)
    members = [("nb", GaussianNB()), ("tree", DecisionTreeClassifier(random_state=0))]
    with joblib.parallel_config(backend, n_jobs=2):
        parallel = EnsembleClassifier(members, rule="mean", weights=None).fit(X, y)
        proba = parallel.predict_proba(X)
    local = EnsembleClassifier(members, rule="mean", weights=None).fit(X, y)
    np.testing.assert_array_equal(proba, local.predict_proba(X))
