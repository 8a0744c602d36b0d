"""Plain state dicts, read back by torch."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.utils.serialization import config as torch_config

from ensembles.checkpoints import average
from ensembles.checkpoints.formats.output import OutputFile
from ensembles.checkpoints.formats.pytorch_files.state_pickle import STORAGES, strides
from ensembles.checkpoints.formats.pytorch_files.writing import write
from ensembles.checkpoints.formats.state_dict import as_torch
from ensembles.checkpoints.formats.zip_files import layout
from tests.checkpoints.building import FLOATS, save

config: Any = torch_config  # mypy does not know its functions
STATE: dict[str, Any] = {
    "layer.weight": torch.arange(6.0).view(2, 3),
    "half": torch.ones(70_000).bfloat16(),
    "eight": torch.ones(3).to(torch.float8_e4m3fn),
    "unsigned": torch.ones(3, dtype=torch.uint16),
    "empty": torch.zeros(2, 0, 3),
    "step": torch.tensor(3),
    "mask": torch.tensor([True, False]),
    "größe": torch.ones(300, dtype=torch.float64),
}
STATE["tied"] = STATE["layer.weight"]


def written(path: Path, state: dict[str, Any], **options: Any) -> Path:
    average([state, state], path, **options)
    return path


def entries(path: Path) -> list[Any]:
    """Arrangement of the entries, without the pickle, whose length differs."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        fields = ["filename", "flag_bits", "create_version", "extract_version"]
        fields += ["file_size", "external_attr", "date_time", "extra", "compress_type"]
        return [
            [getattr(entry, field) for field in fields]
            for entry in archive.infolist()[1:]
        ]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("calculated", [False, True])
def test_torch_reads_the_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmap: bool, calculated: bool
) -> None:
    path = written(tmp_path / "out.pt", STATE)
    # torch compares offsets that it calculates with those in the file.
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    with config.patch("load.calculate_storage_offsets", calculated):
        found = torch.load(path, weights_only=True, mmap=mmap)
    assert list(found) == list(STATE)
    for name, value in STATE.items():
        assert found[name].dtype == value.dtype
        assert found[name].stride() == value.stride()
        assert torch.equal(found[name].double(), value.double()), name
        assert not found[name].requires_grad
    assert found["tied"].data_ptr() == found["layer.weight"].data_ptr()


def test_torch_is_not_needed_to_write(
    loaded: Callable[..., set[str]], tmp_path: Path
) -> None:
    save(tmp_path / "a.safetensors", {"w": np.ones(3, np.float32)})
    code = (
        "import sys; from ensembles.checkpoints import average;"
        "average([sys.argv[1]], sys.argv[2])"
    )
    out = tmp_path / "out.pt"
    assert "torch" not in loaded(code, tmp_path / "a.safetensors", out)
    assert torch.load(out, weights_only=True)["w"].tolist() == [1.0] * 3


def test_entries_are_arranged_as_torch_arranges_them(tmp_path: Path) -> None:
    path = written(tmp_path / "out.pt", STATE)
    with (tmp_path / "torch.pt").open("wb") as file:
        torch.save(STATE, file)
    assert entries(path) == entries(tmp_path / "torch.pt")


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_every_dtype_is_written(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    array = np.arange(5).astype(dtype)
    path = written(tmp_path / "out.bin", {"w": array})
    found = torch.load(path, weights_only=True)["w"]
    assert found.dtype == as_torch(array).dtype
    assert torch.equal(found.double(), as_torch(array).double())
    assert average([path])["w"].dtype == found.dtype


def test_every_float_format_can_be_stored() -> None:
    assert {np.dtype(dtype) for dtype in FLOATS} <= STORAGES.keys()


def test_a_dtype_that_torch_lacks_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    layout = {"w": (np.dtype(ml_dtypes.int4), (3,))}
    file = OutputFile(tmp_path / "tmp", "out.pt", layout, {}, ("w",), {})
    with pytest.raises(ValueError, match=r"out\.pt: tensor 'w' has dtype int4, which"):
        next(write(file))
    assert not file.path.exists()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (2, 0, 3), (0, 2)])
