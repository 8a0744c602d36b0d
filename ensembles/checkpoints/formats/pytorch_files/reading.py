"""Content of a file of ``torch.save``: the pickled object, and where storages lie.

The zip format has an entry with the pickle and one for each storage. The format before
PyTorch 1.6 has five pickles (magic number, version, system, object, storage keys),
followed by the storages, each with its number of elements in 8 bytes. Sources: the
functions ``_save``, ``_legacy_save`` and ``_legacy_load`` in torch/serialization.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.checkpoint import ChecksumRecord, FileSource
from ensembles.checkpoints.formats.pytorch_files.objects import Malformed
from ensembles.checkpoints.formats.pytorch_files.tensors import (
    KNOWN,
    Storage,
    StoredTensor,
    storage,
)
from ensembles.checkpoints.formats.pytorch_files.unpickler import Unpickler
from ensembles.checkpoints.formats.zip_files.comments import metadata_in
from ensembles.checkpoints.formats.zip_files.crc import crc32, damaged
from ensembles.checkpoints.formats.zip_files.reading import Entry, read_archive
from ensembles.checkpoints.formats.zip_files.records import LOCAL, STORED

MAGIC = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = MAGIC.to_bytes(10, "little")  # in pickles of protocol 2 and later
VERSION = 1001
OTHER_PICKLE = (
    "{path} is a pickle, but was not written by torch.save; if you trust it, load it, "
    "and save its tensors with torch.save"
)
FIRST_READ = 1 << 20  # bytes of a legacy file, more if the pickles are longer
# Bytes of an element, by the dtype of the storage.
ITEMSIZES = {
    **dict.fromkeys(("complex128",), 16),
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
    **dict.fromkeys(("qint8", "quint8", "quint4x2", "quint2x4"), 1),
}


class TorchFile(NamedTuple):
    """Content of a file of ``torch.save``.

    Parameters
    ----------
    content : object
        Object that was saved, with a `StoredTensor` for each tensor.
    storages : dict of str to ChecksumRecord
        Position, size and checksum of each storage that the content refers to, by its
        key. The checksum is 0 in files that do not have any.
    has_checksums : bool
        Whether the file has checksums of its storages.
    metadata : dict of str to str
        Metadata in the comment of the zip file; empty for files of other programs.
    """

    content: Any
    storages: dict[str, ChecksumRecord]
    has_checksums: bool
    metadata: dict[str, str]


def read_file(file: FileSource, begin: int = 0, end: int | None = None) -> TorchFile:
    """Read the structure of a file of ``torch.save``, without its storages.

    Parameters
    ----------
    file : FileSource
        File to read.
    begin, end : int, default=0 and None
        Part of the file that ``torch.save`` has written; None ends with the file.

    Returns
    -------
    TorchFile

    Raises
    ------
    ValueError
        If the file is damaged, big-endian, or was not written by ``torch.save``.
    """
    end = file.size if end is None else end
    start = file.read(begin, min(32, end - begin))
    # The module pickle stores tensors as bytes, which cannot be read at their offsets.
    if start[:1] == b"\x80" and len(start) == 32 and MAGIC_BYTES not in start:
        raise ValueError(OTHER_PICKLE.format(path=file.path))
    try:
        if start[:4] == LOCAL:
            return _read_zip(file, begin, end)
        return _read_legacy(file, begin, end)
    except Malformed as error:
        raise ValueError(
            f"{file.path} is not a complete PyTorch file: {error}; copy or download it "
            "again"
        ) from None


def stored_at(
    tensor: StoredTensor, itemsize: int, stored: TorchFile, where: str
) -> int:
    """Position of the first element of a tensor in its file, in bytes.

    Parameters
    ----------
    tensor : StoredTensor
        Tensor in the content of the file.
    itemsize : int
        Size of an element in bytes.
    stored : TorchFile
        File that contains it.
    where : str
        Name of the file and the tensor, for messages.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the tensor cannot be read, or extends beyond its storage.
    """
    if tensor.storage is None:
        raise ValueError(f"{where} {tensor.problem}")
    record = stored.storages.get(tensor.storage.key)
    if record is None:
        raise ValueError(f"{where} has no data in the file; copy or download it again")
    if tensor.stop * itemsize > record.size:
        raise ValueError(
            f"{where} is larger than its entry in the file; copy or download it again"
        )
    return record.offset + tensor.offset * itemsize


def _read_zip(file: FileSource, begin: int, end: int) -> TorchFile:
    archive = read_archive(file, begin, end)
    pickles = [name for name in archive.names if name.endswith("/data.pkl")]
    if not pickles:
        raise ValueError(
            f"{file.path} is a zip file that was not written by torch.save: it has no "
            "entry data.pkl"
        )
    has_checksums = False  # torch writes zeros with set_crc32_options(False)
    for entry in archive:
        if entry.method != STORED or entry.stored_size != entry.size:
            raise ValueError(
                f"{file.path}: entry {entry.name!r} is compressed, which torch.save "
                "never does; save it again with torch.save"
            )
        has_checksums |= entry.crc != 0
    prefix = min(pickles, key=len).removesuffix("data.pkl")
    order = archive.get(f"{prefix}byteorder")
    if order is not None and file.read(order.start, order.size) != b"little":
        raise ValueError(
            f"{file.path} is big-endian, which is not supported; save it again on a "
            "little-endian machine"
        )
    pickled = archive.get(f"{prefix}data.pkl")
    assert pickled is not None
    data = file.read(pickled.start, pickled.size)
    if has_checksums and crc32(data) != pickled.crc:
        raise damaged(_record(file, pickled))
    load, used = _collecting_storages()
    content = Unpickler(data, KNOWN, persistent_load=load, memory=end - begin).load()
    folder = f"{prefix}data/"
    storages = {
        key: _record(file, entry)
        for entry in archive
        if (key := entry.name.removeprefix(folder)) in used
        and entry.name.startswith(folder)
    }
    metadata = metadata_in(archive.comment)
    return TorchFile(content, storages, has_checksums, metadata)


def _collecting_storages() -> tuple[Callable[[Any], Any], dict[str, Storage]]:
    """Function for `Unpickler` to load storages, and those it has loaded, by key."""
    used: dict[str, Storage] = {}

    def load(persistent_id: Any) -> Any:
        loaded = storage(persistent_id)
        if isinstance(loaded, Storage):
            used[loaded.key] = loaded
        return loaded

    return load, used


def _record(file: FileSource, entry: Entry) -> ChecksumRecord:
    return ChecksumRecord(file, entry.start, entry.size, entry.crc, entry.name)


def _read_legacy(file: FileSource, begin: int, end: int) -> TorchFile:
    size = FIRST_READ
    while True:
        size = min(size, end - begin)
        load, used = _collecting_storages()
        reader = Unpickler(
            file.read(begin, size), KNOWN, persistent_load=load, memory=end - begin
        )
        try:
            if reader.load() != MAGIC:
                raise ValueError(OTHER_PICKLE.format(path=file.path))
            version, _, content, keys = (reader.load() for _ in range(4))
            break
        except Malformed:
            if size == end - begin:
                raise
            size *= 8
    if version != VERSION or not isinstance(keys, list):
        raise Malformed(f"it has the unknown version {version!r:.40}")
    return TorchFile(
        content, _legacy_storages(file, reader, keys, used, begin, end), False, {}
    )


def _legacy_storages(
    file: FileSource,
    reader: Unpickler,
    keys: list[Any],
    used: dict[str, Storage],
    begin: int,
    end: int,
) -> dict[str, ChecksumRecord]:
    storages: dict[str, ChecksumRecord] = {}
    position = begin + reader.position
    for key in keys:
        if not isinstance(key, str) or key not in used or key in storages:
            raise Malformed(f"it has a storage {key!r:.40} that no tensor uses")
        n_elements = int.from_bytes(file.read(position, 8), "little")
        dtype = used[key].dtype
        if dtype not in ITEMSIZES:
            raise Malformed(f"storage {key!r:.40} has the unknown type {dtype!r:.40}")
        size = n_elements * ITEMSIZES[dtype]
        if n_elements != used[key].size or position + 8 + size > end:
            raise Malformed(
                f"storage {key!r:.40} must have {used[key].size} elements, found "
                f"{n_elements} in {max(end - position - 8, 0)} bytes"
            )
        storages[key] = ChecksumRecord(file, position + 8, size, 0, f"storage {key}")
        position += 8 + size
    return storages
