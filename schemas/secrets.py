"""Keys and passwords do not belong in a recipe: it is written into the run folder and shown in messages.

What is refused here is never repeated: the error names the place and not the value.
"""

from typing import Any

from schemas.errors import UserError
from schemas.redaction import holds_secret

_ADVICE = "keep it in an environment variable and name that variable (api_key_env)"


def refuse_secrets(value: Any, where: str) -> None:
    """Raise UserError where a text within TOML's values is a key or holds one; `where` names the place."""
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_secrets(item, f"{where} {key}")
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_secrets(item, where)
    elif isinstance(value, str) and holds_secret(value):
        raise UserError(f"{where} holds what looks like a key or a password (not shown): {_ADVICE}")
