"""What a server can do, found out once by a few tiny requests, so that a night is not lost to what it cannot.

- Log-probs of other tokens than the one said: without them no mark can be read.
- To go on with a message that we began for the model (`continue_final_message` of vLLM and SGLang). A server
  that does so counts fewer tokens in the question than without it, since the message is not closed.
- Whether a word joins the space before it, by counting tokens in the same way.
- Which words it spells with one token, by letting it say them; needed only where it cannot go on.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.endpoint.client import Body, RowRefusedError, Send
from engine.endpoint.jobs import run_jobs
from engine.endpoint.replies import Reply
from engine.endpoint.spec import TOP_LOGPROBS, Endpoint
from schemas.errors import UserError

_QUESTION = {"role": "user", "content": "Say yes."}
_BEGUN = "yes yes"
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


def abilities_of(endpoint: Endpoint, words: tuple[str, ...]) -> Abilities:
    """What the server can do, asked the first time. Raises UserError where no mark can be read."""
    if _goes_on(endpoint):
        return Abilities(continues=True)
    return Abilities(continues=False, whole=_whole(endpoint, words))


@functools.cache
def _goes_on(endpoint: Endpoint) -> bool:
    async def find_out(send: Send) -> bool:
        await _check_logprobs(endpoint, send)
        return await _continues(send)

    (found,) = run_jobs(endpoint, [find_out])
    return found


async def _check_logprobs(endpoint: Endpoint, send: Send) -> None:
    try:
        reply = await send(body_of([_QUESTION], tokens=1))
    except RowRefusedError as refused:
        hint = ""
        if "logprobs" in refused.detail.lower():
            hint = (
                f". A judge asks for chat completions with logprobs and top_logprobs = {TOP_LOGPROBS}: does "
                "it give them?"
            )
        raise UserError(
            f"[{endpoint.section}] the first, tiny question was refused: {refused.detail}{hint}"
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
    going_on = await _prompt_tokens(send, body_of([_QUESTION], 1, _BEGUN, logprobs=False))
    if going_on is None:
        return False
    closed_message = {"role": "assistant", "content": _BEGUN}
    closed = await _prompt_tokens(send, body_of([_QUESTION, closed_message], 1, logprobs=False))
    # Some take an assistant's message at the end only where they go on with it.
    return closed is None or going_on < closed


async def _prompt_tokens(send: Send, body: Body) -> int | None:
    """How many tokens a question has; None where the server refuses it, or does not say."""
    try:
        reply = await send(body)
    except RowRefusedError:
        return None
    return reply.prompt_tokens


@functools.cache
def joins_space(endpoint: Endpoint, begun: str, words: tuple[str, ...]) -> bool:
    """True if the tokenizer joins the begun answer's last space to one of the words: " A" is one token.

    Then a word adds no token to the begun answer with its space. For a server that goes on with messages."""
    if begun == begun.rstrip():
        return False

    async def count(answer: str, send: Send) -> int | None:
        return await _prompt_tokens(send, body_of([_QUESTION], 1, answer, logprobs=False))

    answers = [begun.rstrip(), begun, *(begun + word for word in words)]
    short, spaced, *whole = run_jobs(endpoint, [functools.partial(count, answer) for answer in answers])
    if spaced is None or short == spaced:
        return True  # the template trims: there is no space to begin with
    return any(tokens is not None and tokens <= spaced for tokens in whole)


@functools.cache
def _whole(endpoint: Endpoint, words: tuple[str, ...]) -> frozenset[str]:
    """Of the words that another one begins, those that the server's model says with one token."""
    longer: list[str] = []
    for word in words:
        if any(word.startswith(other) and word != other for other in words):
            longer.append(word)
    are_whole = run_jobs(endpoint, [functools.partial(_is_whole, word) for word in longer])
    return frozenset(itertools.compress(longer, are_whole))


async def _is_whole(word: str, send: Send) -> bool:
    question = {"role": "user", "content": f"Repeat this and say nothing else: {word}"}
    try:
        reply = await send(body_of([question], tokens=8))
    except RowRefusedError:
        return False
    return word in [position.text.strip() for position in reply.positions or ()]
