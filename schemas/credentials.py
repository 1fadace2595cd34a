"""Names, passwords and tokens in an address, taken out of what is shown: messages of ours and of libraries.

An address comes from a recipe, from the environment (a proxy) or from an answer of a server.
"""

import re

_BEFORE_HOST = re.compile(r"(://)[^/\s@'\"]+@")
_IN_QUERY = re.compile(
    r"([?&;#][\w.%-]*(?:key|token|secret|passw|pwd|signature|credential|auth|sig)[\w.%-]*=)[^&\s;#'\"]+",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text with `…` for what an address in it says of its user, and for tokens behind a question mark."""
    if "://" not in text:
        return text
    return _IN_QUERY.sub(r"\1…", _BEFORE_HOST.sub(r"\1…@", text))
