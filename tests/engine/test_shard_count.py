"""An input has so many shards that losing one costs little, and a run keeps the number that it has."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.plan import plan
from engine.shard_count import estimated_rows, shards_for
from schemas.devices import gpus_here
from schemas.recipe import load
from schemas.sections import Generate, Prompts
from tests.conftest import settings

MIB = 1 << 20


def lines(path, rows, size):
    """A file of so many rows of `size` bytes each."""
    row = json.dumps({"prompt": "x" * (size - 16)}).ljust(size - 1) + "\n"
    path.write_text(row * rows)
    return path


@pytest.mark.parametrize(
    ("rows", "size", "below", "workers", "want"),
    [
        (10, 100, {}, 1, 1),
        (10, 100, {}, 8, 1),  # too little to share
        (1_000, 100, {}, 1, 1),
        (1_000, 100, {}, 2, 8),  # four for each worker
        (1_000, 100, {}, 8, 15),  # of 64 rows at least
        (5_000, 1_000, {}, 1, 5),  # a MiB each
        (5_000, 1_000, {}, 8, 32),
        (1_000, 100, {"generate": Generate(n=4, max_tokens=1024)}, 1, 2),  # a million tokens each
        (1_000, 100, {"generate": Generate(n=64, max_tokens=4096)}, 1, 125),
    ],
)
def test_shards_are_by_size_by_work_and_by_workers(tmp_path, rows, size, below, workers, want):
    file = lines(tmp_path / "rows.jsonl", rows, size)
    assert shards_for(Prompts(), {"rows.jsonl": file}, below, workers) == want


@pytest.mark.parametrize("key", ["limit", "sample"])
def test_what_is_not_taken_has_no_shards(tmp_path, key):
    file = lines(tmp_path / "rows.jsonl", 8_000, 1_000)
    assert shards_for(Prompts(**{key: 2_000}), {"rows.jsonl": file}, {}, 1) == 2


def test_rows_are_counted_by_the_beginning_of_a_file(tmp_path):
    assert estimated_rows(lines(tmp_path / "a.jsonl", 30_000, 100)) == pytest.approx(30_000, rel=0.01)
    table = pa.table({"prompt": ["x"] * 700})
    pq.write_table(table, tmp_path / "a.parquet")
    assert estimated_rows(tmp_path / "a.parquet") == 700
    (tmp_path / "array.json").write_text(json.dumps([{"prompt": "x" * 1000}] * 3000))
    assert 700 < estimated_rows(tmp_path / "array.json") < 3000
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(tmp_path / "b.jsonl", 900, 90).read_bytes()))
    assert estimated_rows(tmp_path / "a.jsonl.gz") >= 1
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty.jsonl").touch()
    for name in ("bad.jsonl.gz", "bad.parquet", "empty.jsonl"):
        assert estimated_rows(tmp_path / name) == 1, name


def test_a_run_keeps_its_number_whoever_goes_on_with_it(tmp_path, model_path, capsys):
    """Also one that an older rule counted; another input is counted anew."""
    file = lines(tmp_path / "rows.jsonl", 1_000, 100)
    (tmp_path / "recipe.toml").write_text("[model]\n[prompts]\nformat = 'prompts'\n")

    def planned(run, workers, *more):
        words = [word for word in settings(prompts__source=file, model__name=model_path) if word != "--set"]
        return plan(tmp_path / run, load(tmp_path / "recipe.toml", [*words, *more]), workers)

    from engine.opened import opened

    with opened(planned("run", 2)):
        pass
    assert planned("run", 2).shards == planned("run", 8).shards == planned("run", 1).shards == 8
    assert planned("other", 8).shards == 15
    with opened(planned("old", 1, "prompts.shards=3")):
        pass
    assert planned("old", 8).shards == 3
    with file.open("a") as more:
        more.write('{"prompt": "one more"}\n')
    assert planned("run", 8).shards == 15


def test_gpus_are_counted_without_torch(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-7")
    assert gpus_here() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == 1
