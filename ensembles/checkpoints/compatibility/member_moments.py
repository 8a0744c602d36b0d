"""Match files of second moments with the members that they belong to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.layout import LayoutMatch, TensorPlan
from ensembles.checkpoints.compatibility.moments import (
    COLLECTORS,
    Kind,
    Moments,
    description_of,
    sample_digest,
)
from ensembles.checkpoints.directories.open import read_layout
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float

MomentsSource = str | os.PathLike[str] | Moments


class MemberMoments(NamedTuple):
    """Opened moments of a member, by its tensors.

    Parameters
    ----------
    checkpoint : Checkpoint
        File or object with the moments.
    description : dict of str to value
        Kind, settings, samples and notes, see `Moments`.
    by_tensor : dict of Tensor to Tensor
        Moments of each tensor of the member that has them.
    """

    checkpoint: Checkpoint
    description: dict[str, Any]
    by_tensor: dict[Tensor, Tensor]


def open_moments(
    sources: Sequence[MomentsSource], members: Sequence[Checkpoint]
) -> tuple[MemberMoments, ...]:
    """Open moments, and compare samples of the members with the ones in the moments.

    Parameters
    ----------
    sources : sequence of paths or Moments
        Moments of each member, in their order.
    members : sequence of Checkpoint
        Members with their own tensor names.

    Returns
    -------
    tuple of MemberMoments

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    TypeError
        If ``sources`` is not a sequence of paths or `Moments`.
    ValueError
        If a file is damaged or has no moments, or moments do not belong to their
        member.
    """
    if isinstance(sources, str | os.PathLike | Mapping | Moments):
        raise TypeError(
            "moments must be a sequence with the moments of each member, found a "
            f"single one: {sources!r:.80}"
        )
    opened = []
    for index, source in enumerate(sources):
        checkpoint = _read(source, index)
        description = description_of(checkpoint.metadata)
        if description is None:
            raise ValueError(
                f"{checkpoint.name} has no second moments by its metadata: pass files "
                f"that {' or '.join(COLLECTORS.values())} wrote"
            )
        by_tensor: dict[Tensor, Tensor] = {}
        if index < len(members):
            by_tensor = _by_tensor(checkpoint, members[index])
            _check_member(checkpoint, description, index, members)
        opened.append(MemberMoments(checkpoint, description, by_tensor))
    return tuple(opened)


def _read(source: MomentsSource, index: int) -> Checkpoint:
    if isinstance(source, Moments):
        checkpoint = state_dict.read(source.tensors, f"moments[{index}]")
        checkpoint.metadata = source.metadata
        checkpoint.aliases |= source.aliases
        return checkpoint
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"moments must be paths or Moments: moments[{index}] has type "
            f"{type(source).__name__}"
        )
    return read_layout(source, index)


def _by_tensor(moments: Checkpoint, member: Checkpoint) -> dict[Tensor, Tensor]:
    """Moments by the tensor of the member, which may have another of tied names."""
    by_tensor: dict[Tensor, Tensor] = {}
    unknown = {*moments.layout}
    for name in moments.names:
        tensor, moment = member.tensor(name), moments.tensor(name)
        if tensor is not None and moment is not None:
            by_tensor[tensor] = moment
            unknown.discard(moments.aliases.get(name, name))
    if unknown:
        names = sorted(unknown)
        raise ValueError(
            f"{moments.name} has moments of {len(names)} tensors that {member.name} "
            f"lacks, such as {names[0]!r}; pass the moments of each member, in the "
            "order of the members"
        )
    return by_tensor


def _check_member(
    moments: Checkpoint,
    description: Mapping[str, Any],
    index: int,
    members: Sequence[Checkpoint],
) -> None:
    """Raise unless a member has the samples that its moments were collected with."""
    different = _different(description, members[index])
    if different is None:
        return
    fitting = [
        member.name
        for member in members
        if member is not members[index] and _different(description, member) is None
    ]
    hint = "collect them from this member, in the dtype in which it is loaded"
    if fitting:
        hint = f"they belong to {fitting[0]}: pass moments in the order of the members"
    raise ValueError(
        f"{moments.name} does not belong to {members[index].name}: tensor "
        f"{different!r} differs from that of the model whose moments were collected; "
        f"{hint}"
    )


def _different(description: Mapping[str, Any], member: Checkpoint) -> str | None:
    """Name of a tensor whose sample differs from that of a member, else None."""
    for name, (dtype, digest) in description["samples"].items():
        tensor = member.tensor(name)
        if tensor is None:  # a tied tensor under another name
            continue
        if (
            not is_float(tensor.dtype)
            or sample_digest(tensor, np.dtype(dtype)) != digest
        ):
            return str(name)
    return None


def add_moments(
    match: LayoutMatch, moments: Sequence[MemberMoments], kind: Kind
) -> LayoutMatch:
    """Add the moments of the members to the tensors of a result.

    Parameters
    ----------
    match : LayoutMatch
        Tensors of the result.
    moments : sequence of MemberMoments
        Moments of each member.
    kind : {"fisher", "gram"}
        Kind that the rule needs.

    Returns
    -------
    LayoutMatch
        With moments in the tensors to combine, and the action ``"average"`` for tensors
        that have none; with further problems and notes.
    """
    problems = [
        f"{entry.checkpoint.name} has moments of kind {entry.description['kind']!r}, "
        f"the rule needs {kind!r}; collect them with {COLLECTORS[kind]}"
        for entry in moments
        if entry.description["kind"] != kind
    ]
    if problems:
        return match._replace(problems=[*match.problems, *problems])
    targets: list[TensorPlan] = []
    for target in match.targets:
        if target.action == "combine":
            target, problem = _with_moments(target, moments, kind)
            problems += [problem] * bool(problem)
        targets.append(target)
    averaged = [target.name for target in targets if target.action == "average"]
    if targets and not problems and not any(target.moments for target in targets):
        problems.append(
            f"no tensor of the result has moments: {moments[0].checkpoint.name} has "
            f"those of {listed([*moments[0].checkpoint.layout])}"
        )
    notes = []
    if averaged:
        noun = {"fisher": "Fisher information", "gram": "Gram matrix"}[kind]
        notes.append(f"tensors without {noun} are averaged: {listed(averaged)}")
    notes += _notes_on_settings(moments)
    return match._replace(
        targets=targets,
        problems=[*match.problems, *problems],
        notes=[*match.notes, *notes],
    )


def _with_moments(
    target: TensorPlan, moments: Sequence[MemberMoments], kind: Kind
) -> tuple[TensorPlan, str]:
    """A tensor with its moments, and a problem or an empty text."""
    moments = [moments[index] for index in target.by_member]
    of_members = [
        entry.by_tensor.get(tensor)
        for entry, tensor in zip(moments, target.members, strict=True)
    ]
    present = [moment for moment in of_members if moment is not None]
    if not present:
        return target._replace(action="average"), ""
    if len(present) < len(of_members):
        has = moments[[moment is not None for moment in of_members].index(True)]
        lacks = moments[of_members.index(None)]
        return target, (
            f"moments differ at tensor {target.name!r}: {has.checkpoint.name} has it, "
            f"{lacks.checkpoint.name} lacks it; collect all moments in the same way, "
            f"or pass exclude=[{target.name!r}] (--exclude {target.name})"
        )
    allowed = _allowed_shapes(target.shape, kind)
    for entry, moment in zip(moments, present, strict=True):
        if moment.shape not in allowed or moment.shape != present[0].shape:
            return target, (
                f"moments of tensor {target.name!r} with shape {target.shape} must "
                f"have the shape {' or '.join(map(str, allowed))}, the same for all "
                f"members: {entry.checkpoint.name} has {moment.shape}"
            )
    return target._replace(moments=tuple(present)), ""


def _allowed_shapes(shape: tuple[int, ...], kind: Kind) -> list[tuple[int, ...]]:
    """Shapes of the moments of a tensor."""
    if kind == "fisher":
        return [shape]
    if len(shape) != 2:
        return []
    n_rows, n_columns = shape
    return [(n_columns, n_columns), (n_rows, n_rows, 1)]


def _notes_on_settings(moments: Sequence[MemberMoments]) -> Iterator[str]:
    """Notes on moments that were collected in different ways."""
    first = moments[0]
    for entry in moments[1:]:
        for key, value in first.description["settings"].items():
            other = entry.description["settings"].get(key)
            if key in ("labels", "reduction") and value != other:
                yield (
                    "moments were collected in different ways: "
                    f"{first.checkpoint.name} with {key}={value!r}, "
                    f"{entry.checkpoint.name} with {key}={other!r}"
                )
                return
