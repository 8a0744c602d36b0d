"""The table of checkpoint formats: how weight files are recognized, read and written.

To add a format, write a module in this folder that registers it, and import it in
`builtin`. If `recognized` refuses the format so far, remove its entry there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    FileContents,
    FileSource,
)
from ensembles.checkpoints.formats.output import OutputFile, Sink
from ensembles.checkpoints.formats.zip_files.reading import entry_names
from ensembles.checkpoints.formats.zip_files.records import LOCAL
from ensembles.registry import Table


@dataclass(frozen=True)
class FileHead:
    """Beginning of a file, to recognize its format.

    Parameters
    ----------
    path : Path
        Path of the file.
    start : bytes
        First 512 bytes of the file, or all of it.
    size : int
        Size of the file in bytes.
    """

    path: Path
    start: bytes
    size: int

    @cached_property
    def entries(self) -> list[str]:
        """Names of the entries of a zip file; empty for damaged and other files."""
        if not self.start.startswith(LOCAL):
            return []
        try:
            return entry_names(FileSource(self.path))
        except ValueError:
            return []


@dataclass(frozen=True)
class Format:
    """A checkpoint format, with its reader and optionally a writer.

    The result of an average is written to a path with one of the ``suffixes``. A
    directory is written as safetensors files, except for additional files such as
    heads, which keep their format.

    Parameters
    ----------
    read : callable (path) -> Checkpoint
        Reads the layout of a file, without its tensors; raises `ValueError` if the file
        is damaged. The function's name is the name of the format.
    suffixes : tuple of str
        File name extensions in lowercase, such as ``(".pt", ".pth.tar")``.
    matches : callable (FileHead) -> bool or None, default=None
        Whether a file has this format, from its content. None recognizes it by its
        suffix.
    write : callable (OutputFile) -> iterator of mapping of str to Sink, or None
        Generator that writes a file. It yields once: a sink for each tensor of the
        layout. Other threads fill the sinks; afterwards the generator continues, with
        the digests in ``metadata``. It stores the ``aliases`` too, which would be lost
        otherwise, and raises `ValueError` before it yields if the format cannot store a
        name or shape. It neither creates temporary files nor renames, and should use
        ``with`` for what it opens, because an error is raised at ``yield``. None if the
        format can only be read.
    takes_key : bool, default=False
        Whether a file may hold several state dicts; then ``read`` has a second
        parameter, ``key``: the key of the state dict, or None.
    streams : bool, default=True
        Whether sinks write to the file; False if the writer holds tensors in memory.
    keeps_metadata : bool, default=False
        Whether files store the metadata; then the reader returns them.
    metadata : callable (path) -> dict of str to str or None, or None, default=None
        Reads the metadata alone, if that is faster than ``read``; returns None for a
        file that cannot store any, nor its copy. None takes those of ``read``.
    keeps_contents : bool, default=False
        Whether the writer copies the ``template`` of an output file, to keep its
        contents other than tensors.
    keeps_aliases : bool, default=True
        Whether files store aliases; False has tied tensors written under each name.
    dtypes : frozenset of dtype or None, default=None
        Dtypes of tensors that files can store; None stores all.
    needs_first : bool, default=False
        Whether a file is only written if the first member has this format, because the
        writer keeps its metadata, see ``OutputFile.first``.
    in_directories : bool, default=True
        Whether such a file in a directory is one of its weight files. False for files
        that directories also have for other purposes; these are copied or left out.
    main_files : tuple of str, default=()
        Usual names of the main weight file in a directory, the preferred one first.
    contents : callable (path) -> FileContents or None, default=None
        Lists everything in a file, from its header alone, for `inspect`: also tensors
        that ``read`` rejects, and state dicts that it does not choose. None lists the
        tensors that ``read`` returns.

    Examples
    --------
    A format with the name, dtype and shape of each tensor and the aliases in a JSON
    header of 4096 bytes, followed by the tensors:

    >>> import json
    >>> import numpy as np
    >>> from ensembles.checkpoints.formats.builtin import FORMATS
    >>> from ensembles.checkpoints.formats.checkpoint import FileSource, Tensor
    >>> from ensembles.checkpoints.formats.output import file_sinks
    >>> from ensembles.registry import register
    >>> def write_plain(file):
    ...     entries = [(n, str(d), shape) for n, (d, shape) in file.layout.items()]
    ...     header = json.dumps([entries, dict(file.aliases)]).encode()
    ...     if len(header) > 4096:
    ...         raise ValueError(f"{file.name}: the header must fit into 4096 bytes")
    ...     with file.path.open("wb", buffering=0) as opened:
    ...         opened.write(header.ljust(4096))
    ...         yield file_sinks(opened.fileno(), file.layout, 4096)
    >>> @register(FORMATS, suffixes=(".plain",), write=write_plain)
    ... def plain(path):
    ...     file, offset, layout = FileSource(path), 4096, {}
    ...     entries, aliases = json.loads(file.read(0, 4096))
    ...     for name, dtype, shape in entries:
    ...         layout[name] = Tensor(np.dtype(dtype), tuple(shape), file, offset)
    ...         offset += layout[name].nbytes
    ...     if offset != file.size:
    ...         raise ValueError(f"{path} must have {offset} bytes, found {file.size}")
    ...     return Checkpoint(str(path), "plain", path, layout, aliases)

    It is now read and written by `ensembles.checkpoints.average`:

    >>> import os, tempfile
    >>> from ensembles.checkpoints import average
    >>> path = os.path.join(tempfile.mkdtemp(), "mean.plain")
    >>> report = average([{"w": np.zeros(2)}, {"w": np.ones(2)}], path)
    >>> average([path])
    {'w': array([0.5, 0.5])}
    >>> del FORMATS["plain"]
    """

    read: Callable[..., Checkpoint]
    suffixes: tuple[str, ...]
    matches: Callable[[FileHead], bool] | None = None
    write: Callable[[OutputFile], Iterator[Mapping[str, Sink]]] | None = None
    takes_key: bool = False
    streams: bool = True
    keeps_metadata: bool = False
    metadata: Callable[[Path], dict[str, str] | None] | None = None
    keeps_contents: bool = False
    keeps_aliases: bool = True
    dtypes: frozenset[np.dtype[Any]] | None = None
    needs_first: bool = False
    in_directories: bool = True
    main_files: tuple[str, ...] = ()
    contents: Callable[[Path], FileContents] | None = None

    @property
    def name(self) -> str:
        """Public name of the format."""
        return self.read.__name__


FORMATS: Table[Format] = Table("checkpoint format", Format)
