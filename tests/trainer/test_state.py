"""What a checkpoint holds: a run that was killed ends in the same bytes, and the folder says what it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from schemas import checkpoints
from schemas.manifest import json_bytes
from schemas.store import open_store
from tests.conftest import tree
from tests.trainer.caches import recipe_of
from trainer import data, evaluate
from trainer.pairs import open_pairs
from trainer.train import train

KEPT = {"train__max_steps": 4, "train__save_every": 2, "train__keep": 0}
SMALLEST = {"train__weights": "bfloat16", "train__optimizer": "adamw_8bit"}
FAST_WAYS = [
    ("test_bfloat16", "bfloat16", {}),  # float32 weights beside a bfloat16 checkpoint
    ("test_bfloat16", "bfloat16", SMALLEST),
]
LONG_WAYS = [
    ("test", "bfloat16", {}),
    ("test_bfloat16", "float32", {"train__save_dtype": "float32"}),
    ("test", "float32", {"train__save_dtype": "bfloat16"}),
    ("test_bfloat16", "bfloat16", {"train__optimizer": "rmsprop", "train__learning_rate": 1e-4}),
    ("test_bfloat16", "bfloat16", {"train__optimizer": "adamw_8bit"}),
    ("test_bfloat16", "bfloat16", {"train__weights": "bfloat16"}),
]


def lose_last(last: Path) -> None:
    """Leave of a finished run what a kill before its last checkpoint leaves."""
    shutil.rmtree(last)
    (last.parent / "manifest.json").unlink()


def dtypes_in(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as opened:
        return {str(opened.get_tensor(name).dtype).removeprefix("torch.") for name in opened.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("model", "dtype", "more"),
    [*FAST_WAYS, *(pytest.param(*way, marks=pytest.mark.long) for way in LONG_WAYS)],
    ids=str,
)
def test_a_killed_run_ends_in_the_same_bytes_and_its_checkpoint_is_what_it_says(
    model, dtype, more, caches, tmp_path
):
    if "8bit" in str(more) or "weights" in str(more):
        pytest.importorskip("torchao")
    run, values = caches.copy(model, dtype, tmp_path / "run")
    recipe = recipe_of(values, **KEPT | more)
    last = train(run, recipe)
    whole = tree(last.parent)
    check_says_its_dtype(last, more.get("train__save_dtype", "bfloat16" if "bf" in model else "float32"))
    check_is_the_policy(run, recipe, last, dtype)
    lose_last(last)
    assert train(run, recipe) == last
    again = tree(last.parent)
    assert again.keys() == whole.keys()
    assert [name for name in whole if again[name] != whole[name]] == []


def check_says_its_dtype(last: Path, dtype: str) -> None:
    assert dtypes_in(last / "model.safetensors") == {dtype}
    assert json.loads((last / "config.json").read_text())["dtype"] == dtype
    model = AutoModelForCausalLM.from_pretrained(last)
    assert str(model.dtype) == f"torch.{dtype}"


def check_is_the_policy(run: Path, recipe, last: Path, dtype: str) -> None:
    """The checkpoint has, in the dtype of training, the log-probs that the run ended with.

    By the trainer exactly, where the checkpoint rounds as the pass does; by transformers alone nearly."""
    told = json.loads((last.parent / "manifest.json").read_text())["metrics"]
    if dtype == "bfloat16":
        found = evaluate.evaluate(open_store(run), recipe, last)
        assert found["logps/chosen"] == told["eval_logps/chosen"]
        assert found["rewards/margins"] == told["eval_rewards/margins"]
    model = AutoModelForCausalLM.from_pretrained(last, dtype=getattr(torch, dtype))
    pairs = open_pairs(run)
    sums = []
    for pair in data.held_out(pairs):
        prompt, response = pair.prompt_ids.tolist(), pair.chosen_ids.tolist()
        with torch.no_grad():
            logps = model(torch.tensor([[*prompt, *response]])).logits[0].float().log_softmax(-1)
        start = len(prompt) - 1
        sums.append(sum(logps[start + place, token].item() for place, token in enumerate(response)))
    assert sum(sums) / len(sums) == pytest.approx(told["eval_logps/chosen"], rel=3e-3)


def test_where_the_checkpoint_rounds_the_exact_weight_is_beside_it(caches, tmp_path):
    run, values = caches.copy("test_bfloat16", "bfloat16", tmp_path / "run")
    last = train(run, recipe_of(values))
    exact = {}
    with safe_open(last / "optimizer.safetensors", framework="pt") as file:
        exact = {name: file.get_tensor(name) for name in file.keys() if name.endswith(".master")}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(last)
    rounded = sorted(parameter.sum().item() for parameter in model.parameters())
    assert all(weight.dtype == torch.float32 for weight in exact.values())
    assert sorted(weight.bfloat16().sum().item() for weight in exact.values()) == rounded
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in exact.values())
    # Where nothing is rounded there is nothing beside it.
    run, values = caches.copy("test", "float32", tmp_path / "other")
    with safe_open(train(run, recipe_of(values)) / "optimizer.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if name.endswith(".master")]  # noqa: SIM118


def train_on_ranks(run, recipe) -> str:
    return str(train(run, recipe))


@pytest.mark.parametrize(
    "more", [{}, {"train__optimizer": "adamw_8bit", "train__weights": "bfloat16"}], ids=str
)
def test_shared_by_two_ranks_it_ends_in_the_same_bytes_and_on_one_in_the_same_numbers(
    more, caches, two_ranks, tmp_path
):
    if more:
        pytest.importorskip("torchao")
    run, values = caches.copy("test_bfloat16", "bfloat16", tmp_path / "run")
    recipe = recipe_of(values, **KEPT | more, train__parallel="fsdp")
    last = Path(two_ranks.run(train_on_ranks, run, recipe)[0])
    whole = tree(last.parent)
    told = json.loads(whole["manifest.json"])["metrics"]
    check_says_its_dtype(last, "bfloat16")
    lose_last(last)
    two_ranks.run(train_on_ranks, run, recipe)
    again = tree(last.parent)
    assert [name for name in whole if again[name] != whole[name]] == []
    lose_last(last)
    train(run, recipe)  # alone, in this process
    alone = json.loads((last.parent / "manifest.json").read_text())["metrics"]
    # In bfloat16 the sums of other micro-batches round otherwise, and weights that are rounded at random are
    # rounded to others.
    for name, value in told.items():
        assert alone[name] == pytest.approx(value, rel=0.02, abs=0.02), name


def test_ranks_go_on_from_one_another_in_the_same_numbers(caches, two_ranks, tmp_path):
    """In float32: begun alone, gone on from on two ranks, is what two ranks do."""
    found = []
    for name in ("alone", "begun_alone"):
        run, values = caches.copy("test", "float32", tmp_path / name)
        recipe = recipe_of(values, **KEPT, train__parallel="fsdp")
        last = train(run, recipe)
        if name == "begun_alone":
            lose_last(last)
            two_ranks.run(train_on_ranks, run, recipe)
        found.append(json.loads((last.parent / "manifest.json").read_text())["metrics"])
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-4)


def as_before_sharding(folder: Path) -> None:
    """A checkpoint as the version before wrote it: optimizer.safetensors by `save_file`, and the position of
    transformers' own scheduler, which kept one more key."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "optimizer.safetensors")
    save_file(tensors, folder / "optimizer.safetensors")
    state = json.loads((folder / "state.json").read_text())
    state["scheduler"] |= {"lr_lambdas": [{}, {}]}
    for key in ("sha256", "files"):
        state.pop(key, None)
    (folder / "state.json").write_bytes(checkpoints.state_bytes(state, folder))


