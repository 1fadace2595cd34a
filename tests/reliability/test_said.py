"""What is said of an answer, a row or a name: every date is shown, no key is repeated, no line is forged, and
no library's panic ends a command without a sentence.
"""

import json
import os
import sys

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

from engine import answers, sql
from engine.commands import prompt
from engine.endpoint.spec import Endpoint
from engine.stages.check import _failed as of_check
from schemas import redaction, screen
from schemas.errors import UserError, exit_on_user_error
from schemas.panics import Panic, panics_as_errors
from tests.reliability.small import small_run

FORGED = "rows in 99 = rows out 99 + rejects 0"
NAME = f"x\n{FORGED}\n"
BEYOND = {
    "'infinity'::date": "infinity",
    "'-infinity'::date": "-infinity",
    "'290000-01-01'::date": "290000-01-01",
    "'infinity'::timestamp": "infinity",
    "'290000-01-01'::timestamp_s": "290000-01-01 00:00:00",
    "'-infinity'::timestamp_ns": "-infinity",
    "'290000-01-01'::timestamptz": "290000-01-01",
    "('{\"when\": \"infinity\"}'::json->>'when')::date": "infinity",
    "'24:00:00'::time": "24:00:00",
    "interval 3 month": "3 months",
    "union_value(a := 'infinity'::date)": "infinity",
    "['infinity'::date]": "infinity",
    "{'a': 'x', 'b': ['290000-01-01'::timestamp]}": "290000-01-01",
    "map {'a': '10000-01-01'::date}": "10000-01-01",
    "['bytes'::blob]": "bytes",
    "10000000000000000000000000000000000000000000::varint": "10000000000000000000000000000000000000000000",
}


def answer(query: str) -> pa.Table:
    return duckdb.sql(query).to_arrow_table()


def test_every_time_is_shown_in_every_form(trials, tmp_path):
    with trials("a value beyond the calendar in an answer") as trial:
        for expression, shown in BEYOND.items():
            rows = answer(f"select {expression} as v, 'beside' as b union all select null, 'b'")
            with trial(expression):
                answers.write(rows, "csv", tmp_path / "a.csv")
                answers.write(rows, "json", tmp_path / "a.json")
                texts = [answers.as_table(rows), answers.as_csv(rows), answers.as_json(rows)]
                texts += [(tmp_path / "a.csv").read_text(), (tmp_path / "a.json").read_text()]
                for text in texts:
                    assert shown in text and "beside" in text, text


def test_times_of_this_world_are_shown_as_before():
    rows = answer("select '9999-12-31'::date d, '2020-02-03 04:05:06'::timestamp t, ['1999-01-01'::date] l")
    assert answers.as_json(rows) == '{"d":"9999-12-31","t":"2020-02-03 04:05:06","l":["1999-01-01"]}\n'


def panic() -> None:
    """A real one: this version of polars cannot show such a date."""
    str(pl.Series([2**31 - 1], dtype=pl.Int32).cast(pl.Date))


def test_a_panic_is_an_error_that_can_be_handled(capfd, trials, monkeypatch):
    with trials("a panic of a library in Rust") as trial:
        with trial("as an error"), pytest.raises(Panic, match="out-of-range date"), panics_as_errors():
            panic()
        with trial("of a command"):
            with pytest.raises(SystemExit) as ended, exit_on_user_error("it is kept"):
                panic()
            assert ended.value.code == 1
            assert "error: a library could not take its input: " in capfd.readouterr().err
        with trial("of an answer"):
            monkeypatch.setattr(answers, "_frame", lambda rows: panic())
            for form in (answers.as_table, answers.as_csv, answers.as_json):
                with pytest.raises(UserError, match="cast it, as in x::varchar"):
                    form(pa.table({"a": [1]}))
        with trial("at the prompt"):
            typed = iter(["select 1;", "select 2;"])
            monkeypatch.setattr("builtins.input", lambda shown: next(typed, None) or at_the_end())
            asked: list[str] = []

            def answered(process, text, timeout, wide, full):
                asked.append(text)
                panic()

            monkeypatch.setattr(prompt, "_answer", answered)
            monkeypatch.setattr(prompt, "_read_history", lambda path: None)
            monkeypatch.setattr(prompt, "_write_history", lambda path: None)
            prompt.ask(None, 1.0)
            assert asked == ["select 1;", "select 2;"]


def at_the_end() -> str:
    raise EOFError


SECRETS = (
    "sk-abcdefghijklmnopqrstuvwxyz",
    "glpat-abcdefghijklmnopqrst",
    "ya29.abcdefghijklmnopqrstuvwxyz",
    "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeK",
    "Bearer abcdefgh12345678",
)
VARIABLES = ("PGPASSWORD", "DB_PASS", "MY_CREDENTIALS", "MY_AUTH", "SMTP_PWD", "X_PASSPHRASE", "MY_TOKEN")


def test_no_line_repeats_a_key(capsys, monkeypatch, trials):
    with trials("a key in a line that is no error") as trial:
        for secret in SECRETS:
            with trial(secret):
                screen.say(f"refused by [check]: such as x line 1: {of_check_text(secret)}")
                assert secret.removeprefix("Bearer ") not in capsys.readouterr().out
        for name in VARIABLES:
            with trial(name):
                monkeypatch.setenv(name, "battery staple")
                screen.say("it said battery staple")
                assert capsys.readouterr().out == "it said (not shown)\n"
                monkeypatch.delenv(name)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    screen.say(f"reading /home/me/key.json in {os.environ['PWD']}; Bearer authentication is required")
    assert "(not shown)" not in capsys.readouterr().out


