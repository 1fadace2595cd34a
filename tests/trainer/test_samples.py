"""Sampled answers: greedy by the policy as it is, the same however it trains, dropped with the steps."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import UserError
from schemas.store import open_store
from tests.conftest import tree
from tests.trainer.watching import watched, with_train
from trainer import data, samples
from trainer.pairs import open_pairs
from trainer.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_path):
    return watched(tmp_path_factory, model_path)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def likeliest(model, prompt, most, ends):
    """Greedy by the definition: the whole sequence anew for every token, alone and without a cache."""
    ids = list(prompt)
    for _ in range(most):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


@torch.no_grad()
def test_answers_are_the_likeliest_of_the_policy_at_that_step(trained):
    folder = trained.path / trained.name
    lines = lines_of(folder)
    assert [line["step"] for line in lines] == [step for step in range(6) for _ in range(2)]
    checkpoint = folder / "checkpoint-5"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    held_out = {pair.pair_id: pair for pair in data.held_out(open_pairs(trained.path))}
    first, second = lines[-2:]
    assert len(held_out[first["pair_id"]].prompt_ids) != len(held_out[second["pair_id"]].prompt_ids)
    for line in (first, second):
        pair = held_out[line["pair_id"]]
        new_ids = likeliest(model, pair.prompt_ids.tolist(), 7, {tokenizer.eos_token_id})
        assert line["answer"] == tokenizer.decode(new_ids)
        assert line["finish_reason"] == ("length" if len(new_ids) == 7 else "stop")
        assert line["prompt"] == tokenizer.decode(pair.prompt_ids)
        assert line["chosen"] == tokenizer.decode(pair.chosen_ids[:-1])
        assert line["rejected"] == tokenizer.decode(pair.rejected_ids[:-1])
    answers = {line["answer"] for line in lines if line["pair_id"] == first["pair_id"]}
    assert len(answers) > 1, "it never learnt to answer otherwise, so that this proves little"


def test_gradient_checkpointing_and_the_size_of_batches_change_no_answer(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    train(run, with_train(trained.recipe, gradient_checkpointing="true", micro_batch_tokens=150))
    whole = trained.path / trained.name / "samples.jsonl"
    assert (run / trained.name / "samples.jsonl").read_bytes() == whole.read_bytes()


def test_sampling_changes_nothing_of_what_is_learnt(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    train(run, with_train(trained.recipe, eval_samples=0))
    want = {
        name: content
        for name, content in tree(trained.path).items()
        if not name.endswith(("samples.jsonl", "recipe.toml", "README.md"))
    }
    recipes = ("recipe.toml", "README.md")  # a card holds the recipe
    found = {name: content for name, content in tree(run).items() if not name.endswith(recipes)}
    assert found == want


def test_an_answer_ends_before_an_end_token(trained, model_path):
    config = trained.recipe.section("train")
    sampler = samples.Sampler.of(config, open_pairs(trained.path), model_path)
    end = sampler.end_ids[0]
    (first, second) = sampler.answers(lambda prompts, most: [[9, 8, end, 7], [9] * most])
    assert first["answer"] == sampler.text([9, 8]) and first["finish_reason"] == "stop"
    assert second["answer"] == sampler.text([9] * 7) and second["finish_reason"] == "length"


def test_every_prompt_is_asked_once(trained, model_path):
    """More are wanted than there are."""
    config = with_train(trained.recipe, eval_samples=1000).section("train")
    pairs = open_pairs(trained.path)
    prompts = samples.Sampler.of(config, pairs, model_path).prompts
    want = []
    for pair in data.held_out(pairs):
        if pair.prompt_ids.tolist() not in want:
            want.append(pair.prompt_ids.tolist())
    assert prompts == want and len(prompts) >= 2


def test_lines_of_later_steps_and_one_that_is_cut_off_are_dropped(trained, tmp_path):
    whole = trained.path / trained.name / "samples.jsonl"
    store = open_store(tmp_path)
    for start, kept in ((5, 12), (2, 6), (0, 0)):
        (tmp_path / "samples.jsonl").write_bytes(whole.read_bytes() + b'{"step": 5, "pair')
        samples.drop_later(store, start)
        expected = whole.read_bytes().splitlines(keepends=True)[:kept]
        assert store.exists("samples.jsonl") == bool(kept)
        assert not kept or store.read("samples.jsonl") == b"".join(expected)


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"step": 0}\n{"st\n{"step": 1}\n')
    with pytest.raises(UserError, match=r"samples.jsonl, line 2: damaged: delete this line"):
        samples.drop_later(open_store(tmp_path), 1)


def test_what_cannot_be_sampled_is_refused_before_the_model_loads(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.starting.open_policy", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("trainer.pairs.Pairs.count", lambda self, name: 0 if name == "test" else 3)
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    with pytest.raises(UserError, match=r"train.eval_samples = 2 asks .* set pairs.test_share"):
        train(run, trained.recipe)


class Policy(torch.nn.Module):
    """A module whose forward runs any work on its model, so that hooks on it gather the parameters."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, work):
        return work(self.model)


def answer_sharded(rank, model_path, prompts, ends, folder):
    """One of two ranks that hold half of the weights each; writes what it generates."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from schemas.forward.load import load

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    policy = Policy(load(model_path, torch.float32, "cpu"))
    for layer in policy.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    whole = policy.model.model.layers[0].mlp.up_proj.weight
    assert whole.to_local().numel() * 2 == whole.numel()
    # The second rank's answers are over long before the first one's.
    own_ends = ends if rank == 0 else list(range(400))
    made = policy(lambda model: samples.generate_greedily(model, prompts, 9, own_ends, together=True))
    (folder / f"{rank}.json").write_text(json.dumps(made))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.long
def test_a_sharded_policy_answers_the_same(trained, model_path, tmp_path):
    """Also where one rank needs more forward passes than the other: neither waits for ever."""
    from schemas.forward.load import load

    config = trained.recipe.section("train")
    sampler = samples.Sampler.of(config, open_pairs(trained.path), model_path)
    ends = [399]
    torch.multiprocessing.spawn(
        answer_sharded, (model_path, sampler.prompts, ends, tmp_path), nprocs=2, join=True
    )
    model = load(model_path, torch.float32, "cpu")
    want = samples.generate_greedily(model, sampler.prompts, 9, ends)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == want and len(want[0]) == 9
    assert [ids[0] for ids in second] == [ids[0] for ids in want]


@pytest.mark.long
def test_two_ranks_sample_and_choose_as_one_does(trained, tmp_path):
    """Rank 0 alone writes, and every answer once."""
    import os
    import subprocess
    import sys

    from schemas.recipe import dump
    from tests.conftest import ROOT
    from trainer import best

    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    (tmp_path / "given.toml").write_bytes(dump(trained.recipe))
    words = ["-m", "trainer.cli", "run", str(tmp_path / "given.toml"), "-o", str(run)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = run / trained.name
    alone = trained.path / trained.name
    assert lines_of(folder) == lines_of(alone)
    ours = best.read(open_store(folder))
    theirs = best.read(open_store(alone))
    assert ours["checkpoint"] == theirs["checkpoint"]
    assert ours["value"] == pytest.approx(theirs["value"], abs=1e-5)
