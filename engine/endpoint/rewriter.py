"""Whole responses by a model behind a server: one chat completion each, by the recipe's sampling keys."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.endpoint.client import Body, RowRefusedError, Send, run_jobs
from engine.endpoint.spec import Endpoint
from engine.progress import NO_PROGRESS, StageProgress
from engine.rejects import Reject
from engine.text import Messages
from schemas.sections import Sampling

# Keys that every such server takes; all others are sent only where they are not the default.
_ALWAYS = ("temperature", "top_p", "max_tokens")
_NEVER = ("n",)  # one response a request


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
    for number, (messages, seed) in enumerate(zip(questions, seeds, strict=True)):
        body = {"messages": list(messages), "seed": seed, **sampling_body(sampling)}
        asking.append(_Asking(number, body))
    return run_jobs(endpoint, [one.response for one in asking], progress)


@dataclass(frozen=True)
class _Asking:
    """One question under way, by its place."""

    number: int
    body: Body

    async def response(self, send: Send) -> Written | Reject:
        try:
            reply = await send(self.body)
        except RowRefusedError as refused:
            return Reject(self.number, refused.reason, refused.detail)
        return Written(reply.text, reply.finish_reason)


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
