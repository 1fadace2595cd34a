"""JSON files of ours in a store: read only if they are what was written.

A disk, a person or another program may have changed one; so it is sealed (`schemas/sealed.py`) and its keys
and types are checked. What was written before there were seals is read without one.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from schemas.digest import canonical
from schemas.errors import UserError
from schemas.sealed import SEAL, seal, unsealed
from schemas.shapes import ShapeError, shaped
from schemas.store import Store

# The manifest of a million shards has about 100 MB for each of its files.
MOST_BYTES = 256 << 20
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
    value = _loaded(read_bytes(folder, name, remedy), folder.where(name), remedy)
    opened = unsealed(value)
    if opened is None:
        raise damaged(folder.where(name), "its content is not what its own sha256 says", remedy)
    return opened


def read_bytes(folder: Store, name: str, remedy: str = AGAIN) -> bytes:
    """The bytes of a JSON file of ours. Raises Damaged for one that is larger than any of ours."""
    size = folder.size(name)
    if size > MOST_BYTES:
        raise damaged(folder.where(name), f"it has {size:,} bytes", remedy)
    return folder.read(name)


def _loaded(data: bytes, where: str, remedy: str) -> dict[str, Any]:
    """A JSON object as it lies there."""
    try:
        value = json.loads(data.decode())
        canonical(value)  # can be written again: it holds no half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"it is not JSON any more ({error})", remedy) from None
    if not isinstance(value, dict):
        raise damaged(where, "it is not a JSON object", remedy)
    return value


def compact_bytes(value: dict[str, Any]) -> bytes:
    """JSON for long columns, in one line, with its digest in front: checked by one pass over the bytes."""
    body = canonical(value)
    return _compact_head(hashlib.sha256(body).hexdigest()) + body[1:] + b"\n"


def _compact_head(digest: str) -> bytes:
    return f'{{"{SEAL}":"{digest}",'.encode()


_COMPACT_HEAD = len(_compact_head(64 * "0"))


def is_compact(data: bytes) -> bool:
    """True for the bytes that `compact_bytes` writes, damaged or not, as long as they begin so."""
    return data.startswith(f'{{"{SEAL}":'.encode())


def compact_value(data: bytes, where: str, remedy: str = AGAIN) -> dict[str, Any]:
    """What `compact_bytes` wrote. Raises Damaged where it is not, to the last byte, what was written."""
    body = b"{" + data[_COMPACT_HEAD:-1]
    head = _compact_head(hashlib.sha256(body).hexdigest())
    if data[:_COMPACT_HEAD] != head or data[-1:] != b"\n":
        raise damaged(where, "its content is not what its own sha256 says", remedy)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"it is not JSON any more ({error})", remedy) from None
    assert isinstance(value, dict), "it begins with a brace"
    return value


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
    data = read_bytes(folder, name, remedy)
    return record_of(data, folder.where(name), kind, remedy, must_be_sealed)


def record_of(
    data: bytes,
    where: str,
    kind: type[_Kind],
    remedy: str = AGAIN,
    must_be_sealed: Callable[[_Kind], bool] = lambda record: True,
) -> _Kind:
    """The bytes of a JSON file of ours as a dataclass; see `read_record`."""
    value = _loaded(data, where, remedy)
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
