"""An adapter of a real chat model, trained in bfloat16: it begins at log 2, learns, and PEFT opens it."""

import json
import math

import pytest
import torch

from engine.commands.precompute import precompute
from schemas.recipe import load
from tests.real.test_chat_model import _ASKED, model  # noqa: F401  (a fixture)
from trainer.train import train

pytestmark = pytest.mark.real

_RECIPE = """
[model]
name = "{model}"
dtype = "bfloat16"
[prompts]
source = "{rows}"
shards = 1
[given]
[logprobs]
[pairs]
test_share = 0.3
[train]
batch_size = 4
max_steps = 6
learning_rate = 3e-4
save_every = 0
[train.lora]
r = 8
"""


def test_it_learns_from_log_2_and_peft_opens_it(tmp_path, model):  # noqa: F811
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = tmp_path / "rows.jsonl"
    names = ("prompt", "chosen", "rejected")
    rows.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in _ASKED))
    (tmp_path / "recipe.toml").write_text(_RECIPE.format(model=model, rows=rows))
    recipe = load(tmp_path / "recipe.toml")
    precompute(tmp_path / "run", recipe, 1)
    last = train(tmp_path / "run", recipe)
    lines = [json.loads(line) for line in (last.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    margins = [line["eval_rewards/margins"] for line in lines if "eval_loss" in line]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3) and losses[-1] < 0.6
    assert margins[0] == pytest.approx(0, abs=1e-3) and margins[-1] > 0.05
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, last)(ids).logits
    assert not torch.equal(before, after)
