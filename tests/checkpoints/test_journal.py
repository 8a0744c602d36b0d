"""Scores on the disk: whose they are, and what is left of them by a killed run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ensembles.checkpoints import Journal
from ensembles.checkpoints.journal import Share, share
from ensembles.checkpoints.members import open_member
from tests.checkpoints.building import pair

COMMAND = "python eval.py {}"


def shares(folder: Path) -> list[Share]:
    return [
        share(open_member(path, place), 0.5) for place, path in enumerate(pair(folder))
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal that holds one score."""
    found = tmp_path / "out.journal.jsonl"
    with Journal(found, COMMAND) as journal:
        journal.add(shares(tmp_path), 0.25, 1.23456)
    return found


def test_a_line_stands_for_itself(path: Path, tmp_path: Path) -> None:
    sizes = [[["", p.stat().st_size, p.stat().st_mtime_ns]] for p in pair_of(tmp_path)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "command": COMMAND,
            "settings": {},
            "members": [
                {"path": str(tmp_path / name), "files": files, "weight": 0.5}
                for name, files in zip(
                    ("a.safetensors", "b.safetensors"), sizes, strict=True
                )
            ],
            "score": 0.25,
            "seconds": 1.235,
        }
    ]


def pair_of(folder: Path) -> list[Path]:
    return [folder / "a.safetensors", folder / "b.safetensors"]


def test_a_score_is_found_again_whatever_the_order(path: Path, tmp_path: Path) -> None:
    known = [share(open_member(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) == 0.25
        assert journal.find(known[::-1]) == 0.25


def test_what_differs_is_not_found(path: Path, tmp_path: Path) -> None:
    a, b = (share(open_member(p, 0), 0.5) for p in pair_of(tmp_path))
    with Journal(path, COMMAND) as journal:
        assert journal.find([a]) is None
        assert journal.find([a, b._replace(weight=0.25)]) is None
        assert journal.find([a, b], {"integers": "max"}) is None
    with Journal(path, COMMAND + " ") as journal:
        assert journal.find([a, b]) is None


def test_a_member_that_changed_is_another(path: Path, tmp_path: Path) -> None:
    first, second = pair_of(tmp_path)
    os.utime(second, ns=(0, 0))
    changed = [share(open_member(p, 0), 0.5) for p in (first, second)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(changed) is None


def test_a_directory_is_known_by_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    pair(folder)[0].rename(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "eval_results.json").write_text("what a score left")
    files = share(open_member(folder, 0), 1.0).files
    assert [name for name, *_ in files] == ["model.safetensors"]


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_cut_off(path: Path, tmp_path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-cut])
    known = [share(open_member(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert path.read_bytes() == whole
        assert journal.find(known) == 0.25
        journal.add(known[:1], 0.5, 0.0)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


def test_a_journal_that_is_torn_in_its_first_line_begins_anew(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with Journal(path, COMMAND):
        assert path.read_bytes() == b""


def test_lines_that_are_no_scores_are_left_and_ignored(
    path: Path, tmp_path: Path
) -> None:
    odd = b'\xff\n\n[1]\n"score"\n{"score": "high"}\n{"score": 1}\n'
    line = json.loads(path.read_text())
    for score in (float("nan"), None):
        odd += json.dumps({**line, "score": score}).encode() + b"\n"
    content = path.read_bytes() + odd
    path.write_bytes(content)
    known = [share(open_member(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) == 0.25
    assert path.read_bytes() == content


def test_two_at_once_are_refused(path: Path) -> None:
    with (
        Journal(path, COMMAND),
        pytest.raises(BlockingIOError, match="is in use by another run"),
        Journal(path, "another command {}"),
    ):
        pass
    with Journal(path, COMMAND):
        """The lock has gone with the first."""


def test_a_score_is_on_the_disk_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "out.journal.jsonl"
    seen: list[int] = []
    usual = os.fsync

    def fsync(fd: int) -> None:
        seen.append(os.fstat(fd).st_size)
        usual(fd)

    with Journal(found, COMMAND) as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        journal.add(shares(tmp_path), 0.25, 0.0)
        assert seen == [found.stat().st_size]


def test_a_journal_is_added_to_while_it_is_open(path: Path) -> None:
    with pytest.raises(ValueError, match="must be open to be added to"):
        Journal(path, COMMAND).add([], 1.0, 0.0)


def test_a_journal_is_opened_once(path: Path) -> None:
    with Journal(path, COMMAND) as journal:
        with pytest.raises(ValueError, match="must not be open already"), journal:
            pass
        journal.add([], 1.0, 0.0)
