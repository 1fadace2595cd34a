"""Memory known beforehand: what is counted is what a real pass keeps; what does not fit is cut smaller."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from schemas.errors import UserError
from schemas.sections import Train
from schemas.store import open_store
from tests.bench import memory_plan
from tests.conftest import RECIPE
from tests.trainer.forward import ALONE, policy_in
from tests.trainer.test_train import recipe_for
from trainer import fitting, out_of_memory
from trainer.commands.plan import bytes_of, command
from trainer.job import plan
from trainer.live_memory import LiveBytes
from trainer.losses import NAMES, choose
from trainer.memory import Predictor, Setting, filled, moments, remedies, states
from trainer.model import micro_batch, training_loss
from trainer.optimizers import make_optimizer
from trainer.out_of_memory import Budget
from trainer.pairs import open_pairs
from trainer.step import Stepper, evaluate
from trainer.train import train

NEEDS = ("edit_mask", "quality", "baseline", "score.prompt_gain", "score.given")


@pytest.fixture(scope="module")
def pairs(made_run):
    return fitting.some_pairs(open_pairs(made_run))


def setting(folder, world_size=1, **settings):
    config = Train(**{"dtype": "float32", "parallel": "ddp", "gradient_checkpointing": "false"} | settings)
    return Setting(folder, config, choose(config), world_size, on_gpu=False)


def test_what_is_alive_is_counted_until_its_last_view_is_gone():
    held = torch.empty(100, device="meta")
    with LiveBytes([held]) as live:
        one = torch.empty(10, 7, device="meta")
        view = one[3:]
        held.add_(1)
        assert live.live == 280
        two = one + 1
        del one, two
        assert (live.live, live.peak) == (280, 560)
        del view
        assert (live.live, live.peak) == (0, 560)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_keeps_what_a_real_one_saves(model_path, pairs, dtype):
    """The oracle is autograd itself, which says what it saves for the backward pass."""
    some = filled(pairs, 700)
    measured = Predictor(setting(model_path, dtype=dtype), pairs)._meter.measure(some)
    parallel = policy_in(model_path, dtype=dtype)
    weights = {weight.untyped_storage().data_ptr() for weight in parallel.policy.parameters()}
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # kept, so that no other one gets its place
        return tensor

    batch = micro_batch(some, torch.device("cpu"))

    def work(policy):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            training_loss(policy, batch, (), loss=choose(Train()), scale=1.0, observe=lambda *_: None)

    parallel.training_pass(work, last=True)
    logits = parallel.policy.model.config.vocab_size * 4 * sum(batch.layout.lengths)
    real = sum(storage.nbytes() for storage in saved.values() if storage.nbytes() < logits / 4)
    assert measured.kept == pytest.approx(real, rel=0.12)
    assert measured.most > measured.kept


@pytest.mark.parametrize("loss", NAMES)
def test_every_loss_can_be_counted(rich_run, model_path, loss):
    config = Train(dtype="float32", loss=loss)
    objective = choose(config)
    rich = fitting.some_pairs(open_pairs(rich_run, NEEDS))
    found = Predictor(Setting(model_path, config, objective, 1, on_gpu=False), rich).estimate(300)
    assert 0 < found.tokens <= 300 and found.activations > 0 and found.logits > 0


def test_states_are_four_times_the_weights_and_ranks_divide_them(model_path):
    alone = states(setting(model_path))
    assert alone.gradients == pytest.approx(alone.weights, rel=0.01)
    assert alone.optimizer == 2 * alone.gradients and alone.gathered == 0
    third = states(setting(model_path, 3, parallel="fsdp"))
    assert third.optimizer == pytest.approx(alone.optimizer / 3, rel=0.01) and third.gathered > 0
    pure = states(setting(model_path, weights="bfloat16", dtype="bfloat16"))
    assert pure.optimizer == alone.optimizer and pure.gradients == alone.gradients // 2
    matrix = torch.nn.Parameter(torch.empty(64, 96, device="meta"))
    scales = 4 * matrix.numel() // 256
    assert moments(matrix, Train(optimizer="adamw_8bit"), shards=1) == 2 * (matrix.numel() + scales)


def test_moments_of_weights_in_bfloat16_are_counted_as_they_are_kept():
    """The oracle is the optimizer's own state after a step: float32, whatever the weight is in."""
    pytest.importorskip("torchao")
    layer = torch.nn.Linear(48, 32, bias=False, dtype=torch.bfloat16)
    weight = layer.weight
    config = Train(optimizer="adamw", weights="bfloat16")
    optimizer = make_optimizer(layer, config)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [value for name, value in optimizer.state[weight].items() if name.startswith("exp_avg")]
    in_bytes = sum(value.numel() * value.element_size() for value in kept)
    assert moments(weight, config, shards=1) == in_bytes == 2 * 4 * 48 * 32


