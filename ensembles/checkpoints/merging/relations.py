"""Relations between members: different initializations, averages and copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped
from ensembles.checkpoints.compatibility.shared_init import find_unrelated_member
from ensembles.checkpoints.compatibility.tied_weights import same_bytes
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.merging.provenance import average_recipe
from ensembles.checkpoints.merging.provenance import recipe_of as recipe_of
from ensembles.checkpoints.planning.plan import Plan

LEAST = 256  # elements in matrices; with fewer, a high cosine may be chance
# Elements of each matrix that are read first. If all cosines exceed NEAR, as between
# fine-tuned models, the larger samples that separate initializations are not needed.
FIRST_LOOK, NEAR = 256, 0.9


def different_initializations(plan: Plan) -> str | None:
    """Warning for members that were fine-tuned from different initializations.

    Reads a sample of each matrix, a small one if the members are similar.

    Parameters
    ----------
    plan : Plan
        Plan of the result; members with weight 0 are not compared, the base is.

    Returns
    -------
    str or None
        Message about the first member that differs. None if all are similar, or the
        matrices are too few or too small to decide.
    """
    matrices = [
        target
        for target in plan.targets
        if target.action == "combine" and len(target.shape) > 1
        if target.holders is None  # the others are combined from fewer members
    ]
    counted = _distinct(plan)
    # A single matrix, such as a linear model's, has no hidden units to permute.
    if len(counted) < 2 or len(matrices) < 2:
        return None
    if sum(target.size for target in matrices) < LEAST:
        return None
    if _are_near([[t.sources[index] for t in matrices] for index in counted]):
        return None
    unrelated = find_unrelated_member([_by_targets(plan, index) for index in counted])
    if unrelated is None:
        return None
    index, cosine, what = unrelated
    first, other = (plan.checkpoints[counted[i]].name for i in (0, index))
    return (
        f"{other} and {first} may not be fine-tuned from the same initialization: the "
        f"cosine similarity of {what} is {cosine:.3f}, and their average is usually "
        "useless; test the result"
    )


def averages_among(plan: Plan) -> Iterator[str]:
    """Notes on members that are themselves averages, according to their metadata.

    Parameters
    ----------
    plan : Plan
        Plan with the members.

    Yields
    ------
    str
        One sentence per note, with the names of all members that share it.
    """
    yield from grouped(
        (
            member.name,
            f"{MEMBER}: itself an average ({recipe['rule']} of "
            f"{len(recipe['members'])}), by its metadata",
        )
        for member in plan.members
        if (recipe := average_recipe(member)) is not None
    )


def repetitions(plan: Plan, digests: Sequence[str]) -> Iterator[str]:
    """Notes on members that count twice: copies, and averages of other members.

    Parameters
    ----------
    plan : Plan
        Plan with the members.
    digests : sequence of str
        Digest of each member's tensors.

    Yields
    ------
    str
        One sentence per member.
    """
    by_digest: dict[str, Checkpoint] = {}
    for member, digest in zip(plan.members, digests, strict=True):
        first = by_digest.setdefault(digest, member)
        if first.name != member.name and first.path is not None:
            yield _counted_twice(first, member)
    for member in plan.members:
        recipe = average_recipe(member)
        contained = [
            by_digest[digest].name
            for text in (recipe or {}).get("members", [])
            if (digest := str(text).removeprefix("xxh3-128:")) in by_digest
            and by_digest[digest] is not member
        ]
        if contained:
            yield (
                f"{member.name} is an average of {', '.join(contained)}: their tensors "
                "count twice"
            )


def copies(members: Sequence[Checkpoint]) -> Iterator[str]:
    """Notes on members with the same tensors, found without digests.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members; tensors are compared until the first that differs.

    Yields
    ------
    str
        One sentence for each member that is a copy of an earlier one.
    """
    for index, member in enumerate(members):
        first = next((m for m in members[:index] if _is_copy(m, member)), None)
        if first is not None:
            yield _counted_twice(first, member)


def _counted_twice(first: Checkpoint, second: Checkpoint) -> str:
    return f"{first.name} and {second.name} hold the same tensors, which count twice"


def _is_copy(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two members have the same tensors; most differ in the first one."""
    return first.layout.keys() == second.layout.keys() and all(
        same_bytes(tensor, second.layout[name]) for name, tensor in first.layout.items()
    )


def _distinct(plan: Plan) -> list[int]:
    """Indices of the base and of members with nonzero weight, without repetitions."""
    indices: dict[Any, int] = {}
    for index, (checkpoint, weight) in enumerate(
        zip(plan.checkpoints, (*plan.weights, 1), strict=False)
    ):
        if weight != 0:
            indices.setdefault(checkpoint.path or id(checkpoint), index)
    return list(indices.values())


def _are_near(members: Sequence[Sequence[Tensor]]) -> bool:
    """Whether all matrices are similar to the first member's, by a few elements."""
    first = _first_look(members[0])
    with np.errstate(over="ignore", invalid="ignore"):
        # The cosine similarity of constant matrices is not informative.
        if (np.ptp(first, axis=1) == 0).any():
            return False
        for tensors in members[1:]:
            values = _first_look(tensors)
            lengths = np.sqrt((first**2).sum(axis=1) * (values**2).sum(axis=1))
            if not ((first * values).sum(axis=1) > NEAR * lengths).all():
                return False
    return True


def _first_look(tensors: Sequence[Tensor]) -> Float64:
    """Elements from the middle of each tensor, one row per tensor, padded with 0."""
    samples = np.zeros((len(tensors), FIRST_LOOK))
    for row, tensor in zip(samples, tensors, strict=True):
        size = min(tensor.size, FIRST_LOOK)
        sample = np.empty(size, tensor.dtype)
        start = tensor.offset + (tensor.size - size) // 2 * tensor.dtype.itemsize
        tensor.source.read_into(sample.view(np.uint8).data, start)
        row[:size] = sample.astype(np.float64)
    return samples


def _by_targets(plan: Plan, index: int) -> Checkpoint:
    """Member or base with the tensor names of the result."""
    layout = {
        target.name: target.sources[index]
        for target in plan.targets
        if target.action == "combine" and target.holders is None
    }
    return replace(plan.checkpoints[index], layout=layout, aliases={})
