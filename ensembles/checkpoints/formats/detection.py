"""Detect the format of a weight file, by name or content, and read it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ensembles.checkpoints.formats.builtin import FORMATS, Format
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.formats.output import OutputFile, Sink
from ensembles.checkpoints.formats.recognized import RECOGNIZED, Recognized
from ensembles.checkpoints.formats.table import FileHead
from ensembles.regular_files import open_regular


def formats_by_preference() -> list[Format]:
    """Return all formats: safetensors, other streamed formats, the rest."""
    return sorted(
        FORMATS.values(),
        key=lambda format_: (format_.name != "safetensors", not format_.streams),
    )


def format_by_suffix(name: str) -> Format | None:
    """Format of a file name, None if no format has its suffix.

    Parameters
    ----------
    name : str
        Name or path of a file, which need not exist. Case does not matter; the longest
        suffix decides.

    Returns
    -------
    Format or None
    """
    matching = [
        (len(suffix), format_)
        for format_ in FORMATS.values()
        for suffix in format_.suffixes
        if name.lower().endswith(suffix)
    ]
    return max(matching, key=lambda pair: pair[0])[1] if matching else None


def writer_for(name: str) -> Callable[[OutputFile], Iterator[Mapping[str, Sink]]]:
    """Writer of the format of a file name.

    Parameters
    ----------
    name : str
        Name or path of the file to write.

    Returns
    -------
    callable (OutputFile) -> iterator
        See `Format`.

    Raises
    ------
    ValueError
        If no format has the suffix, or its format is only read.
    """
    format_ = format_by_suffix(name)
    if format_ is not None and format_.write is not None:
        return format_.write
    reason = "has an unknown suffix"
    if format_ is not None:
        reason = f"has the format {format_.name!r}, which can only be read"
    raise ValueError(
        f"{name} {reason}; choose a name with one of the suffixes "
        f"{', '.join(known_suffixes(written=True))}, or without suffix for a directory"
    )


def known_suffixes(*, written: bool = False) -> list[str]:
    """Suffixes of all formats that are read, or only of those also written."""
    return [
        suffix
        for format_ in formats_by_preference()
        if format_.write is not None or not written
        for suffix in format_.suffixes
    ]


def detect(path: Path) -> Format | Recognized | None:
    """Format of a file, detected from its content.

    Parameters
    ----------
    path : Path
        Path of a regular file. Its suffix decides only for formats that are not
        recognized by content.

    Returns
    -------
    Format, Recognized or None
        None if no format matches.
    """
    with open(open_regular(path), "rb") as file:
        head = FileHead(path, file.read(512), os.fstat(file.fileno()).st_size)
    # A safetensors header of 640 bytes starts with the two bytes of a pickle.
    candidates: list[Format | Recognized] = [*formats_by_preference(), *RECOGNIZED]
    if format_by_suffix(path.name) is None:
        # By name and content: pickles of other frameworks are not PyTorch's.
        named = [r for r in RECOGNIZED if r.matches and _is_named(path, r)]
        candidates = [*named, *candidates]
    for format_ in candidates:
        if format_.matches is None:
            if _is_named(path, format_):
                return format_
        elif format_.matches(head):
            return format_
    return None


def _is_named(path: Path, format_: Format | Recognized) -> bool:
    return path.name.lower().endswith(format_.suffixes)


def read(path: Path, key: Keys = None) -> Checkpoint:
    """Layout of a weight file.

    Parameters
    ----------
    path : Path
        Path of the weight file; its content decides about the format, then its suffix.
    key : str, sequence of str or None, default=None
        Key of the state dict, with dots between nested keys; None finds it. Ignored by
        formats that hold a single state dict.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the file has an unknown or unsupported format, or is damaged.
    """
    format_ = detect(path) or format_by_suffix(path.name)
    if isinstance(format_, Format):
        return format_.read(path, key) if format_.takes_key else format_.read(path)
    for recognized in RECOGNIZED if format_ is None else ():
        if _is_named(path, recognized):
            format_ = recognized
    if format_ is not None:
        raise ValueError(f"{path} {format_.advice}")
    raise ValueError(
        f"{path} must be a directory or a file of a known format "
        f"({', '.join(known_suffixes())}): neither its content nor its suffix is known"
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a weight file; empty if it has none or cannot be read.

    Parameters
    ----------
    path : Path
        Path of the file; its suffix decides about the format.

    Returns
    -------
    dict of str to str
    """
    format_ = format_by_suffix(path.name)
    if format_ is None or not format_.keeps_metadata:
        return {}
    try:
        if format_.metadata is not None:
            return format_.metadata(path) or {}
        return format_.read(path).metadata
    except (OSError, ValueError):
        return {}
