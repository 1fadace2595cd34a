"""A run on a real terminal: bars that go away, Ctrl-C, `engine status --watch`."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from engine.commands.bars import MakingBar
from engine.progress import Meter, Work
from tests.conftest import ROOT, settings
from tests.reliability.small import small_run
from tests.schemas.test_summaries import on_terminal, without_style  # noqa: F401 (a fixture)

pexpect = pytest.importorskip("pexpect")

RECIPE = """
[model]
[prompts]
shards = 2
[generate]
n = 2
max_tokens = 6
[judge]
min_mass = 0.0
[logprobs]
[pairs]
choose = "best_vs_worst"
unfinished = "keep"
"""


def spawn(*words: object, columns: int = 80, **environment: str):
    return pexpect.spawn(
        sys.executable,
        ["-m", "engine.cli", *map(str, words)],
        cwd=str(ROOT),
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | environment,
        dimensions=(24, columns),
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture
def words(tmp_path, model_path):
    rows = [json.dumps({"prompt": f"How many are {number} and \x1b[31m[bold]2?"}) for number in range(9)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    named = settings(prompts__source=tmp_path / "prompts.jsonl", model__name=model_path)
    return ["precompute", tmp_path / "recipe.toml", "-o", tmp_path / "run", *named]


def ended(child) -> str:
    """All that a program printed until its end, which was a good one."""
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    return child.before


def test_a_run_draws_bars_and_takes_them_away(words):
    printed = ended(spawn(*words, columns=60))
    plain = without_style(printed)
    assert re.search("all +[━╸╺]+ ", plain), "a bar for all shards"
    assert "next:\r\n" in plain[-2000:]
    # A process that is killed could not show the cursor again; below the last bar stand lines alone.
    assert "\x1b[?25l" not in printed
    assert "━" not in printed[printed.rindex("\x1b[2K") :]


@pytest.fixture
def quick_words(tmp_path):
    """As `words`, without a model."""
    small_run(tmp_path)
    shutil.rmtree(tmp_path / "run")
    named = settings(prompts__source=tmp_path / "rows.jsonl")
    return ["precompute", tmp_path / "recipe.toml", "-o", tmp_path / "run", *named]


def test_a_dumb_terminal_gets_lines(quick_words):
    printed = ended(spawn(*quick_words, TERM="dumb"))
    assert "\x1b" not in printed and "━" not in printed
    assert "run folder: " in printed


def test_quiet_draws_nothing(quick_words):
    printed = ended(spawn(*quick_words, "--quiet"))
    # What libraries of this machine warn of is not ours.
    assert not re.search("━|generate|prompts|next:|shards", printed), printed


def test_json_on_standard_output_while_the_terminal_has_the_rest(quick_words, tmp_path):
    """The bars are on the error output: what a file gets is the document alone."""
    line = " ".join(f"'{word}'" for word in (sys.executable, "-m", "engine.cli", *quick_words, "--json"))
    child = pexpect.spawn(
        "bash",
        ["-c", f"{line} > {tmp_path / 'made.json'}"],
        cwd=str(ROOT),
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=120,
    )
    printed = ended(child)
    assert "━" in printed and "next:" in printed
    assert json.loads((tmp_path / "made.json").read_text())["complete"]


def test_several_threads_tell_a_bar_that_is_drawn(on_terminal):  # noqa: F811
    """Telling never waits for the drawing for long, and what is drawn at the end is what was told."""
    stream = on_terminal(80)
    bar = MakingBar({"generate": 4})
    try:
        for _ in range(4):
            bar.work(Work("generate", shards=1, wanted=500))
        tellers = [threading.Thread(target=tell, args=(bar,)) for _ in range(4)]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join(20)
            assert not teller.is_alive()
        time.sleep(0.6)
        drawn = without_style(stream.getvalue())
    finally:
        bar.close()
    assert "2,000 of 2,000 responses" in drawn
    assert "generate: 2,000 responses, 14,000 tokens" in stream.getvalue().rstrip().split("\n")[-1]


def tell(bar: MakingBar) -> None:
    for _ in range(500):
        bar.work(Work("generate", responses=1, tokens=7))


def test_rows_of_the_meter_are_the_stages_under_way():
    meter = Meter({"prompts": 2, "generate": 2, "pairs": 2}, clock=lambda: 0.0)
    assert meter.under_way() == []
    meter.add(Work("prompts", shards=1))
    meter.shard_done("prompts")
    meter.add(Work("generate", shards=1, wanted=10))
    rows = meter.under_way()
    assert [(row.stage, row.unit, row.done, row.total, row.is_known) for row in rows] == [
        ("prompts", "shards", 1, 2, True),
        ("generate", "responses", 0, 20, False),
    ]
    assert rows[1].seconds_left is None and rows[1].tokens_a_second == 0
    for _ in range(2):
        meter.shard_done("generate")
    assert [row.stage for row in meter.under_way()] == ["prompts"]


@pytest.fixture
def unfinished(tmp_path):
    """A run of which a shard is missing: the names of its files, to be put back."""
    run = small_run(tmp_path)
    folder = next(run.glob("given-*"))
    away = tmp_path / "away"
    away.mkdir()
    for path in (folder / "manifest.json", folder / "00001.json"):
        shutil.move(path, away / path.name)

    def finish():
        for path in away.iterdir():
            shutil.move(path, folder / path.name)

    return run, finish


def test_watch_ends_when_every_shard_is_there(unfinished):
    run, finish = unfinished
    child = spawn("status", "--watch", run)  # the number is left out, and RUN is not taken for it
    child.expect("3 of 4 shards at .* again every 5 s")
    child.close(force=True)
    child = spawn("status", run, "--watch", "1")
    child.expect("3 of 4 shards at .* again every 1 s")
    finish()
    printed = without_style(ended(child))
    assert "2/2" in printed[printed.rindex("┌") :] and "1/2" not in printed[printed.rindex("┌") :]


def test_ctrl_c_ends_a_watch_and_changes_nothing(unfinished):
    run, _ = unfinished
    child = spawn("status", run, "--watch", "1")
    child.expect("3 of 4 shards")
    child.sendintr()
    child.expect("stopped; nothing was changed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


def test_watch_without_a_terminal_prints_the_table_again(unfinished):
    run, finish = unfinished
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "status", run, "--watch=1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = 0
    lines: list[str] = []
    for line in child.stdout:
        lines.append(line)
        seen += line.startswith("3 of 4 shards")
        if seen == 2:
            seen += 1
            finish()
    assert child.wait(60) == 0
    text = "".join(lines)
    assert "\x1b" not in text and text.count("┌") >= 3
    assert "1/2" not in text[text.rindex("┌") :]


@pytest.mark.parametrize("words", [["--watch", "0"], ["--watch=x"], ["--watch", "--json"]])
def test_a_watch_that_cannot_be_is_a_usage_error(tmp_path, words):
    run = small_run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "status", run, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Error: " in done.stderr, done.stderr
