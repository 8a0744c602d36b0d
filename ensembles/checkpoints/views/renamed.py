"""Virtual checkpoints whose tensors are those of others under new names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ensembles.checkpoints.formats.checkpoint import Checkpoint, ChecksumRecord, Tensor


def renamed(
    tensors: Mapping[str, tuple[Checkpoint, str]], like: Checkpoint | None = None
) -> Checkpoint:
    """Virtual checkpoint with tensors of others, which are not read.

    Parameters
    ----------
    tensors : mapping of str to (Checkpoint, str)
        Checkpoint and name of each tensor, by its name in the virtual checkpoint.
    like : Checkpoint or None, default=None
        Checkpoint whose configuration and auxiliary files the virtual one has; None has
        none.

    Returns
    -------
    Checkpoint
        The checkpoint itself if it has the same tensors under the same names, and is
        ``like`` or ``like`` is None.
    """
    parts = tuple({id(part): part for part, _ in tensors.values()}.values())
    is_whole = len(parts) == 1 and all(
        name == old for name, (_, old) in tensors.items()
    )
    if (
        is_whole
        and tensors.keys() == {*parts[0].names}
        and (like is None or like is parts[0])
    ):
        return parts[0]
    aliases: dict[str, str] = {}
    layout: dict[str, Tensor] = {}
    names_of = {(id(part), old): name for name, (part, old) in tensors.items()}
    for name, (part, old) in tensors.items():
        # Tied names stay tied if the tensor is in the virtual checkpoint too.
        tied = names_of.get((id(part), part.aliases.get(old, "")))
        tensor = part.tensor(old)
        if tied is not None:
            aliases[name] = tied
        elif tensor is not None:
            layout[name] = tensor
    names = list(dict.fromkeys(part.name for part in parts))
    view = Checkpoint(
        name=names[0] if len(names) == 1 else f"layers of {', '.join(names)}",
        format="safetensors",
        path=None,
        layout=layout,
        aliases=aliases,
        records=_records(layout, parts),
        made_from=parts,
    )
    if like is None:
        return view
    return replace(
        view,
        path=like.path,
        is_directory=like.is_directory,
        parts=_module_files(like, layout),
        whole_files=like.whole_files,
        files=like.files,
        contents=like.contents,
        config=like.config,
    )


def _module_files(
    like: Checkpoint, layout: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Weight files in folders, as of a sentence encoder's Dense layers."""
    return {
        file: [name for name in names if name in layout]
        for file, names in like.parts.items()
        if "/" in file and file not in like.extras
    }


def _records(
    layout: Mapping[str, Tensor], parts: tuple[Checkpoint, ...]
) -> list[ChecksumRecord]:
    """Checksums of the entries that hold the tensors."""
    used = {(id(tensor.source), tensor.offset) for tensor in layout.values()}
    return [
        record
        for part in parts
        for record in part.records
        if any(
            source == id(record.file)
            and record.offset <= offset < record.offset + record.size
            for source, offset in used
        )
    ]
