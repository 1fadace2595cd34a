"""What a key or a password looks like, and a text without them.

An error may quote what a user typed, a recipe's value or a server's answer: what looks like a key in it is
left out, and so is the value of every environment variable that is named like one.
"""

import os
import re

HIDDEN = "(not shown)"

# What common services' keys begin with, and enough of one that no name is taken for it.
_KEY = re.compile(
    r"(?<![\w/.-])((sk|pk|rk)-[\w-]{20,}|(hf|gsk|r8|gh[opsu])_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|nvapi-[\w-]{20,}|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|xox[a-z]-[\w-]{20,})"
)
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
_NAMED_LIKE_A_KEY = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_SHORTEST = 8  # characters; a shorter value of such a variable is a word


def holds_secret(text: str) -> bool:
    """Whether a text is a key or a password, or holds one."""
    patterns = (_KEY, _USER_IN_URL, _KEY_IN_URL)
    return any(pattern.search(text) for pattern in patterns)


def redacted(text: str) -> str:
    """The text without keys and passwords."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMED_LIKE_A_KEY.search(name):
            text = text.replace(value, HIDDEN)
    return without_credentials(_KEY.sub(HIDDEN, text))


def without_credentials(text: str) -> str:
    """The text without what an address in it says of its user, and without the tokens behind its question
    mark. An address comes from a recipe, from the environment (a proxy) or from a server's answer."""
    if ":/" not in text:
        return text
    return _VALUE_IN_URL.sub(rf"\1{HIDDEN}", _USER_IN_URL.sub(rf"\1{HIDDEN}@", text))
