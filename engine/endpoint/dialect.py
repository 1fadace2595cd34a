"""Which keys of a request a server takes, found out by what it refuses, once for all its requests.

- `max_tokens` is refused by OpenAI's newer models, which want `max_completion_tokens`.
- A server may allow fewer likeliest tokens than we ask for: then only a few are asked for.
- `temperature` is refused by models that reason. It is left out if it is 1, as it is without.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.endpoint.spec import FEW_LOGPROBS, TOP_LOGPROBS, Endpoint
from schemas.errors import UserError

# Common words, which a server means as a key only in quotation marks.
_COMMON_WORDS = ("stop", "seed")
# vLLM does not name the key: "Requested sample logprobs of 20, which is greater than max allowed: 5".
_FEWER_LOGPROBS = re.compile(r"top_logprobs|logprobs of \d+.*(allowed|greater|most)", re.IGNORECASE)
_TEMPLATE_KEY = "chat_template_kwargs"


@dataclass
class Dialect:
    """What was found out of one server."""

    renames_max_tokens: bool = False
    top_logprobs: int = TOP_LOGPROBS
    leaves_temperature: bool = False

    def spelled(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request as this server takes it."""
        sent = dict(body)
        if self.renames_max_tokens and "max_tokens" in sent:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        if "top_logprobs" in sent:
            sent["top_logprobs"] = min(sent["top_logprobs"], self.top_logprobs)
        if self.leaves_temperature and sent.get("temperature") == 1:
            del sent["temperature"]
        return sent

    def learn(self, endpoint: Endpoint, sent: Mapping[str, Any], said: str) -> None:
        """Take from a refusal what the server wants. Raises UserError where it cannot be given."""
        if "max_completion_tokens" in said and "max_tokens" in sent:
            self.renames_max_tokens = True
        elif "top_logprobs" in sent and _FEWER_LOGPROBS.search(said):
            self.top_logprobs = FEW_LOGPROBS
        elif "temperature" in endpoint.keys and "temperature" in sent and _names(said, "temperature"):
            if sent["temperature"] != 1:
                raise UserError(
                    f"[{endpoint.section}] {endpoint.place} does not take {endpoint.section}.temperature = "
                    f"{sent['temperature']:g} ({said}): set it to 1, which is then left out, or ask another "
                    "model"
                )
            self.leaves_temperature = True


_DIALECTS: dict[Endpoint, Dialect] = {}


def dialect_of(endpoint: Endpoint) -> Dialect:
    """What was found out of a server in this process."""
    return _DIALECTS.setdefault(endpoint, Dialect())


def advice(endpoint: Endpoint, sent: Mapping[str, Any], said: str) -> str:
    """Which of the recipe's keys a refusal is about, if it names some; begins with a space."""
    section = endpoint.section
    if _TEMPLATE_KEY in sent and _TEMPLATE_KEY in said:
        return f" (it is sent for {section}.template_arguments: leave them out, or ask another server)"
    for key in endpoint.keys:
        name = "max_completion_tokens" if key == "max_tokens" and key not in sent else key
        if name in sent and _names(said, name):
            return f" (it is sent for {section}.{key}: change it or leave it out)"
    return ""


def _names(said: str, key: str) -> bool:
    """True if a refusal names a key of the request."""
    quoted = f"['\"`]{key}['\"`]"
    pattern = quoted if key in _COMMON_WORDS else rf"\b{key}\b"
    return re.search(pattern, said) is not None
