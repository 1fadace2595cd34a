"""A real chat model is trained with all its weights, in bfloat16, on preferences of people where they are.

Run by `tests/run -m real`; about a minute on two cores, its download not counted.
"""

import json
import math
import re
from pathlib import Path

import pytest

from tests.conftest import SHARED, command
from tests.real import smollm2
from tests.real.test_chat_model import _ASKED

pytestmark = pytest.mark.real

_DIALOGUES = SHARED / "data" / "hh-harmless.jsonl.gz"
_RECIPE = """
seed = 1
[model]
dtype = "bfloat16"
[prompts]
shards = 1
[given]
[logprobs]
max_length = 160
[pairs]
test_share = 0.25
[train]
batch_size = 4
learning_rate = 5e-6
schedule = "constant"
optimizer = "adamw"
max_steps = 6
save_every = 0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        smollm2.make(folder)
    except smollm2.UnavailableError as error:
        pytest.skip(f"the real chat model cannot be had here: {error}")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """48 short dialogues of hh-harmless; questions and answers of our own where that file is not here."""
    import gzip

    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows: list[str] = []
    if _DIALOGUES.exists():
        with gzip.open(_DIALOGUES, "rt") as file:
            rows = [line for line in file if len(line) < 700][:48]
    else:
        for question, good, poor in _ASKED:
            rows.append(json.dumps({"prompt": question, "chosen": good, "rejected": poor}) + "\n")
    path.write_text("".join(rows))
    return path


def test_all_weights_learn_in_bfloat16_from_log_2_on(model, source, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_RECIPE)
    run = tmp_path / "run"
    words = ("--set", f"prompts.source={source}", "--set", f"model.name={model}")
    command("engine", "precompute", recipe, "-o", run, *words, timeout=600)
    said = command("trainer", "run", recipe, "-o", run, "--set", f"model.name={model}", timeout=900).stdout
    print(said)
    gap = float(re.search(r"nat a token: mean ([^,]+),", said).group(1))
    assert gap <= 1e-3
    (folder,) = run.glob("train-*")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if "eval_loss" in row]
    steps = [row for row in rows if "grad_norm" in row]
    assert held_out[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert held_out[0]["eval_rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert all(math.isfinite(row["grad_norm"]) for row in steps)
    # Six steps of four pairs: the policy has moved, and towards what was chosen of the pairs it saw.
    seen = [row["rewards/margins"] for row in steps[1:]]
    assert sum(seen) / len(seen) > 0
    assert held_out[-1]["eval_loss"] != held_out[0]["eval_loss"]
    config = json.loads((folder / "checkpoint-6" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
