"""Scores on the disk: whose they are, and what is left of them by a killed run."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import Journal
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.soup_search.journal import (
    MemberRecord,
    member_record,
    rule_identity,
)
from ensembles.rules import RULES
from tests.checkpoints.building import pair

COMMAND = "python eval.py {}"


def records(folder: Path) -> list[MemberRecord]:
    return [
        member_record(open_checkpoint(path, place), 0.5)
        for place, path in enumerate(pair(folder))
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal that holds one score."""
    found = tmp_path / "out.journal.jsonl"
    with Journal(found, COMMAND) as journal:
        journal.add(records(tmp_path), 0.25, 1.23456)
    return found


def test_a_line_stands_for_itself(path: Path, tmp_path: Path) -> None:
    found = [p.stat() for p in pair_of(tmp_path)]
    facts = [[["", s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]] for s in found]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "command": COMMAND,
            "files": {},
            "folder": str(Path.cwd()),
            "settings": {},
            "members": [
                {"path": str(path), "files": files, "around": [], "weight": 0.5}
                for path, files in zip(pair_of(tmp_path), facts, strict=True)
            ],
            "score": 0.25,
            "seconds": 1.235,
        }
    ]


def pair_of(folder: Path) -> list[Path]:
    return [folder / "a.safetensors", folder / "b.safetensors"]


def test_a_score_is_found_again_whatever_the_order(path: Path, tmp_path: Path) -> None:
    known = [member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) == 0.25
        assert journal.find(known[::-1]) == 0.25


def test_what_differs_is_not_found(path: Path, tmp_path: Path) -> None:
    a, b = (member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path))
    with Journal(path, COMMAND) as journal:
        assert journal.find([a]) is None
        assert journal.find([a, b._replace(weight=0.25)]) is None
        assert journal.find([a, b], {"integers": "max"}) is None
    with Journal(path, COMMAND + " ") as journal:
        assert journal.find([a, b]) is None


def test_a_member_that_changed_is_another(path: Path, tmp_path: Path) -> None:
    first, second = pair_of(tmp_path)
    os.utime(second, ns=(0, 0))
    changed = [member_record(open_checkpoint(p, 0), 0.5) for p in (first, second)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(changed) is None


def test_a_member_that_was_copied_over_with_its_times_is_another(
    path: Path, tmp_path: Path
) -> None:
    first, second = pair_of(tmp_path)
    before = second.stat()
    second.write_bytes(second.read_bytes())
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert member_record(open_checkpoint(second, 0), 0.5).files[0][:3] == [
        "",
        before.st_size,
        before.st_mtime_ns,
    ]
    changed = [member_record(open_checkpoint(p, 0), 0.5) for p in (first, second)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(changed) is None


def test_another_folder_is_another_score(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path)]
    monkeypatch.chdir(tmp_path)  # where a program of the same name may lie
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) is None


def test_a_directory_is_known_by_its_weights_and_their_settings(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    pair(folder)[0].rename(folder / "model.safetensors")
    modules = [{"path": ""}, {"path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = {"config.json", "1_Pooling/config.json", "vocab.txt", "model.py"}
    for name in settings:
        (folder / name).write_text("{}")
    for name in ("eval_results.json", "predictions.csv", "README.md"):
        (folder / name).write_text("what a score left")
    found = member_record(open_checkpoint(folder, 0), 1.0)
    assert [name for name, *_ in found.files] == ["model.safetensors"]
    assert {name for name, *_ in found.around} == {*settings, "modules.json"}
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    assert member_record(open_checkpoint(folder, 0), 1.0).around != found.around


@pytest.mark.parametrize("cut", [1, 2, 20, 100])
def test_a_torn_last_line_is_cut_off(path: Path, tmp_path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-cut])
    known = [member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert path.read_bytes() == whole
        assert journal.find(known) == 0.25
        journal.add(known[:1], 0.5, 0.0)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


@pytest.mark.parametrize("n_left", [-2, 20, 5, 0])
def test_a_journal_that_is_torn_in_its_first_line_begins_anew(
    path: Path, n_left: int
) -> None:
    path.write_bytes(path.read_bytes()[:n_left])
    with Journal(path, COMMAND):
        assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "content", [b"notes", b"notes\n", b'{"a": 1}\n{"b', b'{"score": 1}', b"[" * 9999]
)
def test_a_file_of_others_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"out\.journal\.jsonl must be a file of scores"
    ):
        Journal(path, COMMAND).__enter__()
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    way = "; remove it, or choose another output"
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "journal")
    with pytest.raises(
        IsADirectoryError, match=f"folder must be .*: Is a directory{way}"
    ):
        Journal(tmp_path / "folder", COMMAND).__enter__()
    with pytest.raises(OSError, match=f"link must be .*: it is a symbolic link{way}"):
        Journal(tmp_path / "link", COMMAND).__enter__()
    with pytest.raises(
        FileNotFoundError, match=f"x must be .*: No such file or .*{way}"
    ):
        Journal(tmp_path / "gone" / "x", COMMAND).__enter__()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_journal_that_is_removed_is_warned_of(
    path: Path, tmp_path: Path, replaced: bool
) -> None:
    with Journal(path, COMMAND) as journal:
        path.unlink()
        if replaced:
            path.touch()
        with pytest.warns(UserWarning, match="was removed or replaced while scores"):
            journal.add(records(tmp_path), 0.25, 0.0)


