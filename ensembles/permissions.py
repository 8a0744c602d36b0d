"""Permissions, owner and group of a file or directory that is replaced."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def replaced(path: Path, folder: bool) -> os.stat_result | None:
    """Status of what is replaced, None where nothing of the kind is."""
    try:
        old = path.lstat()
    except FileNotFoundError:
        return None
    is_kind = stat.S_ISDIR if folder else stat.S_ISREG
    return old if is_kind(old.st_mode) else None


def without_group(mode: int) -> int:
    """Permissions where a group that is another one may do what all others may."""
    return mode & (0o1707 | (mode & 0o007) << 3)


def take_over(place: Path, old: os.stat_result) -> None:
    """Give a place the owner, group and permissions of what it replaces."""
    with suppress(OSError):  # only root may give a file away
        os.chown(place, old.st_uid, old.st_gid)
    with suppress(OSError):  # a group that this user is not in
        os.chown(place, -1, old.st_gid)
    is_same_group = place.stat().st_gid == old.st_gid
    mode = old.st_mode if is_same_group else without_group(old.st_mode)
    # Of a directory also whether what is made in it belongs to its group.
    place.chmod(stat.S_IMODE(mode) & (0o7777 if place.is_dir() else 0o777))
