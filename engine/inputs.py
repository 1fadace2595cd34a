"""Which files a source names: files, folders and globs; which of a folder are left out, which are held out.

- Suffixes are compared without case. Every file of a folder is read, or named as left out.
- A file whose name says test or validation beside others, and every file of prompts.test_source, is held out:
  its prompts have the split test, those of the others train.
"""

import glob
import logging
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine.looks import arrow_data_set, never_rows, not_rows
from schemas.errors import UserError
from schemas.manifest import PLAN
from schemas.sections import Prompts

KNOWN_SUFFIXES = (".jsonl", ".jsonlines", ".ndjson", ".json", ".parquet")
# Suffix -> what pyarrow calls the compression.
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
# Files that tell about a data set.
_METADATA_FILES = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "dataset_summary.json", "state.json"}
)
_NAMES_SHOWN = 8
_HELD_OUT_WORDS = frozenset(
    {"test", "validation", "valid", "val", "eval", "evaluation", "dev", "heldout", "holdout"}
)
_URL = re.compile(r"(?:^|/)((?:https?|s3|gs|gcs|az|abfss?|hf|hdfs|ftp|file)):/+(.*)$")
_log = logging.getLogger("prefmill")


@dataclass
class _Walk:
    """What a folder holds: the files to read, the names of those left out, and how many are hidden."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    hidden: int = 0
    arrow: str | None = None  # what a folder in it looks like that holds Arrow files


@dataclass(frozen=True)
class Inputs:
    """The files to read, by their names, in order. `held_out`: those whose prompts are the test split."""

    files: dict[str, Path]
    held_out: frozenset[str]

    def split_of(self, name: str) -> str | None:
        """train or test for a file's prompts; None where no file is held out."""
        if not self.held_out:
            return None
        return "test" if name in self.held_out else "train"

    def groups(self) -> list[dict[str, Path]]:
        """The files that are not held out, and those that are."""
        train = {name: path for name, path in self.files.items() if name not in self.held_out}
        test = {name: path for name, path in self.files.items() if name in self.held_out}
        return [group for group in (train, test) if group]


def inputs(config: Prompts, report: bool = False) -> Inputs:
    """The files that [prompts] names; with `report` the user is told what is left out and what held out.

    Raises UserError if there is nothing to read at a source."""
    paths = _paths(config.source, "prompts.source", report)
    if not paths:
        raise UserError("the recipe names no input: set source in [prompts] to a file, a folder or a glob")
    test_paths = _paths(config.test_source, "prompts.test_source", report)
    of_test = set(test_paths)
    train_paths = [path for path in paths if path not in of_test]
    if not train_paths:
        raise UserError("prompts.test_source names all files of prompts.source: nothing is left to train on")
    files = _named([*train_paths, *test_paths])
    held_out = {name for name, path in files.items() if path in of_test}
    if config.test_by_name:
        held_out |= _held_out_by_name(files, held_out, report)
    return Inputs(files, frozenset(held_out))


def find(sources: Iterable[str]) -> dict[str, Path]:
    """The input files, in a fixed order, by their names: the paths below the folder that all of them share.

    A source is a file, a folder or a glob. Raises UserError if there is nothing to read at one of them.
    """
    paths = _paths(sources, "prompts.source", report=False)
    if not paths:
        raise UserError("the recipe names no input: set source in [prompts] to a file, a folder or a glob")
    return _named(paths)


def _named(paths: list[Path]) -> dict[str, Path]:
    shared_folder = os.path.commonpath([path.parent for path in paths])
    return {os.path.relpath(path, shared_folder): path for path in paths}


def _paths(sources: Iterable[str], key: str, report: bool) -> list[Path]:
    """The files that some sources name, each once."""
    paths: dict[Path, None] = {}
    for source in sources:
        paths |= dict.fromkeys(_files_at(source, key, report))
    return list(paths)


def _files_at(source: str, key: str, report: bool) -> list[Path]:
    """The files that one source names: a file or a glob of any suffix, or the readable files of a folder."""
    if os.path.isfile(source):
        return [Path(source)]
    if os.path.isdir(source):
        walk = _Walk(Path(source))
        _walk(Path(source), walk, ())
        if not walk.files:
            raise UserError(f"{key}: nothing to read at {source}; {_why_nothing(walk)}")
        if report:
            _report(walk)
        return walk.files
    matches = _matches(source)
    if not matches:
        raise UserError(f"{key}: nothing to read at {_nothing_at(source)}")
    return matches


