"""Files that are no text: compressed, in UTF-16, or binary, known by their bytes."""

from __future__ import annotations

import codecs
import os
import shlex
from pathlib import Path

from ensembles.regular_files import read_regular

# How compressed files begin, what they are, and what reads them.
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "zcat"),
    b"BZh": ("bzip2", "bzcat"),
    b"\xfd7zXZ\0": ("xz", "xzcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4cat"),
    b"\x1f\x9d": ("compress", "zcat"),
    b"PK\x03\x04": ("zip", "unzip -p"),
    b"PK\x05\x06": ("zip", "unzip -p"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x -so"),
}
# The longer ones first: UTF-32 begins as UTF-16 does.
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LARGEST = 4 << 30  # bytes of a text that is read in one piece
# What stands in a clone in the place of a large file.
POINTER = b"version https://git-lfs.github.com/spec/"
# Streams that a shell has opened, as in --frequencies <(zcat counts.gz): unlike a pipe
# with a name they have a writer.
STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
SAMPLE = 4096  # bytes that are looked at
# What no text has, but for mishaps: tabs, ends of lines and pages, and escapes it has.
CONTROL = bytes(
    code for code in range(32) if code not in b"\t\n\v\f\r\x1b\x1c\x1d\x1e\x1f"
)
MOST_CONTROL = 0.02
SHORTEST = 16  # bytes by whose zeros an encoding is told


def compression_of(first: bytes) -> tuple[str, str] | None:
    """Name of a compression and the program that reads it, None for what has none.

    Parameters
    ----------
    first : bytes
        What a file begins with.

    Returns
    -------
    (str, str) or None
    """
    for start, found in COMPRESSED.items():
        if first.startswith(start):
            return found
    return None


def check_no_pointer(first: bytes, name: str) -> None:
    """Raise if a file is a pointer of Git LFS to another one.

    Parameters
    ----------
    first : bytes
        The beginning of a file.
    name : str
        Of the file, for messages.

    Raises
    ------
    ValueError
    """
    if first.startswith(POINTER):
        raise ValueError(
            f"{name} is a pointer of Git LFS, not the file itself: git lfs pull "
            "fetches it"
        )


def check_text(first: bytes, name: str, *, then: str = "> FILE") -> None:
    """Raise if what a file begins with is no text in an encoding of bytes.

    Parameters
    ----------
    first : bytes
        The beginning of a file.
    name : str
        Of the file, for messages.
    then : str, default="> FILE"
        What follows the command that decompresses or recodes, in messages.

    Raises
    ------
    ValueError
        If it is compressed, in UTF-16 or UTF-32, or binary.
    """
    if found := compression_of(first):
        kind, program = found
        raise ValueError(
            f"{name} must be text, but is compressed ({kind}): {program} "
            f"{shlex.quote(name)} {then}"
        )
    check_no_pointer(first, name)
    sample = first[:SAMPLE]
    wide = next((WIDE[mark] for mark in WIDE if first.startswith(mark)), None)
    wide = wide or _wide_without_mark(sample)
    if wide is not None:
        raise ValueError(
            f"{name} must be text of an encoding of bytes, such as utf-8, but is "
            f"{wide}: iconv -f {wide} -t UTF-8 {shlex.quote(name)} {then}"
        )
    n_control = len(sample) - len(sample.translate(None, CONTROL))
    if n_control > MOST_CONTROL * len(sample) and not _is_utf8(sample):
        raise ValueError(
            f"{name} must be text, but is a binary file: it begins with {first[:16]!r}"
        )


def _wide_without_mark(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 by where the NULs of its ASCII stand, or None."""
    if len(sample) < SHORTEST:
        return None
    zeros = [sample[place::4].count(0) * 8 >= len(sample) for place in range(4)]
    found = "".join("x0"[is_zero] for is_zero in zeros)
    names = {"x0x0": "16LE", "0x0x": "16BE", "x000": "32LE", "000x": "32BE"}
    return f"UTF-{names[found]}" if found in names else None


def _is_utf8(sample: bytes) -> bool:
    """Whether bytes are UTF-8, perhaps cut off within the last character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def read_text(path: str | os.PathLike[str]) -> str:
    """Text of a regular file or a shell's stream in UTF-8, without a mark before it.

    Parameters
    ----------
    path : path

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError
    ValueError
        If it is a pipe with a name or a device, or no text in UTF-8.
    """
    if str(path).startswith(STREAMS):
        content = _read_stream(path)
    else:
        content = read_regular(Path(path), largest=LARGEST)
    check_text(content[:SAMPLE], str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8: {error}") from None


def _read_stream(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST} bytes")
    return content
