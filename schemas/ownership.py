"""Whether a file is the user's own: nobody else of the machine wrote it, or can.

Root is not "else": it can do anything anyway. Nor is a group that holds the user alone, as many systems give
to each. A folder that others may write into makes all below it theirs, unless its sticky bit keeps them off
what is not (`/tmp`).
"""

import contextlib
import grp
import os
import pwd
import stat
from pathlib import Path

from schemas import extensions
from schemas.manifest import FACTS, PLAN


def why_foreign(path: Path) -> str:
    """Why a recipe's file may be somebody else's, as the rest of a sentence; empty where it is the user's.

    A run folder is passed on as a whole, so the recipe in one is taken for foreign whoever owns the file."""
    path = path.resolve()
    if any(path.is_relative_to(shipped) for shipped in extensions.folders()):
        return ""  # as much theirs as the program itself
    folder = path.parent
    if (folder / PLAN).exists():
        return f"it lies in the run folder {folder}"
    if (folder / FACTS).exists() and (folder.parent / PLAN).exists():
        return f"it lies in the run folder {folder.parent}"
    return _who_else(path)


def _who_else(path: Path) -> str:
    if not path.exists():
        return ""  # a pipe of the user's own shell
    for place in (path, *path.parents):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to the user {_name_of(found.st_uid)}"
        is_kept = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & stat.S_IWOTH and not is_kept:
            return f"every user of this machine may write to {place}"
        if found.st_mode & stat.S_IWGRP and not is_kept and not _is_alone_in(found.st_gid):
            return f"the group {_group_of(found.st_gid)} may write to {place}"
    return ""


def _name_of(user: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return str(user)


def _group_of(group: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(group).gr_name
    return str(group)


def _is_alone_in(group: int) -> bool:
    """True if the group is root's, or one of the user's name that holds nobody else."""
    if group == 0:
        return True
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
        found = grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == user and set(found.gr_mem) <= {user}