def _matches(pattern: str) -> list[Path]:
    """The files of a glob; one that several links lead to is named by the shortest way, so no link loops."""
    shortest: dict[str, Path] = {}
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        known = shortest.get(os.path.realpath(path))
        if path.is_file() and (known is None or len(path.parts) < len(known.parts)):
            shortest[os.path.realpath(path)] = path
    return sorted(shortest.values())


def _nothing_at(source: str) -> str:
    """A source where there is nothing, and what to do: a URL, a name on the Hub, a wrong path."""
    only_files = "only files are read"
    hub = "hf download {} --repo-type dataset --local-dir DIR, then prompts.source = DIR"
    url = _URL.search(source)
    if url:
        scheme, place = url.groups()
        how = "download it first"
        if scheme == "hf":
            how = f"download it first: {hub.format(place.removeprefix('datasets/'))}"
        return f"{scheme}://{place}, which is a URL; {only_files}: {how}"
    name = os.path.relpath(source)
    looks_like_a_name = re.fullmatch(r"[\w.\-]+/[\w.\-]+", name) and not name.startswith(".")
    if looks_like_a_name and not is_readable(Path(name)) and not os.path.exists(os.path.dirname(source)):
        how = f"download it first: {hub.format(name)}"
        return f"{source}; {only_files}. If {name} is a data set on the Hub, {how}"
    known = ", ".join(KNOWN_SUFFIXES)
    compressed = ", ".join(COMPRESSIONS)
    return f"{source}; expected a file, a folder or a glob of {known} (also {compressed})"


def _walk(folder: Path, walk: _Walk, above: tuple[str, ...]) -> None:
    """Gather the files of a folder and its sub-folders, without hidden ones and run folders of ours.

    `above`: the folders on the way here, so that a link that leads back up ends there."""
    place = os.path.realpath(folder)
    if place in above:
        return
    walk.arrow = walk.arrow or arrow_data_set(folder)
    for path in sorted(folder.iterdir()):
        name = os.path.relpath(path, walk.folder)
        if path.name.startswith("."):
            walk.hidden += 1
        elif path.is_dir():
            if (path / PLAN).exists():
                walk.left_out.append(f"{name}/ (a run folder)")
            else:
                _walk(path, walk, (*above, place))
        elif is_readable(path) and path.is_file():
            walk.files.append(path)
        else:
            walk.left_out.append(name)


def is_readable(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return uncompressed_name(path).endswith(KNOWN_SUFFIXES) and path.name.lower() not in _METADATA_FILES


def uncompressed_name(path: Path) -> str:
    """The file's name in lower case, without the suffix of its compression."""
    name = path.name.lower()
    suffix = path.suffix.lower()
    return name.removesuffix(suffix) if suffix in COMPRESSIONS else name


def _why_nothing(walk: _Walk) -> str:
    """Why a folder has nothing to read, with the looks of the first file that is left out."""
    if walk.arrow:
        return walk.arrow
    known = ", ".join(KNOWN_SUFFIXES)
    expected = f"expected files of {known} (also {', '.join(COMPRESSIONS)})"
    if not walk.left_out:
        return f"{expected}; it holds none"
    said = f"{expected}; it holds {_shown(walk.left_out)}"
    first = walk.folder / walk.left_out[0]
    if first.is_file():
        look = never_rows(first) or not_rows(first)
        if look:
            said += f" ({first.name}: {look})"
    return said


def _report(walk: _Walk) -> None:
    """Tell the user which files of a folder are left out."""
    left_out = [_shown(walk.left_out)] if walk.left_out else []
    if walk.hidden:
        left_out.append(f"{walk.hidden} hidden")
    if left_out:
        _log.info("left out of %s: %s", walk.folder, " and ".join(left_out))


def _shown(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    said = ", ".join(names[:_NAMES_SHOWN])
    return f"{said} and {more} more" if more > 0 else said


def _held_out_by_name(files: Collection[str], held_out: Collection[str], report: bool) -> set[str]:
    """The files whose names say test, where there are others."""
    rest = [name for name in files if name not in held_out]
    by_name = {name for name in rest if _says_test(name)}
    if len(by_name) == len(rest):
        return set()
    if by_name and report:
        names = _shown(sorted(by_name))
        _log.info("held out as test by name: %s (prompts.test_by_name = false trains on them)", names)
    return by_name


def _says_test(name: str) -> bool:
    """Whether a file's name, or a folder's on its way, has a word for a test split and none for training."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    return bool(words & _HELD_OUT_WORDS) and not words & {"train", "training"}


def estimated_bytes(path: Path) -> int:
    """Size of the file's rows as JSON text, guessed from its size on disk: what shards are counted by."""
    size = path.stat().st_size
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS or suffix == ".parquet":
        return size * 4
    return size