def test_an_adapter_has_the_gradients_and_the_optimizer_alone(model_path):
    pytest.importorskip("peft")
    whole = states(setting(model_path))
    few = states(setting(model_path, options={"lora": {"r": 2}}))
    many = states(setting(model_path, options={"lora": {"r": 4}}))
    assert few.gradients < whole.gradients / 5
    assert many.gradients == 2 * few.gradients and few.optimizer == 2 * few.gradients


def test_the_largest_pass_fits_and_a_tenth_more_does_not(model_path, pairs):
    predictor = Predictor(setting(model_path), pairs)
    room = predictor.estimate(1500).total
    largest = predictor.largest(room, 4000)
    assert predictor.estimate(largest).total <= room < predictor.estimate(int(largest * 1.2)).total
    assert predictor.largest(predictor.estimate(1).total - 1, 4000) == 0
    assert predictor.largest(1 << 50, 4000) == 4000


def test_checkpointing_keeps_less(model_path, pairs):
    plain = Predictor(setting(model_path), pairs).estimate(2000)
    again = Predictor(setting(model_path, gradient_checkpointing="true"), pairs).estimate(2000)
    assert again.activations < plain.activations / 2


def test_what_is_open_follows_from_the_room(model_path, pairs):
    open_settings = {"parallel": "auto", "gradient_checkpointing": "auto", "batch_size": 40}
    asked = setting(model_path, 4, **open_settings)
    own = states(replace(asked, config=replace(asked.config, parallel="ddp")))
    size = own.weights + own.gradients + own.optimizer

    much = fitting.decide(asked, pairs, "cuda", 1 << 40)
    assert (much.config.parallel, much.config.gradient_checkpointing) == ("ddp", "false")
    assert much.budget == 16384 and not much.reasons
    little = fitting.decide(asked, pairs, "cuda", int(size * 1.4))
    assert little.config.parallel == "fsdp" and little.config.gradient_checkpointing == "true"
    assert 0 < little.budget < 16384 and little.estimate.total <= size * 1.4
    assert fitting.decide(asked, pairs, "cpu", None).budget == 2048
    own_way = replace(asked, config=replace(asked.config, parallel="ddp", micro_batch_tokens=77))
    assert fitting.decide(own_way, pairs, "cuda", int(size * 1.4)).budget == 77


