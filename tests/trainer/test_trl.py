"""The whole path against TRL 1.16.0's DPOTrainer, loss by loss: same weights, same pairs, same cached
references; the loss and every gradient."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from schemas.sections import Train
from tests.trainer.forward import policy_in, sides_of
from trainer import data
from trainer.losses import choose
from trainer.pairs import open_pairs

trl = pytest.importorskip("trl")


@pytest.fixture(scope="module")
def batch(made_run):
    return next(data.global_batches(open_pairs(made_run), 12, seed=4))[1]


def row(pair, ld_alpha=None):
    """A pair as TRL's collator takes it; the reference's sums, with LD-DPO's weights if there are any."""
    shared = min(len(pair.chosen_ids), len(pair.rejected_ids))

    def ref(logps):
        weights = np.where(np.arange(len(logps)) < shared, 1.0, 1.0 if ld_alpha is None else ld_alpha)
        return float((weights * logps.astype(np.float64)).sum())

    ids = {name: getattr(pair, name).tolist() for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    return ids | {
        "ref_chosen_logps": ref(pair.ref_chosen_token_logps),
        "ref_rejected_logps": ref(pair.ref_rejected_token_logps),
    }


def config_of(pairs, tmp_path, **settings):
    """What TRL is told for a batch of so many pairs on a CPU, whose reference log-probs are there."""
    return trl.DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=pairs,
        report_to=[],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        max_length=None,
        precompute_ref_log_probs=True,
        **settings,
    )


def theirs(policy, model_path, pairs, tmp_path, **settings):
    """TRL's loss on these pairs, with its graph, and the model it ran."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.pad_token = tokenizer.eos_token
    text = Dataset.from_list([{"prompt": "Ada has", "chosen": " 1", "rejected": " 2"}] * len(pairs))
    config = config_of(len(pairs), tmp_path, **settings)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    trainer = trl.DPOTrainer(
        copy.deepcopy(model), args=config, train_dataset=text, processing_class=tokenizer
    )
    trainer.model.zero_grad()
    return trainer.compute_loss(
        trainer.model, trainer.data_collator([row(pair, settings.get("ld_alpha")) for pair in pairs])
    ), trainer.model


def same(policy, pairs, train: Train, their_loss, model):
    """TRL's `train.loss` and ours, and their gradients, agree to 1e-5."""
    their_loss.backward()
    ours = policy_in(policy).policy.model
    our_loss = choose(train)(*sides_of(ours, pairs)).mean()
    our_loss.backward()
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-5, rel=1e-5)
    for (name, a), (other, b) in zip(ours.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5 * max(1.0, b.grad.abs().max().item()), rtol=0)
    return our_loss.item()


LOSSES = {
    "dpo": (
        {"beta": 0.3},
        {"loss_type": ["sigmoid"]},
    ),  # without label smoothing: TRL's sigmoid takes no notice of it
    "ipo": ({"beta": 0.3, "reduction": "mean"}, {"loss_type": ["ipo"]}),
    "robust_dpo": ({"beta": 0.3, "label_smoothing": 0.2}, {"loss_type": ["robust"], "label_smoothing": 0.2}),
    "hinge": ({"beta": 0.3}, {"loss_type": ["hinge"]}),
    "length_normalised_dpo": ({"beta": 5.0}, {"loss_type": ["sigmoid_norm"]}),
    "ld_dpo": ({"beta": 0.3, "alpha": 0.4}, {"loss_type": ["sigmoid"], "ld_alpha": 0.4}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_equal_trl(name, other_model, model_path, batch, tmp_path):
    options, settings = LOSSES[name]
    found = theirs(other_model, model_path, batch, tmp_path, beta=options["beta"], **settings)
    assert abs(same(other_model, batch, Train(loss=name, options={name: options}), *found) - 0.6931) > 1e-3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_sft_term_is_trls(reduction, other_model, model_path, batch, tmp_path):
    """On one pair: TRL's mean runs over all tokens of a batch, ours over a response's."""
    (pair,) = batch[:1]
    weight = 0.3 / (len(pair.chosen_ids) if reduction == "sum" else 1)
    found = theirs(
        other_model,
        model_path,
        [pair],
        tmp_path,
        beta=0.3,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 0.3],
    )
    same(
        other_model,
        [pair],
        Train(options={"dpo": {"beta": 0.3}, "sft": {"weight": weight, "reduction": reduction}}),
        *found,
    )


def test_rpo_is_trls_sigmoid_less_eta_beta_times_the_chosen_log_prob(
    other_model, model_path, batch, tmp_path
):
    loss, model = theirs(other_model, model_path, batch, tmp_path, beta=0.3, loss_type=["sigmoid"])
    for pair in batch:  # one by one, without padding
        ids = torch.tensor([[*pair.prompt_ids.tolist(), *pair.chosen_ids.tolist()]])
        logps = model(input_ids=ids).logits[0, len(pair.prompt_ids) - 1 : -1].log_softmax(-1)
        loss = loss - 0.05 * 0.3 * logps.gather(1, ids[0, len(pair.prompt_ids) :, None]).sum() / len(batch)
    same(other_model, batch, Train(loss="rpo", options={"rpo": {"beta": 0.3, "eta": 0.05}}), loss, model)
