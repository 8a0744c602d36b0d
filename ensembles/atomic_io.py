"""Output that is whole or absent, whenever a run is killed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ensembles.permissions import replaced, take_over, without_group

LARGEST_WRITE = 512 << 10  # larger buffered writes were seen to fall to a sixth
NO_REPLACE, EXCHANGE = 1, 2  # flags of renameat2
AT_FDCWD = -100


@contextmanager
def whole(path: Path, *, folder: bool, force: bool) -> Iterator[Path]:
    """A place beside ``path``, which takes that name when the block has ended.

    The place holds a lock as long as its process lives: what a killed run left there
    is told by its free lock, and cleared by the next run. A file or directory that is
    replaced leaves its permissions, and its owner and group where the process may set
    them, to the new one.

    Parameters
    ----------
    path : Path
    folder : bool
        Whether the place is a directory.
    force : bool
        Whether what stands at ``path`` is replaced.

    Yields
    ------
    Path
        An empty file or directory of a unique name.

    Raises
    ------
    FileExistsError
        If something stands at ``path``, before or after, and not ``force``.
    """
    check_free(path, force=force)
    old = replaced(path, folder)
    mode = None if old is None else without_group(old.st_mode)
    with beside(path, folder=folder, mode=mode) as place:
        yield place
        _flush(place)
        if old is not None:
            take_over(place, old)
        _publish(place, path, force)


def check_free(path: Path, *, force: bool, folder: bool | None = None) -> None:
    """Raise if an existing file or directory must not or cannot be replaced.

    Parameters
    ----------
    path : Path
        Where the output will be written.
    force : bool
        Whether an existing output is replaced.
    folder : bool or None, default=None
        Whether the output is a directory or a file, and replaces only its own kind;
        None replaces either.

    Raises
    ------
    FileExistsError
        If ``path`` exists and not ``force``, or is of the other kind.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(
            f"{path} exists; force=True replaces it, or choose another place"
        )
    if folder is not None and path.is_dir() != folder:
        kinds = "a folder", "a file"
        there, here = kinds if path.is_dir() else kinds[::-1]
        raise FileExistsError(
            f"{path} is {there}, which {here} does not replace; choose another place"
        )


@contextmanager
def beside(path: Path, *, folder: bool, mode: int | None = None) -> Iterator[Path]:
    """A place beside ``path``, locked, that is gone when the block has ended.

    What a killed run left there is cleared first, as by `whole`.

    Parameters
    ----------
    path : Path
    folder : bool
        Whether the place is a directory.
    mode : int or None, default=None
        Permissions that others get at most, None for those that the umask leaves.

    Yields
    ------
    Path
        An empty file or directory of a unique name.
    """
    _clear(path)
    place, lock = path.with_name(_marked(path) + uuid.uuid4().hex), None
    try:
        lock = _claim(place, folder, mode)
        yield place
    finally:
        _remove(place)  # nothing, if it was given another name
        if lock is not None:
            os.close(lock)


@contextmanager
def telling_if_full(
    path: Path | str, way: str = "choose another place"
) -> Iterator[None]:
    """A block whose error says so if there was no room to write ``path`` in.

    Parameters
    ----------
    path : Path or str
    way : str, default="choose another place"
        What helps.

    Raises
    ------
    OSError
        If the block raised it; of a full disk or quota it names the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"{path} is not written, its disk is full; {way}") from None


def write_at(fd: int, buffer: memoryview, offset: int) -> None:
    """Write all bytes of a buffer to a file, from ``offset`` on.

    Parameters
    ----------
    fd : int
    buffer : memoryview of bytes
    offset : int
    """
    while len(buffer):
        n_written = os.pwrite(fd, buffer[:LARGEST_WRITE], offset)
        buffer, offset = buffer[n_written:], offset + n_written


def reserve(fd: int, size: int) -> None:
    """Take room for a file on the disk: writing is a third cheaper then.

    Parameters
    ----------
    fd : int
    size : int
        Bytes that the file will have.

    Raises
    ------
    OSError
        If the disk has not so much left.
    """
    os.truncate(fd, size)
    # Not posix_fallocate: where the file system cannot, it writes zeros instead.
    with suppress(AttributeError):
        call = ctypes.CDLL(None, use_errno=True).fallocate
        failed = call(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size))
        if failed and ctypes.get_errno() == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _marked(path: Path) -> str:
    # Hidden from patterns such as */ that the next run may be given.
    return f".{path.name}.tmp-{platform.node()}-"


def _claim(place: Path, folder: bool, mode: int | None) -> int:
    while True:
        flags = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
        if folder:
            place.mkdir(0o777 if mode is None else mode | 0o700)
        try:
            access = 0o666 if mode is None else mode & 0o666 | 0o600
            lock = os.open(place, flags | os.O_CLOEXEC, access)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # no locks here: its unique name keeps it apart
            fcntl.flock(lock, fcntl.LOCK_EX)
        # A run that was clearing up may take it for dead before it is locked.
        if place.exists():
            return lock
        os.close(lock)


def _clear(path: Path) -> None:
    """Remove what dead runs of this machine left beside ``path``."""
    name = re.compile(re.escape(_marked(path)) + "[0-9a-f]{32}")
    for place in [p for p in path.parent.iterdir() if name.fullmatch(p.name)]:
        # A pipe would be waited for; a link or a device is not what a run leaves.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(OSError):
            lock = os.open(place, flags)
            try:
                mode = os.fstat(lock).st_mode
                if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(place)
            finally:
                os.close(lock)


def _remove(place: Path) -> None:
    with suppress(FileNotFoundError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def _flush(place: Path) -> None:
    paths = [place, *place.rglob("*")] if place.is_dir() else [place]
    for path in [*reversed(paths), place.parent]:
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk.

    Parameters
    ----------
    path : Path
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _publish(place: Path, path: Path, force: bool) -> None:
    if not force:
        _move_to_free(place, path)
    elif path.is_dir() or place.is_dir():
        _exchange(place, path)
    else:
        os.replace(place, path)
    sync(path.parent)


def _move_to_free(place: Path, path: Path) -> None:
    if _rename(place, path, NO_REPLACE):
        return
    if os.path.lexists(path):
        raise FileExistsError(
            f"{path} came to exist while it was computed; another run may have "
            "written it, force=True replaces it"
        )
    os.rename(place, path)


def _exchange(place: Path, path: Path) -> None:
    """Let a directory, or what replaces one, change places with what is there."""
    if os.path.lexists(path) and not _rename(place, path, EXCHANGE):
        # This system cannot exchange: for a moment there is nothing at the path.
        aside = path.with_name(_marked(path) + uuid.uuid4().hex)
        os.rename(path, aside)
        os.rename(place, path)
        place = aside
    elif not os.path.lexists(place):
        return
    elif not os.path.lexists(path):
        os.rename(place, path)
        return
    sync(path.parent)
    _remove(place)


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Whether the system's renameat2 did it."""
    with suppress(AttributeError):
        call = ctypes.CDLL(None, use_errno=True).renameat2
        if not call(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flag):
            return True
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.EEXIST):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
    return False
