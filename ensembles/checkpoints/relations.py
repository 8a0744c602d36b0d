"""What members are to each other: initializations, averages, copies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensembles.checkpoints.formats import safetensors
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.kinship import unrelated
from ensembles.checkpoints.planning import Plan
from ensembles.checkpoints.recipes import KEY
from ensembles.checkpoints.tied_weights import same_bytes

LEAST = 256  # elements of matrices: of fewer, chance alone makes a cosine


def different_initializations(plan: Plan) -> str | None:
    """Sentence on the first member that was not trained from the first one's start.

    A sample of each matrix is read.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    str or None
        None if all may be averaged, or there is too little to tell by.
    """
    names = {t.name for t in plan.targets if t.action == "combine"}
    sizes = [t.size for t in plan.targets if t.name in names and len(t.shape) > 1]
    counted = _distinct(plan)
    if len(counted) < 2 or sum(sizes) < LEAST:
        return None
    apart = unrelated([_by_targets(plan, index) for index in counted], names)
    if apart is None:
        return None
    index, cosine, what = apart
    first, other = (plan.members[counted[place]].name for place in (0, index))
    return (
        f"{first} and {other} may not come from one initialization: the cosine of "
        f"{what} is {cosine:.2f}; an average of networks that were trained from "
        "different ones is usually useless, so test the result"
    )


def averages_among(plan: Plan) -> Iterator[str]:
    """Sentences on members that are averages themselves, by their metadata.

    Parameters
    ----------
    plan : Plan

    Yields
    ------
    str
    """
    for name, member in {member.name: member for member in plan.members}.items():
        recipe = recipe_of(member)
        if recipe is not None:
            yield (
                f"{name} is itself an average ({recipe['rule']} of "
                f"{len(recipe['members'])}), by its metadata"
            )


def repetitions(plan: Plan, digests: Sequence[str]) -> Iterator[str]:
    """Sentences on members that count twice, by the digests of their tensors.

    Parameters
    ----------
    plan : Plan
    digests : sequence of str
        Of each member.

    Yields
    ------
    str
    """
    known: dict[str, Checkpoint] = {}
    for member, digest in zip(plan.members, digests, strict=True):
        first = known.setdefault(digest, member)
        if first.name != member.name and first.path is not None:
            yield _counted_twice(first, member)
    for member in plan.members:
        recipe = recipe_of(member)
        inside = [
            known[digest].name
            for text in (recipe or {}).get("members", [])
            if (digest := str(text).removeprefix("xxh3-128:")) in known
        ]
        if inside:
            yield (
                f"{member.name} is an average of {', '.join(inside)}: what is in it "
                "counts twice"
            )


def copies(members: Sequence[Checkpoint]) -> Iterator[str]:
    """Sentences on members that count twice, before all of them is read.

    Parameters
    ----------
    members : sequence of Checkpoint

    Yields
    ------
    str
    """
    for place, member in enumerate(members):
        first = next((m for m in members[:place] if _is_copy(m, member)), None)
        if first is not None:
            yield _counted_twice(first, member)


def _counted_twice(one: Checkpoint, other: Checkpoint) -> str:
    return f"{one.name} and {other.name} hold the same tensors, which count twice"


def _is_copy(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two members hold the same; of most the first tensors differ."""
    return one.layout.keys() == other.layout.keys() and all(
        same_bytes(tensor, other.layout[name]) for name, tensor in one.layout.items()
    )


def recipe_of(member: Checkpoint) -> dict[str, Any] | None:
    """Recipe that `average` left in the metadata of a member; None if there is none.

    Parameters
    ----------
    member : Checkpoint

    Returns
    -------
    dict or None
        With the keys ``rule`` and ``members``, a list, among others.
    """
    parts = [part for part in member.parts if part.endswith(".safetensors")]
    if member.path is None or not parts:
        return None
    path = member.path / parts[0] if member.kind == "directory" else member.path
    try:
        found = json.loads(safetensors.read_metadata(Path(path))[KEY])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "rule" not in found:
        return None
    return found if isinstance(found.get("members"), list) else None


def _distinct(plan: Plan) -> list[int]:
    """Members that count, each once."""
    found: dict[Any, int] = {}
    for index, (member, weight) in enumerate(
        zip(plan.members, plan.weights, strict=True)
    ):
        if weight != 0:
            found.setdefault(member.path or id(member), index)
    return list(found.values())


def _by_targets(plan: Plan, index: int) -> Checkpoint:
    """A member by the names that its tensors have in the result."""
    layout = {t.name: t.members[index] for t in plan.targets if t.action == "combine"}
    return replace(plan.members[index], layout=layout, aliases={})
