"""Parameters of small runs, chosen by name and averaged, and their mean in float64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from ensembles.checkpoints import RunCheckpoint, average
from ensembles.checkpoints.runs.choose import choose_checkpoints

State = dict[str, Any]


def state(seed: int, *, prefix: str = "") -> State:
    """State dict near a common start, with parameters, a buffer and a counter."""
    start, noise = (torch.Generator().manual_seed(s) for s in (1_000, seed))
    shapes = {"first.weight": (8, 6), "first.bias": (8,), "norm.running_mean": (8,)}
    tensors = {
        name: torch.randn(shape, generator=start)
        + torch.randn(shape, generator=noise) / 50
        for name, shape in shapes.items()
    }
    tensors["norm.num_batches_tracked"] = torch.tensor(100 * seed)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def mean(states: Sequence[State]) -> State:
    """Mean of the parameters in float64, rounded once, without the counter."""
    names = [name for name, value in states[0].items() if value.is_floating_point()]
    return {
        name: (sum(state[name].double() for state in states) / len(states)).to(
            states[0][name].dtype
        )
        for name in names
    }


def save_distributed(tensors: State, path: Path) -> None:
    """Write a distributed checkpoint of a single process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(tensors, checkpoint_id=path, no_dist=True)


def counters(checkpoint: RunCheckpoint) -> tuple[int | None, int | None]:
    """Step and epoch."""
    step, epoch = checkpoint.step, checkpoint.epoch
    return None if step is None else int(step), None if epoch is None else int(epoch)


def names_of(run: Path, **choice: Any) -> list[str]:
    """Names of the chosen checkpoints, in the order of training."""
    return [Path(path).name for path in choose_checkpoints(run, **choice).paths]


def averaged(run: Path, out: Path, **choice: Any) -> State:
    """State dict of the average of the chosen checkpoints."""
    chosen = choose_checkpoints(run, **choice)
    average(chosen.paths, out, key=chosen.key or None, only_weights=True)
    loaded: State = torch.load(out, weights_only=True)
    return loaded


def assert_same(result: State, expected: State) -> None:
    """Same bits for each tensor that is expected."""
    for name, tensor in expected.items():
        assert result[name].dtype == tensor.dtype
        np.testing.assert_array_equal(result[name].numpy(), tensor.numpy(), name)
