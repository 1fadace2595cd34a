"""The rows of the scan: what is kept of a row until its shard is made (engine/stages/prompts.py).

Each has either messages or a reason why it cannot be read. `row_id` is a digest of all that the row says, so
equal rows are duplicates.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from engine import ids
from engine.plain.plain_row import PlainRow
from engine.readings import Reading
from schemas.tables import MESSAGES

_RESPONSE = pa.struct(
    [
        ("text", pa.string()),
        ("score", pa.float64()),
        ("rating", pa.float64()),
        ("comparison", pa.int64()),
        ("turn", pa.string()),
    ]
)
SCANNED = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("prompt_id", pa.string()),
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("chat", pa.string()),
        ("responses", pa.list_(_RESPONSE)),
        ("split", pa.string()),
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("raw", pa.string()),
    ]
)


def table_of(readings: Sequence[Reading], split_of_file: str | None) -> pa.Table:
    """The rows of `SCANNED` for readings of one file."""
    rows = [_scanned_row(reading, split_of_file) for reading in readings]
    return pa.Table.from_pylist(rows, schema=SCANNED)


def _scanned_row(reading: Reading, split_of_file: str | None) -> dict[str, Any]:
    row = reading.row
    if reading.reason:
        return {
            "file": row.file,
            "line": row.line,
            "row_id": ids.content_id(row.text),
            "reason": reading.reason,
            "detail": reading.detail,
            "raw": row.text,
        }
    prompt_id = ids.prompt_id(reading.messages, reading.chat)
    responses = list(map(_identity, reading.responses))
    return {
        "file": row.file,
        "line": row.line,
        "prompt_id": prompt_id,
        "row_id": ids.content_id(prompt_id, responses),
        "messages": reading.messages,
        "chat": reading.chat,
        "responses": reading.responses,
        "split": _split(reading.split, split_of_file),
        "reference": reading.reference,
        "metadata": reading.metadata,
    }


def _split(split_of_row: str | None, split_of_file: str | None) -> str | None:
    """The split of a row: nothing of a held-out file is trained on."""
    return "test" if split_of_file == "test" else split_of_row or split_of_file


def _identity(response: dict[str, Any]) -> list[object]:
    """What a response is known by among its row's; a rating, a comparison or a turn counts where it is."""
    identity: list[object] = [response["text"], response["score"]]
    if "rating" in response or "comparison" in response:
        identity += [response.get("rating"), response.get("comparison")]
    if "turn" in response:
        identity.append(response["turn"])
    return identity


class PlainRows:
    """Gathers plain rows of one file, a column at a time."""

    def __init__(self, file: str, split_of_file: str | None) -> None:
        self._file = file
        self._split_of_file = split_of_file
        self._lines: list[int] = []
        self._prompt_ids: list[str] = []
        self._row_ids: list[str] = []
        self._turns: list[list[str]] = []
        self._turn_ends: list[int] = [0]
        self._responses: list[list[Any]] = []
        self._response_ends: list[int] = [0]
        self._splits: list[str | None] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: int, row: PlainRow, split_of_row: str | None) -> None:
        """Add a row with its ids, which are those of engine/ids.py."""
        prompt_id = sha256(orjson.dumps((row.turns,))).hexdigest()[:32]
        self._lines.append(line)
        self._prompt_ids.append(prompt_id)
        self._row_ids.append(sha256(orjson.dumps((prompt_id, row.responses))).hexdigest()[:32])
        self._turns += row.turns
        self._turn_ends.append(len(self._turns))
        self._responses += row.responses
        self._response_ends.append(len(self._responses))
        self._splits.append(split_of_row)

    def table(self) -> pa.Table:
        """The rows of `SCANNED`."""
        count = len(self)
        columns: dict[str, pa.Array] = {
            "file": pa.repeat(pa.scalar(self._file, pa.string()), count),
            "line": pa.array(self._lines, pa.int64()),
            "prompt_id": pa.array(self._prompt_ids, pa.string()),
            "row_id": pa.array(self._row_ids, pa.string()),
            "messages": self._messages(),
            "responses": self._all_responses(),
            "split": pa.array([_split(split, self._split_of_file) for split in self._splits], pa.string()),
        }
        arrays: list[pa.Array] = []
        for field in SCANNED:
            column = columns.get(field.name)
            arrays.append(pa.nulls(count, field.type) if column is None else column)
        return pa.Table.from_arrays(arrays, schema=SCANNED)

    def _messages(self) -> pa.Array:
        roles = pa.array([turn[0] for turn in self._turns], pa.string())
        contents = pa.array([turn[1] for turn in self._turns], pa.string())
        turns = pa.StructArray.from_arrays([roles, contents], fields=list(MESSAGES.value_type))
        return pa.ListArray.from_arrays(_offsets(self._turn_ends), turns, type=MESSAGES)

    def _all_responses(self) -> pa.Array:
        texts = pa.array([response[0] for response in self._responses], pa.string())
        scores = pa.array([response[1] for response in self._responses], pa.float64())
        parts = [texts, scores]
        for field in list(_RESPONSE)[2:]:
            parts.append(pa.nulls(len(texts), field.type))
        responses = pa.StructArray.from_arrays(parts, fields=list(_RESPONSE))
        return pa.ListArray.from_arrays(_offsets(self._response_ends), responses, type=pa.list_(_RESPONSE))


def _offsets(ends: Sequence[int]) -> pa.Array:
    return pa.array(np.asarray(ends, np.int32))
