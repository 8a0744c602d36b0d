"""Checkpoints seen by the names that an estimator has for their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ensembles.blocks import cut
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.floats import is_float

SHOWN = 3
STEP = 1 << 20  # bytes


def matched(member: Checkpoint, home: Checkpoint) -> Checkpoint:
    """A member by the names of an estimator's parameters.

    A name fits as it is, or with what an estimator puts before it, such as
    ``0.auto_model.`` for the encoder in a SentenceTransformer: the same for all names
    of a folder.

    Parameters
    ----------
    member : Checkpoint
    home : Checkpoint
        The estimator's parameters.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If a name fits nowhere, the estimator has parameters that the member lacks, a
        shape differs, or tensors do that the estimator ties.
    """
    names = {**dict.fromkeys(home.layout), **home.aliases}
    found = {name: name for name in member.names if name in names}
    strange = [name for name in member.names if name not in names]
    folders = dict.fromkeys(name.rpartition("/")[0] for name in strange)
    for folder in folders:
        inside = [n for n in strange if n.rpartition("/")[0] == folder]
        prefix = _prefix(inside, member, home)
        placed = {name: f"{prefix}{name.rpartition('/')[2]}" for name in inside}
        found |= {name: place for name, place in placed.items() if place in names}
    # Integers that an estimator counts by itself, such as position_ids, are no loss.
    lost = [name for name in member.names if name not in found]
    lost = [name for name in lost if is_float(_tensor(member, name).dtype)]
    if lost:
        raise ValueError(
            f"{member.name} holds tensors that the estimator has no place for: "
            f"{_some(lost)}; it has {_some(list(home.layout))}"
        )
    layout: dict[str, Tensor] = {}
    for own, name in found.items():
        # One name for each tensor, whichever of its names the file has it under.
        place, held = home.aliases.get(name, name), _tensor(member, own)
        if not _same(layout.setdefault(place, held), held):
            raise ValueError(
                f"{name} and {place} are one tensor in the estimator, {member.name} "
                "has two that differ; give an estimator that does not tie them"
            )
    absent = [name for name in home.layout if name not in layout]
    if absent:
        raise ValueError(
            f"{member.name} lacks parameters that the estimator has: {_some(absent)}"
        )
    for name, held in layout.items():
        if held.shape != home.layout[name].shape:
            raise ValueError(
                f"checkpoints differ at tensor {name!r}: the estimator has shape "
                f"{home.layout[name].shape}, {member.name} has {held.shape}"
            )
    ordered = {name: layout[name] for name in home.layout}
    # What the files around it say, as of ties, counts no longer: the estimator does.
    return replace(member, layout=ordered, aliases={}, config={}, files=[])


def _prefix(names: list[str], member: Checkpoint, home: Checkpoint) -> str | None:
    """What stands before these names in an estimator, if one thing does."""
    held = {name.rpartition("/")[2]: _tensor(member, name) for name in names}
    tensors = {name: tensor for name, tensor in held.items() if is_float(tensor.dtype)}
    if not tensors:
        return None
    bare, first = next(iter(tensors.items()))
    fitting = [
        name.removesuffix(bare)
        for name, held in home.layout.items()
        if name.endswith(f".{bare}") and held.shape == first.shape
    ]
    fitting = [prefix for prefix in fitting if _fits(prefix, tensors, home.layout)]
    return fitting[0] if len(fitting) == 1 else None


def _tensor(member: Checkpoint, name: str) -> Tensor:
    return member.layout[member.aliases.get(name, name)]


def _fits(
    prefix: str, tensors: Mapping[str, Tensor], layout: Mapping[str, Tensor]
) -> bool:
    return all(
        prefix + bare in layout and layout[prefix + bare].shape == held.shape
        for bare, held in tensors.items()
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes."""
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    for start, stop in cut(one.nbytes, STEP):
        first, second = np.empty((2, stop - start), np.uint8)
        one.source.read_into(first.data, one.offset + start)
        other.source.read_into(second.data, other.offset + start)
        if not np.array_equal(first, second):
            return False
    return True


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
