"""Which server a stage asks. The key is no part of it: it is read from the environment when it is sent."""

import dataclasses
import importlib.util
import json
import os
from dataclasses import dataclass
from typing import Any

from schemas.errors import UserError
from schemas.redaction import keep_secret
from schemas.sections import Sampling, Served

# Of every position of an answer so many tokens with their log-probs are asked for: the most that OpenAI's API
# gives, and what vLLM gives unless it is told otherwise.
TOP_LOGPROBS = 20
# What is asked for where a server allows fewer; no fact of the rows: each score's `mass` says what it lost.
FEW_LOGPROBS = 5


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server, by the keys of a section (schemas/sections/endpoint.py)."""

    section: str
    base_url: str
    model: str
    api_key_env: str
    concurrency: int
    retries: int
    timeout: float
    keys: tuple[str, ...] = ()  # of the section's sampling, which are sent by their names
    template_arguments: str = ""  # JSON of the variables that the server is to give its chat template

    def facts(self) -> dict[str, Any]:
        """What the rows that come from it depend on; neither the key nor how patiently it is asked."""
        return {"endpoint": self.base_url, "name": self.model, "api": "chat.completions"}

    def key(self) -> str:
        """The key to send, empty where the environment has none. Raises UserError where it cannot be sent."""
        key = os.environ.get(self.api_key_env, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(
                f"[{self.section}] the environment variable {self.api_key_env} holds signs that no key has "
                "(spaces, line ends or letters outside ASCII): set it again"
            )
        keep_secret(key)
        return key

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"{self.model} at {self.base_url}"


def endpoint_of(config: Served) -> Endpoint | None:
    """The server that a section names; None where its model runs here."""
    if not config.base_url:
        return None
    keep_secret(os.environ.get(config.api_key_env, "").strip())
    keys = dataclasses.fields(Sampling) if isinstance(config, Sampling) else ()
    arguments = getattr(config, "template_arguments", {})
    return Endpoint(
        section=config.title().strip("[]"),
        base_url=config.base_url.rstrip("/"),
        model=getattr(config, "model", ""),
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        retries=config.retries,
        timeout=config.timeout,
        keys=tuple(field.name for field in keys),
        template_arguments=json.dumps(arguments, sort_keys=True) if arguments else "",
    )


def check_ready(endpoint: Endpoint) -> None:
    """Raise UserError where the server cannot be asked from here; sends nothing."""
    if importlib.util.find_spec("openai") is None:
        raise UserError(
            f"[{endpoint.section}] base_url is set, but the library openai is not installed: "
            'pip install "prefmill[endpoint]"'
        )
    if not endpoint.key() and endpoint.api_key_env != "OPENAI_API_KEY":
        raise UserError(
            f"[{endpoint.section}] api_key_env = {endpoint.api_key_env}, but there is no such variable in "
            "the environment (or it is empty): export it and run the same command"
        )
