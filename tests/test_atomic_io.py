"""Output that appears whole or not at all, and nothing that is overwritten unasked."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles import atomic_io
from ensembles.checkpoints import average, plan, write
from tests.checkpoints.building import load, pair, same_bytes, save, save_shards
from tests.conftest import ROOT

OUTS = ("out.safetensors", "out.pt", "out")
outs = pytest.mark.parametrize("out", OUTS)


def left(folder: Path) -> list[str]:
    """Names of all that lies in a folder besides the members."""
    members = {"a.safetensors", "b.safetensors"}
    return sorted(path.name for path in folder.iterdir() if path.name not in members)


@outs
def test_nothing_but_the_output_is_left(tmp_path: Path, out: str) -> None:
    average(pair(tmp_path), tmp_path / out)
    assert left(tmp_path) == [out]


@outs
def test_a_member_cut_short_after_the_plan_leaves_no_file(
    tmp_path: Path, out: str
) -> None:
    a, b = pair(tmp_path)
    planned = plan([a, b], tmp_path / out)
    os.truncate(b, b.stat().st_size - 4)
    with pytest.raises(
        ValueError, match=r"b\.safetensors ends at byte \d+, .*truncated"
    ):
        write(planned)
    assert left(tmp_path) == []


@outs
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_failure_half_way_leaves_no_file(
    tmp_path: Path, out: str, error: type[BaseException]
) -> None:
    def fail(n_bytes: int) -> None:
        raise error("half way")

    with pytest.raises(error, match="half way"):
        average(pair(tmp_path), tmp_path / out, progress=fail)
    assert left(tmp_path) == []


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_a_full_disk_leaves_no_file(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "its disk is full on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="its disk is full"):
        average(pair(tmp_path), tmp_path / out)
    monkeypatch.undo()
    assert left(tmp_path) == []


def test_short_reads_and_writes_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    state = {"w": rng.normal(size=5000)}
    path = save(tmp_path / "a.safetensors", state)
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda f, b, o: pwrite(f, b[:1000], o))
    monkeypatch.setattr(os, "preadv", lambda f, b, o: preadv(f, [b[0][:999]], o))
    average([path], tmp_path / "out.safetensors")
    monkeypatch.undo()
    assert same_bytes(load(tmp_path / "out.safetensors"), state)


@outs
def test_an_existing_output_is_kept_without_force(tmp_path: Path, out: str) -> None:
    members = pair(tmp_path)
    average(members[:1], tmp_path / out)
    before = digest(tmp_path / out)
    counted: list[int] = []
    with pytest.raises(FileExistsError, match=rf"{out} exists; pass force=True"):
        average(members, tmp_path / out, progress=counted.append)
    assert counted == []
    assert digest(tmp_path / out) == before
    average(members, tmp_path / out, force=True)
    assert digest(tmp_path / out) != before
    assert left(tmp_path) == [out]


def digest(path: Path) -> list[bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file.read_bytes() for file in files]


@pytest.mark.parametrize(
    ("old", "new"), [("file", "out"), ("folder", "out.safetensors")]
)
def test_force_replaces_one_kind_by_another(tmp_path: Path, old: str, new: str) -> None:
    members, out = pair(tmp_path), tmp_path / new
    if old == "folder":
        save_shards(out, [{"old": np.ones(3)}])
    else:
        out.write_text("old")
    average(members, out, force=True)
    assert out.is_dir() == (new == "out")
    assert left(tmp_path) == [new]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    members, out = pair(tmp_path), tmp_path / "out"
    save_shards(tmp_path / "real", [{"old": np.ones(3)}])
    out.symlink_to(tmp_path / "real")
    average(members, out, force=True)
    assert out.is_symlink()
    assert left(tmp_path) == ["out", "real"]
    assert os.listdir(tmp_path / "real") == ["model.safetensors"]


@pytest.mark.parametrize("foreign", ["thesis.tex", "thesis/chapter.md"])
@pytest.mark.parametrize("beside", [[], ["x.pt", "config.json"]])
def test_a_folder_of_other_things_is_not_replaced_even_by_force(
    tmp_path: Path, foreign: str, beside: list[str]
) -> None:
    work = tmp_path / "work"
    (work / foreign).parent.mkdir(parents=True)
    for name in [foreign, *beside]:
        (work / name).write_text("years")
    with pytest.raises(
        ValueError, match=r"work must not be replaced: it contains thesis"
    ):
        average(pair(tmp_path), work, force=True)
    assert (work / foreign).read_text() == "years"


def test_the_current_folder_is_not_replaced_even_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = pair(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="it contains the current folder"):
        average(members, tmp_path / "here", force=True)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("out", ["a.safetensors", "link.safetensors", ".", "sub/.."])
def test_an_output_that_is_or_holds_a_member_is_refused(
    tmp_path: Path, out: str, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = pair(tmp_path)
    (tmp_path / "link.safetensors").symlink_to(members[0])
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"is or contains the member|must be the path of a file"
    ):
        average(members, out, force=force)
    assert load(members[0])["w"].tolist() == [1, 2, 3]


def test_an_output_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the folder of the output must exist: create .*nowhere"
    ):
        average(pair(tmp_path), tmp_path / "nowhere/out.safetensors")
    assert left(tmp_path) == []


@outs
def test_of_two_runs_to_one_output_one_wins(tmp_path: Path, out: str) -> None:
    members = pair(tmp_path)

    def overtake(n_bytes: int) -> None:
        if not (tmp_path / out).exists():
            average(members[:1], tmp_path / out)

    with pytest.raises(FileExistsError, match=rf"{out} during.*force="):
        average(members, tmp_path / out, progress=overtake)
    assert left(tmp_path) == [out]
    average(members[:1], tmp_path / f"expected{Path(out).suffix}")
    kept = average([tmp_path / out])["w"]
    assert np.asarray(kept).tolist() == [1, 2, 3]


@outs
def test_of_two_runs_by_force_the_last_wins_and_both_end(
    tmp_path: Path, out: str
) -> None:
    members = pair(tmp_path)

    def overtake(n_bytes: int) -> None:
        if not (tmp_path / out).exists():
            average(members[:1], tmp_path / out, force=True)

    average(members, tmp_path / out, progress=overtake, force=True)
    assert left(tmp_path) == [out]
    assert np.asarray(average([tmp_path / out])["w"]).tolist() == [2, 3, 5.5]


def test_what_a_living_run_is_writing_is_not_cleared(tmp_path: Path) -> None:
    with atomic_io.atomic_output(tmp_path / "out", folder=False, force=False) as place:
        place.write_text("living")
        dead = place.with_name(place.name[:-5] + "00000")
        dead.write_text("dead")
        with atomic_io.atomic_output(
            tmp_path / "out", folder=False, force=False
        ) as other:
            other.write_text("second")
            assert place.exists()
            assert not dead.exists()
        (tmp_path / "out").unlink()
    assert (tmp_path / "out").read_text() == "living"


def test_names_that_only_begin_alike_are_not_cleared(tmp_path: Path) -> None:
    kept = [
        tmp_path / ".out.safetensors.tmp",
        tmp_path / ".out.safetensors.tmp-elsewhere-1",
    ]
    for path in kept:
        path.write_text("mine")
    average(pair(tmp_path), tmp_path / "out.safetensors")
    assert all(path.exists() for path in kept)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


FOREIGN = [
    "notes",
    "1",
    "0" * 31,
    "0" * 33,
    "z" * 32,
    "0" * 32 + ".bak",
    "0" * 31 + "A",
]


@pytest.mark.parametrize("end", FOREIGN)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_user_keeps_under_a_name_alike_is_not_removed(
    tmp_path: Path, end: str, kind: str
) -> None:
    with atomic_io.temporary_sibling(
        tmp_path / "out.safetensors", folder=False
    ) as place:
        mark = place.name[:-32]
    mine = tmp_path / f"{mark}{end}"
    file = mine if kind == "file" else mine / "thesis.tex"
    file.parent.mkdir(exist_ok=True)
    file.write_text("years")
    average(pair(tmp_path), tmp_path / "out.safetensors")
    assert file.read_text() == "years"


@pytest.mark.parametrize("kind", ["pipe", "link", "socket", "dangling"])
def test_what_no_run_leaves_under_its_name_neither_hangs_nor_is_removed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_io.temporary_sibling(
        tmp_path / "out.safetensors", folder=False
    ) as place:
        mark = place.name[:-32]
    strange = tmp_path / f"{mark}{'0' * 32}"
    (tmp_path / "target").write_text("mine")
    if kind == "pipe":
        os.mkfifo(strange)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(strange.name)
    else:
        strange.symlink_to(tmp_path / ("target" if kind == "link" else "nothing"))
    average(pair(tmp_path), tmp_path / "out.safetensors")
    assert os.path.lexists(strange)
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize("out", ["out.safetensors", "out.pt"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(
    tmp_path: Path, out: str, mode: int
) -> None:
    members, path = pair(tmp_path), tmp_path / out
    average(members[:1], path)
    path.chmod(mode)
    seen: set[int] = set()

    def look(n_bytes: int) -> None:
        places = tmp_path.glob(f".{out}.tmp-*")
        seen.update(stat.S_IMODE(place.stat().st_mode) for place in places)

    average(members, path, force=True, progress=look)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    # Nor may others read it while it is written.
    assert all(found & 0o077 & ~mode == 0 for found in seen)
    assert seen


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o777, 0o2770, 0o1777])
def test_a_directory_that_is_replaced_keeps_its_permissions(
    tmp_path: Path, mode: int
) -> None:
    members, path = pair(tmp_path), tmp_path / "out"
    average(members[:1], path)
    path.chmod(mode)
    average(members, path, force=True)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("mode", "others"), [(0o750, 0o700), (0o775, 0o755), (0o2770, 0o700)]
)
@pytest.mark.parametrize("is_free", [True, False])
def test_a_group_that_cannot_be_kept_leaves_no_other_group_its_permissions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    others: int,
    is_free: bool,
) -> None:
    members, path = pair(tmp_path), tmp_path / "out"
    average(members[:1], path)
    path.chmod(mode)
    lstat, given = Path.lstat, list[tuple[int, int]]()

    def of_another_group(place: Path) -> os.stat_result:
        found = lstat(place)
        fields = list(found)
        fields[stat.ST_GID] += 0 if is_free or place != path else 1
        return os.stat_result(fields)

    def chown(place: Path, uid: int, gid: int) -> None:
        given.append((uid, gid))
        raise PermissionError(errno.EPERM, "not the owner", str(place))

    monkeypatch.setattr(Path, "lstat", of_another_group)
    monkeypatch.setattr(os, "chown", chown)
    average(members, path, force=True)
    assert given[0] == (path.stat().st_uid, path.stat().st_gid + (not is_free))
    assert stat.S_IMODE(path.stat().st_mode) == (mode if is_free else others)


@outs
def test_what_is_replaced_by_another_kind_leaves_no_permissions(
    tmp_path: Path, out: str
) -> None:
    path = tmp_path / out
    if path.suffix:
        save_shards(path, [{"old": np.ones(3)}])
        path.chmod(0o700)
    else:
        path.write_text("old")
        path.chmod(0o600)
    old = os.umask(0o022)
    try:
        average(pair(tmp_path), path, force=True)
    finally:
        os.umask(old)
    expected = 0o644 if path.suffix else 0o755
    assert stat.S_IMODE(path.stat().st_mode) == expected


@outs
def test_a_dangling_link_is_not_written_through_without_force(
    tmp_path: Path, out: str
) -> None:
    members, link = pair(tmp_path), tmp_path / f"link{Path(out).suffix}"
    link.symlink_to(tmp_path / out)
    with pytest.raises(
        FileExistsError, match=r"link.* is a symbolic link to .*; pass force=True"
    ):
        average(members, link)
    assert left(tmp_path) == [link.name]
    average(members, link, force=True)
    assert link.is_symlink()
    assert left(tmp_path) == sorted([link.name, out])


@pytest.mark.parametrize("force", [True, False])
def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path, force: bool) -> None:
    members, link = pair(tmp_path), tmp_path / "out.safetensors"
    link.symlink_to(link)
    with pytest.raises(
        ValueError, match=r"a symbolic link that leads to itself; remove it"
    ):
        average(members, link, force=force)


@outs
@pytest.mark.usefixtures("strict_umask")
def test_modes_follow_the_umask(tmp_path: Path, out: str) -> None:
    members = pair(tmp_path)
    average(members, tmp_path / out)
    for path in [tmp_path / out, *(tmp_path / out).glob("**/*")]:
        expected = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("name", ["pipe.safetensors", "pipe.pt"])
def test_a_pipe_as_a_member_does_not_hang(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is not a regular file"):
        average([*pair(tmp_path), tmp_path / name], tmp_path / "out.safetensors")
    assert left(tmp_path) == [name]


def test_a_device_as_a_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is not a regular file"):
        plan([tmp_path / "zero.safetensors"])


def test_the_file_is_flushed_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def note(name: str) -> Any:
        usual = getattr(atomic_io, name)

        def noted(*args: Any) -> Any:
            steps.append(f"{name} {Path(args[0]).name.partition('.tmp')[0]}")
            return usual(*args)

        return noted

    for name in ("fsync_path", "_rename"):
        monkeypatch.setattr(atomic_io, name, note(name))
    average(pair(tmp_path), tmp_path / "out.safetensors")
    folder = f"fsync_path {tmp_path.name}"
    first, second = "fsync_path .out.safetensors", "_rename .out.safetensors"
    assert steps == [first, folder, second, folder]


def test_a_torch_file_does_not_depend_on_its_name(tmp_path: Path) -> None:
    members = pair(tmp_path)
    for name in ("q.pt", "r.pt"):
        average(members, tmp_path / name)
    assert (tmp_path / "q.pt").read_bytes() == (tmp_path / "r.pt").read_bytes()


def test_a_member_that_is_written_to_meanwhile_is_reported(tmp_path: Path) -> None:
    members = pair(tmp_path)

    def touch(n_bytes: int) -> None:
        os.utime(members[1])

    with pytest.raises(ValueError, match="was modified while it was read"):
        average(members, tmp_path / "out.safetensors", progress=touch)
    assert left(tmp_path) == []


@outs
def test_a_member_that_is_replaced_meanwhile_is_an_error(
    tmp_path: Path, out: str
) -> None:
    members = pair(tmp_path)

    def replace(n_bytes: int) -> None:
        shutil.copy2(members[1], tmp_path / "new")
        os.replace(tmp_path / "new", members[1])

    with pytest.raises(ValueError, match=r"b\.safetensors was replaced while it was"):
        average(members, tmp_path / out, progress=replace)
    assert left(tmp_path) == []


def test_a_member_that_is_deleted_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    """A trainer deletes its older checkpoints."""
    members = pair(tmp_path)
    planned = plan(members, tmp_path / "out.safetensors")
    members[1].unlink()
    write(planned)
    assert load(tmp_path / "out.safetensors")["w"].tolist() == [2, 3, 5.5]


@pytest.mark.parametrize("folder", [True, False])
def test_a_place_beside_is_gone_when_the_block_has_ended(
    tmp_path: Path, folder: bool
) -> None:
    for error in (None, KeyboardInterrupt):
        with (
            suppress(KeyboardInterrupt),
            atomic_io.temporary_sibling(tmp_path / "out", folder=folder) as place,
        ):
            assert place.is_dir() == folder
            # Another run does not take it for that of a dead one.
            with atomic_io.temporary_sibling(tmp_path / "out", folder=folder):
                assert len(left(tmp_path)) == 2
            if error is not None:
                raise error
        assert left(tmp_path) == []


def test_what_a_dead_run_left_beside_is_cleared(tmp_path: Path) -> None:
    with atomic_io.temporary_sibling(tmp_path / "out", folder=True) as place:
        dead = place.with_name(place.name[:-5] + "00000")
        dead.mkdir()
        (dead / "candidate.pt").write_text("half")
    with atomic_io.temporary_sibling(tmp_path / "out", folder=False):
        assert not dead.exists()


@outs
def test_a_parent_that_vanishes_before_the_run_is_one_error(
    tmp_path: Path, out: str
) -> None:
    (tmp_path / "gone").mkdir()
    planned = plan(pair(tmp_path), tmp_path / "gone" / out)
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match=r"No such file .*gone"):
        write(planned)
    assert left(tmp_path) == []


@pytest.mark.parametrize("folder", [True, False])
def test_a_parent_that_vanishes_before_the_output_is_claimed_is_one_error(
    tmp_path: Path, folder: bool
) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        atomic_io._claim(tmp_path / "gone" / "out", folder, None)


@outs
def test_a_parent_that_vanishes_during_the_run_is_one_error(
    tmp_path: Path, out: str
) -> None:
    (tmp_path / "gone").mkdir()

    def remove(n_bytes: int) -> None:
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)

    with pytest.raises(FileNotFoundError, match="gone"):
        average(pair(tmp_path), tmp_path / "gone" / out, progress=remove)


def test_a_directory_without_its_weights_is_not_published(tmp_path: Path) -> None:
    """Its small files would be written into a new one."""
    output = atomic_io.atomic_output(tmp_path / "out", folder=True, force=False)
    place = output.__enter__()
    shutil.rmtree(place)
    place.mkdir()
    (place / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"out\.tmp.* was removed by another"):
        output.__exit__(None, None, None)
    assert left(tmp_path) == []


@pytest.mark.parametrize("force", [True, False])
def test_a_hard_link_to_a_member_is_replaced_and_the_member_kept(
    tmp_path: Path, force: bool
) -> None:
    members, out = pair(tmp_path), tmp_path / "out.safetensors"
    os.link(members[0], out)
    if not force:
        with pytest.raises(FileExistsError, match=r"out\.safetensors exists"):
            average(members, out)
    else:
        average(members, out, force=True)
        assert load(out)["w"].tolist() == [2, 3, 5.5]
    assert load(members[0])["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("out", ["real", "real/model.safetensors"])
def test_an_output_that_holds_the_files_that_a_member_links_to_is_refused(
    tmp_path: Path, out: str
) -> None:
    """As in the cache of the Hugging Face Hub."""
    real = save(tmp_path / "real/model.safetensors", {"w": np.ones(2)})
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").symlink_to(real)
    with pytest.raises(ValueError, match=r"real.* is or contains the member .*a; choo"):
        average([tmp_path / "a", tmp_path / "b"], tmp_path / out, force=True)
    assert load(real)["w"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["pwrite", "fsync", "preadv"])
def test_an_error_of_a_disk_names_the_output_or_the_member(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    members = pair(tmp_path)
    planned = plan(members, tmp_path / "out.safetensors")
    monkeypatch.setattr(os, name, fail)
    path = "a" if name == "preadv" else "out"
    with pytest.raises(OSError, match=rf"{path}\.safetensors") as caught:
        write(planned)
    assert "Input/output error" in str(caught.value)
    monkeypatch.undo()
    assert left(tmp_path) == []


def test_an_interrupted_call_of_the_c_library_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = iter([errno.EINTR, errno.EINTR, errno.EDQUOT])

    class Library:
        def __init__(self, *_: Any, **options: Any) -> None:
            self.fallocate = self.fail

        def fail(self, *_: Any) -> int:
            ctypes.set_errno(next(numbers))
            return -1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(os, "truncate", lambda *_: None)
    with pytest.raises(OSError, match="quota"):
        atomic_io.preallocate(3, 10)
    assert next(numbers, None) is None


SMALL_DISK = """
import os, sys
from pathlib import Path
import numpy as np
from ensembles.checkpoints import average
from tests.checkpoints.building import load, pair, save

