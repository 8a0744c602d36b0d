"""Permissions, owner and group of a file or directory that is replaced."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def status_to_keep(path: Path, folder: bool) -> os.stat_result | None:
    """Status of the existing file or directory, None if ``path`` has another kind."""
    try:
        old = path.lstat()
    except FileNotFoundError:
        return None
    is_kind = stat.S_ISDIR if folder else stat.S_ISREG
    return old if is_kind(old.st_mode) else None


def without_group(mode: int) -> int:
    """Permissions that give the group no more access than all others have."""
    return mode & (0o1707 | (mode & 0o007) << 3)


def copy_status(path: Path, old: os.stat_result) -> None:
    """Give a new output the owner, group and permissions of the replaced one."""
    with suppress(OSError):  # only root may change the owner
        os.chown(path, old.st_uid, old.st_gid)
    with suppress(OSError):  # the user is not in this group
        os.chown(path, -1, old.st_gid)
    is_same_group = path.stat().st_gid == old.st_gid
    mode = old.st_mode if is_same_group else without_group(old.st_mode)
    # A directory keeps setgid too, by which new entries inherit its group.
    path.chmod(stat.S_IMODE(mode) & (0o7777 if path.is_dir() else 0o777))
