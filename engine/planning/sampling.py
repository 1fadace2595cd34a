"""The rows that a plan looks at: all of a small input, of a large one a sample that is drawn over all of it.

They are read and formatted as a run does it, so what cannot be read is counted by the same reasons.
"""

import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from engine import csv_rows
from engine.checked_rows import Row
from engine.folders import COMPRESSIONS
from engine.inputs import Inputs, estimated_bytes, inputs
from engine.plan import Run
from engine.planning.parts import ColumnarPool, Drawn, File, HeadPool, Pool, TextPool
from engine.planning.repeats import repeats
from engine.scanning import workers_for
from engine.stages.prompts import scanned_rows
from schemas.sections import Prompts

_ALL_OF = 8 << 20  # bytes of text that are read whole
_LOOK = 4 << 20  # bytes of text that say how far a file is compressed
_FEW = 64  # rows, and
_MANY = 1024  # whose times say how long one takes to read
_HEADER = 1 << 20  # bytes in which a table shows whether its cells hold newlines


@dataclass(frozen=True)
class Sample:
    """Rows of the scan (engine/stages/prompts.py), each of which stands for `weight` rows of the input.

    `repeated`: rows of the whole that say what another says; `prompts`: prompts of the whole."""

    rows: pa.Table
    weight: float
    repeated: float
    prompts: float
    is_whole: bool  # these are all rows that a run would read
    reading: float = 0.0  # seconds for all rows of the input, by so many processes:
    readers: int = 1

    @property
    def total(self) -> float:
        """Rows of the input."""
        return self.weight * len(self.rows)


def sample_of(run: Run, wanted: int) -> Sample:
    """About `wanted` rows of the run's input. Raises UserError as a scan does."""
    config = run.recipe.sections["prompts"]
    assert isinstance(config, Prompts)
    found = inputs(config)
    size = sum(map(estimated_bytes, found.files.values()))
    if size <= _ALL_OF or 0 < config.limit <= wanted:  # the first prompts are read without the others
        return _whole(run, config, found)
    seed = random.Random(run.recipe.seed)
    drawn = _drawn(found, config, wanted, seed)
    rows = scanned_rows(drawn.rows, config, run.planned["prompts"].facts, found)
    sample = _of(rows, drawn.parts, drawn.weight)
    reading = sample.total * _seconds_a_row(drawn.rows, run, config, found)
    readers = workers_for(found.files, config.max_row_bytes)
    return replace(_taken(sample, config, found), reading=reading / readers, readers=readers)


def _seconds_a_row(rows: Sequence[Row], run: Run, config: Prompts, found: Inputs) -> float:
    """Of the processor: what more rows take, since to begin takes a while whatever there is to read."""
    facts = run.planned["prompts"].facts
    few = rows[:_FEW]
    many = rows[:_MANY]
    times: list[float] = []
    for some in (few, many):
        begin = time.process_time()
        scanned_rows(some, config, facts, found)
        times.append(time.process_time() - begin)
    return max(0.0, times[1] - times[0]) / max(1, len(many) - len(few))


def _whole(run: Run, config: Prompts, found: Inputs) -> Sample:
    """All rows, as the scan gives them."""
    (stage, *_) = run.stages
    assert stage.scan is not None
    facts = run.planned[stage.name].facts
    parts = [scanned_rows([], config, facts, found)]
    begin = time.process_time()
    parts += [batch.rows for batch in stage.scan(config, facts)]
    rows = pa.concat_tables(parts)
    return replace(_of(rows, [0] * len(rows), 1.0), reading=time.process_time() - begin)


def _of(rows: pa.Table, parts: list[int], weight: float) -> Sample:
    """What repeats in the rows, exactly or as a row of the same prompt."""
    row_ids: list[str] = []
    prompt_ids: list[str] = []
    parts_of_prompts: list[int] = []
    columns = zip(rows["row_id"].to_pylist(), rows["prompt_id"].to_pylist(), parts, strict=True)
    for row_id, prompt_id, part in columns:
        if prompt_id is not None:
            row_ids.append(row_id)
            prompt_ids.append(prompt_id)
            parts_of_prompts.append(part)
    repeated = repeats(row_ids, parts_of_prompts, weight)
    same_prompt = repeats(prompt_ids, parts_of_prompts, weight)
    return Sample(rows, weight, repeated, weight * len(prompt_ids) - same_prompt, weight == 1)


