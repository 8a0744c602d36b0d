"""Detect files that are not UTF-8 text: compressed, UTF-16, UTF-32 or binary."""

from __future__ import annotations

import codecs
import os
import shlex
from pathlib import Path

from ensembles.regular_files import read_regular

# Magic number of each compression, its name, and the program that decompresses it.
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
# Longer byte order marks first: that of UTF-32-LE begins with that of UTF-16-LE.
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LARGEST = 4 << 30  # maximum size in bytes of a text that is read at once
# A clone without Git LFS has a small pointer file in place of each large file.
POINTER = b"version https://git-lfs.github.com/spec/"
# Streams opened by a shell, as in --frequencies <(zcat counts.gz): unlike a named pipe,
# they have a writer, so that opening them does not block.
STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
SAMPLE = 4096  # bytes that are examined
# Control characters that text rarely has; tabs, line and page ends and escapes are
# common.
CONTROL = bytes(
    code for code in range(32) if code not in b"\t\n\v\f\r\x1b\x1c\x1d\x1e\x1f"
)
MOST_CONTROL = 0.02
SHORTEST = 16  # bytes needed to detect an encoding from its NUL bytes


def compression_of(first: bytes) -> tuple[str, str] | None:
    """Detect a compression by its magic number.

    Parameters
    ----------
    first : bytes
        First bytes of a file.

    Returns
    -------
    (str, str) or None
        Name of the compression and the program that decompresses it; None if the file
        is not compressed.
    """
    for start, compression in COMPRESSED.items():
        if first.startswith(start):
            return compression
    return None


def check_no_pointer(first: bytes, name: str) -> None:
    """Raise if a file is a Git LFS pointer.

    Parameters
    ----------
    first : bytes
        First bytes of the file.
    name : str
        Name of the file, for messages.

    Raises
    ------
    ValueError
        If the file is a Git LFS pointer instead of the file that it refers to.
    """
    if first.startswith(POINTER):
        raise ValueError(
            f"{name} is a Git LFS pointer, not the file itself; download it with "
            "git lfs pull"
        )


def check_text(first: bytes, name: str, *, then: str = "> FILE") -> None:
    """Raise unless the first bytes of a file are text in an ASCII-compatible encoding.

    Parameters
    ----------
    first : bytes
        First bytes of the file.
    name : str
        Name of the file, for messages.
    then : str, default="> FILE"
        End of the shell command that messages suggest to decompress or recode the file.

    Raises
    ------
    ValueError
        If the file is compressed, a Git LFS pointer, in UTF-16 or UTF-32, or binary.
    """
    if compression := compression_of(first):
        compression_name, program = compression
        raise ValueError(
            f"{name} must be text, but is compressed ({compression_name}): {program} "
            f"{shlex.quote(name)} {then}"
        )
    check_no_pointer(first, name)
    sample = first[:SAMPLE]
    wide = next((WIDE[mark] for mark in WIDE if first.startswith(mark)), None)
    wide = wide or _wide_without_mark(sample)
    if wide is not None:
        raise ValueError(
            f"{name} must be text in an ASCII-compatible encoding, such as utf-8, "
            f"but is {wide}: iconv -f {wide} -t UTF-8 {shlex.quote(name)} {then}"
        )
    n_control = len(sample) - len(sample.translate(None, CONTROL))
    if n_control > MOST_CONTROL * len(sample) and not _is_utf8(sample):
        raise ValueError(
            f"{name} must be text, but is a binary file: it begins with {first[:16]!r}"
        )


def _wide_without_mark(sample: bytes) -> str | None:
    """Detect UTF-16 or UTF-32 by the positions of NUL bytes; None if neither."""
    if len(sample) < SHORTEST:
        return None
    is_zero_column = [
        sample[start::4].count(0) * 8 >= len(sample) for start in range(4)
    ]
    pattern = "".join("x0"[is_zero] for is_zero in is_zero_column)
    names = {"x0x0": "16LE", "0x0x": "16BE", "x000": "32LE", "000x": "32BE"}
    return f"UTF-{names[pattern]}" if pattern in names else None


def _is_utf8(sample: bytes) -> bool:
    """Whether bytes are UTF-8; the last character may be truncated."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text from a regular file or a shell stream.

    Parameters
    ----------
    path : path
        Regular file of at most 4 GiB, or a stream such as ``/dev/stdin``.

    Returns
    -------
    str
        The text without a byte order mark.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is a named pipe or a device, is too large, or is not UTF-8 text.
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
        raise ValueError(f"{path} must have at most {LARGEST} bytes")
    return content