def of_check_text(secret: str) -> str:
    class Asked:
        row = 0

    return of_check(Asked(), ValueError(f"no {secret}")).detail


def test_the_key_that_a_recipe_names_is_known(monkeypatch, trials):
    """A server repeats it whole, its beginning, or backwards."""
    key = "correct-horse-battery"
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setenv("ANY_NAME", key)
    Endpoint("judge", "http://h/v1", "m", "ANY_NAME", 1, 0, 1.0).key()
    monkeypatch.delenv("ANY_NAME")
    with trials("a key as a server repeats it") as trial:
        for said, shown in {
            f"bad key {key}!": "bad key (not shown)!",
            f"bad key {key[:12]}…": "bad key (not shown)…",
            f"bad key {key[:17]}***": "bad key (not shown)***",
            f"bad key {key[::-1]}": "bad key (not shown)",
            f"bad key {key[:11]}": f"bad key {key[:11]}",
            f"{key[:14]}, {key[:13]}": "(not shown), (not shown)",
        }.items():
            with trial(said):
                assert redaction.redacted(said) == shown


def test_no_name_or_row_forges_a_line(tmp_path, trials):
    """A file, a folder, a column, a row's text and a setting hold what would be a line of an account."""
    from engine.cli import main

    folder = tmp_path / NAME
    good: list[dict] = []
    for number in range(3):
        good.append({"prompt": f"{number} {NAME}", "chosen": "yes", "rejected": "no", NAME: NAME})
    bad = {"prompt": NAME, "chosen": NAME, "rejected": NAME}
    run = str(small_run(folder, [*good, bad]))
    recipe = str(folder / "recipe.toml")
    source = folder / f"{NAME}.jsonl"
    (folder / "rows.jsonl").rename(source)
    setting = f"prompts.source={json.dumps(str(source))}"
    other = str(folder / "other")
    with trials("a line break in a name or a row") as trial:
        for words in (
            ["precompute", recipe, "-o", other, "--set", setting],
            ["precompute", recipe, "-o", other, "--set", setting],
            ["status", run],
            ["status", str(folder)],
            ["verify", run],
            ["sql", run, f"select 1 as {json.dumps(NAME)} where false"],
            ["sql", run, f"select '{NAME}'::int"],
            ["sql", run, f"select {json.dumps(NAME)}"],
            ["sql", run, "select 1", "-o", str(folder / "a.csv")],
            ["sql", run, "select 1", "--format", NAME],
            [
                "precompute",
                recipe,
                "-o",
                other,
                "--set",
                setting,
                "--set",
                f"prompts.format={json.dumps(NAME)}",
            ],
            ["precompute", recipe, "-o", other, "--set", f"{NAME}.x=1"],
            ["precompute", str(folder / NAME), "-o", other],
            [NAME],
        ):
            with trial(ascii(words)):
                done = CliRunner().invoke(main, words)
                assert done.output
                assert done.exception is None or isinstance(done.exception, SystemExit)
                assert FORGED not in map(str.strip, done.output.splitlines()), done.output
                if words[0] == "precompute":
                    assert f"\\n{FORGED}\\n" in done.output


def test_the_place_in_a_query_is_shown_below_it(capsys):
    with duckdb.connect() as con, pytest.raises(SystemExit), exit_on_user_error(""):
        sql.query(con, f"select '{NAME}z'::int", 5)
    first, *place = capsys.readouterr().err.splitlines()
    assert first.startswith("error: SQL: Conversion Error: Could not convert string 'x ")
    assert place == ["LINE 3: z'::int", "          ^^^^^"]


def test_a_pivot_is_told_how_it_can_be_asked():
    rows = "(values ('train', 1), ('test', 2)) t(split, n)"
    with sql.closed({}) as con:
        with pytest.raises(UserError, match=r"PIVOT … ON split IN \('train', 'test'\) USING"):
            sql.query(con, f"pivot {rows} on split using sum(n)", 5)
        named = sql.query(con, f"pivot {rows} on split in ('train', 'test') using sum(n)", 5)
        assert named.read_all().to_pylist() == [{"train": 1, "test": 2}]


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("select 1;", True),
        ("select 'a;", False),
        ("select 'a;'", False),
        ("select 'é;';", True),
        ("select 1 -- a;", False),
        ("select 1 /* a;", False),
        ("select 1 /* a */;", True),
        ('select "a;', False),
        ("select $$a;", False),
        (";", True),
    ],
)
def test_a_statement_ends_outside_strings_and_comments(text, is_whole):
    assert prompt._is_whole(text) == is_whole


def test_our_own_lines_stay(capsys, monkeypatch):
    rows = pa.table({"a": ["x\ny"]})
    screen.say(answers.as_table(rows), as_it_is=True)
    assert len(capsys.readouterr().out.splitlines()) > 4
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    screen.hand_over("a\nb\n")
    assert capsys.readouterr().out == "a\nb\n"
