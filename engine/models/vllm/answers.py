"""vLLM's outputs as answers, and samples that a stop string of ours may end."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.models.stopping import StopStrings
from engine.models.vllm.messages import Answer, Generate, NextToken, Request, Score


@dataclass
class Growing:
    """A sample whose text is looked at as it grows: vLLM gives each of its tokens once (DELTA)."""

    strings: StopStrings
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    def add(self, output: Any) -> bool:
        """Take the tokens that are new in vLLM's RequestOutput; True once a stop string is complete."""
        sample = output.outputs[0]
        new = list(sample.token_ids)
        self.ids += new
        if new:
            self.logps += sample.logprobs.logprobs
        assert len(self.ids) == len(self.logps), "vLLM gave tokens without their log-probs"
        # A token that ends the sample is no part of its text.
        of_text = new[: len(new) - (sample.finish_reason == "stop")]
        return any(self.strings.add(token) for token in of_text)

    def answer(self, request: Request, output: Any) -> Answer:
        """The sample: up to its stop string, if there is one, which may lie before its last token."""
        if self.strings.said is None:
            return Answer(request.key, _float32(self.logps), self.ids, _reason(output))
        length = self.strings.length
        logps = _float32(self.logps[:length])
        return Answer(request.key, logps, self.ids[:length], "stop", self.strings.said)


def answer_of(request: Request, output: Any) -> Answer:
    """What vLLM's RequestOutput says of a request that is finished."""
    match request:
        case Generate():
            sample = output.outputs[0]
            logps = _float32(sample.logprobs.logprobs)
            return Answer(request.key, logps, list(sample.token_ids), _reason(output))
        case NextToken():
            return Answer(request.key, _next_token_logps(request, output), ids=[], finish_reason="")
        case Score():
            return Answer(request.key, _response_logps(request, output), ids=[], finish_reason="")


def _reason(output: Any) -> str:
    return "stop" if output.outputs[0].finish_reason == "stop" else "length"


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
