"""Requests to a server, one at a time; the only import of openai.

- Tried again, with growing pauses or after the time that the server names (openai's own retries): 429, 5xx,
  no connection, no answer in time, and a 200 that is no reply (disguise.py). If that does not help, the run
  stops: finished shards are kept.
- Tried again a few times, then the row is refused: a reply that makes no sense.
- The row is refused at once: 400, 413, 422 (a question that is too long). Many in a row stop the run
  (breaker.py). A refused key is sent in another way where there is one (dialect.py).
- The run stops at once: 401, 403, 404 and the rest. A wrong key or name does not get better.

The key is sent and stands nowhere else: no error is chained to one of the library's, and it is blotted out of
what a server says.
"""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from engine.endpoint.bounds import DRIPPED, bounded_client
from engine.endpoint.dialect import advice, dialect_of
from engine.endpoint.disguise import DISGUISED, has_no_money, unmask
from engine.endpoint.replies import GarbageError, Reply, check_says_something, read_reply
from engine.endpoint.spec import Endpoint, check_ready
from schemas.errors import UserError
from schemas.redaction import redacted

Body = dict[str, Any]


class Send(Protocol):
    """Gives the reply to a request. Raises RowRefusedError, or UserError where the run is to stop.

    `may_be_empty`: a reply without text and tokens makes sense, although log-probs were asked for."""

    def __call__(self, body: Body, *, may_be_empty: bool = False) -> Awaitable[Reply]: ...


_TINY_QUESTION = {"role": "user", "content": "Say yes."}
_OF_BEGUN = ("continue_final_message", "add_generation_prompt")
_REFUSES_ROW = (400, 413, 422)
_TRIES_FOR_SENSE = 3
_PAUSE = 0.2  # seconds before a reply without sense is asked for again
_LONGEST_PAUSE = 10.0  # of openai's own, with some room
_LOOK_TIMEOUT = 5.0  # seconds for the list of a server's models
# What openai raises where a list is none.
_NO_LIST = (ValueError, AttributeError, TypeError)
_SHOWN = 300  # letters of what a server says


