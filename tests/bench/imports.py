"""Import: raw rows a second of one core, and as a ratio to DuckDB's parse of the same file in the same run.

    python tests/bench/imports.py [--rows 200000] [--only jsonl json.gz parquet hh] [--memory]

- `scan`: the file to rows of the scan, each with its ids. `careful`: the same without the fast way
  (engine/plain), of the first rows. `import`: the command, from the file to its last marker, with the writing
  of scan and shards. `cores`: the command again, on all of them.
- Seconds are of the process's own work (CPU time) on one core, so that what else the machine does counts
  little; only those of `cores` are the clock's. DuckDB has one thread.
- `--memory`: the peak of a process that imports the rows, and of one that imports ten times as many.
"""

import argparse
import contextlib
import gzip
import io
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine import raw  # noqa: E402
from engine.commands.precompute import precompute  # noqa: E402
from engine.row_reader import RowReader  # noqa: E402
from schemas.extensions import included  # noqa: E402
from schemas.recipe import load  # noqa: E402
from schemas.sections import Prompts  # noqa: E402

KINDS = {"jsonl": ".jsonl", "json.gz": ".jsonl.gz", "parquet": ".parquet", "hh": ".jsonl"}
CORES = os.sched_getaffinity(0)
_ROWS_OF_A_GROUP = 20_000
_ROWS_READ_CAREFULLY = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(CORES)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.peak:
            imported(options.peak, folder)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
            return
        for kind in options.only:
            path = write(folder, kind, options.rows)
            print(line_of(kind, path, options.rows, folder), flush=True)
            path.unlink()
        for rows in (options.rows, 10 * options.rows) if options.memory else ():
            path = write(folder, "jsonl", rows)
            command = [sys.executable, __file__, "--peak", str(path)]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"peak of {rows:,} rows ({path.stat().st_size >> 20} MiB): {peak.strip()} MiB", flush=True)


def dialogues(count: int) -> Iterator[dict]:
    """Pairs as long as hh-rlhf's: one to five turns, two answers."""
    draw = random.Random(0)
    letters = [draw.choices("etaoinshrdlucmfwyp", k=draw.choice([2, 3, 4, 5, 6, 8])) for _ in range(5000)]
    words = list(map("".join, letters))

    def text(most: int) -> str:
        said = " ".join(draw.choices(words, k=draw.randint(4, most)))
        return said.capitalize() + draw.choice(".?!")

    for _ in range(count):
        turns = draw.choice([1, 1, 3, 5])
        prompt = [{"role": ("user", "assistant")[turn % 2], "content": text(32)} for turn in range(turns)]
        chosen = [{"role": "assistant", "content": text(50)}]
        rejected = [{"role": "assistant", "content": text(50)}]
        yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _as_hh(row: dict) -> dict:
    """The same as two dialogues in one text each."""
    said = ""
    for turn in row["prompt"]:
        said += f"\n\n{'Human' if turn['role'] == 'user' else 'Assistant'}: {turn['content']}"
    return {side: f"{said}\n\nAssistant: {row[side][0]['content']}" for side in ("chosen", "rejected")}


def write(folder: Path, kind: str, count: int) -> Path:
    """So many rows as a file of a kind."""
    path = folder / f"rows{KINDS[kind]}"
    rows = dialogues(count)
    if kind == "parquet":
        schema = pa.Table.from_pylist(list(dialogues(1))).schema
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            while some := list(itertools.islice(rows, _ROWS_OF_A_GROUP)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
        return path
    with gzip.open(path, "wt", compresslevel=6) if path.suffix == ".gz" else open(path, "w") as file:
        for row in rows:
            file.write(json.dumps(_as_hh(row) if kind == "hh" else row) + "\n")
    return path


def line_of(kind: str, path: Path, rows: int, folder: Path) -> str:
    """What was measured with a file, in words."""
    form = "hh" if kind == "hh" else "preference"
    parse = seconds(lambda: parsed_by_duckdb(path))
    scan = seconds(lambda: scanned(path, form, rows))
    some = min(rows, _ROWS_READ_CAREFULLY)
    careful = seconds(lambda: scanned(path, form, some, plain=False)) * rows / some
    whole = seconds(lambda: imported(path, folder, form))
    os.sched_setaffinity(0, CORES)
    on_all_cores = seconds(lambda: imported(path, folder, form), time.perf_counter)
    os.sched_setaffinity(0, {min(CORES)})
    thousands = {
        name: rows / of_all / 1000
        for name, of_all in (("scan", scan), ("careful", careful), ("import", whole), ("cores", on_all_cores))
    }
    said = ", ".join(f"{name} {rate:.1f}" for name, rate in thousands.items())
    return (
        f"{kind:>8}, {path.stat().st_size >> 20} MiB: thousand rows/s: {said} ({len(CORES)}); "
        f"scan {scan / parse:.1f} times DuckDB's {parse:.2f} s"
    )


def parsed_by_duckdb(path: Path) -> None:
    """All texts are looked at, so that none is left unread."""
    with duckdb.connect(config={"threads": 1}) as con:
        source = f"read_parquet('{path}')" if path.suffix == ".parquet" else f"read_json('{path}')"
        con.sql(f"select sum(hash(columns(*))) from {source}").fetchall()


def scanned(path: Path, form: str, most: int, plain: bool = True) -> None:
    """The first rows of a file, batch by batch."""
    config = Prompts(source=(str(path),), format=form)
    reader = RowReader(config, included("sql", form, ".sql"), lambda file: None, plain)
    rows = 0
    for batch in raw.batches(raw.Part(path.name, path), config.max_row_bytes):
        rows += len(reader.table(batch))
        if rows >= most:
            return


def imported(path: Path, folder: Path, form: str = "preference") -> None:
    """The command, with a recipe that ends with the prompts."""
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[prompts]\nsource = ["{path}"]\nformat = "{form}"\n')
    shutil.rmtree(folder / "run", ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        precompute(folder / "run", load(recipe), 1)


def seconds(work: Callable[[], None], clock: Callable[[], float] = time.process_time) -> float:
    """The best of two."""
    times: list[float] = []
    for _ in range(2):
        begun = clock()
        work()
        times.append(clock() - begun)
    return min(times)


if __name__ == "__main__":
    main()
