"""The files of the input, read from beginning to end as rows of the scan, in the order of the input.

A large input is read by several processes side by side (engine/scan_workers.py), each a part of it: a file,
or some megabytes of a file of JSON Lines. The rows and their order are the same.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from engine import raw
from engine.inputs import Inputs, estimated_bytes
from engine.raw import Part
from engine.row_reader import RowWork
from engine.scan_workers import MOST, ScanWorkers
from schemas.devices import cores
from schemas.sections import Prompts

# A process takes a second to start, in which a core reads some fifty megabytes.
_LARGE = 64 << 20
_PART = 16 << 20


@dataclass
class Told:
    """What the user is told at the end: the columns left out, and how a prompt that was guessed begins."""

    left_out: dict[str, None] = field(default_factory=dict)
    guessed: str | None = None

    def add(self, left_out: Mapping[str, None], guessed: str | None) -> None:
        """Add what was met next in the input."""
        self.left_out.update(left_out)
        if self.guessed is None:
            self.guessed = guessed


def scanned_files(
    files: Mapping[str, Path], config: Prompts, path: Path, found: Inputs, told: Told
) -> Iterator[pa.Table]:
    """The rows of some files. `path`: the format's SQL. Raises UserError for a damaged one, at its place."""
    work = RowWork(config, path, found)
    workers = workers_for(files, config.max_row_bytes)
    if workers > 1:
        parts = _parts(files, config.max_row_bytes)
        with ScanWorkers(work, workers) as pool:
            yield from pool.tables(parts, told.add)
        return
    reader = work.reader()
    for name, file in files.items():
        for batch in raw.batches(Part(name, file), config.max_row_bytes):
            yield reader.table(batch)
    told.add(reader.left_out, reader.guessed)


def workers_for(files: Mapping[str, Path], limit: int) -> int:
    """How many processes read some files here: one for a small input, never more than it has parts.

    `limit`: bytes of a row. Raises UserError where a file cannot be read."""
    if sum(map(estimated_bytes, files.values())) < _LARGE:
        return 1
    wanted = min(cores(), MOST)
    parts = list(itertools.islice(_parts(files, limit), wanted))
    return max(1, len(parts))


def _parts(files: Mapping[str, Path], limit: int) -> Iterator[Part]:
    for name, path in files.items():
        yield from raw.parts_of(name, path, limit, _PART)
