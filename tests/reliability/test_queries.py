"""A query reads the tables of its run and nothing else, takes the time and memory it may have, and leaves no
process behind; the prompt goes on after whatever is typed.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine import sql
from schemas.errors import UserError
from schemas.store import open_store
from schemas.tables import TABLES
from tests.conftest import ROOT, tree
from tests.reliability.small import ROWS, small_run

if TYPE_CHECKING:
    from engine.query_process import QueryProcess

SECRET = "sesame-7391"
GRACE = 2.0  # seconds after its time until a query has ended for certain

# What reads a file, a variable of Python or an address: with {file}, {folder}, {url} in it.
READS = (
    "select * from '{file}'",
    "from '{file}'",
    'from "{file}"',
    "from '{folder}/*.csv'",
    "from '{folder}/**'",
    "from 'file://{file}'",
    "from '{url}/x.csv'",
    "from '{url}/x.parquet'",
    "from 's3://bucket/x.parquet'",
    "from read_csv('{url}/x.csv')",
    "from read_text(['{file}', '{file}'])",
    "from read_csv('{file}', header = false, delim = '')",
    "from read_blob('/proc/self/environ')",
    "from read_text('/proc/self/environ')",
    "from read_text('/dev/stdin')",
    "from query('from read_text(''{file}'')')",
    "from query_table('{file}')",
    "from query_table(['{file}'])",
    "from json_execute_serialized_sql(json_serialize_sql('select * from read_text(''{file}'')'))",
    "from hidden",
    "from hidden_table",
    "select getenv('PREFMILL_TEST_SECRET')",
    "select current_setting('PREFMILL_TEST_SECRET')",
    "select getvariable('PREFMILL_TEST_SECRET')",
    "from duckdb_secrets(redact = false)",
    "from which_secret('s3://bucket', 's3')",
    "from iceberg_scan('{folder}')",
    "from delta_scan('{folder}')",
    "from sqlite_scan('{file}', 't')",
    "from postgres_scan('host=127.0.0.1', 'public', 't')",
    "from st_read('{file}')",
    "from read_xlsx('{file}')",
    "from http_get('{url}')",
)
# What writes, loads, attaches or changes a setting.
CHANGES = (
    "copy pairs to '{new}'",
    "copy (select 1) to '{new}' (format parquet)",
    "copy (select 1) to '{new}' (format json, use_tmp_file false)",
    "copy (select 1) to '/dev/stdout'",
    "copy (select 1) to '{url}/x.csv'",
    "copy (select 1) to '{shard}' (format parquet, use_tmp_file false)",
    "copy pairs from '{file}'",
    "copy (select 1 as a, 2 as b) to '{new}' (partition_by (a))",
    "export database '{new}'",
    "import database '{folder}'",
    "attach '{new}' as other",
    "attach '{new}' as other (type sqlite)",
    "attach '{url}/x.db' as other (read_only)",
    "attach ':memory:' as other",
    "attach 'ducklake:{new}' as lake",
    "install httpfs",
    "force install httpfs",
    "install httpfs from '{url}'",
    "install '{file}'",
    "load '{file}'",
    "load httpfs",
    "update extensions",
    "create secret (type s3, key_id 'x', secret 'y')",
    "create persistent secret kept (type http, bearer_token 'x')",
    "drop secret kept",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "set disabled_filesystems = ''",
    "set allowed_directories = ['/']",
    "set allowed_paths = ['{file}']",
    "set temp_directory = '{folder}'",
    "set home_directory = '{folder}'",
    "set extension_directory = '{folder}'",
    "set secret_directory = '{folder}'",
    "set log_query_path = '{new}'",
    "set memory_limit = '100GB'",
    "set threads = 1000",
    "set global enable_external_access = true",
    "set variable x = 1",
    "reset enable_external_access",
    "reset disabled_filesystems",
    "reset memory_limit",
    "pragma enable_profiling = 'json'",
    "pragma profiling_output = '{new}'",
    "pragma enable_external_access",
    "pragma import_database('{folder}')",
    "pragma copy_database('memory', 'x')",
    "pragma database_list",
    "call enable_logging(storage = 'file', storage_path = '{new}')",
    "call enable_profiling(save_location = '{new}')",
    "call force_checkpoint()",
    "call pragma_version()",
    "checkpoint",
    "vacuum",
    "begin transaction",
    "create table t as from read_csv('{file}')",
    "create view v as select * from '{file}'",
    "create macro m() as table from read_csv('{file}')",
    "create function f(x) as getenv(x)",
    "create type t as enum ('a')",
    "create sequence s",
    "drop view pairs",
    "insert into pairs select * from pairs",
    "delete from pairs",
    "update pairs set split = 'x'",
    "truncate pairs",
    "alter table pairs rename to p",
    "use other",
    "prepare p as select 1",
    "execute p",
    "deallocate p",
    ".read {file}",
    ".shell ls",
    ".open {new}",
)
WRAPPED_READS = (
    "explain analyze {}",
    "with x as ({}) select * from x",
    "with x as materialized ({}) select count(*) from x",
    "select (select count(*) from ({}))",
    "select * from pairs where exists ({})",
    "(({}))",
    "/* select 1; */ {} -- select 1",
    "\ufeff{}",
    "{};",
    "prepare p as {}",
    "create temp table t as {}",
    "copy ({}) to '/dev/null'",
    "describe {}",
    "summarize {}",
    "select 1 union all by name {}",
)
WRAPPED_CHANGES = (
    "{}",
    "explain analyze {}",
    "with x as ({}) select * from pairs",
    "select 1; {}",
    "{}; select 1",
    "/**/{}--",
    "from query($query${}$query$)",
    "begin; {}; commit",
    "prepare p as {}",
    "select 1\uff1b {}",
)

# Each is one piece of work that DuckDB does not look up from, or takes all the memory there is.
QUICK_BOMBS = (
    "select length(lpad('x', 2000000000, 'y'))",
    "select md5(repeat('x', 2000000000))",
    " union ".join(["select 1"] * 20_000),
    "select count(*) from range(1000000000000000000) a, range(1000000000000000000) b",
)
BOMBS = (
    *QUICK_BOMBS,
    " union all ".join(["select 1"] * 20_000),
    "select length(rpad('x', 2000000000, 'y'))",
    "select length(repeat('x', 3000000000))",
    "select sha256(repeat('ab', 1000000000))",
    "select * from range(1000000000000000000)",
    "select range(1000000000)",
    "select list(range) from range(10000000000)",
    "select string_agg(range::varchar, ',') from range(10000000000)",
    "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t",
    "with recursive t(n) as (select 1 union all select n from t) select max(n) from t",
    "with recursive t(s) as (select 'x' union all select s || s from t) select max(length(s)) from t",
    "select count(*) from pairs_a, pairs_a, pairs_a".replace("pairs_a", "range(100000000)"),
    "select regexp_matches(repeat('a', 30000000), '(a|aa)+$')",
    "select regexp_replace(repeat('a', 100000000), 'a', 'bbbbbbbb', 'g')",
    "select levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
    "select jaccard(repeat('ab', 300000000), repeat('bc', 300000000))",
    "select factorial(33)::varchar || repeat('9', 2000000000)",
    "select sleep_ms(1000000)",
    "select pg_sleep(1000)",
    "select count(distinct random()) from range(100000000000)",
    "select * from range(100000000000) order by random()",
    "select median(random()) from range(100000000000)",
    "select " + "(" * 100_000 + "1" + ")" * 100_000,
    "select " + "[" * 100_000 + "]" * 100_000,
    "select " + " + ".join(["1"] * 500_000),
    "select * from " + ", ".join(["range(1000)"] * 60),
    "select * from " + "(" * 30_000 + "select 1" + ")" * 30_000,
    "select list_reduce(range(100000000), (a, b) -> a + b)",
    "select array_agg(a) over (order by a.range) from range(1000000) a",
    "select unnest(range(0, 1000000000000))",
    "select printf('%2000000000d', 1)",
    "select format('{:2000000000}', 'x')",
    "select bit_count(repeat('1', 2000000000)::bit)",
    "select to_base64(repeat('x', 2000000000)::blob)",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("asked"))


@pytest.fixture
def process(run) -> "Iterator[QueryProcess]":
    """The tables of a run, in a process that answers."""
    from engine.query_process import QueryProcess
    from engine.table_files import table_files

    with QueryProcess(256) as process:
        process.open(table_files(open_store(run)))
        yield process


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A server that nobody may call."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


def attacks() -> list[str]:
    """Every way to reach out, in every disguise; and every function that gives a table, given a file."""
    found = list(READS)
    for wrap in WRAPPED_READS:
        found += [wrap.replace("{}", read) for read in READS]
    for wrap in WRAPPED_CHANGES:
        found += [wrap.replace("{}", change) for change in CHANGES]
    con = sql.closed({})
    names = con.sql("select distinct function_name from duckdb_functions() where function_type = 'table'")
    for (name,) in sorted(names.fetchall()):
        found += [f"from {name}('{{file}}')", f"from {name}(['{{file}}'])", f"call {name}('{{new}}')"]
    return found


def test_no_query_reaches_anything_but_its_tables(run, process, port, tmp_path, trials, monkeypatch):
    """An attack ends in a sentence or an answer without the secret, and changes no file, calls nobody."""
    monkeypatch.setenv("PREFMILL_TEST_SECRET", SECRET)
    hidden = hidden_table = {"a": [SECRET]}
    assert hidden is hidden_table  # a name that SQL must not find
    file = tmp_path / "secret.csv"
    file.write_text(f"a\n{SECRET}\n")
    places = {
        "{file}": str(file),
        "{folder}": str(tmp_path),
        "{new}": str(tmp_path / "new"),
        "{url}": f"http://127.0.0.1:{port.getsockname()[1]}",
        "{shard}": str(next(run.glob("given-*/00000.responses.parquet"))),
    }
    before = tree(run)
    with trials("SQL that reads, writes, loads or calls out") as trial:
        for attack in attacks():
            for name, place in places.items():
                attack = attack.replace(name, place)
            with trial(attack):
                with contextlib.suppress(UserError):
                    assert SECRET not in str(process.ask(attack, 20).to_pylist())
                assert os.listdir(tmp_path) == [file.name]
    assert tree(run) == before
    assert file.read_text() == f"a\n{SECRET}\n"
    with pytest.raises(BlockingIOError):
        port.accept()
    for table in TABLES:
        process.ask(f"from {table}", 20)
    assert process.ask("select count(*) as n from prompts", 20).to_pylist() == [{"n": ROWS}]


def test_the_attacks_are_many():
    assert len(set(attacks())) > 200


def ended_in_time(process: "QueryProcess", bomb: str, seconds: float) -> None:
    """A bomb ends in a sentence, or in an answer, within its time."""
    begun = time.monotonic()
    with contextlib.suppress(UserError):
        process.ask(bomb, seconds)
    assert time.monotonic() - begun < seconds + GRACE


def test_a_query_that_does_not_listen_is_ended(process, trials):
    """Each ends within its time and a moment, and the next query is answered."""
    process.ask("select 1", 60)  # the process is there
    with trials("an SQL query that takes all time or memory") as trial:
        for bomb in QUICK_BOMBS:
            with trial(bomb[:80]):
                ended_in_time(process, bomb, 0.2)
    assert process.ask("select count(*) as n from prompts", 20).to_pylist() == [{"n": ROWS}]


@pytest.mark.long
def test_every_bomb_is_ended(process, trials):
    process.ask("select 1", 60)
    with trials("an SQL query that takes all time or memory") as trial:
        for bomb in BOMBS:
            with trial(bomb[:80]):
                ended_in_time(process, bomb, 1)
                assert process.ask("select 1 as n", 60).to_pylist() == [{"n": 1}]


def started(run: Path, query: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "sql", str(run), query, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_ends_a_query_within_its_time(run, trials):
    """As a user sees it: a sentence, and an exit status."""
    with trials("an SQL query that takes all time or memory") as trial, trial("the command"):
        begun = time.monotonic()
        # By itself it takes far longer: each of these pads is several seconds of one piece of work.
        pads = ", ".join(f"length(lpad('{letter}', 1900000000, 'y'))" for letter in "abcd")
        process = started(run, f"select {pads}", "--timeout", "1", "--memory", "16000")
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "stopped after 1 s; give it more with --timeout" in said, said
        assert time.monotonic() - begun < 1 + GRACE + 4  # with the start of two processes on a busy machine


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def ends_with_its_parent(run: Path, number: int) -> None:
    """The process of a query is gone soon after the one that asked is."""
    process = started(run, QUICK_BOMBS[3], "--timeout", "300")
    try:
        deadline = time.monotonic() + 60
        while not children(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (child,) = children(process.pid)
        time.sleep(0.7)  # into the query, or before it: at any moment
        os.kill(process.pid, number)
        process.communicate(timeout=20)
        deadline = time.monotonic() + 5
        while is_alive(child):
            assert time.monotonic() < deadline, "the process of the query outlived the one that asked"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_nothing_outlives_the_command(run, trials):
    with trials("engine sql killed, its query with it") as trial, trial("SIGKILL"):
        ends_with_its_parent(run, signal.SIGKILL)


@pytest.mark.long
def test_nothing_outlives_the_command_however_it_ends(run, trials):
    with trials("engine sql killed, its query with it") as trial:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            with trial(number.name):
                ends_with_its_parent(run, number)


def test_an_answer_larger_than_its_memory_is_an_error(process):
    with pytest.raises(UserError, match=r"its answer is larger than 256 MB; give it more with --memory"):
        process.ask("select range, repeat('x', 1000) as x from range(100000000)", 60)
    assert process.ask("select 1 as n", 60).to_pylist() == [{"n": 1}]


def test_an_answer_that_is_no_arrow_is_an_error(process, monkeypatch):
    """What comes from the process of a query is not trusted either."""
    import pyarrow as pa

    process.ask("select 1", 60)

    def fail(*_: object) -> None:
        raise pa.ArrowInvalid("not a stream")

    with monkeypatch.context() as patched:
        patched.setattr(pa.ipc, "open_stream", fail)
        with pytest.raises(UserError, match="cannot be read here: ArrowInvalid: not a stream"):
            process.ask("select 1", 60)
    assert process.ask("select 1 as n", 60).to_pylist() == [{"n": 1}]


def test_a_process_that_died_is_replaced(process):
    """A crash of DuckDB is a sentence; the next query has a new process."""
    process.ask("select 1", 60)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"the query ended its process \(signal 9\)"):
        process.ask("select 1", 60)
    assert process.ask("select 1 as n", 60).to_pylist() == [{"n": 1}]


_LISTENS = 0.2  # seconds from the prompt until Python's readline takes a signal
TYPED_FIRST = ("update extensions;", "select 'a;", ";", ".help")
TYPED = (
    "pragma version;",
    "set threads = 1;",
    "install httpfs;",
    "select 1; select 2;",
    "'",
    '"a;',
    ";;;",
    "   ;  ",
    ".read /etc/passwd",
    "select;",
    "/* ;",
    "select * from pairs where;",
    "select chr(0);",
    "select null;",
    "select interval 1 month;",
    "-- nothing;",
    QUICK_BOMBS[0] + ";",
)


def ctrl_c(child, trial) -> None:
    """Ctrl-C drops what is typed and stops a query; the prompt stays."""
    with trial("Ctrl-C at the prompt"):
        child.send("select")
        time.sleep(_LISTENS)
        child.sendintr()
        child.expect("engine> ")
        child.sendline("select 54321 as answer;")
        child.expect("│ 54321")
        child.expect("engine> ")
    with trial("Ctrl-C during a query"):
        child.sendline(QUICK_BOMBS[3] + ";")
        time.sleep(0.2)
        child.sendintr()
        child.expect("engine> ")
        child.sendline("select 12345 as answer;")
        child.expect("│ 12345")
        child.expect("engine> ")


def goes_on(run: Path, tmp_path: Path, trials, lines: tuple[str, ...], stops: bool) -> None:
    """Whatever is typed: the next query is answered. `stops`: also Ctrl-C."""
    pexpect = pytest.importorskip("pexpect")
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TERM": "dumb"}
    words = ["-m", "engine.cli", "sql", str(run), "--timeout", "1"]
    child = pexpect.spawn(sys.executable, words, cwd=str(ROOT), env=env, encoding="utf-8", timeout=30)
    try:
        child.expect("engine> ")
        with trials("a line typed at the prompt") as trial:
            for number, typed in enumerate(lines):
                with trial(repr(typed)):
                    child.sendline(typed)
                    if child.expect(["engine> ", r"\.\.\.> "]):
                        time.sleep(_LISTENS)
                        child.sendintr()  # drops what is left open
                        child.expect("engine> ")
                    child.sendline(f"select {number} + 70000 as answer;")
                    child.expect(rf"│ {number + 70000}")
                    child.expect("engine> ")
            if stops:
                ctrl_c(child, trial)
        child.sendeof()
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0


def test_the_prompt_goes_on(run, tmp_path, trials):
    goes_on(run, tmp_path, trials, TYPED_FIRST, stops=False)


@pytest.mark.long
def test_the_prompt_goes_on_after_all_else(run, tmp_path, trials):
    goes_on(run, tmp_path, trials, TYPED, stops=True)
