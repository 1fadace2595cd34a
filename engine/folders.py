"""What a folder or a glob holds: the files to read by their suffixes, and what is left out."""

import glob
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine import saved_data_sets
from engine.looks import never_rows, not_rows
from schemas.manifest import PLAN

KNOWN_SUFFIXES = (
    ".jsonl", ".jsonlines", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather"
)  # fmt: skip
# Suffix -> what pyarrow calls the compression.
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
# Files that tell about a data set.
_METADATA_FILES = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "dataset_summary.json", "state.json"}
)
_NAMES_SHOWN = 8
_log = logging.getLogger("prefmill")


@dataclass
class Walk:
    """What a folder holds: the files to read, the names of those left out, and how many are hidden."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    hidden: int = 0
    _named: dict[Path, frozenset[str] | None] = field(default_factory=dict)

    def is_data(self, path: Path) -> bool:
        """False for a file beside the files of a saved data set that is none of them."""
        folder = path.parent
        if folder not in self._named:
            self._named[folder] = saved_data_sets.data_files(folder)
        names = self._named[folder]
        return names is None or path.name in names


def walk_matches(pattern: str, matches: list[str]) -> Walk:
    """What a glob matches; the folders among it are walked, each once.

    Where no name says that a file holds rows, every file that is matched is one: part-00000."""
    walk = Walk(Path(folder_of_glob(pattern)))
    others: list[Path] = []
    walked: list[str] = []
    for match in matches:
        path = Path(match)
        if path.is_dir():
            place = os.path.realpath(path)
            if not any(place == folder or place.startswith(folder + os.sep) for folder in walked):
                walked.append(place)
                _walk_match(path, walk)
        elif path.is_file() and not walk.is_data(path):
            walk.left_out.append(os.path.relpath(path, walk.folder))
        elif path.is_file() and (is_readable(path) or _writes_suffix(pattern, path)):
            walk.files.append(path)
        elif path.is_file():
            others.append(path)
    if walk.files:
        walk.left_out += [os.path.relpath(path, walk.folder) for path in others]
    else:
        walk.files += others
    walk.left_out = list(dict.fromkeys(walk.left_out))
    return walk


def _walk_match(folder: Path, walk: Walk) -> None:
    """A folder that a glob matches; one with nothing in it, or a run folder, is named as left out."""
    name = os.path.relpath(folder, walk.folder)
    if (folder / PLAN).exists():
        walk.left_out.append(f"{name}/ (a run folder)")
        return
    before = len(walk.files) + len(walk.left_out)
    walk_folder(folder, walk, ())
    if len(walk.files) + len(walk.left_out) == before:
        walk.left_out.append(f"{name}/ (nothing to read)")


def walk_folder(folder: Path, walk: Walk, above: tuple[str, ...]) -> None:
    """Gather the files of a folder and its sub-folders, without hidden ones and run folders of ours.

    `above`: the folders on the way here, so that a link that leads back up ends there."""
    place = os.path.realpath(folder)
    if place in above:
        return
    splits = saved_data_sets.splits(folder)
    for path in sorted(folder.iterdir()):
        name = os.path.relpath(path, walk.folder)
        if path.name.startswith("."):
            walk.hidden += 1
        elif path.is_dir():
            if (path / PLAN).exists():
                walk.left_out.append(f"{name}/ (a run folder)")
            elif splits is not None and path.name not in splits:
                walk.left_out.append(f"{name}/ (no split of the data set)")
            else:
                walk_folder(path, walk, (*above, place))
        elif is_readable(path) and path.is_file() and walk.is_data(path):
            walk.files.append(path)
        else:
            walk.left_out.append(name)


def folder_of_glob(pattern: str) -> str:
    """The folder that a glob begins in: the part of it without wildcards."""
    parts: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return os.path.join(*parts) if parts else "."


def _writes_suffix(pattern: str, path: Path) -> bool:
    """Whether a glob ends in the suffix of a file, so that the file is meant whatever its name says."""
    ending = re.split(r"[*?\]]", os.path.basename(pattern))[-1].lower()
    suffix = path.suffix.lower()
    return bool(suffix) and ending.endswith(suffix) and path.name.lower() not in _METADATA_FILES


def each_once(paths: Iterable[Path]) -> list[Path]:
    """Files without repeats; of several links to one the shortest way is taken, so no link loops."""
    shortest: dict[str, Path] = {}
    for path in sorted(paths):
        known = shortest.get(os.path.realpath(path))
        if known is None or len(path.parts) < len(known.parts):
            shortest[os.path.realpath(path)] = path
    return sorted(shortest.values())


def is_readable(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return uncompressed_name(path).endswith(KNOWN_SUFFIXES) and path.name.lower() not in _METADATA_FILES


def uncompressed_name(path: Path) -> str:
    """The file's name in lower case, without the suffix of its compression."""
    name = path.name.lower()
    suffix = path.suffix.lower()
    return name.removesuffix(suffix) if suffix in COMPRESSIONS else name


def why_nothing(walk: Walk) -> str:
    """Why a folder has nothing to read, with the looks of the first file that is left out."""
    known = ", ".join(KNOWN_SUFFIXES)
    expected = f"expected files of {known} (also {', '.join(COMPRESSIONS)})"
    if not walk.left_out:
        return f"{expected}; it holds none"
    said = f"{expected}; it holds {shown(walk.left_out)}"
    first = walk.folder / walk.left_out[0]
    if first.is_file():
        look = never_rows(first) or not_rows(first)
        if look:
            said += f" ({first.name}: {look})"
    return said


def report(walk: Walk) -> None:
    """Tell the user which files of a folder are left out."""
    left_out = [shown(walk.left_out)] if walk.left_out else []
    if walk.hidden:
        left_out.append(f"{walk.hidden} hidden")
    if left_out:
        _log.info("left out of %s: %s", walk.folder, " and ".join(left_out))


def shown(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    said = ", ".join(names[:_NAMES_SHOWN])
    return f"{said} and {more} more" if more > 0 else said
