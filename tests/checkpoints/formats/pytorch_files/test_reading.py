"""Random contents, read as torch.load reads them."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.pytorch import tensor_in
from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.formats.pytorch_files.reading import TorchFile, read_file
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.int8, torch.bool)


def view(rng: np.random.Generator, bases: list[torch.Tensor]) -> torch.Tensor:
    """View of a new tensor, or of one that other views share."""
    if not bases or rng.random() < 0.4:
        numbers = torch.from_numpy(rng.integers(0, 100, 24))
        bases.append(numbers.to(DTYPES[rng.integers(len(DTYPES))]))
    base = bases[rng.integers(len(bases))]
    start, step = rng.integers(0, 24), rng.integers(1, 4)
    views = (
        base,
        base[start::step],
        base.view(4, 6).t(),
        base.view(2, 3, 4).transpose(0, 2)[1:],
        base[0].expand(2, 3),
        base[:0],
    )
    return views[rng.integers(len(views))]


def content(rng: np.random.Generator, bases: list[torch.Tensor], depth: int) -> Any:
    """Nested containers, objects and modules with tensors at the leaves."""
    kind = rng.integers(6) if depth else 0
    parts = [content(rng, bases, depth - 1) for _ in range(3 if kind else 0)]
    if kind < 2:
        return view(rng, bases)
    if kind == 2:
        return {"a.b": parts[0], 3: parts[1], "é": parts[2]}
    if kind == 3:
        return OrderedDict(x=parts[:2], y=(parts[2], 1.5, None, "text", 1 << 70))
    if kind == 4:
        return argparse.Namespace(z=parts[0], lr=0.1)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    module[1].weight = module[0].bias
    module.register_buffer("computed", view(rng, bases), persistent=False)
    module.register_buffer("kept", view(rng, bases))
    return torch.nn.DataParallel(module) if rng.random() < 0.5 else module


def check(expected: Any, value: Any, stored: TorchFile, file: FileSource) -> int:
    """Compare, and return the number of tensors."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(value, StoredTensor)
        tensor = tensor_in(file, "w", value, stored)
        buffer = bytearray(tensor.nbytes)
        if buffer:
            tensor.source.read_into(memoryview(buffer), tensor.offset)
        plain = torch.empty(expected.shape, dtype=expected.dtype)
        plain = plain.copy_(expected.detach()).reshape(-1).view(torch.uint8)
        assert tensor.shape == tuple(expected.shape)
        assert bytes(buffer) == plain.numpy().tobytes()
        return 1
    if isinstance(expected, torch.nn.Module):
        expected = expected.state_dict()
    if isinstance(expected, argparse.Namespace):
        expected = vars(expected)
    if isinstance(expected, list | tuple):
        expected = {str(index): part for index, part in enumerate(expected)}
    if not isinstance(expected, dict):
        assert value == expected
        return 0
    parts = contents(value)
    assert [*parts] == [*expected]
    return sum(check(expected[name], parts[name], stored, file) for name in parts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_every_tensor_is_read_as_torch_load_reads_it(
    tmp_path: Path, rng: np.random.Generator, is_zip: bool
) -> None:
    n_tensors = 0
    for index in range(40):
        path = tmp_path / f"{index}.pt"
        torch.save(
            content(rng, [], 3),
            path,
            pickle_protocol=int(rng.integers(2, 6)),
            _use_new_zipfile_serialization=is_zip,
        )
        file = FileSource(path)
        stored = read_file(file)
        expected = torch.load(path, weights_only=False)
        n_tensors += check(expected, stored.content, stored, file)
    assert n_tensors > 100
