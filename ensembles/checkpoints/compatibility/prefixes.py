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
    or ``bert.``, or contain modules that wrap others (``_orig_mod``).

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
    found: list[Checkpoint] = [members[0]]
    notes: list[tuple[str, str]] = []
    for member in members[1:]:
        names = _renamed(member.layout, members[0].layout)
        if not names:
            found.append(member)
            continue
        found.append(_by(member, names))
        own, place = next((n, p) for n, p in names.items() if n != p)
        if place.endswith(own):
            how = f"{place.removesuffix(own)!r} before them"
        elif own.endswith(place):
            how = f"their prefix {own.removesuffix(place)!r} left out"
        else:
            how = "the modules that wrap others left out"
        note = (
            f"names of {MEMBER} are matched to those of {members[0].name} with {how}, "
            f"as {own} to {place}"
        )
        notes.append((member.name, note))
    return tuple(found), list(grouped(notes))


def _renamed(
    own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """New name of each tensor of a member; None to keep all names."""
    if own.keys() == wanted.keys() or own is wanted:
        return None
    floats = {name for name, tensor in own.items() if is_float(tensor.dtype)}
    if floats <= wanted.keys():
        return None
    names = renaming(own, wanted) or _inverse(renaming(wanted, own))
    if not names and not floats & wanted.keys():  # such as a body with another head
        names = renaming(_inner(own, wanted), wanted) or _inverse(
            renaming(_inner(wanted, own), own)
        )
    if not names or not all(_is_prefix(*pair) for pair in names.items()):
        return None
    return names if any(name != place for name, place in names.items()) else None


def _inverse(names: Mapping[str, str] | None) -> dict[str, str]:
    return {place: name for name, place in (names or {}).items()}


def _inner(
    own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors whose name is the end of a wanted name, after a dot."""
    ends = {
        ".".join(parts[start:])
        for parts in (name.split(".") for name in wanted)
        for start in range(1, len(parts))
    }
    return {name: tensor for name, tensor in own.items() if name in ends}


def _is_prefix(one: str, other: str) -> bool:
    """Whether two names differ only by a prefix or by wrapper modules."""
    plain = [
        [part for part in name.split(".") if part not in WRAPPERS]
        for name in (one, other)
    ]
    return one.endswith(other) or other.endswith(one) or plain[0] == plain[1]


def _by(member: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    layout = {names.get(name, name): tensor for name, tensor in member.layout.items()}
    aliases = {
        names.get(alias, alias): names.get(name, name)
        for alias, name in member.aliases.items()
    }
    return replace(member, layout=layout, aliases=aliases)
