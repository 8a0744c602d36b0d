"""Write PyTorch files: a plain state dict, or a copy with other tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import xxhash

from ensembles.atomic_io import preallocate, pwrite_all
from ensembles.checkpoints.formats.output import OutputFile, Sink
from ensembles.checkpoints.formats.pytorch_files.copying import write_copy
from ensembles.checkpoints.formats.pytorch_files.state_pickle import (
    encode_state_dict,
    storage_order,
)
from ensembles.checkpoints.formats.state_dict import with_aliases
from ensembles.checkpoints.formats.zip_files.comments import encode_comment
from ensembles.checkpoints.formats.zip_files.crc import (
    ChecksummedFile,
    ChecksummedSink,
    combine,
    crc32,
)
from ensembles.checkpoints.formats.zip_files.layout import (
    ALIGNMENT,
    Entry,
    arrange,
    central_directory,
    descriptor,
    local_header,
)

FOLDER = "archive"  # as torch.save names it for a file without a name


def write(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    """Write a copy of the template with other tensors, else a plain state dict.

    Parameters
    ----------
    file : OutputFile
        File to write.

    Yields
    ------
    mapping of str to Sink
        Sink of each tensor; they write to the file.

    Raises
    ------
    ValueError
        If PyTorch does not have the dtype of a tensor.
    """
    yield from (_write_state_dict if file.template is None else write_copy)(file)


def _write_state_dict(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    names = with_aliases({name: name for name in file.layout}, file.aliases, file.order)
    try:
        pickled = encode_state_dict(file.layout, names)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None
    storages = {n: f"{FOLDER}/data/{i}" for i, n in enumerate(storage_order(names))}
    contents = _contents(file, pickled, storages)
    entries = arrange({name: _size(content) for name, content in contents.items()})
    starts = {entry.name: entry.start for entry in entries}
    with file.path.open("w+b", buffering=0) as opened:
        fd = opened.fileno()
        _write_known(fd, entries, contents, encode_comment(file))
        output = ChecksummedFile(fd)
        yield {
            name: ChecksummedSink(output, starts[entry])
            for name, entry in storages.items()
        }
        _write_checksums(fd, entries, contents, output, encode_comment(file))


def _contents(
    file: OutputFile, pickled: bytes, storages: Mapping[str, str]
) -> dict[str, bytes | int]:
    """Content of each entry, and of a storage its size, in the order of torch.save."""
    sizes: dict[str, bytes | int] = {}
    for name, entry in storages.items():
        dtype, shape = file.layout[name]
        sizes[entry] = math.prod(shape) * dtype.itemsize
    return {
        f"{FOLDER}/data.pkl": pickled,
        f"{FOLDER}/.format_version": b"1",
        f"{FOLDER}/.storage_alignment": f"{ALIGNMENT}".encode(),
        f"{FOLDER}/byteorder": b"little",
        **sizes,
        f"{FOLDER}/version": b"3\n",
        f"{FOLDER}/.data/serialization_id": bytes(40),  # known at the end
    }


def _size(content: bytes | int) -> int:
    return content if isinstance(content, int) else len(content)


def _write_known(
    fd: int,
    entries: Sequence[Entry],
    contents: Mapping[str, bytes | int],
    comment: bytes,
) -> None:
    """Allocate the file, and write the local headers and all contents but storages."""
    directory = central_directory(entries, [0] * len(entries), comment)
    preallocate(fd, entries[-1].end + len(directory))
    for entry in entries:
        head, content = local_header(entry), contents[entry.name]
        head += b"" if isinstance(content, int) else content
        pwrite_all(fd, memoryview(head), entry.header)


def _write_checksums(
    fd: int,
    entries: Sequence[Entry],
    contents: Mapping[str, bytes | int],
    output: ChecksummedFile,
    comment: bytes,
) -> None:
    """Write the identifier, the checksums after the data, and the zip directory."""
    storages = [entry for entry in entries if isinstance(contents[entry.name], int)]
    read = output.checksums((entry.start, entry.stop) for entry in storages)
    crcs = {entry.name: crc for entry, crc in zip(storages, read, strict=True)}
    for name, content in contents.items():
        if not isinstance(content, int):
            crcs[name] = crc32(content)
    last = entries[-1]
    identifier = _identifier(entries[:-1], crcs)
    pwrite_all(fd, memoryview(identifier), last.start)
    crcs[last.name] = crc32(identifier)
    for entry in entries:
        if entry.size:
            end = descriptor(entry, crcs[entry.name])
            pwrite_all(fd, memoryview(end), entry.stop)
    ordered = [crcs[entry.name] for entry in entries]
    directory = central_directory(entries, ordered, comment)
    pwrite_all(fd, memoryview(directory), last.end)


def _identifier(entries: Sequence[Entry], crcs: Mapping[str, int]) -> bytes:
    """40 digits that identify the names and contents of the entries.

    torch computes them with a hash function that differs between C++ libraries.
    """
    joined = "\0".join(entry.name for entry in entries).encode()
    names, crc = xxhash.xxh3_64_intdigest(joined), 0
    for entry in entries:
        crc = combine(crc, crcs[entry.name], entry.size)
    return f"{names:020}{crc:020}".encode()
