"""What a server can do, found out once by a few tiny requests, so that a night is not lost to what it cannot.

- Log-probs of other tokens than the one said: without them no mark can be read.
- To go on with a message that we began for the model (`continue_final_message` of vLLM and SGLang). A server
  that does so counts fewer tokens in the question than without it, since the message is not closed.
- Which words it spells with one token, by letting it say them; needed only where it cannot go on.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.endpoint.client import Body, RowRefusedError, Send, run_jobs
from engine.endpoint.replies import Reply
from engine.endpoint.spec import TOP_LOGPROBS, Endpoint
from schemas.errors import UserError

_QUESTION = {"role": "user", "content": "Say yes."}
_BEGUN = {"role": "assistant", "content": "yes yes"}
_GOES_ON: Body = {"continue_final_message": True, "add_generation_prompt": False}


@dataclass(frozen=True)
class Abilities:
    """`continues`: it goes on with a message that we began; `whole`: words known to be one token each."""

    continues: bool
    whole: frozenset[str] = frozenset()


def body_of(messages: Sequence[Any], tokens: int, begun: str | None = None, logprobs: bool = True) -> Body:
    """A greedy request for so many tokens. `begun`: what the model is to go on with, if it can."""
    asked = list(messages)
    if begun is not None:
        asked.append({"role": "assistant", "content": begun})
    body: Body = {"messages": asked, "max_tokens": tokens, "temperature": 0.0}
    if begun is not None:
        body |= _GOES_ON
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return body


@functools.cache
def abilities_of(endpoint: Endpoint, words: tuple[str, ...]) -> Abilities:
    """What the server can do, asked the first time. Raises UserError where no mark can be read."""

    async def find_out(send: Send) -> Abilities:
        await _check_logprobs(endpoint, send)
        continues = await _continues(send)
        whole: frozenset[str] = frozenset()
        if not continues:
            whole = await _whole(send, words)
        return Abilities(continues, whole)

    (found,) = run_jobs(endpoint, [find_out])
    return found


async def _check_logprobs(endpoint: Endpoint, send: Send) -> None:
    try:
        reply = await send(body_of([_QUESTION], tokens=1))
    except RowRefusedError as refused:
        raise UserError(
            f"[{endpoint.section}] the first, tiny question was refused: {refused.detail}. A judge asks "
            f"for chat completions with logprobs and top_logprobs = {TOP_LOGPROBS}: does it give them?"
        ) from None
    check_logprobs(endpoint, reply)


def check_logprobs(endpoint: Endpoint, reply: Reply) -> None:
    """Raise UserError where a reply has no log-probs: no mark of this server can be read."""
    if reply.positions is None or (reply.text and not reply.positions):
        raise UserError(
            f"[{endpoint.section}] {endpoint.place} gives no log-probs (choices[0].logprobs.content with "
            "top_logprobs): a mark is read from the probabilities of its tokens. Ask a server that gives "
            "them (vLLM, SGLang, llama.cpp, OpenAI's chat models that do not reason), or a model here"
        )


async def _continues(send: Send) -> bool:
    """True if the server goes on with a message that was begun for the model."""
    messages = [_QUESTION, _BEGUN]
    going_on = body_of(messages, tokens=1, logprobs=False) | _GOES_ON
    try:
        reply = await send(going_on)
    except RowRefusedError:
        return False
    try:
        closed = await send(body_of(messages, tokens=1, logprobs=False))
    except RowRefusedError:
        return True  # it takes an assistant's message at the end only where it goes on with it
    if reply.prompt_tokens is None or closed.prompt_tokens is None:
        return False
    return reply.prompt_tokens < closed.prompt_tokens


async def _whole(send: Send, words: Sequence[str]) -> frozenset[str]:
    """Of the words that another one begins, those that the server's model says with one token."""
    whole: set[str] = set()
    for word in words:
        if not any(word.startswith(other) and word != other for other in words):
            continue
        question = {"role": "user", "content": f"Repeat this and say nothing else: {word}"}
        try:
            reply = await send(body_of([question], tokens=8))
        except RowRefusedError:
            continue
        said = [position.text.strip() for position in reply.positions or ()]
        if word in said:
            whole.add(word)
    return frozenset(whole)
