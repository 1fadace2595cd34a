"""LoRA adapters as PEFT writes them, on the small models of the tests."""

import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def write_adapter(base: Path, path: Path, seed: int = 0, **settings):
    """An adapter with random weights on the model in `base`; returns PEFT's model of the two."""
    from peft import LoraConfig, get_peft_model

    given = {"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(**given))
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
        adapted.save_pretrained(path)
    return adapted.eval()


@torch.no_grad()
def logps_by(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    """(T,) log-probs of the response's tokens by a model's own forward."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
