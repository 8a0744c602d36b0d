"""What golden runs are compared with: averages in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensembles.checkpoints import average, choose_checkpoints


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