def test_strides_are_those_of_torch(shape: tuple[int, ...]) -> None:
    assert strides(shape) == torch.empty(shape).stride()


def test_the_bytes_do_not_depend_on_threads_and_memory(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    state = {f"{i}": rng.normal(size=300_000).astype(np.float32) for i in range(3)}
    contents = {
        written(tmp_path / f"{i}.pt", state, threads=n, memory=memory).read_bytes()
        for i, (n, memory) in enumerate([(1, 4 << 20), (2, 64 << 20), (4, 256 << 20)])
    }
    assert len(contents) == 1


def identifier(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read("archive/.data/serialization_id")


def test_the_identifier_depends_on_names_and_values(tmp_path: Path) -> None:
    states = [{"w": np.ones(3)}, {"v": np.ones(3)}, {"w": np.zeros(3)}]
    paths = [written(tmp_path / f"{i}.pt", state) for i, state in enumerate(states)]
    identifiers = set(map(identifier, paths))
    assert len(identifiers) == 3
    assert all(len(found) == 40 and found.isdigit() for found in identifiers)


def test_entries_beyond_four_gibibytes_are_read_by_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has holes: only the last bytes of its tensors are written."""
    monkeypatch.setattr(
        "ensembles.checkpoints.formats.pytorch_files.writing.preallocate", os.truncate
    )
    monkeypatch.setattr(  # the holes are not read
        "ensembles.checkpoints.formats.zip_files.crc.ChecksummedFile._read",
        lambda *_: 0,
    )
    size = (1 << 32) + 7
    layout: Any = {n: (np.dtype(np.uint8), (size,)) for n in "ab"}
    layout["c"] = (np.dtype(np.float32), (3,))
    path = tmp_path / "out.pt"
    writer = write(OutputFile(path, "out.pt", layout, {}, ("a", "b", "c"), {}))
    sinks = next(writer)
    for name in "ab":
        sinks[name].write(memoryview(name.encode()), size - 1)
    sinks["c"].write(memoryview(np.arange(3, dtype=np.float32).tobytes()), 0)
    assert next(writer, None) is None
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    for calculated in (False, True):
        with config.patch("load.calculate_storage_offsets", calculated):
            found = torch.load(path, weights_only=True, mmap=True)
        assert [chr(found[name][-1]) for name in "ab"] == ["a", "b"]
        assert found["c"].tolist() == [0, 1, 2]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data/2") == found["c"].numpy().tobytes()
        assert archive.getinfo("archive/data/1").header_offset > 1 << 32


def test_many_entries_need_the_zip64_directory() -> None:
    placed = layout.arrange({f"{i}": 0 for i in range(70_000)})
    content = layout.central_directory(placed, [0] * len(placed))
    assert content[-22:-18] == b"PK\5\6"
    assert content[-14:-10] == b"\xff" * 4


@pytest.mark.parametrize("prefix", ["", "model."])
def test_tied_names_keep_their_places(tmp_path: Path, prefix: str) -> None:
    """Names of the second member are matched to those of the first."""
    w = torch.arange(6.0).view(2, 3)
    first = {"emb": w, "layer": torch.ones(3), "head": w, "norm": torch.ones(2)}
    second = {prefix + name: value for name, value in first.items()}
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    torch.save(first, paths[0])
    torch.save(second, paths[1])
    assert [*average(paths)] == [*average([first, second])] == [*first]
    average(paths, tmp_path / "out.pt", only_weights=True)
    found = torch.load(tmp_path / "out.pt")
    assert [*found] == [*first]
    assert found["head"].data_ptr() == found["emb"].data_ptr()
    folders = [tmp_path / name for name in ("x", "y")]
    for folder, state in zip(folders, (first, second), strict=True):
        folder.mkdir()
        torch.save(state, folder / "pytorch_model.bin")
    assert [*average(folders)] == [*first]
