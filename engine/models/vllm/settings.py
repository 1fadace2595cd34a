"""An engine's arguments and its process's environment."""

import os
from typing import Any

from engine.models.spec import ResolvedModel
from engine.models.vllm.loading import FITS
from engine.models.vllm.messages import MAX_NEXT_TOKENS
from schemas.errors import UserError
from schemas.model_content import read_json
from schemas.model_files import CONFIG, place_of

# A config that has one of these is of a model that takes pictures or sound, too. vLLM prepares for them by
# the tokenizer, which the engine is not given.
_OTHER_SENSES = ("vision_config", "audio_config", "image_config", "video_config", "speech_config")
# Of older versions of vLLM. They were never facts, so a recipe without them names the same folders.
_GONE = {"swap_space"}

# Without chunked prefill: where a prompt is split over two steps vLLM turns back its seeded generator, which
# a CPU's cannot do («CPU Generator does not use offset», 0.32).
_CPU_ARGUMENTS = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    "enable_chunked_prefill": False,
    "max_num_seqs": 128,
}


def engine_arguments(model: ResolvedModel, place: str) -> dict[str, Any]:
    """The arguments of vLLM's `LLM` at a place, and FITS: ours, then those of the recipe's table.

    Raises UserError where the recipe sets one that must be as it is, or where the model is an adapter."""
    model.check_runs()
    config = model.spec.config
    fixed = {
        "model": str(model.identity.path),
        "dtype": config.dtype,
        "seed": 0,
        "skip_tokenizer_init": not model.spec.engine_tokenizer,
        "generation_config": "vllm",
        "trust_remote_code": False,
        "disable_log_stats": True,
        "max_logprobs": MAX_NEXT_TOKENS,
    }
    _check_may_set(model, fixed)
    arguments: dict[str, Any] = dict(fixed)
    longest = _longest(model)
    if place == "cpu":
        arguments |= _CPU_ARGUMENTS
        arguments["max_num_batched_tokens"] = max(2048, longest)
    if longest:
        arguments["max_model_len"] = longest
        arguments[FITS] = "max_model_len" not in config.vllm
    if has_other_senses(read_json(place_of(model.identity.path, CONFIG))):
        arguments["language_model_only"] = True
    return arguments | config.vllm


def _check_may_set(model: ResolvedModel, fixed: dict[str, Any]) -> None:
    """Raise UserError where the recipe's table sets what it must not."""
    table = f"[{model.spec.section}.vllm]"
    for name in sorted(model.spec.config.vllm):
        if name in fixed:
            raise UserError(
                f"{table} {name} is not for a recipe to set: "
                f"the engine needs it as it is (model and dtype stand in [{model.spec.section}])"
            )
        if name in _GONE:
            raise UserError(
                f"{table} {name} is no argument of vLLM any more: leave it out "
                "(folders that were made with it keep their names)"
            )


def _longest(model: ResolvedModel) -> int:
    """The longest sequence that the engine is made for: what the recipe's table says, or what its stages
    need; 0 where nobody knows the model's positions."""
    named: int = model.spec.config.vllm.get("max_model_len", 0)
    needed = model.spec.longest
    if named or not needed:
        return named or model.positions
    return min(needed, model.positions)


def has_other_senses(config: dict[str, Any]) -> bool:
    """True of a config.json whose model takes pictures or sound beside text."""
    thinker = config.get("thinker_config")  # of a model that also speaks: the part that thinks
    parts = thinker if isinstance(thinker, dict) else config
    return any(isinstance(parts.get(name), dict) for name in _OTHER_SENSES)


def environment(place: str, threads: int) -> dict[str, str]:
    """The environment of an engine's process: this one's, and what vLLM must find before it is imported.

    `threads`: of an engine on a CPU. An engine on GPUs sees only those of its place."""
    variables = dict(os.environ)
    variables.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    variables.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    variables["VLLM_NO_USAGE_STATS"] = "1"
    if place == "cpu":
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        variables["TORCHDYNAMO_DISABLE"] = "1"
        variables["OMP_NUM_THREADS"] = str(threads)
    else:
        variables["CUDA_VISIBLE_DEVICES"] = _visible_devices(place)
    return variables


def _visible_devices(place: str) -> str:
    """A place such as cuda:0,1 as CUDA_VISIBLE_DEVICES, whose numbers count within those visible here."""
    _, _, written = place.partition(":")
    numbers = list(map(int, (written or "0").split(",")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible:
        names = visible.split(",")
        return ",".join(names[number] for number in numbers)
    return ",".join(map(str, numbers))
