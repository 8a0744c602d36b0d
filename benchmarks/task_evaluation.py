"""Accuracies of merged models on the tasks, kept so that they are computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from task_training import SHARPNESS, Part, State, Task, with_state
from torch import Tensor, nn
from torch.nn.functional import normalize

BATCH_SIZE = 64
PartName = Literal["validation", "test"]


@torch.no_grad()
def features(backbone: nn.Module, part: Part) -> Tensor:
    """L2-normalized features of all rows, in their order."""
    order = part.lengths().argsort()
    batches = [part.rows(rows).inputs for rows in order.split(BATCH_SIZE)]
    in_order = torch.cat([normalize(backbone(**inputs)) for inputs in batches])
    return in_order[order.argsort()]


def centroids(backbone: nn.Module, part: Part, n_classes: int) -> Tensor:
    """L2-normalized mean feature of each class, as its vector."""
    assert len(part.labels.unique()) == n_classes, "a class without examples"
    vectors = features(backbone, part)
    means = [vectors[part.labels == label].mean(0) for label in range(n_classes)]
    return normalize(torch.stack(means))


class Evaluation:
    """Accuracies of parameters on all tasks, times 100, and their file.

    Parameters
    ----------
    backbone : Module
        Model whose parameters are replaced.
    tasks : sequence of Task
        Tasks with their heads.
    path : Path
        JSON file of accuracies by the digest of the parameters.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[Task], path: Path) -> None:
        self.backbone = backbone
        self.tasks = tasks
        self._path = path
        self._scores: dict[str, list[float]] = {}
        if path.exists():
            self._scores = json.loads(path.read_text())

    def accuracies(self, state: State, part: PartName = "test") -> list[float]:
        """Accuracy on each task."""
        key = f"{part} {digest(state)}"
        if key not in self._scores:
            correct = [
                (p.argmax(1) == getattr(task, part).labels).double().mean()
                for task, p in zip(self.tasks, self.predict(state, part), strict=True)
            ]
            self._keep(key, [100 * float(share) for share in correct])
        return self._scores[key]

    def ensemble(self, states: Sequence[State]) -> list[float]:
        """Accuracy of the mean of the members' probabilities, on each task."""
        key = f"ensemble {' '.join(map(digest, states))}"
        if key not in self._scores:
            totals = [torch.zeros(1) for _ in self.tasks]
            for state in states:
                members = self.predict(state, "test")
                totals = [total + p for total, p in zip(totals, members, strict=True)]
            correct = [
                (total.argmax(1) == task.test.labels).double().mean()
                for task, total in zip(self.tasks, totals, strict=True)
            ]
            self._keep(key, [100 * float(share) for share in correct])
        return self._scores[key]

    def predict(self, state: State, part: PartName) -> list[Tensor]:
        """Class probabilities on each task."""
        with_state(self.backbone, state)
        return [
            torch.softmax(
                SHARPNESS * features(self.backbone, getattr(task, part)) @ task.head.T,
                1,
            )
            for task in self.tasks
        ]

    def _keep(self, key: str, accuracies: list[float]) -> None:
        self._scores[key] = accuracies
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._scores))
        partial.rename(self._path)


def digest(state: State) -> str:
    """Digest of parameters."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].contiguous().numpy().tobytes())
    return total.hexdigest()[:32]
