"""Layouts of the experts in a mixture: one tensor for all experts, or one for each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ensembles.checkpoints.formats.checkpoint import Checkpoint

EACH = re.compile(r"(.*\bexperts)\.\d+\..+")
# A module of experts also has e.g. a router's bias: only stacks of matrices count.
FUSED = re.compile(r"(.*\bexperts)\.[A-Za-z]\w*(?:\.weight)?")


def expert_layout_problem(checkpoints: Sequence[Checkpoint]) -> str | None:
    """Problem of checkpoints that store the same experts in different layouts.

    Parameters
    ----------
    checkpoints : sequence of Checkpoint
        Members and base, with matching tensor names.

    Returns
    -------
    str or None
        Error message with a tensor of each layout; None if all layouts agree.
    """
    fused: dict[str, str] = {}
    each: dict[str, str] = {}
    for checkpoint in checkpoints:
        for name, tensor in checkpoint.layout.items():
            if match := EACH.fullmatch(name):
                each.setdefault(match[1], f"{checkpoint.name} ({name!r})")
            elif len(tensor.shape) == 3 and (match := FUSED.fullmatch(name)):
                fused.setdefault(match[1], f"{checkpoint.name} ({name!r})")
    for experts in fused.keys() & each.keys():
        return (
            f"checkpoints must store experts in one layout: {fused[experts]} has one "
            f"tensor for all experts of a layer, {each[experts]} has one for each "
            "expert; load one of them with the version of transformers that wrote the "
            "other, and save it again"
        )
    return None
