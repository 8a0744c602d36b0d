"""Members: from paths, patterns and state dicts to checkpoints."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.formats import contents, directory, state_dicts
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.contents import SUFFIXES as SUFFIXES
from ensembles.checkpoints.formats.contents import TORCH_SUFFIXES as TORCH_SUFFIXES
from ensembles.checkpoints.formats.weight_files import TRAINER, weight_files

# What names a step, the surest first; last, a number that is no part of a decimal.
STEPS = tuple(
    re.compile(rf"{word}[-_=]?(\d+(?:\.\d+)?)", re.IGNORECASE)
    for word in ("(?:global_?)?step", "checkpoint", "epoch")
)
NUMBER = re.compile(r"(?<!\d)(?<!\d\.)(\d+)(?!\.?\d)")
Member = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


class Expanded(NamedTuple):
    """Paths of members, and how they were found.

    Parameters
    ----------
    paths : list of str
    steps : list of Decimal or None
        Of each path, where it was chosen by its step.
    notes : list of str
        What was passed over, one sentence each.
    """

    paths: list[str]
    steps: list[Decimal | None]
    notes: list[str]


def open_member(member: Member, index: int, *, key: str | None = None) -> Checkpoint:
    """Read a member's layout, not its tensors.

    Parameters
    ----------
    member : path, state dict or Checkpoint
        The last is open already.
    index : int
        Which of the members it is, for messages.
    key : str or None, default=None
        Where in a file of torch the state dict lies.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If there is no such path.
    TypeError
        If it is neither a path nor a state dict.
    ValueError
        If it is no checkpoint that can be read.
    """
    if isinstance(member, Checkpoint):
        return member
    if isinstance(member, Mapping):
        return state_dicts.read(member, f"members[{index}]")
    if not isinstance(member, str | os.PathLike):
        way = "; pass its .state_dict()" if hasattr(member, "state_dict") else ""
        raise TypeError(
            f"members must be paths or state dicts, members[{index}] is of type "
            f"{type(member).__name__}{way}"
        )
    path = Path(member)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.is_dir():
        return directory.read(path, key)
    return contents.read(path, key)


def expand(members: Sequence[str], *, last: int | None = None) -> Expanded:
    """Paths of members from paths, patterns and training directories.

    Parameters
    ----------
    members : sequence of str
        A pattern stands for what it matches, sorted by step. With ``last`` it stands
        for the checkpoints among that, and a directory for the checkpoints in it, if
        there are any; those without a step, such as ``best.pt``, are left out, unless
        none has one.
    last : int or None, default=None
        Keep so many with the highest steps. A step is the number after ``step``,
        ``checkpoint`` or ``epoch`` in a path, else the last whole number.

    Returns
    -------
    Expanded

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing.
    ValueError
        If there are fewer than ``last``, one has no step or two have the same.
    """
    found = [path for member in members for path in _matches(member, last is not None)]
    if last is None:
        return Expanded(found, [None] * len(found), [])
    if not 1 <= last <= len(found):
        raise ValueError(
            f"last must be from 1 to the number of checkpoints, {len(found)} in "
            f"{' '.join(members)}: found {last}"
        )
    kept = _by_step(found)[-last:]
    steps = _steps(found)
    return Expanded(kept, [steps[path] for path in kept], [])


def _matches(member: str, by_step: bool) -> list[str]:
    path = Path(member)
    if by_step and path.is_dir():
        return _inside(path) or [member]
    if path.exists() or not glob.has_magic(member):
        return [member]
    matched = glob.glob(member)
    if by_step:
        matched = [path for path in matched if _is_checkpoint(Path(path))]
    if not matched:
        raise FileNotFoundError(f"no checkpoint matches {member!r}")
    steps = _steps(matched)
    if by_step:
        matched = [path for path in matched if steps[path] is not None] or matched
    return sorted(matched, key=lambda name: (_or_before(steps[name]), name))


def _inside(path: Path) -> list[str]:
    """Checkpoints in a training directory, those with a step if there are any."""
    if (path / "model_index.json").exists():  # the parts of a pipeline
        return []
    own = {name for m in directory.modules(path) for name in _own(path, m)}
    found = [e for e in sorted(path.iterdir()) if e.name not in own]
    found = [entry for entry in found if _is_checkpoint(entry)]
    # Beside weights of its own a number may tell a shard: model-00001-of-00002.
    patterns = STEPS if own else (*STEPS, NUMBER)
    stepped = [
        str(entry)
        for entry in found
        if _step((entry.name,), (*STEPS, NUMBER) if entry.is_dir() else patterns)
        is not None
    ]
    return stepped or [str(entry) for entry in found if not own]


def _own(path: Path, module: str) -> list[str]:
    names = weight_files(path / module)
    return [module, *names] if module and names else names


def _is_checkpoint(path: Path) -> bool:
    if path.name.startswith(".") or TRAINER.fullmatch(path.name):
        return False
    if path.is_dir():
        return any(weight_files(path / m) for m in directory.modules(path))
    return path.suffix in SUFFIXES


def _by_step(paths: list[str]) -> list[str]:
    """Paths sorted by step, of which each must have its own."""
    steps = _steps(paths)
    known = {step for step in steps.values() if step is not None}
    if len(paths) > 1 and len(known) < len(paths):
        pairs = ", ".join(f"{path} -> {steps[path]}" for path in paths)
        raise ValueError(
            "last=N needs a step in each name, and no two the same, found "
            f"{pairs}; name the checkpoints to average, without last=N"
        )
    return sorted(paths, key=lambda path: _or_before(steps[path]))


def _steps(paths: list[str]) -> dict[str, Decimal | None]:
    """Step of each path, read below the folder that holds them all."""
    full = {path: os.path.abspath(path) for path in paths}
    shared = os.path.commonpath([os.path.dirname(name) for name in full.values()])
    found = {}
    for path, name in full.items():
        parts = Path(os.path.relpath(name, shared)).parts
        step = _step(parts, STEPS)
        found[path] = _step(parts, (NUMBER,)) if step is None else step
    return found


def _step(parts: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> Decimal | None:
    """Number in the last part that has one, told by the first pattern that finds it."""
    for part in reversed(parts):
        suffix = next((s for s in SUFFIXES if part.endswith(s)), "")
        for pattern in patterns:
            numbers = pattern.findall(part.removesuffix(suffix))
            if numbers:
                return Decimal(numbers[-1])
    return None


def _or_before(step: Decimal | None) -> Decimal:
    return Decimal(-1) if step is None else step
