"""Journal: a file that keeps the scores of combinations for interrupted runs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import inspect
import json
import marshal
import math
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles.atomic_io import fsync_path, pwrite_all
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.regular_files import read_regular
from ensembles.rules.rule import Rule

MAX_BYTES = 1 << 30
# Errors of a line with other contents than a score.
MALFORMED = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
BEGINNING = b'{"command": '  # first bytes of each line
# Files that affect the use of the tensors: configurations, tokenizers, code. Others are
# ignored, because a score may write its results beside a member.
SETTINGS = re.compile(
    r"(.*config.*|.*token.*|vocab|modules|chat_template)\.(json|txt)"
    r"|merges\.txt|.*\.(model|py|jinja)"
)


class MemberRecord(NamedTuple):
    """Identity of a member's files, and its weight.

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
    """Current identity of a member's files, and its weight.

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
    files = sorted(member.parts) if member.is_directory else [""]
    around = [name for name in member.files if SETTINGS.fullmatch(Path(name).name)]
    return MemberRecord(str(path), _stats(path, files), _stats(path, around), weight)


def _stats(folder: Path, names: Sequence[str]) -> list[list[Any]]:
    stats = [(name, (folder / name).stat()) for name in names]
    # A copy may keep the modification time; change time and inode differ.
    return [
        [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, stat in stats
    ]


class JournalEntry(NamedTuple):
    """A line of a journal.

    Parameters
    ----------
    source : str
        Command, its working directory and the digests of its files, as JSON.
    members : dict of str to str
        Identity of the files of each member, as JSON, by its path.
    weights : tuple of float
        Weight of each member.
    settings : str
        Options that affect the combination, as JSON.
    score : float
        Score of the combination.
    """

    source: str
    members: dict[str, str]
    weights: tuple[float, ...]
    settings: str
    score: float

    @property
    def is_uniform(self) -> bool:
        """Whether all weights are equal."""
        return len(set(self.weights)) == 1


def read_journal(path: str | os.PathLike[str]) -> list[JournalEntry]:
    """Read all scores of a journal, of any command, in the order of the file.

    The file is neither locked nor changed: another run may be writing to it.

    Parameters
    ----------
    path : path
        Path of the journal, such as ``soup.safetensors.journal.jsonl``.

    Returns
    -------
    list of JournalEntry
        At least one; lines of other contents are ignored, as `Journal` does.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it has no scores of a journal.
    """
    entries: list[JournalEntry] = []
    for line in read_regular(Path(path), largest=MAX_BYTES).split(b"\n"):
        with suppress(*MALFORMED):
            entries.append(_entry(*_parse_line(line)))
    if not entries:
        raise ValueError(
            f"{path} must be a journal of ensemble soup, such as "
            "soup.safetensors.journal.jsonl: it has no scores"
        )
    return entries


def _entry(facts: dict[str, Any], score: float) -> JournalEntry:
    return JournalEntry(
        source=to_json([facts["command"], facts["folder"], facts["files"]]),
        members={
            str(record["path"]): to_json([record["files"], record["around"]])
            for record in facts["members"]
        },
        weights=tuple(float(record["weight"]) for record in facts["members"]),
        settings=to_json(facts["settings"]),
        score=score,
    )


def _parse_line(line: bytes) -> tuple[dict[str, Any], float]:
    """Facts and score of a line; raises one of `MALFORMED` for other contents."""
    facts = dict(json.loads(line))
    score, _ = facts.pop("score"), facts.pop("seconds")
    if type(score) not in (int, float) or not math.isfinite(score):
        raise ValueError("a score must be a finite number")
    return facts, float(score)


def rule_identity(rule: Rule) -> str:
    """Name of a rule; outside of the library with a digest of its functions.

    The digest is of their code, of the file of their module, and of the values that
    they were made with: an edit of any makes it another rule.

    Parameters
    ----------
    rule : Rule
        Rule of a soup.

    Returns
    -------
    str
        Such as ``"mean"``, or ``"mine 3f9a…"``.
    """
    made_of = [rule.function, *(f for entry in rule.passes for f in entry.functions)]
    functions = [inspect.unwrap(function) for function in made_of]
    modules = [str(getattr(f, "__module__", None)) for f in functions]
    if all(module.startswith("ensembles.") for module in modules):
        return rule.name
    digest = hashlib.sha256()
    for function, module in zip(functions, modules, strict=True):
        path = getattr(sys.modules.get(module), "__file__", None)
        if path is not None:
            digest.update(Path(path).read_bytes())
        digest.update(_contents(function))
    return f"{rule.name} {digest.hexdigest()[:32]}"


def _contents(function: Any) -> bytes:
    """Code, defaults and closure of a function."""
    code = getattr(function, "__code__", None)
    if code is None:  # an object that is called: its address may stand for it
        return repr(function).encode()
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    values = [function.__defaults__, function.__kwdefaults__, cells]
    # Version 2, because later ones depend on the number of references to an object.
    return marshal.dumps(code, 2) + repr(values).encode()


class Journal:
    """Scores of one command, in a JSON Lines file that other commands may share.

    Each line is complete: the command, its working directory and files, the members
    with the identity of their files, their weights, the score and its duration. It is
    on the disk before `add` returns. An incomplete last line is removed.

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
        self._absolute = self.path.absolute()  # a score may change the directory
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
            self._fd = os.open(self._absolute, flags | os.O_NONBLOCK, 0o666)
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            reason = "it is a symbolic link" if is_link else str(error.strerror)
            raise type(error)(self._wrong_file(reason)) from None
        try:
            self._lock(self._fd)
            self._read(self._fd)
            fsync_path(self.path.parent)
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
            status = os.fstat(self._fd)
            is_empty = stat.S_ISREG(status.st_mode) and status.st_size == 0
            if is_empty and self._is_in_place(self._fd):
                self._absolute.unlink()
            os.close(self._fd)
        self._fd = None

    def find(
        self, records: Sequence[MemberRecord], settings: dict[str, Any] | None = None
    ) -> float | None:
        """Score of a combination; None if the journal does not have it.

        Parameters
        ----------
        records : sequence of MemberRecord
            Members of the combination, in any order.
        settings : dict or None, default=None
            Options that affect the combination; None means none.

        Returns
        -------
        float or None
        """
        return self._scores.get(to_json(self._facts(records, settings)))

    def add(
        self,
        records: Sequence[MemberRecord],
        score: float,
        seconds: float,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Add the score of a combination, and write it to the disk.

        Parameters
        ----------
        records, settings
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
            raise ValueError(f"{self.path} must be open for scores to be added")
        facts = self._facts(records, settings)
        line = to_json({**facts, "score": score, "seconds": round(seconds, 3)})
        content = f"{line}\n".encode()
        pwrite_all(self._fd, memoryview(content), self._end)
        os.fsync(self._fd)
        self._end += len(content)
        self._scores[to_json(facts)] = score
        if not self._is_in_place(self._fd):
            warn_caller(
                f"{self.path} was removed or replaced while scores were written to it; "
                "they are lost when this run ends"
            )

    def _is_in_place(self, fd: int) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.stat(self._absolute), os.fstat(fd))
        return False

    def _facts(
        self, records: Sequence[MemberRecord], settings: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "command": self.command,
            "files": self.files,
            "folder": self._folder,
            "members": [record._asdict() for record in sorted(records)],
            "settings": settings or {},
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
        """Read all scores, and remove an incomplete last line."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(self._wrong_file("it is not a regular file"))
        if status.st_size > MAX_BYTES:
            raise ValueError(self._wrong_file(f"it has {status.st_size} bytes"))
        with open(fd, "rb", closefd=False) as file:
            content = file.read()
        is_torn = len(content) > 1 and BEGINNING.startswith(content)
        if content and not content.startswith(BEGINNING) and not is_torn:
            raise ValueError(self._wrong_file("it has other contents"))
        self._end = content.rfind(b"\n") + 1
        for line in content[: self._end].split(b"\n"):
            self._add_line(line)
        os.truncate(fd, self._end)

    def _add_line(self, line: bytes) -> None:
        """Keep the score of a line; lines of other contents are ignored."""
        with suppress(*MALFORMED):
            facts, score = _parse_line(line)
            is_same = (facts["command"], facts["folder"]) == (
                self.command,
                self._folder,
            )
            self.n_outdated += is_same and facts["files"] != self.files
            self._scores[to_json(facts)] = score

    def _wrong_file(self, reason: str) -> str:
        return (
            f"{self.path} must be a file of scores: {reason}; remove it, or choose "
            "another output"
        )


def to_json(facts: Any) -> str:
    """JSON of facts, with sorted keys, so that equal facts have equal texts.

    Parameters
    ----------
    facts : object
        Mappings, sequences, numbers, strings and arrays; others become their ``repr``.

    Returns
    -------
    str
    """
    return json.dumps(facts, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Value for JSON; ``repr`` would leave out entries of large arrays."""
    is_array = isinstance(value, np.ndarray | np.generic)
    return value.tolist() if is_array else repr(value)
