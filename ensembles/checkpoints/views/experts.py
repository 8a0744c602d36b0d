"""Experts of a mixture, in one tensor for all or one for each: views in one layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    Tensor,
    UnsupportedSource,
)
from ensembles.checkpoints.views.joining import JoinedSource

EACH = re.compile(r"(.*\bexperts)\.(\d+)\.(.+)")
# A module of experts also has e.g. a router's bias: only stacks of matrices count.
FUSED = re.compile(r"(.*\bexperts)\.([A-Za-z]\w*?)(?:\.weight)?")
# Matrices of an expert in a fused tensor of transformers, by their order in its rows.
PARTS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
# Names of the block that has router and experts: in files of Mixtral, and in modules.
BLOCKS = (".block_sparse_moe.", ".mlp.")
ROUTERS = ("gate", "router", "router.layer")


def match_expert_layouts(
    checkpoints: Sequence[Checkpoint],
) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """View all checkpoints with experts in the layout of the first.

    Fused tensors are views of the tensors of each expert, or the reverse; their shapes
    must be those of transformers: gate over up, rows of outputs. Others are left to
    `expert_layout_problem`.

    Parameters
    ----------
    checkpoints : sequence of Checkpoint
        Members and base, with matching tensor names otherwise.

    Returns
    -------
    checkpoints : tuple of Checkpoint
        In the same order; a checkpoint without such experts is returned as it is.
    notes : list of str
        Messages about checkpoints whose experts are views.
    """
    first = checkpoints[0]
    matched, notes = [first], []
    for checkpoint in checkpoints[1:]:
        view = _in_layout_of(first, checkpoint)
        matched.append(view)
        if view is not checkpoint:
            name = next(n for n in checkpoint.layout if n not in view.layout)
            notes.append(
                f"experts of {checkpoint.name} are read in the layout of {first.name}, "
                f"such as {name}"
            )
    return tuple(matched), notes


def _in_layout_of(first: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    layout = _renamed(first, checkpoint)
    lacking = [
        name
        for name in first.layout
        if name not in layout and (EACH.fullmatch(name) or FUSED.fullmatch(name))
    ]
    n_experts = 1 + max(
        (int(m[2]) for n in first.layout if (m := EACH.fullmatch(n))), default=-1
    )
    views: dict[str, Tensor] = {}
    used: set[str] = set()
    is_certain = not lacking
    for name in lacking:
        wanted = first.layout[name]
        found = _joined(name, wanted, layout) or _cut(name, wanted, layout, n_experts)
        if found is None:
            return checkpoint
        views[name], names, shape = found
        used |= names
        # The rows of a square matrix may be inputs as well as outputs.
        is_certain |= shape[1] != shape[2]
    if not is_certain or (layout is checkpoint.layout and not lacking):
        return checkpoint
    kept = {name: tensor for name, tensor in layout.items() if name not in used}
    return replace(checkpoint, layout=kept | views, order=[])


def _renamed(first: Checkpoint, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Layout with the first checkpoint's name of the block of router and experts."""
    layout = checkpoint.layout
    for block, other in (BLOCKS, BLOCKS[::-1]):
        is_other = any(f"{other}experts." in name for name in layout)
        if is_other and any(f"{block}experts." in name for name in first.layout):
            moved = re.compile(rf"{re.escape(other)}(?=experts\.|gate\.)")
            return {moved.sub(block, name): t for name, t in layout.items()}
    return layout


_View = tuple[Tensor, set[str], tuple[int, ...]]


def _joined(name: str, wanted: Tensor, layout: Mapping[str, Tensor]) -> _View | None:
    """Fused tensor of the tensors of each expert."""
    match = FUSED.fullmatch(name)
    if match is None or len(wanted.shape) != 3:
        return None
    experts, key = match.groups()
    n_experts, n_rows, n_columns = wanted.shape
    for parts in PARTS.get(key, ((key,),)):
        names = [f"{experts}.{e}.{p}.weight" for e in range(n_experts) for p in parts]
        tensors = [layout[n] for n in names if n in layout]
        shapes = {tensor.shape for tensor in tensors}
        if (
            len(tensors) == len(names)
            and shapes == {(n_rows // len(parts), n_columns)}
            and len({tensor.dtype for tensor in tensors}) == 1
            and f"{experts}.{n_experts}.{parts[0]}.weight" not in layout
            and not any(isinstance(t.source, UnsupportedSource) for t in tensors)
        ):
            first, source = tensors[0], JoinedSource(tensors)
            joined = Tensor(first.dtype, wanted.shape, source, 0, first.narrow)
            return joined, {*names}, wanted.shape
    return None


def _cut(
    name: str, wanted: Tensor, layout: Mapping[str, Tensor], n_experts: int
) -> _View | None:
    """Tensor of an expert in a fused tensor."""
    match = EACH.fullmatch(name)
    if match is None or len(wanted.shape) != 2:
        return None
    experts, number, part = match[1], int(match[2]), match[3].removesuffix(".weight")
    for key, parts in _fused_keys(part):
        for fused_name in (f"{experts}.{key}", f"{experts}.{key}.weight"):
            fused = layout.get(fused_name)
            n_rows, n_columns = wanted.shape
            shape = n_experts, n_rows * len(parts), n_columns
            if fused is not None and fused.shape == shape:
                before = (number * len(parts) + parts.index(part)) * wanted.size
                offset = fused.offset + before * fused.dtype.itemsize
                cut = fused._replace(shape=wanted.shape, offset=offset)
                return cut, {fused_name}, shape
    return None


def _fused_keys(part: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of fused tensors that may have a matrix, with the order of its matrices."""
    for key, choices in PARTS.items():
        yield from ((key, parts) for parts in choices if part in parts)
    yield part, (part,)


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
            "expert, and the shapes are not those of the same experts; load one of "
            "them with the version of transformers that wrote the other, and save it "
            "again"
        )
    return None


def router_note(members: Sequence[Checkpoint]) -> Iterator[str]:
    """Note on routers of several members.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members, with the tensor names of the first.

    Yields
    ------
    str
        At most one message.
    """
    blocks = {
        match[1].removesuffix("experts")
        for name in members[0].layout
        if (match := EACH.fullmatch(name) or FUSED.fullmatch(name))
    }
    routers = (f"{b}{r}.weight" for b in sorted(blocks) for r in ROUTERS)
    name = next((name for name in routers if name in members[0].layout), None)
    if name is not None and len(members) > 1:
        yield (
            f"experts are combined by their number, and routers ({name}) by rows: they "
            "are the same experts only in members trained from one mixture"
        )
