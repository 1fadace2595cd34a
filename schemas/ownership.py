"""Whether a file is the user's own: nobody else of the machine wrote it, or can.

Root is not "else": it can do anything anyway. Nor is a group that holds the user alone, as many systems give
to each. A folder that others may write into makes all below it theirs, unless its sticky bit keeps them off
what is not (`/tmp`).
"""

import contextlib
import grp
import os
import pwd
import re
import stat
from pathlib import Path

from schemas import extensions
from schemas.manifest import FACTS, PLAN
from schemas.sections import SECTIONS
from schemas.versions import MADE_WITH

# A folder that holds one of these is a run's, or a stage's of one, whatever was taken out of it.
_FILES_OF_RUNS = (PLAN, "scanned.json", FACTS, MADE_WITH)
_STAGE_FOLDER = re.compile(rf"({'|'.join(SECTIONS)})-[0-9a-f]{{12}}")


def why_foreign(path: Path) -> str:
    """Why a recipe's file may be somebody else's, as the rest of a sentence; empty where it is the user's.

    A run folder is passed on as a whole, so the recipe in one is taken for foreign whoever owns the file."""
    return "" if _ships(path) else why_of_a_run(path) or _who_else(path.resolve())


def why_of_a_run(path: Path) -> str:
    """That a file lies in a run folder, at any depth and by any of its paths, as the rest of a sentence."""
    if _ships(path):
        return ""
    above = [*path.resolve().parents, *path.absolute().parents]
    for folder in dict.fromkeys(above):
        if _is_of_a_run(folder):
            return f"it lies in the run folder {folder}"
    return ""


def _ships(path: Path) -> bool:
    """True for what is as much the user's as the program itself."""
    return any(path.resolve().is_relative_to(shipped) for shipped in extensions.folders())


def _is_of_a_run(folder: Path) -> bool:
    """True for a run folder and for a stage's in it. A folder that has run folders in it is none itself."""
    if _STAGE_FOLDER.fullmatch(folder.name):
        return True
    with contextlib.suppress(OSError):  # what may not be looked into
        if any((folder / name).exists() for name in _FILES_OF_RUNS):
            return True
        with os.scandir(folder) as entries:
            return any(_STAGE_FOLDER.fullmatch(entry.name) for entry in entries)
    return False


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
