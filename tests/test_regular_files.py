"""Regular files only, within a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ensembles.regular_files import open_regular, read_json, read_regular


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"config\.json is not a regular file"):
        read_json(tmp_path / "config.json")


def test_a_device_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_regular(tmp_path / "config.json")


def test_a_file_is_read_up_to_its_bound_alone(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"12345")
    assert read_regular(path, largest=5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_regular(path, largest=4)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\xff"])
def test_what_is_no_json_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, "latin-1")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_json(tmp_path / "config.json")


def test_a_value_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "config.json") == {"a": [1, None]}


def test_a_refused_file_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.mkfifo(tmp_path / "pipe")
    for _ in range(3):
        with pytest.raises(ValueError, match="regular"):
            open_regular(tmp_path / "pipe")
    assert len(os.listdir("/proc/self/fd")) == before
