"""Contents of the first member besides averaged tensors that the output keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.directories.auxiliary_files import (
    link_root,
    reason_not_copied,
)
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.detection import format_by_suffix
from ensembles.checkpoints.formats.output import Template
from ensembles.checkpoints.formats.pytorch_files.strided import FileRange, file_range

SHOWN = 8  # names in a note


class KeptContents(NamedTuple):
    """What the output keeps of the first member besides averaged tensors.

    Parameters
    ----------
    templates : dict of str to Template
        File to copy, for each weight file of the output that is a copy.
    files : list of Path
        Files with training state to copy into a directory.
    notes : list of str
        Messages about other contents that are kept or left out.
    problems : list of str
        Error messages about other contents that must be kept and cannot be.
    """

    templates: dict[str, Template]
    files: list[Path]
    notes: list[str]
    problems: list[str]

    def count_bytes(self, n_written: int) -> int:
        """Bytes of the output, where ``n_written`` is the size of its tensors."""
        copies = sum(template.file.size for template in self.templates.values())
        return max(n_written, copies) + sum(file.stat().st_size for file in self.files)


def kept_contents(
    parts: Mapping[str, Sequence[TensorPlan]],
    aliases: Mapping[str, str],
    first: Checkpoint,
    out: Path | None,
    *,
    only_weights: bool | None,
) -> KeptContents:
    """Contents of the first member that the output keeps besides averaged tensors.

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
    only_weights : bool or None
        Whether all weight files contain only tensors, see `MergeOptions`.

    Returns
    -------
    KeptContents
    """
    kept = KeptContents({}, [], [], [])
    if out is None or first.path is None or not any(parts.values()):
        return kept
    advice = _advice(out, only_weights)
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
            kept.templates[part] = _template(part, parts[part], first)
    for stored, names in contents.items():
        if names:
            reason = reasons.get(stored)
            note = _note(stored, names, reason, first, out, advice)
            is_problem = reason is not None and advice is not None
            (kept.problems if is_problem else kept.notes).append(note)
    kept.notes.extend(_copies_without_metadata(kept.templates, out))
    if first.training_files:
        _keep_training_files(kept, first, out, only_weights)
    return kept


def _keep_training_files(
    kept: KeptContents, first: Checkpoint, out: Path, only_weights: bool | None
) -> None:
    """Add files with training state, or say why they are left out."""
    names = listed(first.training_files, SHOWN)
    reason = "only_weights=True" if only_weights else _training_obstacle(first, out)
    if only_weights is False and reason is None:
        path = Path(str(first.path))
        kept.files.extend(path / name for name in first.training_files)
        kept.notes.append(
            f"{out} keeps the training state of the first member, {first.name}: {names}"
        )
    elif only_weights is False:
        kept.problems.append(
            f"{out} cannot keep the training state of {first.name}, {names}: {reason}"
        )
    else:
        reason = reason or "pass only_weights=False (--with-training-state) to copy it"
        kept.notes.append(
            f"{out} leaves out the training state of {first.name}, {names}: {reason}"
        )


def _training_obstacle(first: Checkpoint, out: Path) -> str | None:
    """Reason why files with training state cannot be copied; None if they can."""
    if not _is_directory(out):
        return "only a directory can have it; choose an output without suffix"
    path = Path(str(first.path))
    root = link_root(path)
    for name in first.training_files:
        if name.endswith("/"):
            return (
                f"{name} may contain the parameters too, and a trainer would resume "
                "from these instead of the average"
            )
        reason = reason_not_copied(path / name, root, largest=None)
        if reason is not None:
            return f"{name} cannot be copied ({reason})"
    return None


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
    places: list[tuple[FileRange, TensorPlan]] = []
    for name in first.names:
        if not name.startswith(_prefix(part, first)) or name in aliases:
            continue
        target, tensor = targets_left.pop(name, None), first.tensor(name)
        if target is None or tensor is None:
            return f"tensor {name!r} is left out"
        if tensor.dtype != target.dtype:
            return f"tensor {name!r} changes to {target.dtype}"
        place = file_range(tensor)
        if place is None:
            return f"elements of tensor {name!r} overlap in memory"
        if tensor.nbytes:
            places.append((place, target))
    if targets_left:
        return f"tensor {min(targets_left)!r} is added"
    places.sort(key=lambda place: place[0].start)
    for (before, one), (after, other) in pairwise(places):
        # Tied tensors that are written under each name have the same bytes.
        is_same = (one.action, one.sources) == (other.action, other.sources)
        if after.start < before.stop and not is_same:
            return f"tensors {one.name!r} and {other.name!r} overlap in memory"
    return None


def _template(part: str, targets: Sequence[TensorPlan], first: Checkpoint) -> Template:
    prefix = _prefix(part, first)
    tensors = {t.name.removeprefix(prefix): t.members[0] for t in targets}
    place = file_range(next(iter(tensors.values())))
    assert place is not None
    file = place.file
    return Template(file, tensors, [r for r in first.records if r.file is file])


def _advice(out: Path, only_weights: bool | None) -> str | None:
    """How to average without other contents; None if they need not be kept."""
    written = format_by_suffix(out.name)
    if written is not None and written.keeps_contents and written.needs_first:
        return "choose another output, such as a .safetensors file"
    if only_weights is False:
        return "pass only_weights=True (--only-weights) to leave it out"
    return None


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
    stored: str,
    names: Sequence[str],
    reason: str | None,
    first: Checkpoint,
    out: Path,
    advice: str | None,
) -> str:
    """Message about the other contents of a file of the first member.

    ``reason`` says why they are left out, None if they are kept; ``advice`` what to do
    if they must be kept.
    """
    is_part = _is_directory(out) and stored in first.extras
    target = f"{out}/{stored}" if is_part else f"{out}"
    source = f"{first.path}/{stored}" if first.is_directory else first.name
    contents = listed(names, SHOWN)
    if reason is None:
        return (
            f"{target} keeps the other contents of the first member, {source}: "
            f"{contents}"
        )
    if advice is not None:
        return f"{target} cannot keep {contents} of {source}: {reason}; {advice}"
    return f"{target} contains only tensors, without {contents} of {source}: {reason}"
