"""Which files a source names: files, folders and globs; which of a folder are left out, which are held out.

- Suffixes are compared without case. Every file of a folder is read, or named as left out; so is every file
  and folder that a glob matches. A glob that writes a suffix out, such as *.txt, reads those files as well.
- The name of a data set on the Hub stands for its files in the library's cache (engine/hub.py).
- A file whose name says test or validation beside others, and every file of prompts.test_source, is held out:
  its prompts have the split test, those of the others train. The folders above a source say nothing.
"""

import glob
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import hub
from engine.folders import (
    COMPRESSIONS,
    KNOWN_SUFFIXES,
    Walk,
    each_once,
    folder_of_glob,
    report,
    shown,
    walk_folder,
    walk_matches,
    why_nothing,
)
from engine.input_errors import check_name, check_source
from engine.split_names import says_test
from schemas.data_set_names import data_set_name
from schemas.errors import UserError
from schemas.recipe import Recipe
from schemas.sections import Prompts
from schemas.store import Store

_URL = re.compile(r"(?:^|/)((?:https?|s3|gs|gcs|az|abfss?|hf|hdfs|ftp|file)):/+(.*)$")
_log = logging.getLogger("prefmill")


@dataclass(frozen=True)
class Inputs:
    """The files to read, by their names, in order. `held_out`: those whose prompts are the test split;
    `of_test_source`: those of them that prompts.test_source names."""

    files: dict[str, Path]
    held_out: frozenset[str]
    of_test_source: frozenset[str] = frozenset()

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


def inputs(config: Prompts, tell: bool = False) -> Inputs:
    """The files that [prompts] names; with `tell` the user is told what is left out and what held out.

    Raises UserError if there is nothing to read at a source."""
    paths = _paths(config.source, "prompts.source", tell)
    if not paths:
        raise UserError("the recipe names no input: set source in [prompts] to a file, a folder or a glob")
    test_paths = _paths(config.test_source, "prompts.test_source", tell)
    train_paths = {path: place for path, place in paths.items() if path not in test_paths}
    if not train_paths:
        raise UserError("prompts.test_source names all files of prompts.source: nothing is left to train on")
    files = _named(train_paths | test_paths)
    of_test_source = frozenset(name for name, path in files.items() if path in test_paths)
    held_out = set(of_test_source)
    if config.test_by_name:
        below: dict[str, str] = {}
        for name, path in files.items():
            if path in train_paths:
                # A folder that all files share says nothing of any.
                below[name] = min(name, train_paths[path].below, key=len)
        held_out |= _held_out_by_name(below, tell)
    return Inputs(files, frozenset(held_out), of_test_source)


def check_apart(run: Store, recipe: Recipe) -> None:
    """Raise UserError where a source is the run folder: what is written there would be input next time."""
    config = recipe.sections.get("prompts")
    if not isinstance(config, Prompts):
        return
    place = os.path.realpath(run.where())
    for source in (*config.source, *config.test_source):
        if os.path.isdir(source) and os.path.realpath(source) == place:
            raise UserError(
                f"-o {run} is the folder of the input: choose another folder for the run, such as "
                f"-o {os.path.join(run.where(), 'run')}"
            )


def find(sources: Iterable[str]) -> dict[str, Path]:
    """The input files, in a fixed order, by their names: the paths below the folder that all of them share.

    A source is a file, a folder, a glob or a data set on the Hub. Raises UserError if there is nothing to
    read at one of them.
    """
    paths = _paths(sources, "prompts.source", tell=False)
    if not paths:
        raise UserError("the recipe names no input: set source in [prompts] to a file, a folder or a glob")
    return _named(paths)


@dataclass(frozen=True)
class _Place:
    """The part of a file's path that the source does not say. `name`: of a file of a data set on the Hub."""

    below: str
    name: str = ""


def _named(paths: Mapping[Path, _Place]) -> dict[str, Path]:
    """The files by their names. Raises UserError where two would have one name."""
    local = [path for path, place in paths.items() if not place.name]
    shared_folder = os.path.commonpath([path.parent for path in local]) if local else ""
    files: dict[str, Path] = {}
    for path, place in paths.items():
        name = place.name or os.path.relpath(path, shared_folder)
        check_name(path, name)
        if name in files:
            raise UserError(f"prompts.source: {files[name]} and {path} are both called {name}: take one out")
        files[name] = path
    return files