def test_checkpoints_from_before_sharding_are_found_finished_and_gone_on_from(caches, tmp_path, capsys):
    run, values = caches.copy("test", "float32", tmp_path / "run")
    recipe = recipe_of(values, **KEPT)
    last = train(run, recipe)
    weights = (last / "model.safetensors").read_bytes()
    metrics = (last.parent / "metrics.jsonl").read_bytes()
    for folder in last.parent.glob("checkpoint-*"):
        as_before_sharding(folder)
    before = tree(run)
    capsys.readouterr()
    assert train(run, recipe) == last
    assert "finished already" in capsys.readouterr().out and tree(run) == before
    lose_last(last)
    assert train(run, recipe) == last
    assert "from step 2 on" in capsys.readouterr().out
    assert (last / "model.safetensors").read_bytes() == weights
    assert (last.parent / "metrics.jsonl").read_bytes() == metrics


def test_the_facts_of_a_plain_run_are_those_of_before(caches, tmp_path):
    """Keys that came with sharding and precision are facts only where they differ from what always was."""
    run, values = caches.copy("test", "float32", tmp_path / "run")
    facts = json.loads((train(run, recipe_of(values)).parent / "facts.json").read_bytes())
    assert json_bytes(facts) == (next(run.glob("train-*")) / "facts.json").read_bytes()
    assert facts["train"].keys() == {
        "learning_rate",
        "optimizer",
        "weight_decay",
        "betas",
        "schedule",
        "warmup_steps",
        "warmup_ratio",
        "max_grad_norm",
        "batch_size",
        "epochs",
        "max_steps",
        "dtype",
    }
