"""Rename tensors of members whose names differ from the first by one prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped
from ensembles.checkpoints.compatibility.key_mapping import WRAPPERS, renaming
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float


def match_first_names(
    members: Sequence[Checkpoint],
) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """Rename the tensors of all members to the names of the first member.

    All names of a member may have an additional or missing prefix, such as ``model.``
    or ``bert.``, or contain the names of wrapper modules (``_orig_mod``).

    Parameters
    ----------
    members : sequence of Checkpoint
        Members; the first one determines the names.

    Returns
    -------
    members : tuple of Checkpoint
        Members in the same order, unchanged if no single renaming matches.
    notes : list of str
        Messages about members whose tensors were renamed.
    """
    matched: list[Checkpoint] = [members[0]]
    notes: list[tuple[str, str]] = []
    for member in members[1:]:
        names = _renamed(member.layout, members[0].layout)
        if not names:
            matched.append(member)
            continue
        matched.append(_rename(member, names))
        old_name, new_name = next((n, p) for n, p in names.items() if n != p)
        if new_name.endswith(old_name):
            change = f"{new_name.removesuffix(old_name)!r} added as a prefix"
        elif old_name.endswith(new_name):
            change = f"the prefix {old_name.removesuffix(new_name)!r} removed"
        else:
            change = "the names of wrapper modules removed"
        note = (
            f"names of {MEMBER} are matched to those of {members[0].name} with "
            f"{change}, such as {old_name} to {new_name}"
        )
        notes.append((member.name, note))
    return tuple(matched), list(grouped(notes))


def _renamed(
    layout: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """New name of each tensor of a member; None to keep all names."""
    if layout.keys() == wanted.keys() or layout is wanted:
        return None
    floats = {name for name, tensor in layout.items() if is_float(tensor.dtype)}
    if floats <= wanted.keys():
        return None
    names = renaming(layout, wanted) or _inverse(renaming(wanted, layout))
    if not names and not floats & wanted.keys():  # such as a body with another head
        names = renaming(_inner(layout, wanted), wanted) or _inverse(
            renaming(_inner(wanted, layout), layout)
        )
    if not names or not all(_is_prefix(*pair) for pair in names.items()):
        return None
    return names if any(name != new_name for name, new_name in names.items()) else None


def _inverse(names: Mapping[str, str] | None) -> dict[str, str]:
    return {new_name: name for name, new_name in (names or {}).items()}


def _inner(
    layout: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors whose name is the end of a wanted name, after a dot."""
    ends = {
        ".".join(parts[start:])
        for parts in (name.split(".") for name in wanted)
        for start in range(1, len(parts))
    }
    return {name: tensor for name, tensor in layout.items() if name in ends}


def _is_prefix(first: str, other: str) -> bool:
    """Whether two names differ only by a prefix or by wrapper modules."""
    unwrapped = [
        [part for part in name.split(".") if part not in WRAPPERS]
        for name in (first, other)
    ]
    return (
        first.endswith(other) or other.endswith(first) or unwrapped[0] == unwrapped[1]
    )


def _rename(member: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    layout = {names.get(name, name): tensor for name, tensor in member.layout.items()}
    aliases = {
        names.get(alias, alias): names.get(name, name)
        for alias, name in member.aliases.items()
    }
    order = [names.get(name, name) for name in member.order]
    return replace(member, layout=layout, aliases=aliases, order=order)
