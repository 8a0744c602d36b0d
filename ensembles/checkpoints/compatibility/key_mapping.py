"""Checkpoints seen by the names that an estimator has for their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ensembles.checkpoints.compatibility.tied_weights import same_bytes
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float

SHOWN = 3
# Modules that PyTorch, and what trains with it, put around others: torch.compile,
# DistributedDataParallel, FSDP, activation checkpointing, DeepSpeed and Fabric.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
WRAPPERS |= {"_forward_module", "_fpw_module"}


def renaming(
    names: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """Wanted name of each tensor, where one prefix or wrappers make the difference.

    Names may have one prefix more, such as ``module.`` or ``model.``, lack one, such
    as ``bert.``, or have another. Names of the modules that PyTorch wraps around
    others, such as ``_orig_mod``, may stand anywhere.

    Parameters
    ----------
    names, wanted : mapping of str to Tensor
        Shapes must agree. Of ``wanted`` all floats must be met where a prefix is
        exchanged for another.

    Returns
    -------
    dict of str to str, or None
        For those of ``names`` that are wanted, floats all among them. None if no
        renaming does it, or several do.

    Examples
    --------
    >>> import numpy as np
    >>> tensor = Tensor(np.dtype("f4"), (2,), None, 0)
    >>> renaming({"module.a": tensor}, {"a": tensor, "b": tensor})
    {'module.a': 'a'}
    """
    floats = {name: held.shape for name, held in names.items() if is_float(held.dtype)}
    goal = {name: held.shape for name, held in wanted.items()}
    n_floats = sum(is_float(held.dtype) for held in wanted.values())
    if not floats:
        return None
    found: dict[tuple[str, ...], Callable[[str], str]] = {}
    for removed, added in _prefixes(floats, goal):
        rename: Callable[[str], str] = partial(_exchanged, removed, added)
        places = tuple(map(rename, floats))
        is_whole = len(floats) == n_floats
        if _fit(floats, places, goal) and (is_whole or not (removed and added)):
            found.setdefault(places, rename)
    if not found:
        bare = {_unwrapped(name): name for name in goal}
        rename = partial(_looked_up, bare)
        places = tuple(map(rename, floats))
        if len(bare) == len(goal) and _fit(floats, places, goal):
            found[places] = rename
    if len(found) != 1:
        return None
    (rename,) = found.values()
    return {name: place for name in names if (place := rename(name)) in goal}


def _prefixes(
    names: Mapping[str, tuple[int, ...]], goal: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, str]]:
    """Prefixes to take off and to put on that bring the first name home."""
    first, *others = names
    removed = ""
    while all(name.startswith(removed) for name in others):
        bare = first.removeprefix(removed)
        for name in goal:
            if name == bare or name.endswith(f".{bare}"):
                yield removed, name.removesuffix(bare)
        part, dot, rest = bare.partition(".")
        if not rest:
            return
        removed += part + dot


def _exchanged(removed: str, added: str, name: str) -> str:
    return added + name.removeprefix(removed)


def _looked_up(bare: Mapping[str, str], name: str) -> str:
    return bare.get(_unwrapped(name), "")


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _fit(
    names: Mapping[str, tuple[int, ...]],
    places: Sequence[str],
    goal: Mapping[str, tuple[int, ...]],
) -> bool:
    """Whether each name has a place of its own, of its shape."""
    shapes = zip(places, names.values(), strict=True)
    is_apart = len(set(places)) == len(places)
    return is_apart and all(goal.get(place) == shape for place, shape in shapes)


def matched(member: Checkpoint, home: Checkpoint) -> Checkpoint:
    """A member by the names of an estimator's parameters.

    A name fits as it is, or by a `renaming` of all names of a folder: with
    ``0.auto_model.`` before them for the encoder in a SentenceTransformer, without the
    ``module.`` of DistributedDataParallel.

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
    wanted = {name: _tensor(home, name) for name in names}
    folders = dict.fromkeys(name.rpartition("/")[0] for name in strange)
    for folder in folders:
        inside = {
            name.rpartition("/")[2]: name
            for name in strange
            if name.rpartition("/")[0] == folder
        }
        tensors = {bare: _tensor(member, name) for bare, name in inside.items()}
        places = renaming(tensors, wanted) or {}
        found |= {inside[bare]: place for bare, place in places.items()}
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
        if not same_bytes(layout.setdefault(place, held), held):
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


def _tensor(member: Checkpoint, name: str) -> Tensor:
    return member.layout[member.aliases.get(name, name)]


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
