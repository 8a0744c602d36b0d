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
    floats = {
        name: tensor.shape for name, tensor in names.items() if is_float(tensor.dtype)
    }
    wanted_shapes = {name: tensor.shape for name, tensor in wanted.items()}
    n_floats = sum(is_float(tensor.dtype) for tensor in wanted.values())
    if not floats:
        return None
    renamings: dict[tuple[str, ...], Callable[[str], str]] = {}
    for removed, added in _prefixes(floats, wanted_shapes):
        rename: Callable[[str], str] = partial(_replace_prefix, removed, added)
        new_names = tuple(map(rename, floats))
        is_whole = len(floats) == n_floats
        if _fit(floats, new_names, wanted_shapes) and (
            is_whole or not (removed and added)
        ):
            renamings.setdefault(new_names, rename)
    if not renamings:
        by_unwrapped = {_unwrapped(name): name for name in wanted_shapes}
        rename = partial(_wanted_name, by_unwrapped)
        new_names = tuple(map(rename, floats))
        if len(by_unwrapped) == len(wanted_shapes) and _fit(
            floats, new_names, wanted_shapes
        ):
            renamings[new_names] = rename
    if len(renamings) != 1:
        return None
    (rename,) = renamings.values()
    return {
        name: new_name for name in names if (new_name := rename(name)) in wanted_shapes
    }


def _prefixes(
    names: Mapping[str, tuple[int, ...]], wanted_shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, str]]:
    """Prefixes to remove and to add that map the first name to a wanted one."""
    first, *others = names
    removed = ""
    while all(name.startswith(removed) for name in others):
        rest_of_first = first.removeprefix(removed)
        for name in wanted_shapes:
            if name == rest_of_first or name.endswith(f".{rest_of_first}"):
                yield removed, name.removesuffix(rest_of_first)
        part, dot, rest = rest_of_first.partition(".")
        if not rest:
            return
        removed += part + dot


def _replace_prefix(removed: str, added: str, name: str) -> str:
    return added + name.removeprefix(removed)


def _wanted_name(by_unwrapped: Mapping[str, str], name: str) -> str:
    return by_unwrapped.get(_unwrapped(name), "")


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _fit(
    names: Mapping[str, tuple[int, ...]],
    new_names: Sequence[str],
    wanted_shapes: Mapping[str, tuple[int, ...]],
) -> bool:
    """Whether all names map to distinct wanted names with the same shape."""
    shapes = zip(new_names, names.values(), strict=True)
    is_distinct = len(set(new_names)) == len(new_names)
    return is_distinct and all(
        wanted_shapes.get(name) == shape for name, shape in shapes
    )


def map_keys(member: Checkpoint, target: Checkpoint) -> Checkpoint:
    """Rename the tensors of a member to the parameter names of an estimator.

    Names either match directly, or by a `renaming` of all names in a folder, which for
    example adds the prefix ``0.auto_model.`` of the encoder in a SentenceTransformer,
    or removes the ``module.`` of DistributedDataParallel.

    Parameters
    ----------
    member : Checkpoint
        Checkpoint with every tensor of the estimator. Additional integer tensors are
        dropped.
    target : Checkpoint
        Parameters of the estimator.

    Returns
    -------
    Checkpoint
        Tensors in the order of ``target``, without aliases, configuration and files.

    Raises
    ------
    ValueError
        If a float tensor matches no parameter, a parameter is missing, shapes differ,
        or two different tensors match parameters that the estimator ties.
    """
    names = {**dict.fromkeys(target.layout), **target.aliases}
    new_names = {name: name for name in member.names if name in names}
    unmatched = [name for name in member.names if name not in names]
    wanted = {name: _tensor(target, name) for name in names}
    folders = dict.fromkeys(name.rpartition("/")[0] for name in unmatched)
    for folder in folders:
        by_bare_name = {
            name.rpartition("/")[2]: name
            for name in unmatched
            if name.rpartition("/")[0] == folder
        }
        tensors = {bare: _tensor(member, name) for bare, name in by_bare_name.items()}
        renamed = renaming(tensors, wanted) or {}
        new_names |= {
            by_bare_name[bare]: target_name for bare, target_name in renamed.items()
        }
    # Integer buffers such as position_ids may be dropped: the estimator creates them.
    lost_floats = [name for name in member.names if name not in new_names]
    lost_floats = [
        name for name in lost_floats if is_float(_tensor(member, name).dtype)
    ]
    if lost_floats:
        raise ValueError(
            f"all tensors of {member.name} must match parameters of the estimator, but "
            f"{listed(lost_floats, SHOWN)} do not; the estimator has "
            f"{listed(list(target.layout), SHOWN)}"
        )
    layout: dict[str, Tensor] = {}
    for stored_name, name in new_names.items():
        # The checkpoint may store a tied tensor under any of its names.
        target_name, tensor = (
            target.aliases.get(name, name),
            _tensor(member, stored_name),
        )
        if not same_bytes(layout.setdefault(target_name, tensor), tensor):
            raise ValueError(
                f"{name} and {target_name} are one tensor in the estimator, but differ "
                f"in {member.name}; pass an estimator that does not tie them"
            )
    missing = [name for name in target.layout if name not in layout]
    if missing:
        raise ValueError(
            f"{member.name} lacks parameters that the estimator has: "
            f"{listed(missing, SHOWN)}"
        )
    for name, tensor in layout.items():
        if tensor.shape != target.layout[name].shape:
            raise ValueError(
                f"checkpoints differ at tensor {name!r}: the estimator has shape "
                f"{target.layout[name].shape}, {member.name} has {tensor.shape}"
            )
    ordered = {name: layout[name] for name in target.layout}
    # The estimator, not the files of the checkpoint, now determines ties and settings.
    return replace(member, layout=ordered, aliases={}, config={}, files=[])


def _tensor(member: Checkpoint, name: str) -> Tensor:
    return member.layout[member.aliases.get(name, name)]