def test_a_run_goes_on_with_what_was_decided(made_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    job = plan(open_store(run), recipe_for(run, train__max_steps=2, train__micro_batch_tokens=0))
    monkeypatch.setattr(fitting, "free_bytes", lambda *_: 6 << 20)
    first, budget, lines = fitting.fit(job, ALONE)
    assert lines and budget.tokens < 2048
    budget.keep(40)
    assert json.loads(job.folder.read(fitting.RECORD))["tokens"] == 40
    monkeypatch.setattr(fitting, "free_bytes", lambda *_: 1 << 40)
    again, later, _ = fitting.fit(job, ALONE)
    assert later.tokens == 40 and again.config == first.config
    job.folder.remove(fitting.RECORD)
    assert fitting.fit(job, ALONE)[1].tokens == 2048


def test_enough_memory_leaves_no_record(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    last = train(run, recipe_for(run, train__max_steps=1))
    assert not (last.parent / fitting.RECORD).exists()


class Scarce:
    """A policy's passes that run out of memory above so many tokens."""

    def __init__(self, parallel, most):
        self.passes = []

        def look(_, args, __):
            tokens = args[0].shape[1]
            self.passes.append(tokens)
            if tokens > most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")

        parallel.policy.model.base_model.register_forward_pre_hook(look, with_kwargs=True)


def test_a_step_without_memory_is_repeated_in_smaller_passes(model_path, pairs, capfd):
    batch = pairs[:12]
    config = Train(dtype="float32", micro_batch_tokens=100000)
    parallel = policy_in(model_path)

    def step():
        stepper = Stepper(parallel, choose(config), config, ALONE)
        totals, tokens = stepper.backward(batch)
        gradients = [weight.grad.clone() for weight in parallel.policy.parameters()]
        parallel.forget_step()
        return totals, tokens, gradients

    totals, tokens, gradients = step()
    longest = max(pair.tokens for pair in batch)
    scarce = Scarce(parallel, 2 * longest)
    again, same_tokens, repeated = step()
    assert max(scarce.passes) > 2 * longest and scarce.passes[-1] <= 2 * longest
    assert tokens == same_tokens
    torch.testing.assert_close(again, totals, atol=1e-5, rtol=1e-5)
    for own, other in zip(gradients, repeated, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)
    assert "out of memory in a pass of" in capfd.readouterr().out


def test_an_evaluation_without_memory_is_cut_too(made_run, other_model, capfd):
    held_out = open_pairs(made_run)
    config = Train(dtype="float32", micro_batch_tokens=100000)
    parallel = policy_in(other_model)
    expected = evaluate(Stepper(parallel, choose(config), config, ALONE), held_out)
    Scarce(parallel, 300)
    found = evaluate(Stepper(parallel, choose(config), config, ALONE), held_out)
    assert found == pytest.approx(expected, abs=1e-4)
    assert capfd.readouterr().out.count("out of memory") < 6


def test_one_pair_that_does_not_fit_ends_the_run(model_path, pairs):
    parallel = policy_in(model_path)
    Scarce(parallel, 3)
    stepper = Stepper(parallel, choose(Train()), Train(dtype="float32"), ALONE)
    with pytest.raises(UserError, match=r"one pair of .* tokens: `trainer plan`"):
        stepper.backward(pairs[:4])
    assert all(weight.grad is None for weight in parallel.policy.parameters())


def test_among_several_ranks_the_run_ends_and_remembers():
    kept = []
    budget = Budget(1000, kept.append)
    with pytest.raises(UserError, match=r"run the same command again.* of at most 400 tokens"):
        budget.lower(used=800, pairs=3, ranks=2)
    assert kept == [400]


def test_another_error_is_no_lack_of_memory():
    assert out_of_memory.ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory.ran_out(RuntimeError("shapes cannot be multiplied"))


def test_sizes_are_read_as_people_write_them():
    assert bytes_of("80GiB") == 80 << 30 and bytes_of("24 gb") == 24 * 10**9 and bytes_of("1e9 B") == 10**9
    for wrong in ("", "80", "1e9", "GiB", "-3GB", "3 apples", "1.2.3"):
        with pytest.raises(UserError, match="expected a size"):
            bytes_of(wrong)


def test_the_command_says_what_fits_and_what_to_change(made_run):
    words = [str(RECIPE), "-o", str(made_run), "--world-size", "2"]
    fits = CliRunner().invoke(command, [*words, "--device-memory", "80GiB"], catch_exceptions=False)
    assert "ddp on 2 ranks" in fits.output and "fits 80.0 GiB" in fits.output
    assert "what takes less" not in fits.output
    short = CliRunner().invoke(command, [*words, "--device-memory", "1MiB"], catch_exceptions=False)
    assert "does not fit 1 MiB" in short.output and "train.lora" in short.output
    assert "passes of at most" in fits.output and "passes of at most" not in short.output
    assert short.output.count("with one pair a pass, still too much") == 2
    parts = [*words[:3], "--world-size", "3", "--set", 'train.parallel="fsdp"', "--set", "train.shard_size=2"]
    with pytest.raises(UserError, match="no multiple of it"):
        CliRunner().invoke(command, [*parts, "--device-memory", "80GiB"], catch_exceptions=False)


def test_a_remedy_says_whether_it_fits(model_path, pairs):
    small = setting(model_path, 3, parallel="fsdp", gradient_checkpointing="true")
    room = Predictor(small, pairs).estimate(1).total
    split, last = remedies(setting(model_path, 3, shard_size=2), pairs, room)
    assert split.startswith('train.parallel = "fsdp", train.shard_size = 0: ')
    assert split.endswith(", still too much") and last.endswith(" with one pair a pass, fits")


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["states-alone", "states-ddp", "states-fsdp", "activations-alone", "checkpointed-alone"]
)
def test_the_plan_is_within_fifteen_percent_of_the_peak(name, tmp_path):
    planned = memory_plan.planned(name, tmp_path)
    found = memory_plan.measure(name, tmp_path)
    assert planned == pytest.approx(found["steps"], rel=0.15)
