"""Small models of several families with random weights, as folders, for the vocabulary of the test model."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Ernie4_5_MoeConfig,
    Gemma2Config,
    Gemma4TextConfig,
    GPT2Config,
    HunYuanMoEV1Config,
    Lfm2Config,
    LlamaConfig,
    MiniMaxM2Config,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Zamba2Config,
)

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 1,
}
_EXPERTS: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "output_router_logits": False,
}


def _configs(vocabulary: int) -> dict[str, PreTrainedConfig]:
    sizes = _SIZES | {"vocab_size": vocabulary}
    return {
        "llama": LlamaConfig(**sizes, tie_word_embeddings=False),
        "llama_tied": LlamaConfig(**sizes, tie_word_embeddings=True),
        "qwen2": Qwen2Config(**sizes),
        "qwen3": Qwen3Config(**sizes, head_dim=8),
        "gemma2": Gemma2Config(
            **sizes, head_dim=8, sliding_window=9, attn_logit_softcapping=5.0, final_logit_softcapping=3.0
        ),
        "phi3": Phi3Config(**sizes),
        "mixtral": MixtralConfig(**sizes, **_EXPERTS, num_local_experts=4),
        "qwen3_moe": Qwen3MoeConfig(**sizes, **_EXPERTS, num_experts=4, moe_intermediate_size=24, head_dim=8),
        # Its router's correction bias stays in float32.
        "deepseek_v3": DeepseekV3Config(
            **sizes | {"num_key_value_heads": 4},
            num_experts_per_tok=2,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            moe_intermediate_size=24,
            q_lora_rank=12,
            kv_lora_rank=12,
            qk_rope_head_dim=4,
            qk_nope_head_dim=8,
            v_head_dim=8,
            first_k_dense_replace=1,
        ),
        "gpt2": GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            bos_token_id=None,
            eos_token_id=1,
        ),
        # Its convolutions mix neighbours, whatever response they are of: it is padded.
        "lfm2": Lfm2Config(**sizes, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    }


def _odd_configs(vocabulary: int) -> dict[str, PreTrainedConfig]:
    """Families of which a load in bfloat16 is more than all weights in bfloat16."""
    sizes = _SIZES | {"vocab_size": vocabulary}
    return {
        # The class makes its router in float32, by itself.
        "hunyuan_moe": HunYuanMoEV1Config(**sizes, head_dim=8, num_experts=4, moe_topk=2),
        # A buffer that the files hold scales each layer, and one that they do not scales the embedding.
        "gemma4": Gemma4TextConfig(
            **sizes,
            head_dim=8,
            global_head_dim=8,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=8,
            num_kv_shared_layers=0,
            sliding_window=9,
            layer_types=["sliding_attention", "full_attention"],
        ),
        # A buffer that the files hold chooses experts.
        "minimax_m2": MiniMaxM2Config(
            **sizes | {"intermediate_size": 24}, head_dim=8, num_local_experts=4, num_experts_per_tok=2
        ),
        # Its router stays in float32, and holds a module whose weight is not trained.
        "ernie_moe": Ernie4_5_MoeConfig(
            **sizes, moe_num_experts=4, moe_k=2, moe_intermediate_size=24, moe_layer_start_index=1
        ),
        # It has layers within layers.
        "zamba2": Zamba2Config(
            **sizes | {"num_key_value_heads": 4},
            mamba_d_state=8,
            mamba_headdim=8,
            n_mamba_heads=8,
            mamba_ngroups=1,
            num_mem_blocks=1,
            hybrid_layer_ids=[1],
            layers_block_type=["mamba", "hybrid"],
            chunk_size=8,
            adapter_rank=4,
        ),
    }


NAMES = tuple(_configs(8))
ODD_NAMES = tuple(_odd_configs(8))


def save_family(name: str, vocabulary: int, folder: Path) -> Path:
    """Write a model of a family into a folder; no weight and no buffer is 0 or 1. Returns the folder."""
    config = (_configs(vocabulary) | _odd_configs(vocabulary))[name]
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        names = model.state_dict().keys()
        for buffer_name, buffer in model.named_buffers():
            if buffer_name in names and buffer.is_floating_point():
                buffer += 0.05 * torch.randn_like(buffer)
    model.save_pretrained(folder)
    return folder
