"""SQL on a run: it answers, also while the run is going, and reaches nothing but the tables."""

import json
import shutil
import subprocess
import sys

import duckdb
import polars as pl
import pytest

from engine import described, sql
from engine.commands.sql import _answer, _Wanted
from engine.metrics_table import metrics_of
from engine.query_process import QueryProcess
from engine.ready import text_of
from engine.table_files import RunFiles
from engine.views import views
from schemas.errors import UserError
from schemas.store import open_store
from tests.conftest import ROOT, command

TRIES = [
    "select * from '{file}'",
    "select * from read_csv('{file}')",
    "select * from read_text('{file}')",
    "select * from read_blob('{file}')",
    "select * from glob('/*')",
    "select * from parquet_scan('{file}')",
    "copy pairs to '{new}'",
    "explain analyze copy pairs to '{new}'",
    "with x as (copy (select 1) to '{new}') select * from pairs",
    "export database '{new}'",
    "attach '{new}' as other",
    "install httpfs",
    "load '{file}'",
    "select * from read_csv('http://127.0.0.1:9/x')",
    "set enable_external_access=true",
    "set lock_configuration=false",
    "reset disabled_filesystems",
    "pragma enable_profiling='json'",
    "create table t as select * from read_csv('{file}')",
    "select getenv('HOME')",
    "select * from hidden",
    "create secret (type s3, key_id 'x', secret 'y')",
    "drop view pairs",
    "insert into pairs select * from pairs",
    "select 1; select 2",
    "selec 1",
    "",
]


@pytest.mark.parametrize("text", TRIES)
def test_closed_in(made_run, tmp_path, text):
    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    hidden = pl.DataFrame({"a": [1]})  # noqa: F841  Python variables must not be reachable by name
    con = sql.closed(views(open_store(made_run)))
    with pytest.raises(UserError):
        sql.query(con, text.format(file=file, new=tmp_path / "new"), 10).read_all()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert sql.query(con, "select count(*) as n from pairs", 10).read_all()["n"].to_pylist() == [303]


def test_a_query_is_stopped_in_time(made_run):
    slow = "select count(*) from range(1000000) a, range(1000000) b where a.range % 7 = b.range % 5"
    con = sql.closed(views(open_store(made_run)))
    with pytest.raises(UserError, match=r"stopped after 0.5 s"):
        sql.query(con, slow, 0.5)


def test_a_query_that_wants_too_much_memory_is_refused(made_run):
    for text in ("select length(repeat('x', 3000000000))", "select list(range) from range(300000000)"):
        done = command("engine", "sql", made_run, text, "--memory", 200, "--timeout", 30, code=1)
        assert "error:" in done.stderr and "Traceback" not in done.stderr


def test_the_joins_of_the_page(made_run):
    con = sql.closed(views(open_store(made_run)))
    text = (
        "select source, avg(score) as score, count(*) as n "
        "from responses join scores using (response_id) group by 1"
    )
    assert sql.query(con, text, 10).read_all().to_pylist() == [{"source": "given", "score": 0.5, "n": 606}]


def test_every_ready_query_runs(made_run):
    con = sql.closed(views(open_store(made_run)))
    assert len(sql.ready()) >= 5
    for name, ready in sql.ready().items():
        assert ready.what, name
        sql.query(con, text_of(name), 10).read_all()


def test_an_unfinished_run_answers_from_what_is_there(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    folder = next(run.glob("pairs-*"))
    (folder / "manifest.json").unlink()
    for shard in (1, 3):
        (folder / f"0000{shard}.json").unlink()
    counted = sql.query(sql.closed(views(open_store(run))), "select count(*) as n from pairs", 10).read_all()
    assert 0 < counted["n"][0].as_py() < 303
    shutil.rmtree(folder)
    assert sql.query(sql.closed(views(open_store(run))), "select * from pairs", 10).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("select count(*) from pairs", ["pairs"]),
        ("from Pairs semi join main.scores on true", ["pairs", "scores"]),
        ("with a as (from prompts) select (select max(score) from scores) from a", ["prompts", "scores"]),
        ("with pairs as (from prompts) from pairs", ["prompts"]),
        ("select * from query('from logprobs')", ["logprobs"]),
        ("describe rejects", ["rejects"]),
        # Whatever tells of all tables is shown all of them.
        ("show tables", None),
        ("from pairs, duckdb_tables()", None),
        ("select * from information_schema.tables, pairs", None),
        ("select 1", None),
        ("selec 1", None),
        ("select 1; from pairs", None),
    ],
)
def test_the_tables_that_a_query_reads(text, tables):
    assert sql.tables_named(text, 256) == tables


