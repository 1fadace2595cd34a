"""A loaded engine of vLLM.

The longest sequence that it takes is the one that it is told, the model's positions as a rule. A model of
131,072 positions does not start where the cache's memory holds less of one sequence; vLLM then finds out how
much it holds and takes that (its own `max_model_len = -1`, but never above what it is told, and never below
it where the memory is there). A request that needs more is refused, not cut short (fitting.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLMEngine

FITS = "max_model_len_fits"  # beside the engine's arguments: whether max_model_len may come out smaller
# Of float32 logits that scoring prompts may hold at once: tokens of a step × vocabulary.
_LOGIT_BYTES = 1 << 32


def load(arguments: dict[str, Any]) -> "LLMEngine":
    """An engine by the arguments of vLLM's `LLM`, and FITS."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = dict(arguments)
    fits = arguments.pop(FITS, False)
    if "max_num_batched_tokens" not in arguments:
        arguments["max_num_batched_tokens"] = _tokens_of_a_step(arguments["model"])
    context = UsageContext.LLM_CLASS
    config = EngineArgs(**_with_configs(arguments)).create_engine_config(context)
    if fits:
        # What it reads where the cache is laid out; by then -1 has lost the length that it was to be at most.
        config.model_config.original_max_model_len = -1
    return LLMEngine.from_vllm_config(config, context, disable_log_stats=arguments["disable_log_stats"])


def _with_configs(arguments: dict[str, Any]) -> dict[str, Any]:
    """Tables as the objects that `LLM` makes of them before they are arguments of the engine."""
    from vllm.config import CompilationConfig, ProfilerConfig, StructuredOutputsConfig

    classes = {"structured_outputs_config": StructuredOutputsConfig, "profiler_config": ProfilerConfig}
    made = dict(arguments)
    for name, of_class in classes.items():
        if isinstance(made.get(name), dict):
            made[name] = of_class(**made[name])
    if isinstance(made.get("compilation_config"), int):
        made["compilation_config"] = CompilationConfig(mode=made["compilation_config"])
    return made


def _tokens_of_a_step(model: str) -> int:
    """Tokens of a step where the recipe leaves them open.

    V1 scores prompts with [tokens of a step × vocabulary] logits in float32, so they are bounded."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    vocabulary: int = config.get_text_config().vocab_size
    return max(2048, min(16384, _LOGIT_BYTES // (4 * vocabulary)))