def _paths(sources: Iterable[str], key: str, tell: bool) -> dict[Path, _Place]:
    """The files that some sources name, each once, each with its place."""
    paths: dict[Path, _Place] = {}
    for source in sources:
        data_set = data_set_name(source)
        of_hub: list[hub.File] = []
        if data_set and not os.path.isdir(os.path.dirname(source)):
            of_hub = hub.files_of(data_set, key, tell)
        for file in of_hub:
            paths.setdefault(file.path, _Place(file.below, file.name))
        for path in [] if of_hub else _files_at(source, key, tell):
            paths.setdefault(path, _Place(_below(path, source)))
    return paths


def _below(path: Path, source: str) -> str:
    """A file's name with the folders that a source leads through: the named folder itself and those in it."""
    if os.path.isfile(source):
        return path.name
    folder = source if os.path.isdir(source) else folder_of_glob(source)
    return os.path.join(os.path.basename(os.path.abspath(folder)), os.path.relpath(path, folder))


def _files_at(source: str, key: str, tell: bool) -> list[Path]:
    """The files that one source names: a file of any suffix, or the readable ones of a folder or a glob."""
    check_source(source)
    if os.path.isfile(source):
        return [Path(source)]
    if os.path.isdir(source):
        walk = Walk(Path(source))
        walk_folder(Path(source), walk, ())
        files = walk.files
    else:
        matches = glob.glob(source, recursive=True)
        if not matches:
            raise UserError(f"{key}: nothing to read at {_nothing_at(source)}")
        walk = walk_matches(source, sorted(matches))
        files = each_once(walk.files)
    if not files:
        raise UserError(f"{key}: nothing to read at {source}; {why_nothing(walk)}")
    if tell:
        report(walk)
    return files


def _nothing_at(source: str) -> str:
    """A source where there is nothing, and what to do: a URL, a name on the Hub, a wrong path."""
    only_files = "only files are read"
    download = "hf download {} --repo-type dataset --local-dir DIR, then prompts.source = DIR"
    several = [part.strip() for part in source.split(",")]
    if len(several) > 1 and all(several):
        names = '", "'.join([os.path.relpath(several[0]), *several[1:]])
        return f'{source}; {only_files}; several are a list in the recipe: source = ["{names}"]'
    url = _URL.search(source)
    if url:
        scheme, place = url.groups()
        how = "download it first"
        if scheme == "hf":
            repository = "/".join(place.removeprefix("datasets/").split("/")[:2]).partition("@")[0]
            how = f"download it first: {download.format(repository)}"
        return f"{scheme}://{place}, which is a URL; {only_files}: {how}"
    data_set = data_set_name(os.path.relpath(source))
    if data_set and os.path.isdir(os.path.dirname(source)):
        return f"{source}; the folder {os.path.dirname(source)} holds no such file or folder"
    if data_set:
        how = f"download it first: {download.format(data_set.repository)}"
        install = 'or let it be fetched by its name: pip install "prefmill[datasets]"'
        return f"{source}; {only_files}. If {data_set} is a data set on the Hub, {how}; {install}"
    known = ", ".join(KNOWN_SUFFIXES)
    compressed = ", ".join(COMPRESSIONS)
    return f"{source}; expected a file, a folder or a glob of {known} (also {compressed})"


def _held_out_by_name(below: Mapping[str, str], tell: bool) -> set[str]:
    """The files whose names say test, where there are others. `below`: name -> `_below` of its path."""
    by_name = {name for name, own in below.items() if says_test(own)}
    if len(by_name) == len(below):
        return set()
    if tell:
        _report_split(by_name, below)
    return by_name


def _report_split(held_out: set[str], names: Iterable[str]) -> None:
    """Tell the user which files are held out, and which are not although a folder above them says test."""
    if held_out:
        names_said = shown(sorted(held_out))
        _log.info("held out as test by name: %s (prompts.test_by_name = false trains on them)", names_said)
    trained_on = [name for name in sorted(names) if name not in held_out and says_test(name)]
    if trained_on:
        names_said = shown(trained_on)
        _log.info("trained on, though a folder says test: %s (prompts.test_source holds out)", names_said)


def estimated_bytes(path: Path) -> int:
    """Size of the file's rows as JSON text, guessed from its size on disk: what shards are counted by."""
    size = path.stat().st_size
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS or suffix == ".parquet":
        return size * 4
    return size
