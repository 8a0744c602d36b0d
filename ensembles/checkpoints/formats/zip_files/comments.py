"""Metadata of a result in the comment of a zip file, which other readers ignore."""

from __future__ import annotations

import json

from ensembles.checkpoints.formats.output import OutputFile
from ensembles.checkpoints.formats.zip_files.records import LARGEST_16


def encode_comment(file: OutputFile) -> bytes:
    """Comment with the metadata of an output file.

    Parameters
    ----------
    file : OutputFile
        File to write.

    Returns
    -------
    bytes
        JSON object, without the last entries if it would be too long for a comment. It
        contains no signature of a zip file, because JSON escapes control characters.

    Raises
    ------
    ValueError
        If the first entry alone is too long.
    """
    metadata = list(file.metadata.items())
    while True:
        encoded = json.dumps(dict(metadata), separators=(",", ":")).encode()
        if len(encoded) <= LARGEST_16 or len(metadata) < 2:
            break
        metadata.pop()
    if len(encoded) > LARGEST_16:
        raise ValueError(
            f"{file.name}: the provenance has {len(encoded)} bytes, a zip file stores "
            f"at most {LARGEST_16}; average in two steps, or write safetensors"
        )
    return encoded


def metadata_in(comment: bytes) -> dict[str, str]:
    """Metadata in the comment of a zip file.

    Parameters
    ----------
    comment : bytes
        Comment of any program.

    Returns
    -------
    dict of str to str
        Empty for comments that are not a JSON object.
    """
    try:
        content = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in entries if isinstance(value, str)}
