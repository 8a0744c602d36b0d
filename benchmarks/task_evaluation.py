"""Accuracies of merged models on the tasks, kept so that they are computed once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import xxhash
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
        self._predictions: dict[str, list[Tensor]] = {}
        self._scores: dict[str, list[float]] = {}
        if path.exists():
            self._scores = json.loads(path.read_text())

    def accuracies(self, state: State, part: PartName = "test") -> list[float]:
        """Accuracy on each task."""
        return [self.accuracy(state, task, part) for task in self.tasks]

    def accuracy(self, state: State, task: Task, part: PartName = "test") -> float:
        """Accuracy on a task."""
        key = f"{part} {task.name} {digest(state)}"
        if key not in self._scores:
            predicted = self.predict(state, task, part)
            self._keep(key, [percentage(predicted, getattr(task, part))])
        return self._scores[key][0]

    def ensemble(self, states: Sequence[State]) -> list[float]:
        """Accuracy of the mean of the members' probabilities, on each task."""
        key = f"ensemble {' '.join(map(digest, states))}"
        if key not in self._scores:
            means = [
                torch.stack([self.predict(s, task, "test") for s in states]).mean(0)
                for task in self.tasks
            ]
            parts = [task.test for task in self.tasks]
            self._keep(key, [*map(percentage, means, parts)])
        return self._scores[key]

    def predict(self, state: State, task: Task, part: PartName) -> Tensor:
        """Class probabilities on a task."""
        key = f"{part} {task.name} {digest(state)}"
        if key not in self._predictions:
            vectors = features(with_state(self.backbone, state), getattr(task, part))
            cosines = vectors @ task.head.T
            self._predictions[key] = torch.softmax(SHARPNESS * cosines, 1)
        return self._predictions[key]

    def _keep(self, key: str, accuracies: list[float]) -> None:
        self._scores[key] = accuracies
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._scores))
        partial.rename(self._path)


def percentage(predicted: Tensor, part: Part) -> float:
    """Accuracy of probabilities, times 100."""
    return 100 * float((predicted.argmax(1) == part.labels).double().mean())


def digest(state: State) -> str:
    """Digest of parameters."""
    total = xxhash.xxh3_128()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].contiguous().numpy().tobytes())
    return str(total.hexdigest())
