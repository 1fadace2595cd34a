"""Failures of a server that come with status 200, given the status that they mean.

Gateways answer 200 with a page of HTML while they are repaired, and some (OpenRouter) with an error in place
of the choices. Taken for a reply, each would cost a row; as what they are they are tried again like any 5xx.
"""

from typing import Any

import orjson

_GATEWAY_FAILED = 502
_TOO_MANY = 429
# Codes of an empty account: no pause helps, although some come with 429.
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_TRIES_AGAIN = "x-should-retry"  # what openai obeys
DISGUISED = "disguised"


async def unmask(response: Any) -> None:
    """Set the status that a response to a chat completion means, which is read already."""
    if not response.request.url.path.endswith("/chat/completions"):
        return
    if response.status_code not in (200, _TOO_MANY):
        return
    if response.status_code == 200:
        status = status_within(response.content)
        if status is None:
            return
        response.extensions[DISGUISED] = True
        response.status_code = status
    if has_no_money(response.content):
        response.headers[_TRIES_AGAIN] = "false"


def status_within(content: bytes) -> int | None:
    """The status that the content of a 200 means; None where it may be a reply."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _GATEWAY_FAILED
    error = _error_within(body)
    if not error:
        return None
    if _code(error) in _NO_MONEY:
        return _TOO_MANY
    for name in ("code", "status"):
        number = str(error.get(name) if isinstance(error, dict) else "")
        if number.isdecimal() and 400 <= int(number) < 600:
            return int(number)
    return _GATEWAY_FAILED


def has_no_money(content: bytes) -> bool:
    """True if an error says that the account has nothing left."""
    try:
        return _code(_error_within(orjson.loads(content))) in _NO_MONEY
    except orjson.JSONDecodeError:
        return False


def _error_within(body: Any) -> Any:
    """The error in place of the choices, or in place of the first choice's answer."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    if not choices:
        return body.get("error")
    first = choices[0] if isinstance(choices, list) else None
    if isinstance(first, dict) and first.get("finish_reason") == "error":
        return first.get("error")
    return None


def _code(error: Any) -> str:
    """An error's code, or its type where it has none."""
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")
