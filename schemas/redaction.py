"""What a key or a password looks like, and a text without them.

An error may quote what a user typed, a recipe's value or a server's answer: what looks like a key in it is
left out, and so is the value of every environment variable that is named like one or that a recipe names.
"""

import os
import re

HIDDEN = "(not shown)"

# What common services' keys begin with, and enough of one that no name is taken for it.
_KEY = re.compile(
    r"(?<![\w/.-])((sk|pk|rk)-[\w-]{20,}|(hf|gsk|r8|gh[opsu])_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|nvapi-[\w-]{20,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|xox[a-z]-[\w-]{20,}|glpat-[\w-]{16,}"
    r"|ya29\.[\w.-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}(\.[\w-]*)?)"
)
# What a request's header holds; a word behind "bearer" has no digit and is short.
_BEARER = re.compile(r"(\b[Bb]earer\s+)((?=[a-zA-Z_.~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{24,})")
# https://name:password@host, https://token@host; where it went through a path a URL has one stroke
_USER_IN_URL = re.compile(r"(\b[a-z][a-z0-9+]+:(?://|/(?=[^/\s@]*:)|/(?=[^/\s@]{16})))[^/\s@'\"]+@")
# ?api_key=…, what is certainly one; what may be one is left out of messages as well.
_KEY_IN_URL = re.compile(
    r"[?&]([\w-]*(api[-_]?key|token|secret|password|signature|credential)|key|sig)=", re.IGNORECASE
)
_VALUE_IN_URL = re.compile(
    r"([?&;#][\w.%-]*(?:key|token|secret|passw|pwd|signature|credential|auth|sig)[\w.%-]*=)"
    r"(?!\(not shown\))[^&\s;#'\"]+",
    re.IGNORECASE,
)
_NAMED_LIKE_A_KEY = re.compile(
    r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$"
    r"|(^|_)(KEY|PASS|CREDS?|AUTH|AUTHORIZATION)$|_PWD$",
    re.IGNORECASE,
)
_SHORTEST = 8  # characters; a shorter value of such a variable is a word
_PREFIX = 12  # characters of a known key that give it away
_known: set[str] = set()  # the keys of this process that are sent to servers


def holds_secret(text: str) -> bool:
    """Whether a text is a key or a password, or holds one."""
    patterns = (_KEY, _USER_IN_URL, _KEY_IN_URL)
    return any(pattern.search(text) for pattern in patterns)


def redacted(text: str) -> str:
    """The text without keys and passwords."""
    for value in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for value in _known:
        text = _without_beginning(text.replace(value[::-1], HIDDEN), value)
    return without_credentials(_BEARER.sub(rf"\1{HIDDEN}", _KEY.sub(HIDDEN, text)))


def keep_secret(value: str) -> None:
    """Leave a key out of all texts from here on: whole, its beginning, and backwards (a server's echo)."""
    if len(value) >= _SHORTEST:
        _known.add(value)


def _secrets() -> set[str]:
    """The keys that are known, and the values of variables that are named like one and name no file."""
    values = set(_known)
    for name, value in os.environ.items():
        is_long = len(value) >= _SHORTEST
        if is_long and _NAMED_LIKE_A_KEY.search(name) and not os.path.isabs(value):
            values.add(value)
    return values


def _without_beginning(text: str, key: str) -> str:
    """The text without the beginnings of a key, as long as they are there."""
    begin = key[:_PREFIX]
    parts = text.split(begin) if len(key) > _PREFIX else [text]
    for number, part in enumerate(parts[1:], start=1):
        more = 0
        while part[more : more + 1] and key[_PREFIX + more :].startswith(part[more]):
            more += 1
        parts[number] = part[more:]
    return HIDDEN.join(parts)


def without_credentials(text: str) -> str:
    """The text without what an address in it says of its user, and without the tokens behind its question
    mark. An address comes from a recipe, from the environment (a proxy) or from a server's answer."""
    if ":/" not in text:
        return text
    return _VALUE_IN_URL.sub(rf"\1{HIDDEN}", _USER_IN_URL.sub(rf"\1{HIDDEN}@", text))
