"""Requests in vLLM's words: the SamplingParams of each kind.

An answer is given out once, when it is whole (FINAL_ONLY): vLLM then makes no output object for a request at
each step. Samples that a stop string of ours may end are looked at as they grow, at every LOOK_EVERY tokens:
what was sampled behind the string is cut off, so that the answer is the same at any interval.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.vllm.messages import Generate, NextToken, Request, Score
from schemas.sections import Sampling

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

# A sample goes on for 1.5 tokens on average behind its stop string, and three of four output objects are
# never made.
LOOK_EVERY = 4


def params_of(request: Request, rows_only: bool) -> "SamplingParams":
    """`rows_only`: score the response's tokens alone, else those of the prompt too."""
    match request:
        case Generate():
            return _of_sample(request)
        case NextToken():
            return _of_next_token(request)
        case Score():
            return _of_scoring(request, rows_only)


def room_of(request: Request) -> int:
    """Tokens that vLLM may sample for a request: it wants room for one also where it only scores."""
    return request.max_tokens if isinstance(request, Generate) else 1


def ids_of(request: Request) -> list[int]:
    """The tokens that a request begins with: of one that scores, the response's too."""
    if isinstance(request, Score):
        return request.prompt + request.response
    return request.prompt


def _of_sample(request: Generate) -> "SamplingParams":
    """Our own stop tokens alone; log-probs are the model's, before temperature (vLLM's raw_logprobs)."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    looked_at = bool(sampling.stop)
    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        stop_token_ids=request.stop_ids,
        max_tokens=request.max_tokens,
        min_tokens=min(sampling.min_tokens, request.max_tokens),
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias={int(token): float(bias) for token, bias in sampling.logit_bias.items()},
        structured_outputs=_structured_outputs(sampling),
        seed=request.seed,
        logprobs=0,
        ignore_eos=True,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if looked_at else RequestOutputKind.FINAL_ONLY,
        stream_interval=LOOK_EVERY if looked_at else None,
    )
    if request.bad_words:
        # What vLLM makes of SamplingParams.bad_words where the engine has a tokenizer, which ours has not.
        params._bad_words_token_ids = request.bad_words
    return params


def _structured_outputs(sampling: Sampling) -> "StructuredOutputsParams | None":
    from vllm.sampling_params import StructuredOutputsParams

    if not sampling.structured_outputs:
        return None
    return StructuredOutputsParams(**sampling.structured_outputs)


def _of_next_token(request: NextToken) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        logprob_token_ids=sorted(set(request.tokens)),
        ignore_eos=True,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _of_scoring(request: Score, rows_only: bool) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    scoring: dict[str, Any] = {"prompt_logprobs": 0}
    if rows_only:
        scoring = {
            "prompt_logprob_token_ids": np.asarray(request.response, np.int32)[:, None],
            "prompt_logprob_start": len(request.prompt) - 1,
        }
    return SamplingParams(
        max_tokens=1,
        temperature=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **scoring,
    )
