"""The table of run layouts: how a trainer names and describes its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, cast

from ensembles.checkpoints.runs.run import COUNTERS, Role, Run, RunCheckpoint
from ensembles.checkpoints.runs.windows import parse_number
from ensembles.registry import RegisteredFunction, Table


class RunLayout(RegisteredFunction):
    r"""A run layout: patterns of names, and a function that reads other files.

    Parameters
    ----------
    function : callable (Run) -> Run or None
        Takes the run as the names describe it. Returns it with the steps, epochs,
        tokens, metrics and roles that are not in the names, or None if the files are
        those of another trainer. It adds a note for each damaged file, and does not
        raise.
    trainer : str
        Name of the trainer, for messages.
    names : sequence of str
        Regular expressions that match the whole path of a checkpoint relative to the
        folder, such as ``step(?P<step>\d+)/model\.pt``. The groups ``step``,
        ``epoch`` and ``tokens`` are counters, with a unit such as B for billions if the
        name has one; other groups are metrics.
    roles : mapping of str to str, default={}
        Regular expressions of the same kind for copies, best checkpoints and averages,
        by role; they are tried before ``names``.
    markers : sequence of str, default=()
        Glob patterns, relative to the folder of the checkpoints. If given, one of them
        must exist.
    subfolders : sequence of str, default=()
        Folders that may contain the checkpoints, if the folder of the run does not.
    key : tuple of str, default=()
        Keys of the state dict to average; empty finds it.
    """

    noun: ClassVar[str] = "run layout"
    n_inputs: ClassVar[int] = 1

    def __init__(
        self,
        function: Callable[[Run], Run | None],
        *,
        trainer: str,
        names: Sequence[str],
        roles: Mapping[Role, str] = {},
        markers: Sequence[str] = (),
        subfolders: Sequence[str] = (),
        key: tuple[str, ...] = (),
    ) -> None:
        super().__init__(function)
        self.trainer = trainer
        patterns: list[tuple[Role, str]] = [*roles.items()]
        patterns += [("checkpoint", name) for name in names]
        self.patterns = [(role, re.compile(pattern)) for role, pattern in patterns]
        self.depth = 1 + max(pattern.count("/") for _, pattern in patterns)
        self.markers = markers
        self.subfolders = ("", *subfolders)
        self.key = key

    def __call__(self, run: Run) -> Run | None:
        """Add what other files in the folder say about the checkpoints.

        Parameters
        ----------
        run : Run
            Run as the names describe it, without unfinished checkpoints.

        Returns
        -------
        Run or None
            None if the files are those of another trainer.
        """
        return cast("Run | None", self.function(run))

    def find(self, folder: Path) -> tuple[Path, list[RunCheckpoint]]:
        """Find the checkpoints in a folder, described by their names.

        Parameters
        ----------
        folder : Path
            Folder of the run.

        Returns
        -------
        inside : Path
            The folder, or its subfolder that contains the checkpoints.
        checkpoints : list of RunCheckpoint
            Empty if the folder does not have this layout.
        """
        for subfolder in self.subfolders:
            inside = folder / subfolder
            checkpoints = list(self._described(inside)) if inside.is_dir() else []
            if any(c.role == "checkpoint" for c in checkpoints) and self._fits(inside):
                return inside, checkpoints
        return folder, []

    def describe(self, path: Path, name: str) -> RunCheckpoint | None:
        """Describe a checkpoint by its name.

        Parameters
        ----------
        path : Path
            Path of the checkpoint.
        name : str
            Its path relative to the folder of the checkpoints, with slashes.

        Returns
        -------
        RunCheckpoint or None
            None if the name is not one of this layout.
        """
        for role, pattern in self.patterns:
            match = pattern.fullmatch(name)
            if match:
                groups = {k: v for k, v in match.groupdict().items() if v is not None}
                step, epoch, tokens = (
                    parse_number(groups[counter]) if counter in groups else None
                    for counter in COUNTERS
                )
                metrics = groups.keys() - set(COUNTERS)
                return RunCheckpoint(
                    path=path,
                    step=step,
                    epoch=epoch,
                    tokens=tokens,
                    metrics={metric: float(groups[metric]) for metric in metrics},
                    role=role,
                    key=self.key,
                )
        return None

    def _fits(self, folder: Path) -> bool:
        return not self.markers or any(
            next(folder.glob(marker), None) for marker in self.markers
        )

    def _described(self, folder: Path) -> Iterator[RunCheckpoint]:
        for depth in range(1, self.depth + 1):
            for path in sorted(folder.glob("/".join("*" * depth))):
                checkpoint = self.describe(path, path.relative_to(folder).as_posix())
                if checkpoint is not None and not path.name.startswith("."):
                    yield checkpoint


def with_last(checkpoints: Iterable[RunCheckpoint]) -> Iterator[RunCheckpoint]:
    """Count a copy, such as ``last.ckpt``, if no other checkpoint has its step.

    Parameters
    ----------
    checkpoints : iterable of RunCheckpoint
        Checkpoints of one run.

    Yields
    ------
    RunCheckpoint
        In the same order.
    """
    checkpoints = list(checkpoints)
    steps = {_step(c) for c in checkpoints if c.role == "checkpoint"}
    for checkpoint in checkpoints:
        step = _step(checkpoint)
        if checkpoint.role == "copy" and step is not None and step not in steps:
            steps.add(step)
            checkpoint = replace(checkpoint, role="checkpoint")
        yield checkpoint


def _step(checkpoint: RunCheckpoint) -> Decimal | None:
    return checkpoint.epoch if checkpoint.step is None else checkpoint.step


LAYOUTS: Table[RunLayout] = Table("run layout", RunLayout)
