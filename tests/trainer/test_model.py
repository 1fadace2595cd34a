"""Pairs to Sides: what a side holds is what a plain forward says of it.

Gradients flow where they should and nowhere else.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from schemas.forward import logps
from schemas.forward.moving import move_together
from schemas.sections import Train
from tests.trainer.forward import policy_in, sides_of
from trainer import data
from trainer.losses import NAMES, choose
from trainer.model import micro_batch, quality_logps, training_loss, whole_ranges
from trainer.pairs import open_pairs

NEEDS = ("edit_mask", "quality", "baseline", "score.prompt_gain", "score.given")


@pytest.fixture(scope="module")
def batch(rich_run):
    return next(data.global_batches(open_pairs(rich_run, NEEDS), 5, seed=4))[1]


def alone(model, prompt, response):
    ids = torch.tensor([[*prompt.tolist(), *response.tolist()]])
    logps = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(1, ids[0, len(prompt) :, None])[:, 0]


def test_every_part_is_what_a_plain_forward_says(batch, other_model):
    plain = AutoModelForCausalLM.from_pretrained(other_model, dtype=torch.float32)
    chosen, rejected = sides_of(policy_in(other_model).policy.model, batch)
    parts = [
        (chosen, "prompt_ids", "chosen_ids", "ref_chosen_token_logps"),
        (rejected, "prompt_ids", "rejected_ids", "ref_rejected_token_logps"),
        (chosen.quality, "quality_prompt_ids", "chosen_ids", "ref_chosen_quality_token_logps"),
        (rejected.quality, "quality_prompt_ids", "rejected_ids", "ref_rejected_quality_token_logps"),
        (chosen.baseline, "prompt_ids", "baseline_ids", "ref_baseline_token_logps"),
    ]
    assert rejected.baseline is None and len(chosen.parts()) == 3 and len(rejected.parts()) == 2
    for side, prompt, response, ref in parts:
        assert side.mask.shape == side.token_logps.shape == side.ref_token_logps.shape
        for row, pair in enumerate(batch):
            n = len(pair.column(response))
            assert side.mask[row].tolist() == [1.0] * n + [0.0] * (side.mask.shape[1] - n)
            torch.testing.assert_close(
                side.token_logps[row, :n],
                alone(plain, pair.column(prompt), pair.column(response)),
                atol=2e-5,
                rtol=0,
            )
            assert (
                side.ref_token_logps[row, :n].tolist() == pair.column(ref).tolist()
                and not side.token_logps[row, n:].any()
            )
    assert chosen.token_logps.requires_grad and chosen.baseline.token_logps.requires_grad
    assert not chosen.quality.token_logps.requires_grad and not rejected.quality.token_logps.requires_grad
    assert chosen.quality.logps.tolist() != chosen.logps.tolist()


def test_scores_are_those_of_the_table(batch, rich_run):
    import duckdb

    of = dict(duckdb.sql(f"select response_id, score from '{rich_run}/prompt_gain-*/*.parquet'").fetchall())
    rows = duckdb.sql(
        f"select pair_id, chosen_response_id, rejected_response_id from '{rich_run}/pairs-*/*.parquet'"
    ).fetchall()
    want = {pair: (of[chosen], of[rejected]) for pair, chosen, rejected in rows}
    for pair in batch:
        assert pair.scores["prompt_gain"] == want[pair.pair_id] and pair.scores["given"] == (1.0, 0.0)


def test_without_needs_a_side_is_bare(rich_run, other_model):
    batch = next(data.global_batches(open_pairs(rich_run), 3, seed=4))[1]
    chosen, _ = sides_of(policy_in(other_model).policy.model, batch)
    assert chosen.parts() == [chosen] and chosen.edit_mask is None and chosen.scores == {}


def test_whole_pairs_are_cut_to_the_limit():
    for limit in (1, 5, 7, 12, 100):
        sizes = [3, 4, 9, 2, 2, 2, 1]
        cuts = whole_ranges(sizes, limit)
        assert [n for begin, end in cuts for n in range(begin, end)] == list(range(len(sizes)))
        assert all(sum(sizes[begin:end]) <= limit or end - begin == 1 for begin, end in cuts)
        assert all(sum(sizes[begin : end + 1]) > limit for begin, end in cuts[:-1])  # as few as can be


@pytest.mark.parametrize("rows", [1, 40, 75, 10_000])
@pytest.mark.parametrize("name", [*NAMES, "rpo_baseline"])
def test_gradients_made_in_the_chunk_are_those_of_the_whole_batch(
    name, rows, rich_run, other_model, monkeypatch
):
    """Also where a pair alone has more rows than a chunk holds."""
    options = (
        {"rpo": {"y0": "baseline"}}
        if name == "rpo_baseline"
        else {"hinge": {"hinge": {"beta": 30.0}}}.get(name, {})
    )
    objective = choose(
        Train(loss=name.removesuffix("_baseline"), options={**options, "sft": {"weight": 0.1}})
    )
    pairs = next(data.global_batches(open_pairs(rich_run, objective.needs), 5, seed=4))[1]
    model = policy_in(other_model).policy.model
    want = objective(*sides_of(model, pairs))
    (want.sum() / 7).backward()
    gradients = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setitem(logps._CHUNK_LOGITS, "cpu", rows * model.config.vocab_size)
    chunks = []  # the losses of each
    batch = micro_batch(pairs, torch.device("cpu"))
    quality = quality_logps(model, batch)
    loss = training_loss(
        model, batch, quality, objective, scale=1 / 7, observe=lambda losses, *_: chunks.append(losses)
    )
    torch.testing.assert_close(loss, want.sum().detach() / 7, atol=1e-6, rtol=1e-5)
    loss.backward()
    chunk_count = {1: 5, 10_000: 1}
    assert len(chunks) == chunk_count.get(rows, len(chunks))
    torch.testing.assert_close(torch.cat(chunks), want.detach(), atol=1e-6, rtol=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[key], atol=1e-5 * gradients[key].abs().max().item() + 1e-9, rtol=0
        )


def test_gradients_are_right_whatever_is_observed(rich_run, other_model):
    """They do not hang on what the caller does with the chunks."""
    objective = choose(Train())
    pairs = next(data.global_batches(open_pairs(rich_run), 4, seed=4))[1]
    model = policy_in(other_model).policy.model
    placed = micro_batch(pairs, torch.device("cpu"))
    training_loss(model, placed, (), objective, 1.0, lambda losses, chosen, rejected: None).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_tensors_that_move_together_are_what_they_were():
    """In one copy, whatever their types, shapes and lengths."""
    draw = torch.Generator().manual_seed(1)
    tensors = [
        torch.randint(0, 9, (7,), generator=draw),
        torch.rand(3, 5, generator=draw),
        torch.rand(1, generator=draw).double(),
        torch.rand(2, 3, generator=draw) > 0.5,
        torch.zeros(0, 4),
    ]
    assert move_together(tensors, torch.device("cpu")) == tensors
    copies: list[torch.Tensor] = []

    class Elsewhere:
        """A device that is not the CPU by its type and keeps what is copied to it in reach."""

        type = "elsewhere"

    original = torch.Tensor.to

    def to(self, device, non_blocking=False):
        assert isinstance(device, Elsewhere)
        copies.append(original(self, "cpu", copy=True))
        return copies[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        moved = move_together(tensors, Elsewhere())
    assert len(copies) == 1
    for before, after in zip(tensors, moved, strict=True):
        assert after.dtype == before.dtype and torch.equal(after, before)
        assert after.untyped_storage().data_ptr() == copies[0].untyped_storage().data_ptr()
