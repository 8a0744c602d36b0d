"""Verify the members of a merged adapter against the recorded digests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ensembles.checkpoints.directories.adapter_files import AdapterSource, open_adapter
from ensembles.checkpoints.inspection.findings import Verification
from ensembles.checkpoints.merging.digests import digest, read_blocks


def verify_adapters(
    found: Verification,
    members: Sequence[AdapterSource],
    n_threads: int,
    progress: Callable[[int], None],
) -> None:
    """Compare the tensors of adapters with the digests in the recipe of their merge.

    Parameters
    ----------
    found : Verification
        Verification of the merged adapter, with its recipe; gets the findings.
    members : sequence of paths or state dicts
        Adapters, all and in their order.
    n_threads : int
        Number of threads.
    progress : callable
        Called with the number of bytes read since the last call, from any thread.

    Raises
    ------
    ValueError
        If the number of adapters is not the recorded one.
    """
    recorded = (found.recipe or {})["members"]
    if len(members) != len(recorded):
        raise ValueError(
            f"{found.path} was merged from {len(recorded)} adapters, found "
            f"{len(members)}; pass all of them, in their order"
        )
    for index, member in enumerate(members):
        checkpoint = open_adapter(member, index).checkpoint
        blocks = read_blocks(checkpoint.layout.values(), n_threads, progress)
        named = {n: (t.dtype, t.shape, blocks[t]) for n, t in checkpoint.layout.items()}
        text = f"xxh3-128:{digest(named)}"
        if text == recorded[index]:
            found.verified.append(
                f"member {index + 1}: the tensors of {checkpoint.name}"
            )
            continue
        problem = f"{checkpoint.name} differs from the recorded member {index + 1}"
        if text in recorded:
            place = recorded.index(text) + 1
            problem += f"; it is member {place}: pass members in order"
        found.problems.append(problem)
