"""AutoGluon's greedy selection and phem's CMA-ES on recorded predictions.

Run as ``python tabular_peers.py FOLDER OUTPUT METRIC FILE...`` by an interpreter that
has AutoGluon, phem or both. `FOLDER` has the recorded predictions; `OUTPUT` gets a file
of the same name with each peer's probabilities for the test rows, and its CPU seconds.
"""

from __future__ import annotations

import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

N_ROUNDS = 50  # of phem, and of greedy selection here
AUTOGLUON, PHEM = "AutoGluon greedy", "phem CMA-ES"


def main(folder: Path, output: Path, metric: str, names: list[str]) -> None:
    """Run the peers on the files without results."""
    warnings.simplefilter("ignore")
    peers = {}
    if find_spec("autogluon") is not None:
        peers[AUTOGLUON] = autogluon
    if find_spec("phem") is not None:
        peers[PHEM] = phem
    for name in names:
        path = output / name
        if path.exists():
            continue
        with np.load(folder / name) as file:
            y, fold, held, full = (file[key] for key in ("y", "fold", "held", "full"))
        held, full = (_normalized(proba) for proba in (held, full))
        results = {}
        for peer, combine in peers.items():
            started = time.process_time()
            results[peer] = combine(metric, held, y[: len(fold)], full[:, len(fold) :])
            results[f"{peer} CPU"] = np.array(time.process_time() - started)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **results)
        partial.rename(path)


def _normalized(proba: Any) -> Any:
    proba = proba.astype(np.float64)
    return proba / proba.sum(axis=2, keepdims=True)


def autogluon(metric: str, held: Any, y: Any, test: Any) -> Any:
    """Greedy selection with AutoGluon's class."""
    from autogluon.core.metrics import get_metric
    from autogluon.core.models.greedy_ensemble.ensemble_selection import (
        EnsembleSelection,
    )

    binary = held.shape[2] == 2
    kind = "binary" if binary else "multiclass"
    selection = EnsembleSelection(N_ROUNDS, kind, get_metric(metric, kind))
    if binary:  # one column: the second class
        held, test = held[..., 1], test[..., 1]
    selection.fit(list(held), y)
    y_proba = selection.predict_proba(list(test))
    return np.column_stack([1 - y_proba, y_proba]) if binary else y_proba


def phem(metric: str, held: Any, y: Any, test: Any) -> Any:
    """CMA-ES without normalization of the weights, phem's default."""
    from phem.methods.ensemble_weighting import CMAES

    solver = CMAES(
        [f"member {index}" for index in range(len(held))],
        _phem_metric(metric, held.shape[2]),
        N_ROUNDS,
        random_state=0,
        n_jobs=1,
    )
    solver.ensemble_fit(list(held), y)
    return solver.ensemble_predict_proba(list(test))


def _phem_metric(metric: str, n_classes: int) -> Any:
    """The metric as phem's table has it, whose functions need old scikit-learn."""
    from functools import partial

    from phem.base_utils.metrics import make_metric
    from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

    scores = {
        "log_loss": partial(log_loss, labels=np.arange(n_classes)),
        "balanced_accuracy": balanced_accuracy_score,
        "roc_auc": roc_auc_score,  # of two classes
    }
    return make_metric(
        scores[metric],
        metric_name=metric,
        maximize=metric != "log_loss",
        classification=True,
        always_transform_conf_to_pred=metric == "balanced_accuracy",
        optimum_value=0 if metric == "log_loss" else 1,
        requires_confidences=metric != "balanced_accuracy",
        only_positive_class=metric == "roc_auc",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
