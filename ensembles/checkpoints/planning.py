"""The plan of an average: all that headers can tell, before a tensor is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ensembles.blocks import count_threads
from ensembles.checkpoints import sharding
from ensembles.checkpoints.buffers import check_budget
from ensembles.checkpoints.comparing import Comparison, Target, compare
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.members import SUFFIXES, TORCH_SUFFIXES, Member, open_member
from ensembles.checkpoints.options import Options, with_defaults
from ensembles.checkpoints.refusals import refused
from ensembles.floats import Float64
from ensembles.registry import lookup
from ensembles.rules import RULES, Rule
from ensembles.weighting import check_weights

SHOWN = 20


@dataclass(frozen=True)
class Plan:
    """What an average will read, compute and write.

    Parameters
    ----------
    members : tuple of Checkpoint
    rule : Rule
    weights : ndarray of shape (n_members,)
    params : dict
    targets : list of Target
        Each tensor of the result, once.
    aliases : dict of str to str
        Further names of tensors in the result.
    out : Path or None
    kind : {"safetensors", "directory", "torch", "memory"}
        What is written; "memory" is a state dict.
    parts : dict of str to list of Target
        Tensors of each file, by path relative to ``out``.
    options : dict
        All options, as given or by default.
    threads : int
    memory : int
        Bytes of buffers at most.
    read_bytes, write_bytes, free_bytes, peak_bytes : int
        To read and to write, free on the disk of the output, and of memory beyond
        what the interpreter itself takes.
    notes : tuple of str
        What a user may want to know.
    """

    members: tuple[Checkpoint, ...]
    rule: Rule
    weights: Float64
    params: dict[str, Any]
    targets: list[Target]
    aliases: dict[str, str]
    out: Path | None
    kind: str
    parts: dict[str, list[Target]]
    options: Options
    threads: int
    memory: int
    read_bytes: int
    write_bytes: int
    free_bytes: int
    peak_bytes: int
    notes: tuple[str, ...]


def plan(
    members: Sequence[Member],
    out: str | os.PathLike[str] | None = None,
    **options: Unpack[Options],
) -> Plan:
    """What averaging these members would do, from their headers alone.

    Parameters
    ----------
    members : sequence of paths or state dicts, at least one
    out : path or None, default=None
        A name that ends in ``.safetensors`` or in a suffix of torch, else a
        directory. None is a state dict in memory.
    **options
        See `Options`.

    Returns
    -------
    Plan

    Raises
    ------
    FileNotFoundError
        If a member is not there.
    ValueError
        If anything stands in the way; the message names all of it.
    """
    given = with_defaults(options)
    opened = _opened(members, given["key"])
    rule = given["rule"]
    rule = rule if isinstance(rule, Rule) else lookup(RULES, rule)
    weights = check_weights(
        given["weights"], len(opened), signed=rule.signed, rule=rule.name
    )
    rule.check(len(opened), given["params"])
    comparison = compare(
        opened,
        missing=given["missing"],
        include=given["include"],
        exclude=given["exclude"],
        dtype=np.dtype(given["dtype"]) if given["dtype"] else None,
    )
    place = None if out is None else Path(out)
    return _checked(opened, rule, weights, comparison, place, given)


def _opened(members: Sequence[Member], key: str | None) -> tuple[Checkpoint, ...]:
    """Layouts of all members, or all that is wrong with them."""
    opened: list[Checkpoint] = []
    errors: list[Exception] = []
    for index, member in enumerate(members):
        try:
            opened.append(open_member(member, index, key=key))
        except (OSError, ValueError) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        absent = all(isinstance(error, FileNotFoundError) for error in errors)
        kind = FileNotFoundError if absent else ValueError
        raise kind(_listed([str(error) for error in errors]))
    return tuple(opened)


def _checked(
    members: tuple[Checkpoint, ...],
    rule: Rule,
    weights: Float64,
    comparison: Comparison,
    out: Path | None,
    given: Options,
) -> Plan:
    """The plan, or all that stands in its way."""
    targets, aliases, problems, notes = comparison
    problems = [reason for m in members for reason in refused(m)] + problems
    if not targets and not problems:
        problems.append(f"no tensor is left to average of {members[0].name}")
    kind = _kind(members[0], out)
    if given["shard_size"] is not None and kind != "directory":
        problems.append("a shard size needs a directory as output: give one with -o")
    parts = _parts(kind, targets, members[0], out, given["shard_size"])
    written = sum(target.nbytes for target in targets)
    free = 0
    if out is not None:
        problems.extend(_obstacles(out, members, given["force"]))
        free = shutil.disk_usage(_existing(out.parent)).free
        if written > free:
            problems.append(f"{out} needs {written} bytes, its disk has {free} left")
    threads = count_threads(given["threads"])
    buffers, threads = check_budget(targets, given["memory"], threads)
    in_memory = kind in ("torch", "memory")
    if kind == "torch":
        notes.append(f"{out} is written by torch.save, from memory: {written} bytes")
    if problems:
        raise ValueError(_listed(problems))
    return Plan(
        members=members,
        rule=rule,
        weights=weights,
        params=dict(given["params"]),
        targets=targets,
        aliases=aliases,
        out=out,
        kind=kind,
        parts=parts,
        options=given,
        threads=threads,
        memory=given["memory"],
        read_bytes=sum(tensor.nbytes for t in targets for tensor in t.members),
        write_bytes=written,
        free_bytes=free,
        peak_bytes=buffers + written * in_memory,
        notes=tuple(notes),
    )


def _kind(first: Checkpoint, out: Path | None) -> str:
    if out is None:
        return "memory"
    if out.suffix == ".safetensors":
        return "safetensors"
    return "torch" if out.suffix in TORCH_SUFFIXES else "directory"


def _parts(
    kind: str,
    targets: list[Target],
    first: Checkpoint,
    out: Path | None,
    shard_size: int | None,
) -> dict[str, list[Target]]:
    if kind == "directory":
        return sharding.divide(targets, first, shard_size=shard_size)
    return {out.name if out else "": sharding.in_order(targets)}


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _obstacles(out: Path, members: Sequence[Checkpoint], force: bool) -> list[str]:
    if out.name in ("", ".."):
        return [f"the output must have a name of its own, found {out}"]
    if not out.parent.is_dir():
        return [f"there is no folder {out.parent} to write {out.name} in"]
    for member in members:
        if member.path is None or not out.exists():
            continue
        inside = out.resolve() in [
            member.path.resolve(),
            *member.path.resolve().parents,
        ]
        if inside:
            return [f"{out} is or holds the member {member.name}; choose another name"]
    if os.path.lexists(out) and not force:
        return [f"{out} exists; --force replaces it, -o names another place"]
    if out.is_dir() and not _is_replaceable(out):
        return [f"{out} holds other things than a checkpoint; choose another name"]
    return []


def _is_replaceable(folder: Path) -> bool:
    """Whether a directory is empty or a checkpoint, not a folder of someone's work."""
    names = [path.name for path in folder.iterdir()]
    weights = any(name.endswith(SUFFIXES) for name in names)
    return not names or weights or "modules.json" in names


def _listed(problems: Sequence[str]) -> str:
    shown = list(dict.fromkeys(problems))
    more = len(shown) - SHOWN
    tail = [f"and {more} more of the kind"] if more > 0 else []
    return "\n".join(shown[:SHOWN] + tail)
