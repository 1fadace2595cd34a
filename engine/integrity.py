"""Every file of a run looked at: which of them are not what was written.

Damage ends nothing here: all of it is named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from engine.gaps import SCANNED, RowsRead
from schemas.errors import UserError
from schemas.manifest import (
    MANIFEST,
    File,
    Marker,
    check_markers,
    marker_names,
    read_facts,
    read_manifest,
    read_marker,
    verify,
)
from schemas.plans import read_plan
from schemas.records import Damaged, read_record, what_of
from schemas.store import Store

_FOLDERS = "*-" + 12 * "[0-9a-f]"  # a fingerprint, as a shell pattern
_TRAINED = "train-"


@dataclass
class Examined:
    """How many files of shards there are, how many are whole, and what is damaged: place -> why."""

    files: int = 0
    whole: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def examine(run: Store) -> Examined:
    """Hash every file of every folder anew, those of other settings too, and check all that names them."""
    examined = Examined()
    planned, _ = read_plan(run)
    names = dict.fromkeys(stage.folder for stage in planned)
    names |= dict.fromkeys(name for name in run.names(_FOLDERS) if not name.startswith(_TRAINED))
    for name in names:
        for place, check in _checks(run, name, examined):
            try:
                check()
            except (UserError, OSError) as error:
                why = what_of(error) if isinstance(error, Damaged) else str(error)
                examined.damaged[f"{name}/{place}" if place else name] = why
    return examined


def _checks(run: Store, name: str, examined: Examined) -> Iterator[tuple[str, Callable[[], object]]]:
    """What there is to check of a folder: the file that it is about, and the check."""
    yield "", lambda: run.child(name).exists()
    if name in examined.damaged:
        return
    folder = run.child(name)
    if not folder.exists():
        return
    yield "facts.json", lambda: read_facts(folder)
    if folder.exists(SCANNED):
        yield SCANNED, lambda: read_record(folder, SCANNED, RowsRead)
    markers: list[Marker] = []
    for marker_name in marker_names(folder):
        shard = int(marker_name.removesuffix(".json"))
        yield marker_name, partial(_add_marker, markers, folder, shard)
    if folder.exists(MANIFEST):
        yield MANIFEST, lambda: _check_manifest(folder, markers)
    for marker in markers:
        for file in marker.files:
            examined.files += 1
            yield file.name, partial(_verify, examined, folder, file)


def _add_marker(markers: list[Marker], folder: Store, shard: int) -> None:
    marker = read_marker(folder, shard)
    if marker is not None:
        markers.append(marker)


def _check_manifest(folder: Store, markers: list[Marker]) -> None:
    manifest = read_manifest(folder, {entry.name: entry for entry in folder.entries("[0-9]*.json")})
    check_markers(folder, manifest, markers)


def _verify(examined: Examined, folder: Store, file: File) -> None:
    verify(folder, file, afresh=True)
    examined.whole += 1
