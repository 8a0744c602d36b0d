"""Means that grow by a member: the bytes of an average, from what is new alone."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ensembles.checkpoints import average
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.merging.running_mean import RunningMean
from ensembles.checkpoints.merging.writers import write_plan_to
from ensembles.checkpoints.model_soup.parameter_arrays import ParameterWriter
from ensembles.checkpoints.planning.plan import plan
from ensembles.rules import RULES

N_MEMBERS = 5


def write_members(folder: Path, dtype: Any, size: int = 1000) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"member-{place}.safetensors" for place in range(N_MEMBERS)]
    for path in paths:
        state = {
            "narrow": rng.normal(size=(size, 3)).astype(dtype),
            "tail": rng.normal(size=10).astype(dtype),
            "wide": rng.normal(size=7),
            "count": np.arange(4),
            "none": np.zeros((0, 2), dtype),
        }
        save_file(state, path)
    return paths


def written(
    running: RunningMean, opened: Sequence[Any], order: Sequence[int], out: Path
) -> tuple[bytes, int]:
    """Bytes of a mean in some order of members, and how many were read."""
    n_read: list[int] = []
    out.unlink(missing_ok=True)
    planned = plan([opened[place] for place in order], out, threads=1)
    write_plan_to(planned, out, n_read.append, running)
    return out.read_bytes(), sum(n_read)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@given(
    orders=st.lists(
        st.lists(st.integers(0, N_MEMBERS - 1), min_size=1, max_size=7), max_size=6
    )
)
@settings(max_examples=15, deadline=None)
def test_any_sequence_of_means_has_the_bytes_of_averages(
    dtype: Any, orders: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("means")
    paths = write_members(folder, dtype, size=50)
    opened = [open_checkpoint(path, 0) for path in paths]
    running = RunningMean(folder)
    for order in orders:
        found, _ = written(running, opened, order, folder / "found.safetensors")
        expected = folder / "expected.safetensors"
        average([paths[place] for place in order], expected, force=True)
        assert found == expected.read_bytes()


def test_a_candidate_reads_what_is_new_and_the_sum(tmp_path: Path) -> None:
    paths = write_members(tmp_path, np.float32, size=100_000)
    opened = [open_checkpoint(path, 0) for path in paths]
    running, out = RunningMean(tmp_path), tmp_path / "out.safetensors"
    n_model = 300_000 * 4
    n_small = 5 * 1000  # tensors that are read whole, a handful of bytes each
    written(running, opened, [0, 1], out)
    _, first = written(running, opened, [0, 1, 2], out)
    assert first <= 5 * n_model + n_small  # the sum of two is made: 2, then 2 + 1
    _, rejected = written(running, opened, [0, 1, 3], out)
    assert rejected <= 3 * n_model + n_small  # float64 counts twice
    _, kept = written(running, opened, [0, 1, 3, 4], out)
    assert kept <= 6 * n_model + n_small


def test_members_that_differ_in_integers_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.safetensors" for place in range(3)]
    for place, path in enumerate(paths):
        save_file({"w": np.ones(3, np.float32), "n": np.array([place])}, path)
    opened = [open_checkpoint(path, 0) for path in paths]
    with pytest.raises(ValueError, match="integer tensor 'n' differs"):
        written(RunningMean(), opened, [0, 1, 2], tmp_path / "out.safetensors")


def test_a_member_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    paths = write_members(tmp_path, np.float32)
    opened = [open_checkpoint(path, 0) for path in paths]
    paths[2].write_bytes(paths[2].read_bytes())
    with pytest.raises(ValueError, match="was modified while it was read"):
        written(RunningMean(), opened, [0, 1, 2], tmp_path / "out.safetensors")


@pytest.mark.filterwarnings("ignore:.* the same initialization")
def test_a_failed_sum_is_not_built_upon(tmp_path: Path) -> None:
    paths = write_members(tmp_path, np.float32)
    opened = [open_checkpoint(path, 0) for path in paths]
    running, out = RunningMean(), tmp_path / "out.safetensors"
    written(running, opened, [0, 1, 2], out)
    # What is read first has been added when the end is found to be cut off.
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"ends at byte|was changed"):
        written(running, opened, [0, 1, 3, 4], out)
    found, _ = written(running, opened, [0, 1, 2, 4], out)
    average([paths[place] for place in (0, 1, 2, 4)], out, force=True)
    assert found == out.read_bytes()


def test_a_full_disk_names_the_place_of_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [open_checkpoint(path, 0) for path in write_members(tmp_path, np.float32)]

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    message = (
        f"a sum of members in {tmp_path} was not written: its disk is full; set TM"
    )
    arrays = {name: np.empty(t.shape, t.dtype) for name, t in opened[0].layout.items()}
    write = ParameterWriter(
        opened, arrays, rule=RULES["mean"], params={}, integers="error"
    )
    with pytest.raises(OSError, match=message):
        write(np.ones(N_MEMBERS), np.ones(N_MEMBERS, np.int64))


def test_pytorch_files_are_verified_once_while_they_are_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.pt" for place in range(3)]
    for place, path in enumerate(paths):
        torch.save({"w": torch.full((1000,), float(place))}, path)
    opened = [open_checkpoint(path, 0) for path in paths]
    running = RunningMean()
    out = tmp_path / "out.safetensors"
    _, first = written(running, opened, [0, 1, 2], out)
    _, again = written(running, opened, [0, 1, 2], out)
    n_summed, n_pickles = 2 * 4000, 3 * 1000
    assert n_summed <= first - again < n_summed + n_pickles


def test_a_damaged_file_of_torch_is_found(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.pt" for place in range(3)]
    for path in paths:
        torch.save({"w": torch.ones(1000)}, path)
    contents = bytearray(paths[2].read_bytes())
    place = contents.index(b"\x00\x00\x80?" * 10)
    contents[place] ^= 1
    paths[2].write_bytes(contents)
    opened = [open_checkpoint(path, 0) for path in paths]
    with pytest.raises(ValueError, match="does not match its checksum"):
        written(RunningMean(), opened, [0, 1, 2], tmp_path / "out.safetensors")
