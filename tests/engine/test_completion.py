"""Tab in a real bash: what it completes, how fast, and that it never prints into the prompt."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from schemas import completion
from schemas.errors import UserError
from schemas.recipe import load
from schemas.sections import SECTIONS
from tests.conftest import ROOT
from tests.reliability.small import small_run

SECONDS = 2.0  # the law is 0.5 on a machine that does nothing else; tests share theirs


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with run folders, and the two programs as pip installs them."""
    folder = tmp_path_factory.mktemp("tab")
    small_run(folder / "runs" / "deeper")
    os.rename(folder / "runs" / "deeper" / "run", folder / "runs" / "hh")
    (folder / "runs" / "not-a-run").mkdir()
    (folder / "bin").mkdir()
    for name in ("engine", "trainer"):
        program = folder / "bin" / name
        program.write_text(f"#!{sys.executable}\nfrom {name}.cli import main\nmain()\n")
        program.chmod(0o755)
        asked = environment(folder) | {f"_{name.upper()}_COMPLETE": "bash_source"}
        script = subprocess.run([program], env=asked, capture_output=True, text=True, check=True)
        assert script.stderr == ""
        (folder / f"{name}.sh").write_text(script.stdout)
    return folder


def environment(place: Path) -> dict[str, str]:
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TERM": "dumb", "INPUTRC": "/dev/null"}


def completed(place: Path, line: str, prelude: str = "") -> tuple[list[str], str, float]:
    """What bash would offer at the end of a line, what was printed beside it, and the seconds it took."""
    program = line.split()[0]
    script = f"""
    source {place}/{program}.sh
    {prelude}
    COMP_LINE=$LINE
    COMP_POINT=${{#COMP_LINE}}
    read -r -a COMP_WORDS <<< "$COMP_LINE"
    COMP_CWORD=0
    start=$(date +%s%N)
    _{program}_completion {program} "" ""
    end=$(date +%s%N)
    printf '%s\\n' "$(( (end - start) / 1000000 ))" "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=place,
        env=environment(place) | {"LINE": line},
        capture_output=True,
        text=True,
        timeout=60,
    )
    milliseconds, *words = done.stdout.splitlines()
    return [word for word in words if word], done.stderr, int(milliseconds) / 1000


@pytest.mark.parametrize(
    ("line", "among", "not_among"),
    [
        ("engine pre", ["precompute"], ["plan"]),
        ("engine precompute ", ["dpo", "bmc", "sandbox"], []),
        ("engine precompute b", ["bmc"], ["dpo"]),
        ("engine precompute dpo --q", ["--quiet"], ["--json"]),
        ("engine precompute dpo --set ", [f"{name}." for name in SECTIONS], ["model.name="]),
        ("engine precompute dpo --set gen", ["generate.n=", "generate.max_tokens="], ["model.name="]),
        ("engine precompute dpo --set model.d", ["model.dtype=", "model.device="], ["model.name="]),
        ("engine precompute dpo --set model.v", ["model.vllm."], ["model.vllm="]),
        ("engine precompute dpo --set model.dtype=", ["bfloat16"], ["model.dtype=bfloat16"]),
        ("engine precompute dpo --set model.dtype=bf", ["bfloat16"], ["float32"]),
        ("engine status ", ["runs/hh"], ["runs/not-a-run"]),
        ("engine status runs/h", ["runs/hh"], ["runs/deeper"]),
        ("engine sql runs/hh o", ["overview"], ["rejects"]),
        ("engine export runs/hh --to ll", ["llama-factory"], ["trl"]),
        ("trainer run dpo -o ", ["runs/hh"], []),
        ("trainer run dpo -o runs/hh --set ", ["train.", "model.", "seed="], ["generate."]),
        ("trainer run dpo -o runs/hh --set train.parallel=", ["fsdp", "ddp"], []),
        ("trainer compare ", ["runs/hh"], []),
    ],
)
def test_what_tab_completes(place, line, among, not_among):
    words, printed, seconds = completed(place, line)
    assert set(among) <= set(words)
    assert not set(not_among) & set(words)
    assert printed == ""
    assert seconds < SECONDS


@pytest.mark.parametrize(
    "line",
    [
        "engine nothing of this ",
        "engine precompute 'open quote",
        'engine precompute "',
        "engine status s3://bucket/ru",
        "engine status /nonexistent/",
        "engine sql runs/hh --limit x --format ",
        "engine precompute dpo --set nothing.of",
        "engine precompute dpo --set .=.",
        "engine status --watch ",
        "engine precompute \x1b]0;x\x07",
        "engine export --to \u202e",
    ],
    ids=ascii,
)
def test_tab_never_prints_an_error(place, line):
    _, printed, _ = completed(place, line, "cd /; export HOME=/nonexistent XDG_CACHE_HOME=/nonexistent")
    assert printed == ""


def test_a_key_that_tab_completes_is_one_that_a_recipe_takes():
    """Every `section.key=` is known to the recipe reader: what it refuses is at most the value."""
    complete = completion.settings_of(())
    context = click.Context(click.Command("precompute"))
    for section in SECTIONS:
        words = [item.value for item in complete(context, click.Option(["--set"]), f"{section}.")]
        for word in words:
            if word.endswith("."):
                continue  # a table: its keys are checked by whoever reads them
            try:
                load("dpo", [f"{word}x"])
            except UserError as error:
                assert "has no key" not in str(error) and "unknown" not in str(error), error


def test_tab_in_an_interactive_bash(place):
    """The line itself: a word is filled in, with a space behind it unless it goes on."""
    pexpect = pytest.importorskip("pexpect")
    child = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile"],
        cwd=str(place),
        env=environment(place),
        encoding="utf-8",
        timeout=30,
    )
    child.sendline("PS1='ready> '; bind 'set enable-bracketed-paste off'")
    child.sendline('eval "$(_ENGINE_COMPLETE=bash_source engine)"; echo in""stalled')
    child.expect("installed")
    for typed, filled in (
        ("engine precompute sand", "box "),
        ("engine precompute dpo --set generate.max_t", "okens="),
        ("engine precompute dpo --set model.dtype=bf", "loat16 "),
        ("engine export x --to open", "rlhf "),
    ):
        child.send(f"{typed}\t")
        time.sleep(0.1)
        child.send("END")
        child.expect_exact(f"{typed}{filled}END")
        child.send("\x03")
        child.expect("ready> ")
    child.sendline("exit")
    child.expect(pexpect.EOF)