def _taken(sample: Sample, config: Prompts, found: Inputs) -> Sample:
    """What prompts.limit or prompts.sample leaves: so many prompts of the files that are trained on, and of
    those that are held out."""
    most = config.limit or config.sample
    if not most or not sample.prompts:
        return sample
    files = sample.rows["file"].to_pylist()
    kept = 0.0
    for group in found.groups():
        share = sum(name in group for name in files) / max(1, len(files))
        kept += min(most, share * sample.prompts)
    share_kept = min(1.0, kept / sample.prompts)
    weight = share_kept * sample.weight
    return replace(sample, weight=weight, repeated=share_kept * sample.repeated, prompts=kept, is_whole=False)


def _drawn(found: Inputs, config: Prompts, wanted: int, seed: random.Random) -> Drawn:
    """Rows of all pools, thinned so that each stands for as many."""
    pools = _pools(found.files)
    sizes = list(map(_text_bytes, pools))
    drawn: list[Drawn] = []
    for pool, size in zip(pools, sizes, strict=True):
        of_pool = math.ceil(wanted * size / max(1.0, sum(sizes)))
        drawn.append(pool.draw(of_pool, seed.random(), config.max_row_bytes))
    weight = max((one.weight for one in drawn if one.rows), default=1.0)
    together = Drawn([], [], weight)
    for number, one in enumerate(drawn):
        for row, part in zip(one.rows, one.parts, strict=True):
            if seed.random() < one.weight / weight:
                together.rows.append(row)
                together.parts.append(part * len(drawn) + number)
    return together


def _text_bytes(pool: Pool) -> float:
    return sum(file.text_bytes for file in pool.files)


def _pools(files: dict[str, Path]) -> list[Pool]:
    """The files by how their rows can be got at."""
    columnar: list[File] = []
    text: list[File] = []
    heads: list[File] = []
    headers: dict[str, bytes] = {}
    for name, path in files.items():
        suffix = path.suffix.lower()
        size = path.stat().st_size
        if suffix in (".parquet", ".arrow", ".feather"):
            columnar.append(File(name, path, estimated_bytes(path)))
        elif suffix in COMPRESSIONS:
            heads.append(File(name, path, _unpacked_bytes(path, size, COMPRESSIONS[suffix])))
        elif _is_by_lines(path):
            text.append(File(name, path, size))
            if csv_rows.delimiter_of(path.name.lower()):
                headers[name] = _first_line(path)
        else:
            heads.append(File(name, path, size))
    pools: list[Pool] = [ColumnarPool(columnar), TextPool(text, headers), HeadPool(heads)]
    return [pool for pool in pools if pool.files]


def _unpacked_bytes(path: Path, size: int, compression: str) -> float:
    """The bytes of a compressed file's text, by its beginning."""
    with open(path, "rb") as packed:
        try:
            with pa.CompressedInputStream(pa.PythonFile(packed, "r"), compression) as stream:
                read = len(stream.read(_LOOK))
                taken = packed.tell()
        except (OSError, pa.ArrowInvalid):
            return estimated_bytes(path)
    return read * size / taken if taken else estimated_bytes(path)


def _is_by_lines(path: Path) -> bool:
    """True if a row of the file ends where a line does: no array of JSON, no table with newlines in cells."""
    with open(path, "rb") as file:
        beginning = file.read(_HEADER)
    if not csv_rows.delimiter_of(path.name.lower()):
        return not beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    lines = beginning.split(b"\n")[:-1]
    return len(lines) > 1 and all(line.count(b'"') % 2 == 0 for line in lines)


def _first_line(path: Path) -> bytes:
    with open(path, "rb") as file:
        return next(itertools.islice(file, 1)).removeprefix(b"\xef\xbb\xbf")
