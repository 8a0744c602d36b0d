"""Map tensor names of checkpoints to the parameter names of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.tied_weights import same_bytes
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float

SHOWN = 3
# Names of wrapper modules from torch.compile, DistributedDataParallel, FSDP, activation
# checkpointing, DeepSpeed and Fabric.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
WRAPPERS |= {"_forward_module", "_fpw_module"}


def renaming(
    names: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """Map names to wanted names that differ by one prefix or by wrapper modules.

    The prefix may be additional (``module.``, ``model.``), missing (``bert.``) or
    different. Wrapper modules such as ``_orig_mod`` may occur anywhere in a name.

    Parameters
    ----------
    names : mapping of str to Tensor
        Tensors to rename. All float tensors must have a wanted name, with equal shape.
    wanted : mapping of str to Tensor
        Tensors with the wanted names. If a prefix is replaced by another one, all its
        float tensors must be matched.

    Returns
    -------
    dict of str to str, or None
        Wanted name of every float tensor and of each other tensor that has one. None
        if no renaming matches, or several do.

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
    """Prefixes to remove and to add that map the first name to a wanted one."""
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
    """Whether all names map to distinct wanted names with the same shape."""
    shapes = zip(places, names.values(), strict=True)
    is_apart = len(set(places)) == len(places)
    return is_apart and all(goal.get(place) == shape for place, shape in shapes)


def map_keys(member: Checkpoint, home: Checkpoint) -> Checkpoint:
    """Rename the tensors of a member to the parameter names of an estimator.

    Names either match directly, or by a `renaming` of all names in a folder. It adds
    the prefix ``0.auto_model.`` for the encoder in a SentenceTransformer, for example,
    or removes the ``module.`` of DistributedDataParallel.

    Parameters
    ----------
    member : Checkpoint
        Checkpoint with every tensor of the estimator. Additional integer tensors are
        dropped.
    home : Checkpoint
        Parameters of the estimator.

    Returns
    -------
    Checkpoint
        Tensors in the order of ``home``, without aliases, configuration and files.

    Raises
    ------
    ValueError
        If a float tensor matches no parameter, a parameter is missing, shapes differ,
        or two different tensors match parameters that the estimator ties.
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
    # Integer buffers such as position_ids may be dropped: the estimator creates them.
    lost = [name for name in member.names if name not in found]
    lost = [name for name in lost if is_float(_tensor(member, name).dtype)]
    if lost:
        raise ValueError(
            f"all tensors of {member.name} must match parameters of the estimator, but "
            f"{listed(lost, SHOWN)} do not; the estimator has "
            f"{listed(list(home.layout), SHOWN)}"
        )
    layout: dict[str, Tensor] = {}
    for own, name in found.items():
        # The checkpoint may store a tied tensor under any of its names.
        place, held = home.aliases.get(name, name), _tensor(member, own)
        if not same_bytes(layout.setdefault(place, held), held):
            raise ValueError(
                f"{name} and {place} are one tensor in the estimator, but differ in "
                f"{member.name}; pass an estimator that does not tie them"
            )
    absent = [name for name in home.layout if name not in layout]
    if absent:
        raise ValueError(
            f"{member.name} lacks parameters that the estimator has: "
            f"{listed(absent, SHOWN)}"
        )
    for name, held in layout.items():
        if held.shape != home.layout[name].shape:
            raise ValueError(
                f"checkpoints differ at tensor {name!r}: the estimator has shape "
                f"{home.layout[name].shape}, {member.name} has {held.shape}"
            )
    ordered = {name: layout[name] for name in home.layout}
    # The estimator, not the files of the checkpoint, now determines ties and settings.
    return replace(member, layout=ordered, aliases={}, config={}, files=[])


def _tensor(member: Checkpoint, name: str) -> Tensor:
    return member.layout[member.aliases.get(name, name)]
