"""The whole job with a real chat model: what it says, judges and rewrites, and what is trained on.

Its questions and answers are ordinary ones. Run by `tests/run -m real`; a few minutes on two cores.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from engine.text import Text
from schemas.identity import identify
from schemas.sections import Model
from tests.conftest import command
from tests.real import smollm2

pytestmark = pytest.mark.real

# A question, a good answer and a poor one.
_ASKED = [
    ("What is the capital of Portugal?", "The capital of Portugal is Lisbon.", "It is Madrid, I believe."),
    ("Name three primary colours.", "Red, blue and yellow.", "Colours are nice to look at."),
    ("How many days has a leap year?", "A leap year has 366 days.", "A leap year has 300 days."),
    ("What do bees make?", "Bees make honey and wax.", "Bees make a noise, and that is all."),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare.", "A man from Denmark wrote it."),
    ("How do I boil an egg?", "Boil it in water for about eight minutes.", "Put it into the freezer."),
    ("Why is the sky blue?", "Air scatters blue light more than red light.", "Because it likes the sea."),
    ("Give me a word that rhymes with cat.", "Hat.", "Dog."),
    ("What is 7 times 8?", "7 times 8 is 56.", "7 times 8 is 65."),
    ("Say thank you in French.", "Merci.", "Danke."),
    ("Which planet is the largest?", "Jupiter is the largest planet.", "The Moon is the largest."),
    ("How should I store bread?", "In a dry place, in paper or a bread box.", "Bread is stored."),
]
_RECIPE = """
seed = 1
[model]
[prompts]
shards = 1
[given]
[generate]
n = 1
max_tokens = 40
[judge]
kinds = ["rating", "pairwise"]
[rewrite]
max_tokens = 40
[logprobs]
contexts = ["plain", "quality"]
[prompt_gain]
[pairs]
choose = "given"
test_share = 0.0
[verify]
sample = 12
[train]
batch_size = 4
max_steps = 2
save_every = 0
[train.dpo]
beta = 0.1
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
def run(model, tmp_path_factory) -> Path:
    """Chat data taken through every stage; what `engine precompute` said lies beside the run."""
    folder = tmp_path_factory.mktemp("real")
    rows = []
    for question, good, poor in _ASKED:
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": good}],
                "rejected": [{"role": "assistant", "content": poor}],
            }
        )
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(_RECIPE)
    words = ("--set", f"prompts.source={folder / 'chat.jsonl'}", "--set", f"model.name={model}")
    made = command("engine", "precompute", folder / "recipe.toml", "-o", folder / "run", *words, timeout=900)
    (folder / "said.txt").write_text(made.stdout)
    return folder / "run"


def ask(run: Path, query: str) -> list[dict]:
    answer = command("engine", "sql", run, query, "--format", "json").stdout
    return [json.loads(line) for line in answer.splitlines()]


def test_it_says_how_the_model_is_read(run):
    said = (run.parent / "said.txt").read_text()
    assert "responses end with <|im_end|> (2)" in said
    assert f"rows in {len(_ASKED)} = rows out {len(_ASKED)} + rejects 0 + duplicates 0" in said


def test_nearly_every_response_gets_a_mark_and_the_mark_is_what_the_judge_would_say(run):
    """At least 95 % are scored, and the marks have more than 0.8 of the probability, for both kinds."""
    rows = ask(
        run,
        "select scorer, count(*) as n, count(score) as scored, avg(mass) as mass from scores "
        "where scorer in ('rating', 'pairwise') group by scorer order by scorer",
    )
    assert [row["scorer"] for row in rows] == ["pairwise", "rating"]
    for row in rows:
        assert row["n"] >= 2 * len(_ASKED)
        assert row["scored"] >= 0.95 * row["n"], row
        assert row["mass"] > 0.8, row


def test_the_ids_are_those_of_the_models_own_template(run, model):
    """Against transformers alone: the dialogue rendered and tokenised by the model's own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    identity = identify(Model(name=str(model)))
    text = Text(identity.path, identity.template_text)
    rows = ask(run, "select prompt, chosen, prompt_ids, chosen_ids from pairs")
    assert len(rows) == len(_ASKED)
    for row in rows:
        dialogue = [{"role": "user", "content": row["prompt"]}]
        asked = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_dict=False)
        dialogue.append({"role": "assistant", "content": row["chosen"]})
        whole = tokenizer.apply_chat_template(dialogue, return_dict=False)
        assert row["prompt_ids"] == asked
        trained = row["prompt_ids"] + row["chosen_ids"]
        assert whole[: len(trained)] == trained and trained[-1] == text.end_id
        assert tokenizer.decode(whole[len(trained) :]).strip() == ""


def test_rewrites_and_both_contexts_are_there(run):
    (found,) = ask(
        run,
        "select count(*) filter (source = 'rewritten') as rewrites, "
        "count(*) filter (source = 'rewritten' and fallback is null) as used, "
        "count(*) filter (source = 'generated') as samples from responses",
    )
    assert found["samples"] == len(_ASKED)
    assert 0 < found["used"] <= found["rewrites"]
    (contexts,) = ask(
        run,
        "select count(*) filter (context = 'plain') as plain, "
        "count(*) filter (context = 'quality') as quality from logprobs",
    )
    assert contexts["plain"] == contexts["quality"] > 3 * len(_ASKED)


def test_every_way_of_computing_the_log_probs_agrees(run):
    said = command("engine", "verify", run, timeout=600).stdout
    assert "passed" in said and "not_as_rendered 0" in said
    found = json.loads((run / "verify.json").read_text())
    assert found["ids"]["rendered"] > 0
    for gap in found["gaps"]:
        assert gap["max"] < 1e-3, gap


def test_training_begins_at_log_2(run, model):
    recipe = run.parent / "recipe.toml"
    command("trainer", "run", recipe, "-o", run, "--set", f"model.name={model}", timeout=600)
    (metrics,) = run.glob("train-*/metrics.jsonl")
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [step["loss"] for step in steps if "grad_norm" in step]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[1] != losses[0] and torch.isfinite(torch.tensor(losses)).all()
