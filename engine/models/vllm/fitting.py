"""Requests as an engine takes them, whose longest sequence is known once it is loaded.

It is what the engine was told, or less where its memory holds less of one sequence (loading.py); of a model
whose positions nobody knows it is what vLLM takes by itself.
"""

from collections.abc import Iterable
from dataclasses import replace

from engine.models.vllm.messages import Generate, Request
from engine.models.vllm.params import ids_of, room_of
from schemas.errors import UserError


def fitted(requests: Iterable[Request], longest: int, positions: int) -> list[Request]:
    """Requests that an engine takes none of which vLLM would cut short by itself.

    `longest`: tokens of a sequence in this engine. `positions`: of the model, which `max_tokens` keeps to by
    now; where they are unknown (0) a sample may grow to the end of the engine's instead. Raises UserError
    for the first that is too long."""
    result: list[Request] = []
    for request in requests:
        prompt = len(ids_of(request))
        room = room_of(request)
        if isinstance(request, Generate) and not positions:
            room = min(room, max(1, longest - prompt))
            request = replace(request, max_tokens=room)
        if prompt + room > longest:
            raise UserError(_too_long(request, prompt, room, longest))
        result.append(request)
    return result


def _too_long(request: Request, prompt: int, room: int, longest: int) -> str:
    what = f"a prompt of {prompt} tokens and a response of up to {room} may come to {prompt + room} tokens"
    if not isinstance(request, Generate):
        what = f"a sequence of {prompt} tokens is to be scored, which takes room for {prompt + room}"
    return (
        f"{what}, and the engine's memory holds {longest} of one sequence; give it more "
        "(gpu_memory_utilization, tensor_parallel_size, kv_cache_memory_bytes), or say that no sequence is "
        f"to be longer: max_model_len = {longest}"
    )
