"""What runs in an engine's process: requests into vLLM, answers out. The only import of vllm."""

import functools
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.stopping import StopStrings
from engine.models.vllm.messages import Answer, Done, Generate, NextToken, Ready, Refused, Request, Score
from schemas.sections import Sampling
from schemas.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from vllm import LLMEngine, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

_BEAT = 1.0  # seconds between signs of life
# Of float32 logits that scoring prompts may hold at once: tokens of a step × vocabulary.
_LOGIT_BYTES = 1 << 32


def serve(handle: int, worker: int) -> None:
    """Run an engine until its pipe ends or the process `worker` is gone. `handle`: of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_worker, args=(worker,), daemon=True).start()
    pipe: Connection[Any, Any] = Connection(handle)
    arguments: dict[str, Any] = pipe.recv()
    from vllm import LLM

    if "max_num_batched_tokens" not in arguments:
        arguments["max_num_batched_tokens"] = _tokens_of_a_step(arguments["model"])
    server = _Server(pipe, LLM(**arguments).llm_engine)
    pipe.send(Ready())
    server.run()


def _end_with_worker(worker: int) -> None:
    """End this process group as soon as the worker is not its parent any more."""
    while os.getppid() == worker:
        time.sleep(_BEAT)
    os.killpg(0, signal.SIGKILL)


def _tokens_of_a_step(model: str) -> int:
    """Tokens of a step where the recipe leaves them open.

    V1 scores prompts with [tokens of a step × vocabulary] logits in float32, so they are bounded."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    vocabulary: int = config.get_text_config().vocab_size
    return max(2048, min(16384, _LOGIT_BYTES // (4 * vocabulary)))


class _Server:
    """An engine that is loaded, its pipe, and the requests under way by the id that vLLM knows them by."""

    def __init__(self, pipe: "Connection[Any, Any]", engine: "LLMEngine"):
        self._pipe = pipe
        self._engine = engine
        # Model runner V2 (on GPUs) runs the head on the response's rows alone and gives an array.
        self._scores_rows = bool(getattr(engine.vllm_config, "use_v2_model_runner", False))
        self._requests: dict[str, Request] = {}
        # What looks for stop strings, by the request.
        self._stop_strings: dict[str, StopStrings] = {}

    def run(self) -> None:
        """Take requests, step the engine and send answers until the pipe ends."""
        last_beat = time.monotonic()
        while self._take_requests():
            answers: list[Answer] = []
            if self._engine.has_unfinished_requests():
                answers = self._step()
            if answers or time.monotonic() - last_beat > _BEAT:
                self._pipe.send(Done(answers))
                last_beat = time.monotonic()

    def _take_requests(self) -> bool:
        """Hand everything that waits to vLLM's own scheduler: it, not we, keeps the batch full.

        False once the pipe has ended."""
        while self._pipe.poll(0 if self._engine.has_unfinished_requests() else _BEAT):
            try:
                requests: list[Request] = self._pipe.recv()
            except EOFError:
                return False
            for request in requests:
                self._requests[str(request.key)] = request
                try:
                    self._add(request)
                except Exception as error:
                    self._pipe.send(Refused(str(error)))
        return True

    def _add(self, request: Request) -> None:
        from vllm.inputs import TokensPrompt

        ids = request.prompt
        match request:
            case Generate():
                params = _sampling_params(request)
                self._look_for_stop_strings(request)
            case NextToken():
                params = _next_token_params(request)
            case Score():
                params = _scoring_params(request, self._scores_rows)
                ids = request.prompt + request.response
        self._engine.add_request(str(request.key), TokensPrompt(prompt_token_ids=ids), params)

    def _look_for_stop_strings(self, request: Generate) -> None:
        sampling = request.sampling
        if sampling.stop:
            tokenizer = _tokenizer(request.tokenizer)
            strings = StopStrings(tokenizer, sampling.stop, sampling.min_tokens)
            self._stop_strings[str(request.key)] = strings

    def _step(self) -> list[Answer]:
        """One step of the engine; the answers that it finished, by itself or by a stop string."""
        answers: list[Answer] = []
        for output in self._engine.step():
            # vLLM may add to an id what tells it from others of that name.
            name = output.request_id
            if name not in self._requests:
                name = name.split("-")[0]
            strings = self._stop_strings.get(name)
            stopped = strings is not None and _is_stopped(strings, output)
            if not (stopped or output.finished):
                continue
            request = self._requests.pop(name)
            self._stop_strings.pop(name, None)
            if stopped and not output.finished:
                self._engine.abort_request([name])
            answers.append(_answer(request, output, strings if stopped else None))
        return answers


@functools.cache
def _tokenizer(path: str) -> Any:
    return load_tokenizer(Path(path))


def _is_stopped(strings: StopStrings, output: Any) -> bool:
    """Hand on the tokens that are new in vLLM's RequestOutput; True once a stop string is complete."""
    sample = output.outputs[0]
    # A token that ends the sample is no part of its text.
    end = len(sample.token_ids) - (sample.finish_reason == "stop")
    return any(strings.add(token) for token in sample.token_ids[strings.length : end])


def _sampling_params(request: Generate) -> "SamplingParams":
    """Our own stop tokens alone; log-probs are the model's, before temperature (vLLM's raw_logprobs)."""
    from vllm import SamplingParams

    sampling = request.sampling
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


def _next_token_params(request: NextToken) -> "SamplingParams":
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        logprob_token_ids=sorted(set(request.tokens)),
        ignore_eos=True,
        flat_logprobs=True,
        detokenize=False,
    )


def _scoring_params(request: Score, rows_only: bool) -> "SamplingParams":
    """`rows_only`: score the response's tokens alone, else those of the prompt too."""
    from vllm import SamplingParams

    scoring: dict[str, Any] = {"prompt_logprobs": 0}
    if rows_only:
        scoring = {
            "prompt_logprob_token_ids": np.asarray(request.response, np.int32)[:, None],
            "prompt_logprob_start": len(request.prompt) - 1,
        }
    return SamplingParams(max_tokens=1, temperature=0, flat_logprobs=True, detokenize=False, **scoring)


def _answer(request: Request, output: Any, stopped: StopStrings | None) -> Answer:
    """What vLLM gave for a request: its RequestOutput. `stopped`: of a sample that a stop string ended."""
    match request:
        case Generate():
            sample = output.outputs[0]
            if stopped is not None:
                length = stopped.length
                logps = _float32(sample.logprobs.logprobs[:length])
                return Answer(request.key, logps, list(sample.token_ids[:length]), "stop", stopped.said)
            reason = "stop" if sample.finish_reason == "stop" else "length"
            return Answer(request.key, _float32(sample.logprobs.logprobs), list(sample.token_ids), reason)
        case NextToken():
            return Answer(request.key, _next_token_logps(request, output), ids=[], finish_reason="")
        case Score():
            return Answer(request.key, _response_logps(request, output), ids=[], finish_reason="")


def _next_token_logps(request: NextToken, output: Any) -> bytes:
    logprobs = output.outputs[0].logprobs
    logp_of = dict(zip(logprobs.token_ids, logprobs.logprobs, strict=True))
    return _float32([logp_of[token] for token in request.tokens])


def _response_logps(request: Score, output: Any) -> bytes:
    rows = getattr(output, "prompt_token_id_logprobs", None)
    if rows is not None:
        return _float32(rows[:, 0])
    return _float32(output.prompt_logprobs.logprobs[-len(request.response) :])


def _float32(logps: Any) -> bytes:
    return np.asarray(logps, np.float32).tobytes()
