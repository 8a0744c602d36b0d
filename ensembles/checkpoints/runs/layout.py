"""The table of run layouts: how a trainer names and describes its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from ensembles.checkpoints.runs.run import Role, RunCheckpoint
from ensembles.registry import RegisteredFunction, Table

COUNTERS = ("step", "epoch", "tokens")


class RunLayout(RegisteredFunction):
    """A run layout: patterns of names, and a function that reads what lies beside.

    Parameters
    ----------
    function : callable (folder, checkpoints) -> iterable of RunCheckpoint
        Adds steps, epochs, tokens, metrics and roles that are not in the names; takes
        the folder and the checkpoints as they are described by their names.
    trainer : str
        Name of the trainer, for messages.
    names : sequence of str
        Regular expressions that match the whole name of a checkpoint, with groups
        ``step``, ``epoch`` and ``tokens`` for its counters. Other groups are metrics.
    roles : mapping of str to str, default={}
        Regular expressions of names that are not checkpoints of their own, by role.
    markers : sequence of str, default=()
        Glob patterns, relative to the folder. If given, one of them must exist.
    key : tuple of str, default=()
        Keys of the state dict that counts; empty finds it.
    """

    noun: ClassVar[str] = "run layout"

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        trainer: str,
        names: Sequence[str],
        roles: Mapping[Role, str] = {},
        markers: Sequence[str] = (),
        key: tuple[str, ...] = (),
    ) -> None:
        super().__init__(function)
        self.trainer = trainer
        self.names = [re.compile(name) for name in names]
        self.roles = {role: re.compile(name) for role, name in roles.items()}
        self.markers = markers
        self.key = key

    def __call__(
        self, folder: Path, checkpoints: Sequence[RunCheckpoint]
    ) -> list[RunCheckpoint]:
        """Checkpoints with all that the folder says about them.

        Parameters
        ----------
        folder : Path
            Folder of the run.
        checkpoints : sequence of RunCheckpoint
            Checkpoints as their names describe them.

        Returns
        -------
        list of RunCheckpoint
        """
        return list(self.function(folder, checkpoints))

    def fits(self, folder: Path, entries: Iterable[Path]) -> bool:
        """Whether a folder has this layout.

        Parameters
        ----------
        folder : Path
            Folder of the run.
        entries : iterable of Path
            Readable checkpoints in it.

        Returns
        -------
        bool
        """
        marked = not self.markers or any(
            next(folder.glob(marker), None) for marker in self.markers
        )
        return marked and any(self.describe(entry) for entry in entries)

    def describe(self, entry: Path) -> RunCheckpoint | None:
        """Describe a checkpoint by its name.

        Parameters
        ----------
        entry : Path
            Path of the checkpoint.

        Returns
        -------
        RunCheckpoint or None
            None if the name is not one of this layout.
        """
        for pattern in self.names:
            match = pattern.fullmatch(entry.name)
            if match:
                found = {k: v for k, v in match.groupdict().items() if v is not None}
                step, epoch, tokens = (
                    Decimal(found[name]) if name in found else None for name in COUNTERS
                )
                return RunCheckpoint(
                    path=entry,
                    step=step,
                    epoch=epoch,
                    tokens=tokens,
                    metrics={k: float(found[k]) for k in found.keys() - set(COUNTERS)},
                    key=self.key,
                )
        for role, pattern in self.roles.items():
            if pattern.fullmatch(entry.name):
                return RunCheckpoint(path=entry, role=role, key=self.key)
        return None


LAYOUTS: Table[RunLayout] = Table("run layout", RunLayout)
