"""NeMo archives: tar files with a PyTorch checkpoint, its configuration and tokenizer.

The averaged tensors replace those of the first member in a copy of its archive. Source:
``SaveRestoreConnector`` in nemo/core/connectors/save_restore_connector.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

from ensembles.checkpoints.formats.checkpoint import Checkpoint, FileSource, Keys
from ensembles.checkpoints.formats.output import OutputFile, Sink
from ensembles.checkpoints.formats.pytorch import read_checkpoint
from ensembles.checkpoints.formats.pytorch_files.copying import write_copy
from ensembles.checkpoints.formats.table import FORMATS, FileHead
from ensembles.registry import register
from ensembles.regular_files import open_regular

WEIGHTS = "model_weights.ckpt"
MOST_ENTRIES = 10_000


def _matches(head: FileHead) -> bool:
    return head.start[257:262] == b"ustar" and head.path.name.lower().endswith(".nemo")


def _write(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    if file.template is None:
        raise ValueError(
            f"{file.name} must have the tensors of the first member, a NeMo archive, "
            "with the same dtypes; choose another format, such as .safetensors"
        )
    begin, end, _ = _weights(file.template.file.path)
    yield from write_copy(file, begin, end)


def _weights(path: Path) -> tuple[int, int, list[str]]:
    """Begin and end of the weights in an archive, and the names of other files."""
    import tarfile  # slow, and rarely needed

    try:
        with (
            open(open_regular(path), "rb") as opened,
            tarfile.open(fileobj=opened, mode="r:") as archive,
        ):
            files = [entry for entry in islice(archive, MOST_ENTRIES) if entry.isreg()]
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise ValueError(
            f"{path} is not a complete tar file, as NeMo writes it: {error}; copy or "
            "download the file again"
        ) from None
    weights = [entry for entry in files if PurePosixPath(entry.name).name == WEIGHTS]
    others = [str(PurePosixPath(entry.name)) for entry in files if entry not in weights]
    if len(weights) != 1 or weights[0].issparse():
        names = [entry.name for entry in weights] or others
        advice = "convert ranks of tensor parallelism to a single file with NeMo"
        if any(PurePosixPath(name).name == ".metadata" for name in names):
            advice = (
                "unpack its distributed checkpoint with tar -xf, and pass the folder"
            )
        raise ValueError(
            f"{path} must have one file {WEIGHTS}, found {', '.join(names[:5])}; "
            f"{advice}"
        )
    begin = weights[0].offset_data
    return begin, begin + weights[0].size, others


@register(
    FORMATS,
    suffixes=(".nemo",),
    matches=_matches,
    write=_write,
    takes_key=True,
    keeps_contents=True,
    needs_first=True,
    in_directories=False,
)
def nemo(path: Path, key: Keys = None) -> Checkpoint:
    """Layout of a NeMo archive that is not compressed.

    Parameters
    ----------
    path : Path
        Path of the archive.
    key : str, sequence of str or None, default=None
        Key of the state dict in its PyTorch checkpoint, see
        `ensembles.checkpoints.formats.pytorch.pytorch`.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the archive is damaged, or has no or several files with weights.
    """
    begin, end, others = _weights(path)
    checkpoint = read_checkpoint(FileSource(path), key, begin, end)
    beside = others + checkpoint.beside[path.name]
    return replace(checkpoint, format="nemo", beside={path.name: beside})
