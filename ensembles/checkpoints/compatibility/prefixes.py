"""Members brought to the first one's names, where one prefix is the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped
from ensembles.checkpoints.compatibility.key_mapping import WRAPPERS, renaming
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float


def named_alike(
    members: Sequence[Checkpoint],
) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """Members by the names that the first one has for their tensors.

    All names of a member may have one prefix more or less than the first one's, such
    as ``model.`` or ``bert.``, or be those of wrapped modules (``_orig_mod``).

    Parameters
    ----------
    members : sequence of Checkpoint

    Returns
    -------
    members : tuple of Checkpoint
    notes : list of str
        On members whose names were changed.
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
    """New names of a member's tensors; None if they stay as they are."""
    if own.keys() == wanted.keys() or own is wanted:
        return None
    floats = {name for name, tensor in own.items() if is_float(tensor.dtype)}
    if floats <= wanted.keys():
        return None
    names = renaming(own, wanted) or _inverse(renaming(wanted, own))
    if not names and not floats & wanted.keys():  # as of a body under another head
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
    """Those tensors whose names end a wanted one, behind a dot."""
    ends = {
        ".".join(parts[start:])
        for parts in (name.split(".") for name in wanted)
        for start in range(1, len(parts))
    }
    return {name: tensor for name, tensor in own.items() if name in ends}


def _is_prefix(one: str, other: str) -> bool:
    """Whether names differ by a prefix of one of them, or by modules that wrap."""
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
