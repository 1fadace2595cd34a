"""Answers under names that no format reads: which columns they are in, and the command that renames them.

Rows such as prompt, response_chosen, response_rejected are read as prompts alone once the answers are left
out, and the pairs are lost. So these columns are found by the words of their names and by what they hold.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from engine.columns import is_metadata
from engine.folders import uncompressed_name
from engine.raw import Row
from engine.row_looks import SEVERAL

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_BETTER = frozenset({"chosen", "positive", "win", "winner", "winning", "preferred", "accepted"})
_WORSE = frozenset(
    {"rejected", "reject", "negative", "lose", "loser", "losing", "dispreferred", "nonpreferred"}
)
_ANSWERS = frozenset({"response", "answer", "output", "completion", "generation"}) | _BETTER | _WORSE
_NO_ANSWERS = frozenset({"prompt", "question", "instruction", "reference", "reason", "reasoning"})
_UNPACKERS = {".gz": "zcat", ".zst": "zstdcat", ".bz2": "bzcat"}


def answer_columns(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Those of some columns that hold answers: text, turns or lists of them, under such a name."""
    found: dict[str, None] = {}
    for row in rows:
        values = _values(row)
        found |= dict.fromkeys(name for name in names if _is_answer(name, values.get(name)))
    bare = [name for name in found if not set(_words(name)) <= {"winner", "preferred"}]
    # `winner` beside two answers says which of them it is.
    return bare if len(bare) > 1 else list(found)


def _values(row: Row) -> dict[str, Any]:
    """A row's columns; none of a row that cannot be read."""
    values: dict[str, Any] = {} if row.reason else orjson.loads(row.text)
    return values


def _is_answer(name: str, value: object) -> bool:
    words = set(_words(name))
    is_named_so = bool(words & _ANSWERS) and not words & _NO_ANSWERS and not is_metadata(name, value)
    return is_named_so and _holds_text(value)


def _holds_text(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list):
        return any(map(_holds_text, value))
    if isinstance(value, dict):
        return any(map(_holds_text, value.values()))
    return False


def _words(name: str) -> list[str]:
    """The words of a name without a plural's s; `non_preferred` is one."""
    text = re.sub(r"(?i)\b(non|not)[ _-]?(?=preferred)", "non", name)
    return [word.lower().removesuffix("s") for word in _WORD.findall(text)]


def advice(path: Path | None, names: Sequence[str], rows: Sequence[Row]) -> str:
    """What to do with the columns that hold answers, with the command."""
    if len(names) == 1:
        (name,) = names
        if any(isinstance(_values(row).get(name), list) for row in rows):
            return f"these rows have several answers in {name}: {SEVERAL}"
        right = rename_command(path, {name: "reference"})
        alone = _jq(path, f"del({_field(name)})")
        return (
            f"these rows have an answer under another name: {name}. Where it is the right answer, for the "
            f"judge: {right}; for the prompts alone: {alone}"
        )
    better = [name for name in names if set(_words(name)) & _BETTER]
    worse = [name for name in names if set(_words(name)) & _WORSE]
    said = f"these rows have answers under other names: {', '.join(names)}; rename them"
    if better and worse:
        return f"{said}: {rename_command(path, {better[0]: 'chosen', worse[0]: 'rejected'})}"
    command = rename_command(path, {names[0]: "chosen", names[1]: "rejected"})
    return f"{said}, the better one of each row to chosen; where it is {names[0]}: {command}"


def rename_command(path: Path | None, names: Mapping[str, str]) -> str:
    """The command that writes a file's rows with other names for some columns, old -> new."""
    reading = None if path is None else pandas_reading(path)
    if reading:
        by_lines = ".to_json('rows.jsonl', orient='records', lines=True)"
        return f"{reading}.rename(columns={json.dumps(dict(names))}){by_lines}"
    assigned = "|".join([f".{new}={_field(old)}" for old, new in names.items()])
    gone = ",".join(map(_field, names))
    return _jq(path, f"{assigned}|del({gone})")


def pandas_reading(path: Path) -> str | None:
    """How pandas reads a file that jq does not; None for JSON."""
    name = uncompressed_name(path)
    if name.endswith((".csv", ".tsv")):
        separator = ", sep='\\t'" if name.endswith(".tsv") else ""
        return f"pandas.read_csv('{path.name}'{separator}, dtype=str, keep_default_na=False)"
    if name.endswith(".parquet"):
        return f"pandas.read_parquet('{path.name}')"
    if name.endswith((".arrow", ".feather")):
        return f"datasets.Dataset.from_file('{path.name}').to_pandas()"
    return None


def _jq(path: Path | None, program: str) -> str:
    """The jq command for a file of JSON Lines or of one array, compressed or not; None is any file."""
    if path is None:
        return f"jq -c '{program}' FILE > rows.jsonl"
    unpacker = _UNPACKERS.get(path.suffix.lower())
    if unpacker:
        return f"{unpacker} {path.name} | jq -c '{program}' > rows.jsonl"
    with open(path, "rb") as file:
        is_array = file.read(64).lstrip().startswith(b"[")
    each = f".[]|{program}" if is_array else program
    return f"jq -c '{each}' {path.name} > rows.jsonl"


def _field(name: str) -> str:
    """A column as jq writes it."""
    return f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name) else f".[{json.dumps(name)}]"
