"""Atomic output: files and directories that are complete or absent after a kill.

Everything is written through functions of ``os``, ``shutil`` and ``open``, and through
`_call_libc`; tests replace these to fail or to end the process at each system call.
"""

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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ensembles.permissions import copy_status, status_to_keep, without_group

LARGEST_WRITE = 512 << 10  # bytes; larger buffered writes ran at a sixth of the speed
NO_REPLACE, EXCHANGE = 1, 2  # flags of renameat2
AT_FDCWD = -100
# Errors of a file system or sandbox that does not implement a system call.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors of a rename to a path that another run has just created.
CREATED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def atomic_output(path: Path, *, folder: bool, force: bool) -> Iterator[Path]:
    """Temporary path beside ``path``, renamed to it when the block ends.

    The process locks the temporary path while it runs, so that the next run recognizes
    and removes files of killed runs, which are not locked. The output takes over the
    permissions of a file or directory that it replaces, and its owner and group if the
    process may set them.

    Parameters
    ----------
    path : Path
        Where the output is published.
    folder : bool
        Whether the output is a directory.
    force : bool
        Whether an existing output is replaced.

    Yields
    ------
    Path
        An empty file or directory with a unique name.

    Raises
    ------
    FileExistsError
        If ``path`` exists when the block starts or ends, and not ``force``.
    FileNotFoundError
        If the parent directory does not exist, or the temporary path was removed.
    """
    check_absent(path, force=force)
    old = status_to_keep(path, folder)
    mode = None if old is None else without_group(old.st_mode)
    with temporary_sibling(path, folder=folder, mode=mode) as temporary:
        created = temporary.stat()
        yield temporary
        # Another process may have removed the directory, and a writer made it again
        # with only a part of the output. Writers of files may replace the file.
        if folder and not os.path.samestat(created, temporary.stat()):
            raise FileNotFoundError(f"{temporary} was removed by another process")
        publish(temporary, path, force=force)


def publish(temporary: Path, path: Path, *, force: bool) -> None:
    """Flush a complete file or directory, and rename it to ``path``.

    Parameters
    ----------
    temporary : Path
        Path on the same file system.
    path : Path
        Where the output is published.
    force : bool
        Whether an existing output is replaced; the new one takes over its permissions.

    Raises
    ------
    FileExistsError
        If ``path`` exists, and not ``force``.
    """
    _flush(temporary)
    old = status_to_keep(path, temporary.is_dir())
    if old is not None:
        copy_status(temporary, old)
    _publish(temporary, path, force)


def check_absent(path: Path, *, force: bool, folder: bool | None = None) -> None:
    """Raise if an existing file or directory must not or cannot be replaced.

    Parameters
    ----------
    path : Path
        Where the output will be written.
    force : bool
        Whether an existing output is replaced.
    folder : bool or None, default=None
        Whether the output is a directory, which replaces only directories, or a file,
        which replaces only files; None replaces either kind.

    Raises
    ------
    FileExistsError
        If ``path`` exists and not ``force``, or is of the other kind.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(
            f"{path} exists; pass force=True (--force) to replace it, or choose "
            "another path"
        )
    if folder is not None and path.is_dir() != folder:
        kinds = "folder", "file"
        old, new = kinds if path.is_dir() else kinds[::-1]
        raise FileExistsError(
            f"{path} is a {old}, which a {new} does not replace; choose another path"
        )


@contextmanager
def temporary_sibling(
    path: Path, *, folder: bool, mode: int | None = None
) -> Iterator[Path]:
    """Locked temporary path beside ``path``, removed when the block ends.

    Temporary paths of killed runs are removed first, as in `atomic_output`.

    Parameters
    ----------
    path : Path
        Output path that the temporary name is derived from.
    folder : bool
        Whether the temporary path is a directory.
    mode : int or None, default=None
        Upper limit of the permissions of group and others; the owner always has
        access. None leaves the permissions to the umask.

    Yields
    ------
    Path
        An empty file or directory with a unique name.
    """
    _clear(path)
    temporary = _unique(path)
    with ExitStack() as closing:
        try:
            closing.callback(os.close, _claim(temporary, folder, mode))
            yield temporary
        except BaseException:
            with suppress(OSError):  # the first error has the cause
                _remove(temporary)
            raise
        _remove(temporary)  # the replaced output, if two directories were exchanged


@contextmanager
def explain_disk_full(
    path: Path | str, fix: str = "choose another path"
) -> Iterator[None]:
    """Context manager that names the output in errors of its disk.

    Parameters
    ----------
    path : Path or str
        Output that the message names.
    fix : str, default="choose another path"
        Instruction at the end of the message.

    Raises
    ------
    OSError
        If the block raises it; the message names ``path`` if the disk or the quota is
        full, or if the error does not have a path.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            reason = "its disk is full"
        elif error.errno is not None and error.filename is None:
            reason = f"{error.strerror} (errno {error.errno})"
        else:
            raise
        raise OSError(f"{path} was not written: {reason}; {fix}") from None


def pwrite_all(fd: int, buffer: memoryview, offset: int) -> None:
    """Write all bytes of a buffer to a file at an offset.

    Parameters
    ----------
    fd : int
        File descriptor, open for writing.
    buffer : memoryview of bytes
        Bytes to write.
    offset : int
        Position in the file of the first byte.
    """
    while len(buffer):
        n_written = os.pwrite(fd, buffer[:LARGEST_WRITE], offset)
        buffer, offset = buffer[n_written:], offset + n_written


