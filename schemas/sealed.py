"""JSON of ours carries its own digest: what a disk or a person changed in it is noticed before it is used.

The digest is of the value, not of its bytes, and stands beside it under the key `sha256`. What was written
before there was one is taken as it is.
"""

import hashlib
from typing import Any

from schemas.digest import canonical

SEAL = "sha256"


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The value with its digest. It must not have a key of that name."""
    assert SEAL not in value, "sealed twice"
    return value | {SEAL: _digest(value)}


def unsealed(value: dict[str, Any]) -> dict[str, Any] | None:
    """The value without its digest; None where the two do not belong together."""
    if SEAL not in value:
        return value
    rest = {key: item for key, item in value.items() if key != SEAL}
    return rest if value[SEAL] == _digest(rest) else None


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
