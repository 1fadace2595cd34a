"""The parity gate: it passes what is right, and names what is not."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import verify
from schemas.errors import UserError
from schemas.store import open_store
from tests.conftest import command
from tests.folders import made_otherwise
from tests.trainer.caches import recipe_of
from trainer.train import train


@pytest.fixture
def run(made_run, tmp_path):
    shutil.copytree(made_run, tmp_path / "run")
    return tmp_path / "run"


def spoil(run, change) -> None:
    """Changes the log-probs' rows and writes them down as if they had been made so."""

    def changed(rows):
        return pa.Table.from_pylist([change(row) for row in rows.to_pylist()], schema=rows.schema)

    made_otherwise(next(run.glob("logprobs-*")), "logprobs", changed)


def test_what_is_right_passes_and_is_recorded(run):
    said = command(
        "engine", "verify", "--trainer-alone", run, "--set", "verify.sample=40", "--set", "model.backend=hf"
    ).stdout
    assert "trainer (float32)" in said and "passed" in said and "files are what their markers say" in said
    assert "one of them as the model reads it" in said and "<|assistant|>'" in said
    found = json.loads((run / "verify.json").read_text())
    assert (
        found["passed"]
        and found["rows"] >= 40
        and found["ids"]["eos_at_end"] == found["rows"]
        and not found["ids"]["eos_within"]
        and not found["damaged"]
    )
    (gap, *_) = found["gaps"]
    assert (
        gap["max"] < 1e-4 and gap["mean"] <= gap["p99"] <= gap["max"] and 1 <= gap["multiplicative"] < 1.0001
    )
    first = (run / "verify.json").read_bytes()
    command("engine", "verify", "--trainer-alone", run, "--set", "verify.sample=40")
    assert (run / "verify.json").read_bytes() == first, "the sample is always the same"


def test_log_probs_that_are_off_fail_and_the_tolerance_is_the_recipes(run):
    spoil(run, lambda row: row | {"token_logps": [value - 0.01 for value in row["token_logps"]]})
    said = command("engine", "verify", "--trainer-alone", run, code=1).stderr
    assert (
        "does not pass: the mean gap is 0.01 nat a token, more than 0.001" in said
        and "logprobs.backend = hf" in said
    )
    assert not json.loads((run / "verify.json").read_text())["passed"]
    command("engine", "verify", "--trainer-alone", run, "--set", "verify.tolerance=0.02")


def test_what_the_trainer_would_refuse_at_its_first_step_does_not_pass(caches, tmp_path):
    """In bfloat16 on a CPU both sides have one arithmetic, so a hundredth of a nat is no rounding."""
    run, values = caches.copy("test_bfloat16", "bfloat16", tmp_path / "run")
    recipe = recipe_of(values, verify__sample=20)
    report = verify.check(open_store(run), recipe, False, print)
    assert not report.problems() and report.gaps[0].tolerance == 1e-3
    shift(run, "logprobs", "token_logps")
    shift(run, "pairs", "ref_chosen_token_logps")
    (problem,) = verify.check(open_store(run), recipe, False, print).problems()
    assert "nat a token, more than 0.001, by trainer (bfloat16)" in problem
    with pytest.raises(UserError, match=r"more than 0.001: cache and policy do not agree"):
        train(run, recipe)


def shift(run, table, column) -> None:
    """Put a column of log-probs off by a hundredth."""

    def shifted(rows):
        changed = []
        for row in rows.to_pylist():
            changed.append(row | {column: [value - 0.01 for value in row[column]]})
        return pa.Table.from_pylist(changed, schema=rows.schema)

    made_otherwise(next(run.glob(f"{table}-*")), table, shifted)


def test_token_ids_that_went_wrong_are_named(run):
    end = pq.read_table(next(run.glob("logprobs-*/*.logprobs.parquet")))["response_ids"][0].as_py()[-1]
    spoil(
        run,
        lambda row: (
            row | {"response_ids": [*row["response_ids"], end], "token_logps": [*row["token_logps"], -1.0]}
        ),
    )
    assert (
        "responses hold an end token before their end"
        in command("engine", "verify", "--trainer-alone", run, "--set", "verify.tolerance=9", code=1).stderr
    )


@pytest.mark.parametrize("side", ["prompt_ids", "response_ids"])
def test_ids_that_the_template_does_not_render_are_named(run, side):
    """One token of a prompt or of a response is another one: no count of BOS or EOS shows it."""

    def change(row):
        ids = list(row[side])
        ids[1] = ids[1] % 600 + 1
        return row | {side: ids}

    spoil(run, change)
    said = command("engine", "verify", "--trainer-alone", run, "--set", "verify.tolerance=99", code=1)
    assert "rows are not the ids that the template renders" in said.stderr
    assert json.loads((run / "verify.json").read_text())["ids"]["rendered"] > 30


def test_damage_is_found_by_hashing_anew(run):
    path = next(run.glob("pairs-*/*.pairs.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert (
        f"1 files are damaged, such as {path.parent.name}/{path.name}"
        in command("engine", "verify", "--trainer-alone", run, code=1).stderr
    )


def test_another_recipe_has_nothing_to_verify(run):
    assert (
        "no log-probs of this recipe"
        in command(
            "engine", "verify", "--trainer-alone", run, "--set", "logprobs.max_length=77", code=1
        ).stderr
    )
    assert (
        "is not a run folder"
        in command("engine", "verify", "--trainer-alone", run / "nowhere", code=1).stderr
    )


@pytest.mark.long
def test_a_backend_that_cannot_run_the_model_is_said_and_not_compared(run):
    """The trainer's forward is: what it says decides."""
    words = ("--set", "model.vllm.no_such_argument=1", "--set", "verify.sample=8")
    said = command("engine", "verify", run, *words, timeout=600).stdout
    if "vLLM is not installed" in said:
        pytest.skip("needs vLLM")
    assert "vllm cannot score here, so it is not compared" in said and "passed" in said
    found = json.loads((run / "verify.json").read_text())
    assert [gap["way"] for gap in found["gaps"]] == ["trainer (float32)"]
