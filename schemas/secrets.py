"""Keys and passwords do not belong in a recipe: it is written into the run folder and shown in messages.

What is refused here is never repeated: the error names the place and not the value.
"""

import re
from typing import Any

from schemas.errors import UserError

# What common services' keys begin with, and enough of one that no name is taken for it.
_KEY = re.compile(r"(?<![\w/.-])((sk|pk|rk)-[\w-]{20,}|(hf|gsk|r8|ghp)_[A-Za-z0-9]{20,}|nvapi-[\w-]{20,})")
# https://name:password@host, and ?api_key=…
_PASSWORD_IN_URL = re.compile(r"://[^/\s@]+@")
_KEY_IN_URL = re.compile(
    r"[?&]([\w-]*(api[-_]?key|token|secret|password|signature|credential)|key|sig)=", re.IGNORECASE
)
_ADVICE = "keep it in an environment variable and name that variable (api_key_env)"


def refuse_secrets(value: Any, where: str) -> None:
    """Raise UserError where a text within TOML's values is a key or holds one; `where` names the place."""
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_secrets(item, f"{where} {key}")
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_secrets(item, where)
    elif isinstance(value, str) and _holds_secret(value):
        raise UserError(f"{where} holds what looks like a key or a password (not shown): {_ADVICE}")


def _holds_secret(text: str) -> bool:
    patterns = (_KEY, _PASSWORD_IN_URL, _KEY_IN_URL)
    return any(pattern.search(text) for pattern in patterns)