def fail(*arguments, **options):
    try:
        average(*arguments, **options)
    except (OSError, ValueError) as error:
        return str(error)
    return "no error"

members, disk = pair(Path(sys.argv[1])), Path(sys.argv[2])
average(members, disk / "out.safetensors")
assert load(disk / "out.safetensors")["w"].tolist() == [2, 3, 5.5]
n_free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
large = save(Path(sys.argv[1]) / "large.safetensors", {"w": np.ones(n_free // 8)})
for out in ("out.safetensors", "new.safetensors", "directory"):
    words = fail([large], disk / out, force=True)
    assert words.startswith(str(disk / out)) and "disk is full" in words, words
assert os.listdir(disk) == ["out.safetensors"]
words = fail(members, disk, force=True)
assert "is a mount point, which cannot be replaced" in words, words
assert os.system(f"mount -o remount,ro {disk}") == 0
words = fail(members, disk / "new.safetensors")
assert words == f"{disk} is not writable; choose another folder", words
assert load(disk / "out.safetensors")["w"].tolist() == [2, 3, 5.5]
"""


def test_another_disk_that_is_full_or_read_only_is_one_error(tmp_path: Path) -> None:
    """A small file system in memory, where the system lets users mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
    script = f'{mount} && exec "$@" || exit 77'
    command = ["unshare", "-rm", "sh", "-c", f"{mount} || exit 77"]
    is_possible = shutil.which("unshare") and not subprocess.call(
        command, stderr=subprocess.DEVNULL
    )
    if not is_possible:
        return
    run = [sys.executable, "-c", SMALL_DISK, str(tmp_path), str(disk)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *run],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_directory_that_appears_during_an_exchange_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On systems that cannot exchange two paths in one step."""
    out = tmp_path / "out"
    real = os.rename
    moved: list[Path] = []

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        if source == out and not moved:
            moved.append(target)
            out.mkdir()
            (out / "of another run").touch()

    monkeypatch.setattr(atomic_io, "_rename", lambda *_: False)
    monkeypatch.setattr(os, "rename", rename)
    out.mkdir()
    with atomic_io.atomic_output(out, folder=True, force=True) as temporary:
        (temporary / "new").touch()
    assert moved
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["new"]


@pytest.mark.parametrize("force", [True, False])
def test_a_directory_that_appears_just_before_the_rename_is_replaced_only_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """On systems that have no rename that never replaces."""
    out = tmp_path / "out"
    real = os.rename
    created: list[Path] = []

    def rename(source: Path, target: Path) -> None:
        if target == out and not created:
            created.append(target)
            out.mkdir()
            (out / "of another run").touch()
        real(source, target)

    monkeypatch.setattr(atomic_io, "_rename", lambda *_: False)
    monkeypatch.setattr(os, "rename", rename)
    with (
        nullcontext()
        if force
        else pytest.raises(FileExistsError, match="another process created"),
        atomic_io.atomic_output(out, folder=True, force=force) as temporary,
    ):
        (temporary / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    name = "new" if force else "of another run"
    assert [path.name for path in out.iterdir()] == [name]
