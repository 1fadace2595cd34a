"""The section [model]: the reference, and the policy at its start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas import checks
from schemas.fields import Section, choice, number, path, setting, tables


@dataclass(frozen=True)
class Model(Section):
    """The reference, and the policy at its start."""

    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("enable_thinking", "thinking", "reasoning_effort", "chat_template_kwargs"),
        "variables of the chat template stand in [model.template_arguments], such as enable_thinking = false",
    )

    # A folder in Hugging Face form, or a name on the hub; safetensors only.
    name: str = path("")
    revision: str = "main"  # of a name on the hub: a branch, a tag or a commit
    # Of the forward pass of engine and trainer. auto: that of the run folder, if it is there; else
    # bfloat16 on a GPU that has it, float32 elsewhere.
    dtype: str = choice("auto", "auto", "float32", "bfloat16", "float16")
    # nf4: engine and trainer hold the weights in 4 bits (extra `bitsandbytes`); for [train.lora].
    quantization: str = choice("none", "none", "nf4")
    # Where it runs: auto (every GPU there is, else the CPU), cpu, cuda, cuda:1 …
    device: str = setting("auto", checks.device)
    # Who generates, judges and rewrites: vllm, hf (transformers on torch), or auto: vllm where it and a GPU
    # are there, else hf.
    backend: str = choice("auto", "auto", "vllm", "hf")
    # Seconds without a sign of life after which a vLLM engine is taken for dead and started again. A start
    # may take half an hour.
    timeout: float = number(600.0, above=0)
    # [model.vllm]: engine arguments by vLLM's names, such as tensor_parallel_size, max_model_len.
    vllm: dict[str, Any] = tables(check=checks.engine_arguments)
    # Template for a model that has no chat template: a file of pipelines/prompts without .jinja, or a path.
    template: str = path("plain", "prompts", ".jinja")
    # The day that a template which prints today's date is told: token ids must not depend on the day of the
    # run.
    date: str = setting("2024-07-26", checks.day)
    # A .jinja file to use in place of the model's own chat template.
    chat_template: str = path("", "prompts", ".jinja")
    # [model.template_arguments]: variables of the chat template's own, such as enable_thinking = false.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)
    # What a special token is that stands in a response's text (an <|im_end|> that somebody typed): text, or
    # token.
    response_markers: str = choice("text", "text", "token")