class RowRefusedError(Exception):
    """A request that this server does not answer, while others it may: `reason` is a short code."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Client:
    """An open connection to a server."""

    def __init__(self, endpoint: Endpoint):
        import openai

        self._endpoint = endpoint
        self._key = endpoint.key()
        self._openai = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=self._key or "none",
            max_retries=endpoint.retries,
            timeout=endpoint.timeout,
            http_client=bounded_client(openai.DefaultAsyncHttpxClient, endpoint.timeout, unmask),
        )
        self._dialect = dialect_of(endpoint)
        self._last: Body = {}  # the last request
        self._tokens = 0  # of the replies since `take_tokens`
        tries = endpoint.retries + 1
        self._bound = tries * endpoint.timeout + endpoint.retries * _LONGEST_PAUSE

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._openai.close()

    async def answers(self) -> bool:
        """True if the server answers a tiny question, asked as the last one was."""
        body = {key: value for key, value in self._last.items() if key not in _OF_BEGUN}
        try:
            await self.send(body | {"messages": [_TINY_QUESTION]})
        except RowRefusedError:
            return False
        return True

    async def send(self, body: Body, *, may_be_empty: bool = False) -> Reply:
        """The reply to a chat completion. Raises RowRefusedError, or UserError where the run is to stop."""
        self._last = body
        nonsense = ""
        tries = min(_TRIES_FOR_SENSE, self._endpoint.retries + 1)
        for number in range(tries):
            try:
                content = await self._content(body)
                reply = read_reply(content, self._key)
                if body.get("logprobs") and not may_be_empty:
                    check_says_something(reply)
                self._tokens += reply.tokens
                return reply
            except GarbageError as error:
                nonsense = str(error)
            if number + 1 < tries:
                await asyncio.sleep(_PAUSE * 2**number)
        raise RowRefusedError(
            "no_sense_in_reply",
            f"{tries} replies of {self._endpoint.place} made no sense; the last: {nonsense}",
        )

    def take_tokens(self) -> int:
        """The tokens of the replies since the last call, of all jobs that are under way."""
        tokens = self._tokens
        self._tokens = 0
        return tokens

    async def _content(self, body: Body) -> bytes:
        """The bytes of a reply with status 200; a refused key is sent in the way that the server takes."""
        if self._endpoint.template_arguments:
            body = body | {"chat_template_kwargs": json.loads(self._endpoint.template_arguments)}
        while True:
            sent = self._dialect.spelled(body)
            try:
                return await self._sent(sent)
            except RowRefusedError as refused:
                self._dialect.learn(self._endpoint, sent, refused.detail)
                if self._dialect.spelled(body) == sent:
                    refused.detail += advice(self._endpoint, sent, refused.detail)
                    raise

    async def _sent(self, body: Body) -> bytes:
        """The bytes of a reply with status 200 to a request as it is."""
        import openai

        create = self._openai.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._bound):
                reply = await create(model=self._endpoint.model, messages=body["messages"], extra_body=body)
                return reply.content
        except openai.APITimeoutError as error:
            what = DRIPPED if DRIPPED in str(error.__cause__) else "did not answer"
            stop = self._failure(f"{what} within {self._endpoint.timeout:g} seconds")
        except TimeoutError:
            stop = self._failure(f"gave no answer within {self._bound:g} seconds, pauses between included")
        except openai.APIConnectionError as error:
            stop = self._failure(f"cannot be reached ({self._clean(str(error.__cause__ or error))})")
        except openai.APIStatusError as error:
            said = self._said(error)
            answered = str(error.status_code)
            if error.response.extensions.get(DISGUISED):
                answered = f"200 with no reply, which counts as {answered}"
            if error.status_code in _REFUSES_ROW:
                raise RowRefusedError(
                    "refused_by_server", f"{self._endpoint.place} answered {answered}: {said}"
                ) from None
            if has_no_money(error.response.content):
                stop = self._empty_account(answered, said)
            else:
                stop = await self._stop(error.status_code, said, answered)
        raise stop from None

    def _said(self, error: Any) -> str:
        """What a server says with a status: its error's message, or all of it."""
        text = error.response.text
        if isinstance(error.body, dict) and isinstance(error.body.get("message"), str):
            text = error.body["message"]
        return self._clean(text)

    def _clean(self, text: str) -> str:
        """What a server or a library says, without the key and of a length to be read."""
        if self._key:
            text = text.replace(self._key, "***")
        words = " ".join(redacted(text).split())
        return words if len(words) <= _SHOWN else words[:_SHOWN] + "…"

    def _failure(self, what: str) -> UserError:
        """The error after all tries."""
        section = self._endpoint.section
        return UserError(
            f"[{section}] {self._endpoint.place} {what}, tried up to {self._endpoint.retries + 1} times. "
            f"Look at the server and at {section}.base_url, or give it more time ({section}.timeout, "
            f"{section}.retries) or less at once ({section}.concurrency). Finished shards are kept: run the "
            "same command to go on"
        )

    def _empty_account(self, answered: str, said: str) -> UserError:
        """The error for an account that has nothing left."""
        return UserError(
            f"[{self._endpoint.section}] {self._endpoint.place} answered {answered} ({said}): the account "
            f"has nothing left; fill it up, or set {self._endpoint.section}.api_key_env to the variable of "
            "another key. Finished shards are kept: run the same command to go on"
        )

    async def _stop(self, status: int, said: str, answered: str = "") -> UserError:
        """The error for a status that is none of a single row's; `answered` says more of the status."""
        answered = answered or str(status)
        if status == 429 or status >= 500:
            return self._failure(f"answered {answered} ({said})")
        section = self._endpoint.section
        if status == 403 and "logprobs" in said:
            cure = "a mark is read from log-probs; ask a model that gives them"
        elif status in (401, 403):
            sent = f"the key in {self._endpoint.api_key_env} was sent"
            if not self._key:
                sent = f"no key was sent: the environment variable {self._endpoint.api_key_env} is not set"
            cure = f"{sent}; {section}.api_key_env names the variable that holds the key"
        elif status == 404:
            cure = await self._models()
        else:
            cure = f"look at {section}.base_url"
        return UserError(
            f"[{section}] {self._endpoint.place} answered {answered} ({said}): {cure}. Finished shards are "
            "kept: run the same command to go on"
        )

    async def _listed(self) -> list[str]:
        """The names of the models that the server lists; it has a few seconds for that."""
        async with asyncio.timeout(min(_LOOK_TIMEOUT, self._endpoint.timeout)):
            page = await self._openai.with_options(max_retries=0).models.list()
        return [self._clean(str(model.id)) for model in page.data]

    async def _models(self) -> str:
        """Which models the server has, as advice to somebody who named another one."""
        import openai

        section = self._endpoint.section
        try:
            names = await self._listed()
        except (openai.OpenAIError, TimeoutError, *_NO_LIST):
            return f"it lists no models either; {section}.base_url must end where the API begins, as in …/v1"
        return f"the models that it lists: {_shown(names)}; set {section}.model to one of them"

    async def look(self) -> str | None:
        """What a user should know before the work begins. Raises UserError where the key is refused."""
        import openai

        section = self._endpoint.section
        try:
            names = await self._listed()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            stop = await self._stop(error.status_code, self._said(error))
            raise stop from None
        except (openai.APIConnectionError, TimeoutError):
            return (
                f"{section}: the server cannot be reached now; it is asked when the work comes to [{section}]"
            )
        except (openai.APIStatusError, *_NO_LIST):
            return None  # it lists no models, or not now
        if not names or self._endpoint.model in names:
            return None
        return f"{section}: the server does not list {self._endpoint.model}; it lists {_shown(names)}"


def look(endpoint: Endpoint) -> str | None:
    """A line about a server that is to be asked later, if there is something to say; sends one request.

    Raises UserError where it cannot be asked from here, or refuses the key."""
    check_ready(endpoint)
    return asyncio.run(_look(endpoint))


async def _look(endpoint: Endpoint) -> str | None:
    async with Client(endpoint) as client:
        return await client.look()


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) or "none"
