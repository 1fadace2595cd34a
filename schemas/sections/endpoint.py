"""The keys of a section whose model may be one behind an OpenAI-compatible server: [judge] and [rewrite].

No message here repeats a value that may be a key or hold a password.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from schemas.errors import UserError
from schemas.fields import Section, number

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_KEY_BEGINS = ("sk-", "pk-", "hf_", "gsk_", "nvapi-")


@dataclass(frozen=True)
class Served(Section):
    """A section that may ask a server in place of a model of this machine."""

    # Where the server's API begins, such as http://localhost:8000/v1; empty: the model runs here. With it,
    # `model` is the name that the server knows it by.
    base_url: str = ""
    # The environment variable that holds the server's key; without the variable no key is sent.
    api_key_env: str = "OPENAI_API_KEY"
    # Requests under way at once.
    concurrency: int = number(16, low=1)
    # Tries after a request that failed (429, 5xx, no connection, no answer in time, no sense in it), with
    # growing pauses; then the run stops and can go on later.
    retries: int = number(6, low=0)
    # Seconds that the server may take for one answer.
    timeout: float = number(120.0, above=0, high=86_400)

    def check(self) -> None:
        if not _VARIABLE.fullmatch(self.api_key_env):
            raise UserError(
                f"{self.title()} api_key_env: expected the name of an environment variable in capitals, "
                "such as OPENAI_API_KEY (what stands there is not shown: it may be the key itself, which "
                "belongs into that variable)"
            )
        if not self.base_url:
            return
        complaint = _wrong_with(self.base_url)
        if complaint:
            raise UserError(f"{self.title()} base_url {complaint}")
        model = getattr(self, "model", "")
        if not model:
            raise UserError(
                f"{self.title()} base_url is set and model is not: name the model as the server lists it "
                f"({self.title().strip('[]')}.model)"
            )
        if model.startswith(_KEY_BEGINS):
            raise UserError(
                f"{self.title()} model looks like a key (not shown): expected a model's name; keep the key "
                "in the environment variable that api_key_env names"
            )

    def is_name(self, field: str) -> bool:
        """A server's model is a name, although a folder here may be called so."""
        return field == "model" and bool(self.base_url)


def _wrong_with(url: str) -> str | None:
    """What is wrong with a server's address, without repeating it."""
    expected = "expected http://host:port/v1 or https://host/v1"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is none
    except ValueError:
        return f"is no address: {expected}"
    if "@" in parts.netloc:
        return (
            f"holds a user or a password (not shown): {expected}; keep the key in the environment variable "
            "that api_key_env names"
        )
    if parts.query or parts.fragment:
        return (
            f"has a part behind ? or # (not shown, it may hold a key): {expected}; keep the key in the "
            "environment variable that api_key_env names"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        return f"is no address (not shown, it may be a key): {expected}"
    return None
