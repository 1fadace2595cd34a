"""JSON files of ours in a store: read only if they are what was written.

A disk, a person or another program may have changed one; so it is sealed (`schemas/sealed.py`) and its keys
and types are checked. What was written before there were seals is read without one.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from schemas.digest import canonical
from schemas.errors import UserError
from schemas.sealed import SEAL, seal, unsealed
from schemas.shapes import ShapeError, shaped
from schemas.store import Store

# The manifest of 4,096 shards has 4 MB.
_MOST_BYTES = 256 << 20
AGAIN = "run the same `engine precompute` again, which makes it anew"
_Kind = TypeVar("_Kind")


class Damaged(UserError):
    """A file of a run is not what was written; `engine precompute` makes it again."""


def damaged(where: str, why: str, remedy: str = AGAIN) -> Damaged:
    """The error for a damaged file, as one sentence."""
    return Damaged(f"{where}: damaged, {why}: {remedy}")


def what_of(error: Damaged) -> str:
    """What is damaged and why, without what to do about it."""
    what, _, _ = str(error).rpartition(": ")
    return what


def json_bytes(value: object) -> bytes:
    """JSON as we write it: for people, and with equal bytes for equal values."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def sealed_bytes(value: dict[str, Any]) -> bytes:
    """JSON as we write it, with its digest."""
    return json_bytes(seal(value))


def read_json(folder: Store, name: str, remedy: str = AGAIN) -> dict[str, Any]:
    """A JSON object of ours without its digest.

    Raises Damaged with the remedy where it is not JSON any more, or not what was sealed."""
    value = _loaded(folder, name, remedy)[0]
    opened = unsealed(value)
    if opened is None:
        raise damaged(folder.where(name), "its content is not what its own sha256 says", remedy)
    return opened


def _loaded(folder: Store, name: str, remedy: str) -> tuple[dict[str, Any], bytes]:
    """A JSON object as it lies there, and its bytes."""
    where = folder.where(name)
    try:
        size = folder.size(name)
        if size > _MOST_BYTES:
            raise damaged(where, f"it has {size:,} bytes", remedy)
        data = folder.read(name)
        value = json.loads(data.decode())
        canonical(value)  # can be written again: it holds no half of a surrogate pair
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged(where, f"it is not JSON any more ({error})", remedy) from None
    if not isinstance(value, dict):
        raise damaged(where, "it is not a JSON object", remedy)
    return value, data


def read_record(
    folder: Store,
    name: str,
    kind: type[_Kind],
    remedy: str = AGAIN,
    must_be_sealed: Callable[[_Kind], bool] = lambda record: True,
) -> _Kind:
    """A JSON file of ours as a dataclass. Raises Damaged, which names the key.

    A sealed one has to be what `sealed_bytes` writes, to the last byte. `must_be_sealed`: False for what may
    be from before there were seals."""
    value, data = _loaded(folder, name, remedy)
    where = folder.where(name)
    opened = unsealed(value)
    if opened is None or (opened is not value and json_bytes(value) != data):
        raise damaged(where, "its content is not what its own sha256 says", remedy)
    try:
        record = shaped(kind, opened)
    except ShapeError as error:
        raise damaged(where, str(error), remedy) from None
    if SEAL not in value and must_be_sealed(record):
        raise damaged(where, f"it has lost its own {SEAL}", remedy)
    return record
