"""The plan of an average: validation and sizes, from the headers of the members."""

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
from ensembles.checkpoints.compatibility.prefixes import match_first_names
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
    """Validated plan of an average: inputs, computation and output.

    Parameters
    ----------
    members : tuple of Checkpoint
        Opened members, with the tensor names of the first.
    rule : Rule
        Rule that combines them.
    weights : ndarray of shape (n_members,)
        Weight of each member, not normalized.
    params : dict
        Parameters of the rule, by name.
    targets : list of Target
        Tensors of the result; a tied tensor of a directory is repeated for each name if
        the first member is a PyTorch checkpoint.
    aliases : dict of str to str
        Additional names for tied tensors in the result: alias to name.
    untied : tuple of str
        Output layers that are no longer tied, so that ``tie_word_embeddings`` of the
        result must be false.
    out : Path or None
        Path of the output; None for a state dict in memory.
    kind : {"safetensors", "directory", "torch", "memory"}
        Format of the output; "memory" is a state dict.
    parts : dict of str to list of Target
        Tensors of each weight file in the order they are stored, by path relative to
        the directory; a single file has its name as the key, "memory" an empty string.
    options : dict
        All options, including defaults.
    threads : int
        Number of threads, reduced if ``memory`` is too small for more.
    memory : int
        Largest total size of the read buffers, in bytes.
    read_bytes : int
        Bytes to read from the members, more than once with checksums or statistics.
    write_bytes : int
        Size of the result's tensors in bytes.
    free_bytes : int
        Free bytes on the disk of the output; 0 in memory.
    peak_bytes : int
        Memory in bytes beyond that of the interpreter: read buffers and the part of
        the result that is held in memory.
    notes : tuple of str
        Messages for the user, one sentence each.
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
    """Plan an average from the headers of its members.

    Tensors are read only to detect tied weights that the headers do not show.

    Parameters
    ----------
    members : sequence of paths or state dicts, at least one
        Checkpoint files, directories, or mappings of names to arrays or tensors.
    out : path or None, default=None
        Path of the output: a safetensors file (``.safetensors``), a PyTorch file
        (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), else a directory. None is a state
        dict in memory. If the path exists, the plan has a note about it, and writing
        requires ``force``.
    **options
        Keyword options, see `Options`.

    Returns
    -------
    Plan

    Raises
    ------
    FileNotFoundError
        If a member does not exist.
    FileExistsError
        If the output is a broken symbolic link, unless ``force``.
    TypeError
        If an option is unknown, or a member or option has the wrong type.
    ValueError
        If the members cannot be averaged or the output cannot be written; the message
        lists all problems, 20 at most.
    """
    given = with_defaults(options)
    opened, renamed = match_first_names(_opened(members, given["key"]))
    problems: list[str] = []
    rule, weights = _ruled(given, len(opened), problems)
    comparison = _compared(opened, given, problems)
    place = _resolved(out, force=given["force"])
    kind = kind_of(place)
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
    """Open all members; raise one error that lists all problems."""
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
    """Path of the output, with a symbolic link resolved so that the link is kept."""
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
    """Bytes to read: tensors once per pass, entries with checksums once more."""
    n_passes = 1 if rule.statistics is None else 2
    return sum(record.size for m in members for record in m.records) + sum(
        tensor.nbytes * (n_passes if target.action == "combine" else 1)
        for target in targets
        for tensor in target.members
    )


def _untied(targets: list[Target], aliases: Mapping[str, str]) -> list[Target]:
    """Repeat tied tensors under each name, as libraries expect in a directory.

    In a single file, the aliases are in the metadata, as in safetensors' save_model.
    """
    by_name = {target.name: target for target in targets}
    return targets + [by_name[n]._replace(name=alias) for alias, n in aliases.items()]


def _n_held(kind: str, parts: Mapping[str, list[Target]], n_written: int) -> int:
    """Bytes of the result held in memory: torch.save needs complete tensors."""
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
