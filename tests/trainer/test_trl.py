"""The whole path against TRL 1.16.0's DPOTrainer: same weights, same batch, same cached references; loss and every gradient."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer import data
from trainer.losses import dpo
from trainer.model import load, sides

trl = pytest.importorskip("trl")


@pytest.fixture(scope="module")
def batch(made_run):
    return next(data.global_batches(data.open_pairs(made_run), 12, seed=4))[1]


def test_loss_and_gradients_equal_trl(made_run, model_path, batch, tmp_path):
    """Without label smoothing: TRL's `sigmoid` takes no notice of it."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    rows = [
        {
            "prompt_ids": pair.prompt_ids.tolist(),
            "chosen_ids": pair.chosen_ids.tolist(),
            "rejected_ids": pair.rejected_ids.tolist(),
            "ref_chosen_logps": float(pair.ref_chosen_token_logps.sum(dtype="float64")),
            "ref_rejected_logps": float(pair.ref_rejected_token_logps.sum(dtype="float64")),
        }
        for pair in batch
    ]
    # Policy unlike reference, or the loss were log 2 whatever one computes.
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "policy")

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.pad_token = tokenizer.eos_token
    text = Dataset.from_list([{"prompt": "Ada has", "chosen": " 1", "rejected": " 2"}] * len(rows))
    config = trl.DPOConfig(output_dir=str(tmp_path), beta=0.3, loss_type=["sigmoid"], per_device_train_batch_size=len(rows), report_to=[],
                           gradient_checkpointing=False, bf16=False, use_cpu=True, max_length=None, precompute_ref_log_probs=True)  # fmt: skip
    trainer = trl.DPOTrainer(copy.deepcopy(model), args=config, train_dataset=text, processing_class=tokenizer)
    theirs = trainer.model
    theirs.zero_grad()
    their_loss = trainer.compute_loss(theirs, trainer.data_collator(rows))
    their_loss.backward()

    ours = load(tmp_path / "policy", torch.device("cpu"), False)
    chosen, rejected = sides(ours, batch, torch.device("cpu"))
    our_loss = dpo.loss(chosen, rejected, dpo.Config(0.3)).mean()
    our_loss.backward()

    assert abs(our_loss.item() - 0.6931) > 1e-3
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5 * max(1.0, b.grad.abs().max().item()), rtol=0)
