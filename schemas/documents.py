"""A command's result as one JSON document (--json): no NaN, no keys, nothing that a terminal obeys."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.printable import escaped_in_json
from schemas.redaction import redacted


def document(value: object) -> str:
    """A value as JSON, with its line breaks. What JSON has no word for is null (NaN) or its text (a path)."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return escaped_in_json(text) + "\n"


def _plain(value: Any) -> Any:
    """The value in JSON's own kinds."""
    if isinstance(value, Mapping):
        return {redacted(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | Path):
        return redacted(str(value))
    return value
