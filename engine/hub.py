"""A data set of the Hugging Face Hub as files: the Arrow files that the library datasets keeps in its cache.

- It is fetched once. Where its files lie is remembered in prefmill's cache folder, so that workers, status
  and verify need neither the Hub nor the library, and a run does not change because the Hub did.
- A file's name in a run is owner/name/split/00000.arrow, wherever the cache is; its content is what counts.
- Where the Hub cannot be reached the library takes what its cache holds, whatever the revision; so that is
  compared here.
"""

import contextlib
import importlib.metadata
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas import fetching
from schemas.data_set_names import DataSetName
from schemas.digest import cache_folder, fingerprint
from schemas.errors import UserError

Splits = Mapping[str, Sequence[Path]]
_TOKEN = re.compile(r"hf_\w{8,}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LETTERS_SHOWN = 300
_SECONDS_TO_ANSWER = 10  # of the Hub, before it is taken for out of reach
# What an error's name or words say -> what to do.
_REMEDIES = (
    (
        r"gated|authenticat|401|403",
        "accept its terms on its page on the Hub and log in: hf auth login",
    ),
    (
        r"(?i)config",
        'name one of its configurations: prompts.source = "{name.repository}:CONFIG"',
    ),
    (
        r"(?i)connect|reach|offline|timeout|timed out|resol",
        "connect to the network, or fetch it on a machine that has one: "
        "hf download {name.repository} --repo-type dataset --local-dir DIR, then prompts.source = DIR",
    ),
    (
        r"(?i)revision",
        'name a branch, tag or commit that it has: prompts.source = "{name.repository}@REVISION"',
    ),
    (
        r"(?i)not ?found|exist|couldn't find",
        "check the name; if it is private: hf auth login; if a file was meant, there is none of that path",
    ),
)
_DOWNLOAD = (
    "or fetch its files: hf download {name.repository} --repo-type dataset --local-dir DIR, then "
    "prompts.source = DIR"
)
_log = logging.getLogger("prefmill")


@dataclass(frozen=True)
class File:
    """A file of a data set: its name in a run, the part of it that the recipe does not say, where it is."""

    name: str
    below: str
    path: Path


def _is_installed() -> bool:
    """Whether the library datasets can be imported; a folder of that name is none."""
    try:
        importlib.metadata.version("datasets")
    except ImportError:
        return False
    return True


def files_of(name: DataSetName, key: str, tell: bool) -> list[File]:
    """The files of all splits of a data set, fetched where they are not there yet; none where that needs the
    library datasets and it is not installed.

    `key`: the setting that names it. Raises UserError where it cannot be had."""
    note = cache_folder() / "datasets" / f"{fingerprint([str(name), _cache_of_library()])}.json"
    splits = _remembered(note)
    if splits is None:
        if not fetching.is_allowed():
            raise UserError(
                f"{key}: {name} is no file here and was not fetched yet, and this command fetches nothing: "
                "`engine precompute` does"
            )
        if not _is_installed():
            return []
        splits = _fetched(name, key)
        _remember(note, splits)
    elif tell:
        _log.info(
            "%s: as it was fetched before (%s); to ask the Hub again remove %s", name, _version(splits), note
        )
    files: list[File] = []
    for split in sorted(splits):
        for number, path in enumerate(splits[split]):
            below = f"{split}/{number:05}.arrow"
            within = f"{name.config}/{below}" if name.config else below
            files.append(File(f"{name.repository}/{within}", below, path))
    return files


def _load(name: DataSetName) -> Splits:
    """The Arrow files of each split, by the library; it runs no code that a data set brings."""
    from datasets import load_dataset

    with _offline_where_unreachable():
        loaded = load_dataset(
            name.repository, name.config or None, revision=name.revision or None, keep_in_memory=False
        )
    splits: dict[str, list[Path]] = {}
    for split, rows in loaded.items():
        splits[split] = [Path(file["filename"]) for file in rows.cache_files]
    return splits


@contextlib.contextmanager
def _offline_where_unreachable() -> Iterator[None]:
    """Tell the library that there is no network where the Hub does not answer.

    It would find out by itself, with retries that take half a minute, each a line on the screen."""
    import datasets
    from huggingface_hub import constants, get_session

    before = (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    if not any(before):
        try:
            get_session().head(constants.ENDPOINT, timeout=_SECONDS_TO_ANSWER)
        except Exception as error:  # of whichever client the library has
            _log.debug("the Hub does not answer: %s", error)
            constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _fetched(name: DataSetName, key: str) -> Splits:
    """The files of each split. Raises UserError where they cannot be had, or are of another revision."""
    try:
        splits = _load(name)
    except Exception as error:
        # Whatever the library raises comes from outside: the Hub, the network, the disk, the data.
        raise _why_not(name, key, error) from None
    if not any(splits.values()):
        raise UserError(f"{key}: {name} has no rows")
    if name.revision:
        _check_revision(name, key, _version(splits))
    return splits


def _why_not(name: DataSetName, key: str, error: Exception) -> UserError:
    """What the library says, without tokens, and what to do."""
    kind = type(error).__name__
    said = " ".join(f"{kind}: {error}".split())
    said = _TOKEN.sub("hf_…", said)[:_LETTERS_SHOWN]
    apart_from_name = said.replace(name.repository, "").replace(name.revision or "\0", "")
    remedies = [remedy for pattern, remedy in _REMEDIES if re.search(pattern, apart_from_name)]
    how = (remedies or [_DOWNLOAD])[0].format(name=name)
    return UserError(
        f"{key}: {name} is no file here, and the data set of that name cannot be had ({said}); {how}"
    )


def _check_revision(name: DataSetName, key: str, version: str) -> None:
    """Raise UserError where the files are of another revision than the one that is asked for."""
    commit = name.revision
    if not _COMMIT.fullmatch(commit):
        commit = _commit_of(name)
    if commit != version:
        raise UserError(
            f"{key}: the Hub could not be asked for {name}, and the cache of datasets has another revision "
            f"of it, {version}: connect to the network, or name what is there: {name.repository}@{version}"
        )


def _commit_of(name: DataSetName) -> str:
    """The commit that a branch or tag was at when the Hub was last asked; empty where it never was."""
    from huggingface_hub import constants

    folder = f"datasets--{name.repository.replace('/', '--')}"
    try:
        return (Path(constants.HF_HUB_CACHE) / folder / "refs" / name.revision).read_text().strip()
    except OSError:
        return ""


def _version(splits: Splits) -> str:
    """The folder of the files in the library's cache, which is called by the commit."""
    first = next(itertools.chain.from_iterable(splits.values()))
    return first.parent.name


def _cache_of_library() -> list[str]:
    """What settles where the library keeps its files: other places, another memory."""
    names = ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_ENDPOINT")
    return [os.environ.get(name, "") for name in names]


def _remembered(note: Path) -> Splits | None:
    """The files of a data set fetched before; None where it was not, or where files of it are gone."""
    splits: dict[str, list[Path]] = {}
    try:
        for split, paths in json.loads(note.read_text()).items():
            splits[split] = list(map(Path, paths))
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    files = list(itertools.chain.from_iterable(splits.values()))
    is_whole = bool(files) and all(path.is_file() for path in files)
    return splits if is_whole else None


def _remember(note: Path, splits: Splits) -> None:
    """Write down where the files lie; a home that cannot be written must not stop the run."""
    paths_by_split: dict[str, list[str]] = {}
    for split, paths in splits.items():
        paths_by_split[split] = list(map(str, paths))
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_name(f"{note.name}.{os.getpid()}")
        temporary.write_text(json.dumps(paths_by_split))
        os.replace(temporary, note)
