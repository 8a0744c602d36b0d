"""Weight files of the output that copy a file of the first member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Checkpoint, FileSource, Tensor
from ensembles.checkpoints.formats.detection import format_by_suffix
from ensembles.checkpoints.formats.output import Template


def kept_contents(
    parts: Mapping[str, Sequence[TensorPlan]],
    aliases: Mapping[str, str],
    first: Checkpoint,
    out: Path | None,
    *,
    only_weights: bool,
) -> tuple[dict[str, Template], list[str]]:
    """Files of the first member that the output copies, except for their tensors.

    A weight file is a copy if the file of the first member has its tensors, with the
    same dtypes and shapes, and its format can be copied. Otherwise it contains only
    tensors.

    Parameters
    ----------
    parts : mapping of str to sequence of TensorPlan
        Tensors of each weight file of the output, see `Plan`.
    aliases : mapping of str to str
        Additional names for tied tensors in the result.
    first : Checkpoint
        First member.
    out : Path or None
        Path of the output; None for a state dict in memory, which contains only
        tensors.
    only_weights : bool
        Whether all weight files contain only tensors.

    Returns
    -------
    templates : dict of str to Template
        File to copy, for each weight file of the output that is a copy.
    notes : list of str
        Messages about other contents that are kept or left out.
    """
    if out is None or first.path is None:
        return {}, []
    templates: dict[str, Template] = {}
    contents = dict(first.beside)
    reasons = dict.fromkeys(contents, _usual_reason(parts, first))
    for part, stored in _pairs(parts, first, out):
        reason = _obstacle(part, parts[part], aliases, first)
        if only_weights:
            reason = "only_weights=True"
        if reason is not None:
            reasons[stored] = reason
            if first.keys and not contents.get(stored):
                contents[stored] = [f"the key {first.keys[0]!r}"]
        else:
            reasons.pop(stored, None)
            templates[part] = _template(part, parts[part], first)
    notes = [
        _note(stored, names, reasons.get(stored), first, out)
        for stored, names in contents.items()
        if names
    ]
    return templates, notes + list(_copies_without_metadata(templates, out))


def _pairs(
    parts: Mapping[str, Sequence[TensorPlan]], first: Checkpoint, out: Path
) -> Iterator[tuple[str, str]]:
    """Weight files of the output, each with the file of the first member it may copy.

    Main weight files of a directory are always written as safetensors files.
    """
    for part in parts:
        format_ = format_by_suffix(part)
        if format_ is None or not format_.keeps_contents or not parts[part]:
            continue
        if _is_directory(out) and part in first.extras:
            yield part, part
        elif not first.is_directory and first.format == format_.name:
            yield part, str(first.path and first.path.name)


def _is_directory(out: Path) -> bool:
    return format_by_suffix(out.name) is None


def _usual_reason(parts: Iterable[str], first: Checkpoint) -> str:
    """Reason why files of the first member are not copied, whatever their tensors."""
    for part in parts:
        format_ = format_by_suffix(part)
        if format_ is not None and not format_.keeps_contents:
            return f"format {format_.name!r} stores only tensors"
    return f"{first.name} is not a file of the same format"


def _prefix(part: str, first: Checkpoint) -> str:
    return first.extras.get(part, "")


def _obstacle(
    part: str,
    targets: Sequence[TensorPlan],
    aliases: Mapping[str, str],
    first: Checkpoint,
) -> str | None:
    """Reason why a file of the first member cannot be copied; None if it can."""
    targets_left = {target.name: target for target in targets}
    places: list[tuple[Tensor, TensorPlan]] = []
    for name in first.names:
        if not name.startswith(_prefix(part, first)) or name in aliases:
            continue
        target, tensor = targets_left.pop(name, None), first.tensor(name)
        if target is None or tensor is None:
            return f"tensor {name!r} is left out"
        if tensor.dtype != target.dtype:
            return f"tensor {name!r} changes to {target.dtype}"
        if not isinstance(tensor.source, FileSource):
            return f"tensor {name!r} is not contiguous in the file"
        if tensor.nbytes:
            places.append((tensor, target))
    if targets_left:
        return f"tensor {min(targets_left)!r} is added"
    places.sort(key=lambda place: place[0].offset)
    for (before, one), (after, other) in pairwise(places):
        # Tied tensors that are written under each name have the same bytes.
        is_same = before == after and one[2:] == other[2:]
        if after.offset < before.offset + before.nbytes and not is_same:
            return f"tensors {one.name!r} and {other.name!r} overlap in memory"
    return None


def _template(part: str, targets: Sequence[TensorPlan], first: Checkpoint) -> Template:
    prefix = _prefix(part, first)
    tensors = {t.name.removeprefix(prefix): t.members[0] for t in targets}
    file = next(tensor.source for tensor in tensors.values())
    assert isinstance(file, FileSource)
    return Template(file, tensors, [r for r in first.records if r.file is file])


def _copies_without_metadata(
    templates: Mapping[str, Template], out: Path
) -> Iterator[str]:
    for part, template in templates.items():
        format_ = format_by_suffix(part)
        if format_ is None or format_.metadata is None:
            continue
        if format_.metadata(template.file.path) is None:
            yield (
                f"{out} does not store the provenance of the result in the copy of "
                f"{template.file.path}, which is not a zip file or has a comment of "
                "another program; only_weights=True (--only-weights) stores it"
            )


def _note(
    stored: str, names: Sequence[str], reason: str | None, first: Checkpoint, out: Path
) -> str:
    """Message about the other contents of a file of the first member.

    ``reason`` says why they are left out; None if they are kept.
    """
    is_part = _is_directory(out) and stored in first.extras
    target = f"{out}/{stored}" if is_part else f"{out}"
    source = f"{first.path}/{stored}" if first.is_directory else first.name
    if reason is None:
        return f"{target} keeps the other contents of {source}: {listed(names)}"
    return (
        f"{target} contains only tensors, without {listed(names)} of {source}: {reason}"
    )
