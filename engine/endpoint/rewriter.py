"""Whole responses by a model behind a server: one chat completion each, by the recipe's sampling keys."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.endpoint.client import Body, RowRefusedError, Send
from engine.endpoint.jobs import run_jobs
from engine.endpoint.spec import Endpoint
from engine.progress import NO_PROGRESS, StageProgress
from engine.rejects import Reject
from engine.text import Messages
from schemas.sections import Sampling

# Keys that every such server takes; all others are sent only where they are not the default.
_ALWAYS = ("temperature", "top_p", "max_tokens")
_NEVER = ("n",)  # one response a request
# Keys of OpenAI's own API; what another server does with the others is not known.
_OPENAIS = (*_ALWAYS, "stop", "presence_penalty", "frequency_penalty", "logit_bias")
_SEED_VALUES = 2**31  # what every server takes


@dataclass(frozen=True)
class Written:
    """A response as the server gave it."""

    text: str
    finish_reason: str


def write(
    endpoint: Endpoint,
    questions: Sequence[Messages],
    seeds: Sequence[int],
    sampling: Sampling,
    progress: StageProgress = NO_PROGRESS,
) -> list[Written | Reject]:
    """A response to each question, or why there is none; `seeds` has one each.

    Raises UserError where the server cannot be used."""
    asking: list[_Asking] = []
    for messages, seed in zip(questions, seeds, strict=True):
        body = {"messages": list(messages), **sampling_body(sampling)}
        if sampling.temperature > 0:
            body["seed"] = seed % _SEED_VALUES
        asking.append(_Asking(body))
    return run_jobs(endpoint, [one.response for one in asking], progress, _refused)


@dataclass(frozen=True)
class _Asking:
    """One question under way."""

    body: Body

    async def response(self, send: Send) -> Written | Reject:
        reply = await send(self.body)
        return Written(reply.text, reply.finish_reason)


def _refused(number: int, refused: RowRefusedError) -> Reject:
    return Reject(number, refused.reason, refused.detail)


def foreign_keys(sampling: Sampling) -> list[str]:
    """The keys that are sent and are none of OpenAI's own: a server may ignore them."""
    return [key for key in sampling_body(sampling) if key not in _OPENAIS]


def sampling_body(sampling: Sampling) -> dict[str, Any]:
    """How to sample, by the names of vLLM's server, which are OpenAI's where OpenAI has them."""
    body: dict[str, Any] = {}
    for field in dataclasses.fields(Sampling):
        value = getattr(sampling, field.name)
        if field.name in _NEVER:
            continue
        if field.name in _ALWAYS or value != _default(field):
            body[field.name] = value
    return body


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
