"""The plan of an average: all that headers can tell, before a tensor is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.layout import Comparison, Target, compare
from ensembles.checkpoints.compatibility.prefixes import named_alike
from ensembles.checkpoints.directories.open import Member, open_member
from ensembles.checkpoints.directories.unsupported import refused
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.buffers import check_budget
from ensembles.checkpoints.planning.destination import kind_of, obstacles
from ensembles.checkpoints.planning.foreign_rules import named_here, parameter_here
from ensembles.checkpoints.planning.notices import notices, of_members, of_output
from ensembles.checkpoints.planning.options import Options, with_defaults
from ensembles.parallel import count_threads
from ensembles.registry import lookup
from ensembles.rules.builtin import RULES
from ensembles.rules.rule import Rule
from ensembles.weights import check_weights

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
    untied : tuple of str
        Output layers that the configuration of the result must not tie.
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
    untied: tuple[str, ...]
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
        directory. None is a state dict in memory. If something stands there, a note
        says so, and to write the plan takes ``force``.
    **options
        See `Options`.

    Returns
    -------
    Plan

    Raises
    ------
    FileNotFoundError
        If a member is not there.
    FileExistsError
        If the output is a link to nothing, and not ``force``.
    ValueError
        If anything stands in the way; the message names all of it.
    """
    given = with_defaults(options)
    opened, renamed = named_alike(_opened(members, given["key"]))
    problems: list[str] = []
    rule, weights = _ruled(given, len(opened), problems)
    comparison = _compared(opened, given, problems)
    place = _resolved(out, force=given["force"])
    kind = kind_of(opened[0], place)
    targets, aliases = comparison.targets, comparison.aliases
    if kind == "directory" and opened[0].is_torch:
        targets, aliases = _untied(targets, aliases), {}
    if given["shard_size"] is not None and kind != "directory":
        problems.append("a shard size needs a directory as output")
    n_written = sum(target.nbytes for target in targets)
    free = 0
    if place is not None:
        found, free = obstacles(place, opened, n_written)
        problems += found
    threads, buffers = 1, 0
    with _noted(problems):
        threads = count_threads(given["threads"])
        buffers, threads = check_budget(targets, rule, given["memory"], threads)
    if problems:
        raise ValueError(_listed(problems))
    parts = _parts(kind, targets, opened[0], place, given["shard_size"])
    return Plan(
        members=opened,
        rule=rule,
        weights=weights,
        params=dict(given["params"]),
        targets=targets,
        aliases=aliases,
        untied=tuple(comparison.untied),
        out=place,
        kind=kind,
        parts=parts,
        options=given,
        threads=threads,
        memory=given["memory"],
        read_bytes=_n_read(opened, targets, rule),
        write_bytes=n_written,
        free_bytes=free,
        peak_bytes=buffers + _n_held(kind, parts, n_written),
        notes=(
            *of_output(place, kind, n_written, given["force"], opened),
            *of_members(opened),
            *renamed,
            *comparison.notes,
            *notices(opened, given, comparison, weights),
        ),
    )


@contextmanager
def _noted(problems: list[str], hint: str = "") -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        problems.append(f"{error}{hint}")


def _opened(members: Sequence[Member], key: str | None) -> tuple[Checkpoint, ...]:
    """Layouts of all members, or all that is wrong with them."""
    if isinstance(members, str | os.PathLike | Mapping):
        raise TypeError(
            f"members must be a sequence of checkpoints, found one alone: "
            f"{members!r:.80}"
        )
    given = list(members)  # it may be an array of paths
    if not given:
        raise ValueError("there must be at least one member, found none")
    opened: list[Checkpoint] = []
    errors: list[Exception] = []
    for index, member in enumerate(given):
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


def _ruled(given: Options, n_members: int, problems: list[str]) -> tuple[Rule, Float64]:
    rule, weights = RULES["mean"], np.ones(n_members)
    named = given["rule"]
    with _noted(problems, named_here(named)):
        rule = named if isinstance(named, Rule) else lookup(RULES, named)
    if not problems:
        with _noted(problems, parameter_here(given["params"], rule.params)):
            rule.check(n_members, given["params"])
    with _noted(problems):
        weights = check_weights(
            given["weights"], n_members, signed=rule.signed, rule=rule.name
        )
    return rule, weights


def _compared(
    members: tuple[Checkpoint, ...], given: Options, problems: list[str]
) -> Comparison:
    comparison = compare(
        members,
        missing=given["missing"],
        include=given["include"],
        exclude=given["exclude"],
        dtype=np.dtype(given["dtype"]) if given["dtype"] else None,
    )
    problems += [reason for member in members for reason in refused(member)]
    problems += comparison.problems
    if not comparison.targets and not problems:
        problems.append(f"no tensor is left to average of {members[0].name}")
    return comparison


def _resolved(out: str | os.PathLike[str] | None, *, force: bool) -> Path | None:
    """The output; what a link points to is replaced, not the link."""
    if out is None or not Path(out).is_symlink():
        return None if out is None else Path(out)
    target = Path(os.path.realpath(out))
    if target.is_symlink():
        raise ValueError(f"{out} is a link that leads to itself; remove it")
    if not force and not Path(out).exists():
        raise FileExistsError(
            f"{out} exists, a link to {target}, where nothing is; force=True writes "
            "to where it points"
        )
    return target


def _n_read(
    members: Sequence[Checkpoint], targets: Sequence[Target], rule: Rule
) -> int:
    """Bytes to read: tensors once for each pass, files with checksums once more."""
    n_passes = 1 if rule.statistics is None else 2
    return sum(record.size for m in members for record in m.records) + sum(
        tensor.nbytes * (n_passes if target.action == "combine" else 1)
        for target in targets
        for tensor in target.members
    )


def _untied(targets: list[Target], aliases: Mapping[str, str]) -> list[Target]:
    """Tied tensors under each name, as libraries look for them in a directory.

    In a file alone the names are in the metadata, as safetensors' save_model does.
    """
    by_name = {target.name: target for target in targets}
    return targets + [by_name[n]._replace(name=alias) for alias, n in aliases.items()]


def _n_held(kind: str, parts: Mapping[str, list[Target]], n_written: int) -> int:
    """Bytes of the result in memory: torch.save takes whole tensors."""
    if kind in ("torch", "memory"):
        return n_written
    extras = [part for part in parts if not part.endswith(".safetensors")]
    return sum(t.nbytes for part in extras for t in parts[part]) * (kind == "directory")


def _parts(
    kind: str,
    targets: list[Target],
    first: Checkpoint,
    out: Path | None,
    shard_size: int | None,
) -> dict[str, list[Target]]:
    if kind == "directory":
        return shards.divide(targets, first, shard_size=shard_size)
    return {out.name if out else "": shards.in_order(targets)}


def _listed(problems: Sequence[str]) -> str:
    shown = list(dict.fromkeys(problems))
    more = len(shown) - SHOWN
    tail = [f"and {more} more of the kind"] if more > 0 else []
    return "\n".join(shown[:SHOWN] + tail)