def test_a_score_may_change_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with Journal("out.jsonl", COMMAND) as journal:
        monkeypatch.chdir("other")
        known = records(tmp_path)
        journal.add(known, 0.25, 0.0)
        assert journal.find(known) == 0.25
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_lines_that_are_no_scores_are_left_and_ignored(
    path: Path, tmp_path: Path
) -> None:
    odd = b'\xff\n\n[1]\n"score"\n{"score": "high"}\n{"score": 1}\n'
    line = json.loads(path.read_text())
    for score in (float("nan"), None, True, "0.5", 10**400):
        odd += json.dumps({**line, "score": score}).encode() + b"\n"
    content = path.read_bytes() + odd
    path.write_bytes(content)
    known = [member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) == 0.25
    assert path.read_bytes() == content


@pytest.mark.parametrize("score", [True, "0.5", None])
def test_a_score_that_is_no_number_is_none(
    path: Path, tmp_path: Path, score: object
) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "score": score}) + "\n")
    known = [member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) is None


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
        journal.add(records(tmp_path), 0.25, 0.0)
        assert seen == [found.stat().st_size]


def test_a_journal_is_added_to_while_it_is_open(path: Path) -> None:
    with pytest.raises(ValueError, match="must be open for scores to be"):
        Journal(path, COMMAND).add([], 1.0, 0.0)


def test_a_journal_is_opened_once(path: Path) -> None:
    with Journal(path, COMMAND) as journal:
        with pytest.raises(ValueError, match="must not be open already"), journal:
            pass
        journal.add([], 1.0, 0.0)


def test_a_journal_without_scores_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal(path, "x"):
        assert path.exists()
    assert not path.exists()


def test_scores_by_another_program_are_not_found_and_counted(
    path: Path, tmp_path: Path
) -> None:
    known = [member_record(open_checkpoint(p, 0), 0.5) for p in pair_of(tmp_path)]
    with Journal(path, COMMAND, {"eval.py": "a"}) as journal:
        assert journal.find(known) is None
        assert journal.n_outdated == 1
        journal.add(known, 0.75, 0.0)
    with Journal(path, COMMAND, {"eval.py": "a"}) as journal:
        assert journal.find(known) == 0.75
    with Journal(path, COMMAND) as journal:
        assert journal.find(known) == 0.25


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "dangling link"])
def test_a_journal_must_be_a_file(path: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "other.journal.jsonl"
    (tmp_path / "empty").touch()
    targets = {"link": "empty", "device": "/dev/zero", "dangling link": "nothing"}
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(targets[kind])
    with (
        pytest.raises((OSError, ValueError), match="must be a file of scores: it is"),
        Journal(place, COMMAND),
    ):
        pass
    assert os.path.lexists(place)
    assert (tmp_path / "empty").read_bytes() == b""
    assert not (tmp_path / "nothing").exists()


def test_a_file_of_one_byte_is_no_journal(tmp_path: Path) -> None:
    place = tmp_path / "one"
    place.write_bytes(b"{")
    with (
        pytest.raises(ValueError, match="must be a file of scores"),
        Journal(place, COMMAND),
    ):
        pass
    assert place.read_bytes() == b"{"


def test_a_file_too_large_for_scores_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "large"
    with place.open("wb") as file:
        file.truncate(2 << 30)
    with (
        pytest.raises(ValueError, match="it has 2147483648 bytes"),
        Journal(place, "x"),
    ):
        pass


def test_a_rule_of_the_library_is_identified_by_its_name() -> None:
    assert rule_identity(RULES["slerp"]) == "slerp"


def test_a_custom_rule_is_identified_by_its_code_and_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = """
from ensembles.rules import Rule, blockwise
HELPER = 1
@blockwise
def extent(block): return block.max()
def mine(stack, weights, *, state): return stack[0] * state * HELPER
rule = Rule(mine, statistics=extent)
"""
    identities = []
    changed = source.replace("HELPER = 1", "HELPER = 2")
    for name, text in (("one", source), ("two", source), ("three", changed)):
        (tmp_path / f"{name}.py").write_text(text)
        identities.append(rule_identity(importlib.import_module(name).rule))
    assert all(identity.startswith("mine ") for identity in identities)
    assert len(set(identities)) == 3  # code has the name of its file too


def test_a_large_array_in_the_settings_is_written_in_full(
    path: Path, tmp_path: Path
) -> None:
    known, values = records(tmp_path), np.zeros(5000)
    with Journal(path, COMMAND) as journal:
        journal.add(known, 0.5, 0.0, {"rule_params": {"scale": values}})
        assert journal.find(known, {"rule_params": {"scale": values.copy()}}) == 0.5
        values[2500] = 1
        assert journal.find(known, {"rule_params": {"scale": values}}) is None
