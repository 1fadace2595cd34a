"""What a user sees: help with an example, clear refusals, no traceback, nothing slow before it is needed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import RECIPE, ROOT, command, settings

# Prints which of the heavy libraries a command's help has loaded.
HELP_SCRIPT = """
import sys
import {module}.cli

try:
    {module}.cli.main({words})
except SystemExit:
    pass
heavy = ("torch", "transformers", "vllm", "duckdb", "pyarrow")
print([name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize(
    "words",
    [
        ["engine"],
        ["engine", "precompute"],
        ["engine", "status"],
        ["engine", "sql"],
        ["trainer"],
        ["trainer", "run"],
    ],
)
def test_help_loads_nothing_heavy(words):
    script = HELP_SCRIPT.format(module=words[0], words=[*words[1:], "--help"])
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
    assert len(words) == 1 or "Example" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["engine", "precompute", RECIPE, "-o", "{run}"], 1, "the recipe names no"),
        (["engine", "precompute", "nope.toml", "-o", "{run}"], 1, "no recipe at nope.toml"),
        (["engine", "precompute", RECIPE, "-o", "{run}", "--workerz", "2"], 2, "Did you mean '--workers'"),
        (
            ["engine", "precompute", RECIPE, "-o", "{run}", "--set", "prompt.source=x"],
            1,
            "did you mean 'prompts'?",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", prompts__format="hhh"),
            ],
            1,
            "no 'hhh' in pipelines/sql",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", model__name="/nope"),
            ],
            1,
            "no model folder at /nope",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", model__name="{empty}"),
            ],
            1,
            "no model.safetensors",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", model__name="{model}", logprobs__max_length=999),
            ],
            1,
            "made for 512 positions",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", model__name="{model}", logprobs__too_long="cut"),
            ],
            1,
            "too_long = ['cut'] has 'cut'",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", model__name="{model}", model__device="cuda"),
            ],
            1,
            "torch finds 0 GPUs",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "{run}",
                *settings(prompts__source="{data}", model__name="{model}", model__device="gpu"),
            ],
            1,
            "expected auto, cpu, cuda",
        ),
        (
            [
                "engine",
                "precompute",
                RECIPE,
                "-o",
                "/dev/null/run",
                *settings(prompts__source="{data}", model__name="{model}"),
            ],
            1,
            "/dev/null",
        ),
        (["engine", "precompute", "{empty}", "-o", "{run}"], 2, "is a directory"),
        (["engine", "status", "{run}"], 1, "is not a run folder"),
        (["engine", "sql"], 2, "name a run folder"),
        (["engine", "sql", "{run}"], 2, "no query, and no terminal"),
        (["trainer", "run", RECIPE, "-o", "{run}"], 1, "is not a run folder"),
    ],
)
def test_mistakes_are_one_clear_sentence(words, code, said, tmp_path, pairs_file, model_path):
    words = [
        str(word).format(run=tmp_path / "run", empty=tmp_path, data=pairs_file, model=model_path)
        for word in words
    ]
    done = command(*words, code=code)
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def own_held_out_file(tmp_path):
    """Six rows, two of a held-out file of one's own, one of them in both; a column that is left out."""
    import json

    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": "No.", "topic": "t"} for n in range(7)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:6]))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[5:]))
    return tmp_path


def test_held_out_files_from_the_recipe_to_the_pairs(own_held_out_file, model_path):
    words = ["engine", "precompute", RECIPE, "-o", own_held_out_file / "run"]
    chosen = settings(
        prompts__source=own_held_out_file / "in.jsonl",
        prompts__test_source=own_held_out_file / "mine.jsonl",
        model__name=model_path,
        pairs__test_share=0.9,
    )
    done = command(*words, *chosen)
    assert "rows in 8 = rows out 7 + rejects 0 + duplicates 1" in done.stdout
    assert "held out 2, held out though also in train 1" in done.stdout
    assert "(train 5, test 2" in done.stdout
    assert done.stderr.count("left out, since the format preference does not read them: topic") == 1
    query = "select pairs.split, count(*) as n from pairs group by all order by all"
    counted = command("engine", "sql", own_held_out_file / "run", query, "--format", "csv").stdout
    assert counted.split() == ["split,n", "test,2", "train,5"]
    done = command(*words, *chosen, *settings(prompts__limit=2))
    assert "rows in 4 = rows out 4" in done.stdout and "its first 2 prompts" in done.stderr


def test_a_pipe_that_closes_is_no_success_for_work(precompute_words, tmp_path):
    words = " ".join(
        f"'{word}'"
        for word in [
            sys.executable,
            "-m",
            "engine.cli",
            *map(str, precompute_words[1:]),
            "-o",
            str(tmp_path / "run"),
        ]
    )
    done = subprocess.run(
        ["bash", "-c", f"({words}; echo ended with $? >&2) | true"], cwd=ROOT, capture_output=True, text=True
    )
    assert "ended with 1" in done.stderr or list((tmp_path / "run").glob("pairs-*/manifest.json"))


def test_the_ready_queries_are_listed():
    said = command("engine", "sql", "--list").stdout
    assert all(name in said for name in ("overview", "rejects", "length_bias", "surprising"))


def test_ctrl_c_in_a_command_that_only_reads_says_so(monkeypatch, capsys):
    from engine.cli import main
    from engine.commands import status

    def interrupted(**given):
        raise KeyboardInterrupt

    monkeypatch.setattr(status.command, "callback", interrupted)
    with pytest.raises(SystemExit):
        main(["status", "runs/none"])
    assert capsys.readouterr().err.strip() == "stopped; nothing was changed"


def test_ctrl_c_says_what_is_kept(precompute_words, tmp_path):
    words = [
        sys.executable,
        "-m",
        "engine.cli",
        *map(str, precompute_words[1:]),
        "-o",
        str(tmp_path / "run"),
        "--set",
        "prompts.shards=40",
    ]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while time.time() < deadline and not list((tmp_path / "run").glob("pairs-*/00001.json")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "what is finished is kept" in said and "Traceback" not in said, said
    assert "/40" in command("engine", "status", tmp_path / "run").stdout


def test_the_prompt_answers(made_run, tmp_path):
    """The interactive prompt, on a terminal of its own.

    A statement over two lines, a mistake, a ready query, and out."""
    pexpect = pytest.importorskip("pexpect")
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TERM": "dumb"}
    child = pexpect.spawn(
        sys.executable,
        ["-m", "engine.cli", "sql", str(made_run)],
        cwd=str(ROOT),
        env=env,
        encoding="utf-8",
        timeout=30,
    )
    child.expect("engine> ")
    child.sendline("select count(*) as pairs_there")
    child.expect("> ")
    child.sendline("from pairs;")
    child.expect("303")
    child.expect("engine> ")
    child.sendline("selec 1;")
    child.expect("error: SQL: Parser Error")
    child.expect("engine> ")
    child.sendline("overview")
    child.expect("split.*source.*pairs")
    child.expect("engine> ")
    child.sendline(".tables")
    child.expect("pairs_text +the pairs to read")
    child.expect("engine> ")
    child.sendline(".schema scores")
    child.expect("the response rated")
    child.expect("engine> ")
    child.send("select count(*) + 1000 from pairs_te\t")
    child.expect("pairs_text")  # Tab has completed it
    child.sendline(";")
    child.expect("1303")
    child.expect("engine> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert "pairs_there" in (tmp_path / "prefmill" / "sql_history").read_text()
