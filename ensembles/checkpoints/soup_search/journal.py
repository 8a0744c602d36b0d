"""Journal: a file that keeps the scores of combinations for interrupted runs."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ensembles._sklearn import warn_user
from ensembles.atomic_io import sync, write_at
from ensembles.checkpoints.formats.checkpoint import Checkpoint

LARGEST = 1 << 30  # bytes
BEGINNING = b'{"command": '  # first bytes of each line
# Files that affect the use of the tensors: configurations, tokenizers, code. Others are
# ignored, because a score may write its results beside a member.
SETTINGS = re.compile(
    r"(.*config.*|.*token.*|vocab|modules|chat_template)\.(json|txt)"
    r"|merges\.txt|.*\.(model|py|jinja)"
)


class MemberRecord(NamedTuple):
    """State of a member's files, and its weight.

    Parameters
    ----------
    path : str
        Absolute path of the member.
    files : list of [str, int, int, int, int]
        For each file of tensors its name, size in bytes, modification and change times
        in nanoseconds, and inode number.
    around : list of [str, int, int, int, int]
        The same for configurations, tokenizers and code in the directory.
    weight : float
        Weight of the member.
    """

    path: str
    files: list[list[Any]]
    around: list[list[Any]]
    weight: float


def member_record(member: Checkpoint, weight: float) -> MemberRecord:
    """Current state of a member's files, and its weight.

    Parameters
    ----------
    member : Checkpoint
        Member on disk.
    weight : float
        Weight of the member.

    Returns
    -------
    MemberRecord

    Raises
    ------
    FileNotFoundError
        If a file no longer exists.
    """
    path = Path(str(member.path)).absolute()
    names = sorted(member.parts) if member.kind == "directory" else [""]
    around = [name for name in member.files if SETTINGS.fullmatch(Path(name).name)]
    return MemberRecord(str(path), _known(path, names), _known(path, around), weight)


def _known(folder: Path, names: Sequence[str]) -> list[list[Any]]:
    found = [(name, (folder / name).stat()) for name in names]
    # A copy may keep the modification time; change time and inode differ.
    return [
        [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, stat in found
    ]


class Journal:
    """Scores of one command, in a JSON Lines file that other commands may share.

    Each line is complete: the command, its working directory and files, the members
    with the state of their files, their weights, the score and its duration. It is on
    the disk before `add` returns. An incomplete last line is removed.

    Parameters
    ----------
    path : path
        Path of the file, which is created if it does not exist.
    command : str
        Text that identifies the score; `find` ignores scores of other commands.
    files : mapping of str to str or None, default=None
        Digests of the command's programs; `find` ignores scores with other digests.
        None means no files.

    Attributes
    ----------
    n_outdated : int
        Number of scores in the file by the same command with other digests.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        command: str,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.command = command
        self.files = dict(files or {})
        self.n_outdated = 0
        self._folder = os.getcwd()
        self._place = self.path.absolute()  # a score may change the working directory
        self._fd: int | None = None
        self._end = 0
        self._scores: dict[str, float] = {}

    def __enter__(self) -> Journal:
        """Open the file, locked, and read it.

        Raises
        ------
        BlockingIOError
            If another run has locked the file.
        OSError
            If the path is not a file, or cannot be written.
        ValueError
            If the journal is open already, or the file is not a journal.
        """
        if self._fd is not None:
            raise ValueError(f"{self.path} must not be open already; close it first")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._place, flags | os.O_NONBLOCK, 0o666)
        except OSError as error:
            fault = error.strerror
            fault = "it is a symbolic link" if error.errno == errno.ELOOP else fault
            raise type(error)(
                f"scores must be kept in a file at {self.path}: {fault}; "
                "remove what is there, or choose another place"
            ) from None
        try:
            _check_journal_file(self._fd, self.path)
            self._lock(self._fd)
            self._read(self._fd)
            sync(self.path.parent)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, which releases the lock; an empty file is removed."""
        if self._fd is not None:
            is_empty = os.fstat(self._fd).st_size == 0
            if is_empty and self._is_there(self._fd):
                self._place.unlink()
            os.close(self._fd)
        self._fd = None

    def find(
        self, shares: Sequence[MemberRecord], settings: dict[str, Any] | None = None
    ) -> float | None:
        """Score of a combination; None if the journal does not have it.

        Parameters
        ----------
        shares : sequence of MemberRecord
            Members of the combination, in any order.
        settings : dict or None, default=None
            Options that affect the combination; None means none.

        Returns
        -------
        float or None
        """
        return self._scores.get(_key(self._facts(shares, settings)))

    def add(
        self,
        shares: Sequence[MemberRecord],
        score: float,
        seconds: float,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Add the score of a combination, and write it to the disk.

        Parameters
        ----------
        shares, settings
            As in `find`.
        score : float
            Score; must be finite.
        seconds : float
            Duration of the score.

        Raises
        ------
        ValueError
            If the journal is not open.

        Warns
        -----
        UserWarning
            If the file was removed or replaced, so that later runs cannot find the
            score.
        """
        if self._fd is None:
            raise ValueError(f"{self.path} must be open to be added to; use with")
        facts = self._facts(shares, settings)
        line = json.dumps({**facts, "score": score, "seconds": round(seconds, 3)})
        content = f"{line}\n".encode()
        write_at(self._fd, memoryview(content), self._end)
        os.fsync(self._fd)
        self._end += len(content)
        self._scores[_key(facts)] = score
        if not self._is_there(self._fd):
            warn_user(
                f"{self.path} was removed or replaced while scores were written to it: "
                "they are lost when this run ends"
            )

    def _is_there(self, fd: int) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.stat(self._place), os.fstat(fd))
        return False

    def _facts(
        self, shares: Sequence[MemberRecord], settings: dict[str, Any] | None
    ) -> dict[str, Any]:
        members = [found._asdict() for found in sorted(shares)]
        return {
            "command": self.command,
            "files": self.files,
            "folder": self._folder,
            "settings": settings or {},
            "members": members,
        }

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.path} is in use by another run; wait until that has ended, or "
                "choose another output"
            ) from None
        except OSError:  # the file system does not support locks
            return

    def _read(self, fd: int) -> None:
        with open(fd, "rb", closefd=False) as file:
            content = file.read()
        *lines, rest = content.split(b"\n")
        is_ours = [self._take(line) for line in [*lines, rest]]
        is_begun = BEGINNING.startswith(rest) and len(rest) != 1  # "{" begins any JSON
        is_torn = is_begun or rest.startswith(BEGINNING)
        if not any(is_ours) and (lines or not is_torn):
            raise ValueError(
                f"{self.path} must hold scores, found none in it; remove that file, or "
                "choose another place"
            )
        self._end = len(content) - len(rest)
        if is_ours[-1]:  # an editor removed the last newline
            write_at(fd, memoryview(b"\n"), len(content))
            self._end = len(content) + 1
        os.truncate(fd, self._end)

    def _take(self, line: bytes) -> bool:
        """Keep the score of a line; returns whether the line is of a journal."""
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            facts = dict(json.loads(line))
            score = facts.pop("score")
            facts.pop("seconds")
            facts.setdefault("files", {})  # missing in lines of earlier versions
            is_ours = isinstance(facts["command"], str)
            asked = (facts["command"], facts["folder"]) == (self.command, self._folder)
            self.n_outdated += asked and facts["files"] != self.files
            if type(score) in (int, float) and math.isfinite(score):
                self._scores[_key(facts)] = float(score)
            return is_ours
        return False


def _check_journal_file(fd: int, path: Path) -> None:
    """Raise unless the file is a regular one of at most `LARGEST` bytes."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
        raise ValueError(
            f"scores must be kept in a file at {path}: it is no regular file, or has "
            f"{found.st_size} bytes; remove what is there, or choose another place"
        )


def _key(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, default=repr)