def test_a_query_needs_no_table_that_it_does_not_name(made_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    path = next(run.glob("given-*/*.scores.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    _answer(str(run), "select count(*) as n from pairs", _Wanted("csv", None, False, False), 60, 1024)
    assert capsys.readouterr().out == "n\n303\n"
    for text in ("select count(*) from pairs, scores", "show tables"):
        with pytest.raises(UserError, match=rf"{path.name}: damaged"):
            _answer(str(run), text, _Wanted("csv", None, False, False), 60, 1024)


def test_the_shards_are_plain_parquet_for_anyone(made_run):
    """DuckDB by itself reads what pyarrow wrote: encodings and checksums are of the common kind."""
    shards = f"{made_run}/pairs-*/*.pairs.parquet"
    text = f"select count(*), sum(len(chosen_ids)), sum(chosen_length) from '{shards}'"
    ((pairs, tokens, total_length),) = duckdb.sql(text).fetchall()
    assert pairs == 303
    assert tokens == total_length


def test_formats_of_the_answer(made_run, tmp_path):
    text = "select pair_id, chosen_ids, chosen_score from pairs order by 1 limit 3"
    json_lines = command("engine", "sql", made_run, text, "--format", "json").stdout.splitlines()
    as_json = [json.loads(line) for line in json_lines]
    assert len(as_json) == 3
    assert as_json[0].keys() == {"pair_id", "chosen_ids", "chosen_score"}
    header, *lines = command("engine", "sql", made_run, text, "--format", "csv").stdout.splitlines()
    assert header == "pair_id,chosen_ids,chosen_score"
    assert len(lines) == 3
    assert str(as_json[0]["chosen_ids"]).replace(" ", "") in lines[0]
    command("engine", "sql", made_run, text, "--format", "parquet", "-o", tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet").to_dicts() == as_json
    assert "pair_id" in command("engine", "sql", made_run, text).stdout
    with open(tmp_path / "piped.parquet", "wb") as pipe:
        subprocess.run(
            [sys.executable, "-m", "engine.cli", "sql", str(made_run), text, "--format", "parquet"],
            cwd=ROOT,
            stdout=pipe,
            check=True,
        )
    assert pl.read_parquet(tmp_path / "piped.parquet").to_dicts() == as_json
    assert command("engine", "sql", made_run, "select * from pairs where false").stdout.startswith("no rows")


def test_answers_that_are_hard_to_show(made_run, tmp_path):
    join = "select * from responses join scores using (response_id) limit 2"
    joined = command("engine", "sql", made_run, join, "--format", "json").stdout
    assert {"prompt_id", "prompt_id_2"} <= json.loads(joined.splitlines()[0]).keys()
    odd_columns = (
        "select 1 as a, 2 as a, 'x'::blob as b, date '2020-01-01' as d, {'x': [1]} as s, "
        "null as n, 1::decimal(9,2) as c"
    )
    for form in ("table", "csv", "json"):
        command("engine", "sql", made_run, odd_columns, "--format", form)
    for text in ("select interval 1 month as i", "select union_value(a := 1) as u"):
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", "sql", str(made_run), text],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "cast it" in done.stderr


def test_a_file_is_written_in_the_form_of_its_name(made_run, tmp_path):
    text = "select pair_id from pairs"
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        command("engine", "sql", made_run, text, "-o", tmp_path / name)
    assert len(pl.read_csv(tmp_path / "x.csv")) == 303
    assert len(pl.read_ndjson(tmp_path / "x.jsonl")) == 303
    assert len(pl.read_parquet(tmp_path / "x.parquet")) == 303
    no_suffix = command("engine", "sql", made_run, text, "-o", tmp_path / "x", code=1)
    assert "say what to write" in no_suffix.stderr
    no_folder = command("engine", "sql", made_run, text, "-o", "/dev/null/x.csv", code=1)
    assert "error: " in no_folder.stderr


def test_a_damaged_shard_is_not_read(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    path = next(run.glob("pairs-*/00002.pairs.parquet"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    assert "00002.pairs.parquet: damaged" in command("engine", "sql", run, "select 1", code=1).stderr


def test_no_run_is_named(tmp_path):
    assert "is not a run folder" in command("engine", "sql", tmp_path, "select 1", code=1).stderr


def test_the_view_to_read_has_the_pairs_and_no_ids(made_run):
    text = "select p.*, t.* from pairs_text t join pairs p using (prompt, chosen, rejected) order by pair_id"
    rows = asked(made_run, text).to_pylist()
    assert len(rows) == 303
    for row in rows[:20]:
        assert row["ref_chosen_logp_per_token"] == pytest.approx(
            row["ref_chosen_logps"] / row["chosen_length"]
        )
    names = asked(made_run, "select * from pairs_text limit 1").column_names
    assert names[:3] == ["prompt", "chosen", "rejected"] and not [name for name in names if "id" in name]


@pytest.mark.parametrize("name", described.names())
def test_describe_gives_the_comment_of_every_column_in_the_tables_order(made_run, name):
    rows = asked(made_run, f"DESCRIBE {name};").to_pylist()
    assert [row["column_name"] for row in rows] == asked(
        made_run, f"select * from {name} limit 0"
    ).column_names
    assert all(row["comment"] and row["column_type"] for row in rows)


def test_a_ready_query_takes_parameters(made_run):
    usual = asked(made_run, "surprising").num_rows
    three = command("engine", "sql", made_run, "surprising", "--limit", 3, "--format", "csv").stdout
    assert usual == 20 and len(three.splitlines()) == 4
    assert text_of("surprising", {"limit": "7"}).rstrip().endswith("limit 7")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["surprising", "--param", "limits=3"], "has no parameter limits: did you mean 'limit'"),
        (["surprising", "--param", "limit=3; drop"], "expected a number, such as 20"),
        (["select 1", "--limit", "3"], "only a ready query has parameters"),
    ],
)
def test_a_wrong_parameter_is_said(made_run, words, said):
    assert said in command("engine", "sql", made_run, *words, code=1).stderr


METRICS = (
    b'{"step": 0, "eval_loss": 0.7}\n'
    b'{"step": 1, "loss": 0.5, "rewards/margins": NaN, "note": "no number", "ok": true}\n'
    b'[1]\n{"step": "x", "loss": 1}\n{"step": 1e3, "loss": 1}\n{"loss": 1}\n' + b"[" * 100_000 + b"\n"
    b'{"step": 2, "loss": 0.25, "big": 1e999, "bigger": ' + b"9" * 400 + b"}\n"
    b'{"step": 3, "lo'
)


def test_metrics_of_trainings_are_a_table(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    for name in ("train-a", "train-b"):
        (run / name).mkdir()
    (run / "train-b" / "metrics.jsonl").write_bytes(METRICS)
    text = "select run, step, name, value from metrics where name in ('loss', 'eval_loss')"
    rows = command("engine", "sql", run, text, "--format", "csv").stdout.splitlines()
    assert rows == [
        "run,step,name,value",
        "train-b,0,eval_loss,0.7",
        "train-b,1,loss,0.5",
        "train-b,2,loss,0.25",
    ]
    names = [row["name"] for row in metrics_of(open_store(run)).to_pylist()]
    assert names == ["eval_loss", "loss", "rewards/margins", "loss", "big"]
    assert "no rows" in command("engine", "sql", made_run, "from metrics").stdout


def asked(run, query):
    """The answer of the command to a query, as its process gives it."""
    text = text_of(query)
    with QueryProcess(1024) as process:
        files = RunFiles(open_store(run))
        named = described.read_by(text) or process.named(text, 60)
        process.open((files.of_tables(named) if named else files.of_tables()) | {"metrics": []})
        return process.ask(text, 60)