def preallocate(fd: int, size: int) -> None:
    """Allocate disk space for a file, which makes writing it a third cheaper.

    Parameters
    ----------
    fd : int
        File descriptor, open for writing.
    size : int
        Final size of the file in bytes.

    Raises
    ------
    OSError
        If the disk has less space left.
    """
    os.truncate(fd, size)
    # Not posix_fallocate: it writes zeros if the file system cannot allocate.
    try:
        _call_libc("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(size))
    except OSError as error:  # usually not supported; a broken disk fails later too
        if error.errno in DISK_FULL:
            raise


def _call_libc(name: str, *arguments: Any) -> None:
    """Call a function of the C library that `os` does not have; raise its error."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    number = errno.EINTR
    while number == errno.EINTR:
        number = ctypes.get_errno() if function(*arguments) else 0
    if number:
        raise OSError(number, os.strerror(number))


def _marked(path: Path) -> str:
    # A leading dot hides it from shell patterns such as */ on a later command line.
    return f".{path.name}.tmp-{platform.node()}-"


def _unique(path: Path) -> Path:
    return path.with_name(_marked(path) + uuid.uuid4().hex)


def _claim(temporary: Path, folder: bool, mode: int | None) -> int:
    """Create and lock a temporary path; return its file descriptor."""
    access = 0o666 if mode is None else mode & 0o666 | 0o600
    create = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags = os.O_RDONLY | os.O_DIRECTORY if folder else create
    while True:
        if folder:
            temporary.mkdir(0o777 if mode is None else mode | 0o700)
        try:
            lock = os.open(temporary, flags | os.O_CLOEXEC, access)
        except FileNotFoundError:
            if folder:
                continue
            raise  # the parent directory was removed
        with suppress(OSError):  # no locks on this file system; the name is unique
            fcntl.flock(lock, fcntl.LOCK_EX)
        # `_clear` of another run may have removed it before it was locked.
        if os.path.lexists(temporary):
            return lock
        os.close(lock)


def _clear(path: Path) -> None:
    """Remove temporary paths beside ``path`` of killed runs on this machine."""
    name = re.compile(re.escape(_marked(path)) + "[0-9a-f]{32}")
    for temporary in [p for p in path.parent.iterdir() if name.fullmatch(p.name)]:
        # Opening a pipe would block; a run creates no links and no devices.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(OSError):
            lock = os.open(temporary, flags)
            try:
                mode = os.fstat(lock).st_mode
                if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(temporary)
            finally:
                os.close(lock)


def _remove(temporary: Path) -> None:
    while os.path.lexists(temporary):
        try:
            if temporary.is_dir() and not temporary.is_symlink():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()
        except FileNotFoundError:  # another run removes it too
            continue
        except OSError as error:
            reason = f"{error.strerror} (errno {error.errno})"
            raise OSError(
                f"{temporary} could not be removed: {reason}; delete it"
            ) from None


def _flush(temporary: Path) -> None:
    paths = [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]
    for path in [*reversed(paths), temporary.parent]:
        fsync_path(path)


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk.

    Parameters
    ----------
    path : Path
        Existing file or directory.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _publish(temporary: Path, path: Path, force: bool) -> None:
    if not force:
        _move_to_free(temporary, path)
    elif path.is_dir() or temporary.is_dir():
        _exchange(temporary, path)
    else:
        os.replace(temporary, path)
    fsync_path(path.parent)


def _move_to_free(temporary: Path, path: Path) -> None:
    try:
        if _rename(temporary, path, NO_REPLACE) or _link(temporary, path):
            return
        if not os.path.lexists(path):
            os.rename(temporary, path)
            return
    except OSError as error:
        if error.errno not in CREATED:
            raise
    raise FileExistsError(
        f"another process created {path} during this run; pass force=True "
        "(--force) to replace it"
    )


def _link(temporary: Path, path: Path) -> bool:
    """Give a file a second name, which never replaces; return whether it succeeded."""
    if temporary.is_dir():
        return False
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def _exchange(temporary: Path, path: Path) -> None:
    """Swap two paths, one of them a directory; the replaced one is temporary then."""
    while True:
        with suppress(FileNotFoundError):  # nothing to replace
            if _rename(temporary, path, EXCHANGE) or _swap(temporary, path):
                return
            continue
        with suppress(FileExistsError):  # another run created it since then
            return _move_to_free(temporary, path)


def _swap(temporary: Path, path: Path) -> bool:
    """Swap two paths by three renames; for a moment ``path`` does not exist.

    Returns False if another run created ``path`` in this moment.
    """
    aside = _unique(path)
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in CREATED:
            _remove(aside)  # the other run replaced it
            return False
        os.rename(aside, path)
        raise
    os.rename(aside, temporary)
    return True


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Rename by renameat2; return whether the system supports the flag."""
    names = os.fsencode(source), os.fsencode(target)
    try:
        _call_libc("renameat2", AT_FDCWD, names[0], AT_FDCWD, names[1], flag)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise OSError(error.errno, error.strerror, str(target)) from None
    return True
