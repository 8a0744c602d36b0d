"""How the task vectors of several members interfere with each other."""

from __future__ import annotations

from itertools import combinations

import torch
from task_training import Members, State
from torch import Tensor

TRIMMED = 0.2  # share of the largest entries of a task vector, as in TIES


def describe(members: Members) -> dict[str, float]:
    """Sizes of task vectors, their cosines, and how often signs disagree."""
    base = flat(members.base)
    vectors = [flat(state) - base for state in members.by_task.values()]
    norms = [float(vector.norm()) for vector in vectors]
    cosines = [
        float(torch.cosine_similarity(first, second, 0))
        for first, second in combinations(vectors, 2)
    ]
    signs = torch.stack([largest(vector).sign() for vector in vectors])
    n_nonzero = signs.abs().sum(0)
    is_shared = n_nonzero > 1
    disagrees = signs.sum(0).abs() < n_nonzero
    return {
        "norm of a task vector / base": sum(norms) / len(norms) / float(base.norm()),
        "mean cosine of two": sum(cosines) / len(cosines),
        "largest cosine of two": max(cosines),
        "share of trimmed entries in several": float(is_shared.double().mean()),
        "of these, with both signs": float(disagrees[is_shared].double().mean()),
    }


def flat(state: State) -> Tensor:
    """All parameters in a vector, in the order of their names."""
    return torch.cat([state[name].reshape(-1) for name in sorted(state)])


def largest(vector: Tensor) -> Tensor:
    """The vector with its largest entries, and zero elsewhere."""
    n_kept = int(TRIMMED * len(vector))
    last = vector.abs().kthvalue(len(vector) - n_kept + 1).values
    return torch.where(vector.abs() >= last, vector, 0)
