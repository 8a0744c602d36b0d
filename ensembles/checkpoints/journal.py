"""Scores of combinations of members, kept in a file as soon as each is known."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.writing import sync, write_at


class Share(NamedTuple):
    """A member, as it is now, and how much it counts.

    Parameters
    ----------
    path : str
        From the root.
    files : list of [str, int, int]
        Name, bytes and time of change in nanoseconds, of each file of its weights. What
        lies beside them is left out: a score may write its results there.
    weight : float
    """

    path: str
    files: list[list[Any]]
    weight: float


def share(member: Checkpoint, weight: float) -> Share:
    """Member as it is now, and how much it counts.

    Parameters
    ----------
    member : Checkpoint
        With a path.
    weight : float

    Returns
    -------
    Share

    Raises
    ------
    FileNotFoundError
        If a file of its weights has gone.
    """
    path = Path(os.path.abspath(str(member.path)))
    names = sorted(member.parts) if member.kind == "directory" else [""]
    found = [(name, (path / name).stat()) for name in names]
    files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]
    return Share(str(path), files, weight)


class Journal:
    """Scores by one command, in lines of JSON that other commands may share.

    A line stands for itself: the command, the members with the sizes and times of
    their files, their weights, the score, the seconds that it took. It is on the disk
    before `add` returns. What a killed run left of a line is cut off by the next.

    Parameters
    ----------
    path : path
        Made where there is none.
    command : str
        What the scores are from: those by another text are not found.
    """

    def __init__(self, path: str | os.PathLike[str], command: str) -> None:
        self.path = Path(path)
        self.command = command
        self._fd: int | None = None
        self._end = 0
        self._scores: dict[str, float] = {}

    def __enter__(self) -> Journal:
        """Open the file, locked, and read it.

        Raises
        ------
        BlockingIOError
            If another run has it.
        ValueError
            If it is open already.
        """
        if self._fd is not None:
            raise ValueError(f"{self.path} must not be open already; close it first")
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
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
        """Close the file, which lets the lock go."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def find(
        self, shares: Sequence[Share], settings: dict[str, Any] | None = None
    ) -> float | None:
        """Score of a combination, None if it is not known.

        Parameters
        ----------
        shares : sequence of Share
            In any order.
        settings : dict or None, default=None
            What else the result depends on; None is nothing.

        Returns
        -------
        float or None
        """
        return self._scores.get(_key(self._facts(shares, settings)))

    def add(
        self,
        shares: Sequence[Share],
        score: float,
        seconds: float,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Keep the score of a combination, on the disk.

        Parameters
        ----------
        shares, settings
            As in `find`.
        score : float
            Finite.
        seconds : float
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

    def _facts(
        self, shares: Sequence[Share], settings: dict[str, Any] | None
    ) -> dict[str, Any]:
        members = [found._asdict() for found in sorted(shares)]
        return {"command": self.command, "settings": settings or {}, "members": members}

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.path} is in use by another run; wait until that has ended, or "
                "choose another output"
            ) from None
        except OSError:  # no locks here: then nobody can tell
            return

    def _read(self, fd: int) -> None:
        with open(fd, "rb", closefd=False) as file:
            content = file.read()
        self._end = content.rfind(b"\n") + 1
        os.truncate(fd, self._end)
        for line in content[: self._end].split(b"\n"):
            with suppress(ValueError, TypeError, KeyError):  # not one of ours
                facts = dict(json.loads(line))
                score = float(facts.pop("score"))
                facts.pop("seconds")
                if math.isfinite(score):
                    self._scores[_key(facts)] = score


def _key(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)
