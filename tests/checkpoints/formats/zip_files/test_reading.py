"""Directories of zip files, which may have a million entries."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from ensembles.checkpoints.formats import detection
from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.formats.zip_files import reading
from ensembles.checkpoints.formats.zip_files.reading import read_archive
from ensembles.checkpoints.formats.zip_files.records import CENTRAL

MANY = 20_000


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """File of torch with one tensor, and many other entries."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(MANY):
            archive.writestr(f"a/data/{index + 10}", b"x")
    return path


def test_entries_without_tensors_take_little_memory(many: Path) -> None:
    tracemalloc.start()
    checkpoint = detection.read(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [*checkpoint.layout] == ["w"]
    # An object for each entry would take 700 bytes.
    assert peak < 300 * MANY + 2 * reading.PART


def test_a_directory_is_read_in_parts_of_any_size(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [*read_archive(FileSource(many))]
    with zipfile.ZipFile(many) as archive:
        expected = [(e.filename, e.file_size, e.CRC) for e in archive.infolist()]
    assert [(e.name, e.size, e.crc) for e in whole] == expected
    monkeypatch.setattr(reading, "PART", 1)
    assert [*read_archive(FileSource(many))] == whole


def test_a_name_beyond_the_directory_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"")
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, content.index(CENTRAL) + 28, 9)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz .*its directory is damaged"):
        read_archive(FileSource(path))
