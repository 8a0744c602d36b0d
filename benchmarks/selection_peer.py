"""AutoGluon's selection, run by an interpreter that has it: costs as JSON.

Run as ``python selection_peer.py PREDICTIONS METRIC ROUNDS``.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from autogluon.core.metrics import get_metric
from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection
from selection_members import read


def main() -> None:
    """Select, and print the order and the CPU seconds."""
    path, metric, n_rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    stack, labels = read(path)
    kind = "binary" if stack.shape[2] == 2 else "multiclass"
    members = [said[:, 1] if kind == "binary" else said for said in stack]
    selection = EnsembleSelection(
        ensemble_size=n_rounds, problem_type=kind, metric=get_metric(metric, kind)
    )
    selection.use_best = False
    started = time.process_time()
    selection.fit(members, labels)
    cpu = time.process_time() - started
    found = {
        "version": version("autogluon.core"),
        "cpu_per_candidate": cpu / n_rounds / len(members),
        "order": [int(index) for index in selection.indices_],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
