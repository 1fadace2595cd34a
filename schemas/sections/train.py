"""The section [train] of a recipe: how the policy is optimised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas import checks, extensions
from schemas.fields import Section, choice, choices, number, setting, tables


@dataclass(frozen=True)
class Train(Section):
    """Optimise the policy on the pairs. A loss has its own keys in [train.<loss>]."""

    hints: ClassVar[Mapping[str, str]] = {
        "lora": "it is a table, written [train.lora], or --set train.lora.r=16 (the rest has defaults)"
    }

    loss: str = "dpo"  # one of those that `trainer losses` lists
    # At its highest, after the warm-up. 5e-7 is for whole weights of billions of parameters.
    learning_rate: float = number(5e-7, above=0)
    # adamw_8bit keeps its two moments in 8 bits (extra `torchao`).
    optimizer: str = choice("adamw", "adamw", "adamw_8bit", "rmsprop")
    weight_decay: float = number(0.0, low=0)  # on matrices; biases and norms have none
    betas: tuple[float, ...] = setting((0.9, 0.999), checks.betas)  # decay of adamw's two moments
    # The learning rate's way after the warm-up: to 0 in a line or by a cosine, or constant.
    schedule: str = choice("linear", "linear", "cosine", "constant")
    warmup_steps: int = number(0, low=0)  # steps in which the learning rate rises from 0
    # Share of all steps to warm up in, where warmup_steps is 0.
    warmup_ratio: float = number(0.0, low=0, high=1)
    max_grad_norm: float = number(1.0, low=0)  # gradients are clipped to this norm; 0: not
    batch_size: int = number(64, low=1)  # pairs of one optimizer step, over all ranks
    # Global batches whose pairs are grouped by length. Above 1 (8, say): ranks with few pairs each wait less,
    # a padded model pads less.
    look_ahead: int = number(1, low=1)
    # Tokens of one forward pass; bounds memory, changes no result. 0: what fits (`trainer plan`).
    micro_batch_tokens: int = number(0, low=0)
    epochs: int = number(1, low=1)  # times that every pair is learned from
    max_steps: int = -1  # above 0: this many steps, whatever epochs says
    # Of the forward pass. auto: the dtype that the cached log-probs were made in.
    dtype: str = choice("auto", "auto", "float32", "bfloat16")
    # Train on log-probs that were made in another dtype, or by vLLM. Their noise is printed at step 0.
    accept_other_dtype: bool = False
    # What the optimizer updates: float32, or bfloat16 with stochastic rounding (extra `torchao`).
    weights: str = choice("float32", "float32", "bfloat16")
    save_dtype: str = choice("auto", "auto", "float32", "bfloat16")  # of checkpoints; auto: the model's
    # How ranks share the work. ddp: each holds all weights; fsdp: they are split among them. auto: ddp where
    # that fits.
    parallel: str = choice("auto", "auto", "ddp", "fsdp")
    # fsdp: ranks among which the weights are split; each such group holds all of them. 0: all ranks.
    shard_size: int = number(0, low=0)
    # fsdp: give a layer's weights back after its forward pass; false is faster and takes more memory.
    reshard_after_forward: bool = True
    reduce_dtype: str = choice("float32", "float32", "bfloat16")  # dtype in which gradients are added up
    # Make the activations again in the backward pass. auto: where they do not fit otherwise.
    gradient_checkpointing: str = choice("auto", "auto", "true", "false")
    # torch.compile of norms, rotary and MLP. auto: on a GPU.
    compile: str = choice("auto", "auto", "true", "false")
    deterministic: bool = False  # algorithms that give the same bits on a GPU each time, and are slower
    # Steps between evaluations on the test split; 0: at the start and at the end only.
    eval_every: int = number(0, low=0)
    save_every: int = number(500, low=0)  # steps between checkpoints; the last step is always saved
    keep: int = number(2, low=0)  # checkpoints kept; 0: all
    # Largest mean gap, nat a token, between cache and policy at step 0; 0: 1e-3, or 0.05 in bfloat16 on a GPU
    # and between two dtypes.
    tolerance: float = number(0.0, low=0)
    # Where the curves go beside metrics.jsonl (extras of the same names).
    report_to: tuple[str, ...] = choices((), "tensorboard", "wandb", "mlflow", may_be_empty=True)
    tensorboard: bool = False  # the same as report_to = ["tensorboard"]
    # So many held-out prompts are answered at each evaluation.
    eval_samples: int = number(0, low=0)
    eval_sample_tokens: int = number(128, low=1)  # tokens of such an answer, at most
    # A metric of the evaluations, such as eval_loss: the checkpoint that is best by it is kept too.
    metric_for_best_model: str = ""
    # What is better in that metric. auto: lower is better where its name ends with "loss", higher otherwise.
    greater_is_better: str = choice("auto", "auto", "true", "false")
    save_on_signal: bool = True  # SIGTERM: save a checkpoint, then exit with status 143
    # Seconds without a sign of life after which the other ranks give a rank up; 0: they wait for ever.
    timeout: int = number(25, low=0)
    # [train.lora]: train an adapter, by PEFT's names: r, alpha, dropout, target_modules … (extra `peft`).
    # The tables [train.<loss>], [train.sft] and [train.lora], read by the losses and by the adapter.
    options: dict[str, Any] = tables(collects=True)

    def check_with_extensions(self) -> None:
        extensions.check_loss(self)
