"""Parameters of small runs, chosen by name and averaged, and their mean in float64."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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


def tensors_at(path: Path, *keys: str) -> dict[str, torch.Tensor]:
    """State dict in a file of torch, as the script of a trainer reads it."""
    content: Any = torch.load(path, weights_only=False)
    for key in keys:
        content = content[key]
    return dict(content)


def check_average(
    result: Mapping[str, Any], members: Sequence[Mapping[str, torch.Tensor]]
) -> None:
    """Compare with the float64 mean, rounded to the dtype of the first member."""
    assert result.keys() == members[0].keys()
    for name, value in result.items():
        stack = np.stack([member[name].double().numpy() for member in members])
        expected = stack.mean(0).astype(members[0][name].numpy().dtype)
        assert np.array_equal(np.asarray(value), expected), name


def check_run(
    run: Path, expected: Sequence[Path], keys: Sequence[str], **choice: Any
) -> None:
    """Compare the chosen files, in any order, and their average."""
    chosen = choose_checkpoints(run, **choice)
    assert sorted(chosen.paths) == sorted(map(str, expected))
    result = average(chosen.paths, key=chosen.key or None)
    check_average(result, [tensors_at(Path(p), *keys) for p in chosen.paths])
