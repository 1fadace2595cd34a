"""What text looks like that is not JSON: tables, plain text, YAML, another encoding than UTF-8.

Only a file's beginning is looked at, so its last line, and its last character, may be cut off.
"""

import codecs
import csv
import itertools
import re
from collections.abc import Sequence

_AS_TEXT = "dtype=str, keep_default_na=False"  # pandas would make numbers and NaN of cells
_TABLES = (("CSV", ","), ("TSV", "\t"), ("CSV with semicolons", ";"))
_SUFFIXES = {",": ".csv", "\t": ".tsv"}
_LETTERS_SHOWN = 80
_NAME_OF_COLUMN = re.compile(r"[\w .\-()/#%?:&+]{1,60}")
_MOST_WORDS = 5  # of a column's name; what is longer is a sentence
# A single word on the first line is a table of one column only if it is a likely name.
_LONE_NAMES = frozenset(
    {"prompt", "prompts", "text", "question", "instruction", "query", "chosen", "rejected", "messages"}
)


def encoding_look(head: bytes, is_whole: bool) -> str | None:
    """Which byte is the first that is not UTF-8, and what to do; None where all are."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=is_whole)
    except UnicodeDecodeError as error:
        how = "iconv -f GBK -t UTF-8 FILE > utf-8-FILE"
        return (
            f"it is not UTF-8 (first at byte {error.start + 1}); perhaps GBK or Latin-1: `{how}`, "
            "or -f LATIN1"
        )
    return None


def python_look(text: str, suffix: str) -> str | None:
    """Python's own way to write dicts."""
    if re.match(r"\[?\s*\{\s*'", text):
        return "it looks like Python dicts in single quotes; write them by json.dumps"
    return None


def table_look(text: str, suffix: str) -> str | None:
    """A table of text under another name: a line of names, and lines of as many fields."""
    if text[0] in "{[":
        return None
    for kind, separator in _TABLES:
        names = _names(text, separator)
        if len(names) > 1:
            return _table(kind, separator, names)
    lone = _names(text, "\t")
    if len(lone) == 1 and lone[0].strip().lower() in _LONE_NAMES:
        return _table("CSV of one column,", ",", lone)
    return None


def header_look(text: str, suffix: str) -> str | None:
    """A file that is named as a table and whose first line holds no names."""
    cells = next(csv.reader(text.splitlines(), delimiter="\t" if suffix == ".tsv" else ","))
    names = header_names(cells)
    if all(map(_is_name, names)):
        return None
    shown = ", ".join(names)[:_LETTERS_SHOWN]
    return (
        f"its first line should name the columns, and is {shown!r}; write a line of names above it, such as "
        "prompt,chosen,rejected"
    )


def header_names(cells: Sequence[str | None]) -> list[str]:
    """The names of the columns, from the first line's cells; for an empty one the name that pandas gives it:
    it writes an index under an empty name."""
    return [cell or f"Unnamed: {place}" for place, cell in enumerate(cells)]


def other_delimiter(header: str, delimiter: str) -> str | None:
    """What to do with a table, its file called FILE, whose header is separated by something else."""
    for kind, separator in _TABLES:
        cells = header.split(separator)
        if separator == delimiter or len(cells) < 2 or not all(map(_is_name, cells)):
            continue
        if separator == ";":
            how = f"write it with commas: {_with_commas(';')}"
        else:
            how = f"rename it to FILE{_SUFFIXES[separator]}"
        return f"it looks like {kind}, and its name says that {delimiter!r} separates its columns; {how}"
    return None


def _names(text: str, separator: str) -> list[str]:
    """The names in the first line, if it can be one of names and the next record has as many fields."""
    lines = text.splitlines()
    try:
        records = list(itertools.islice(csv.reader(lines, delimiter=separator), 2))
    except csv.Error:
        return []
    names = records[0]
    # pandas writes an index under an empty name.
    if not all(map(_is_name, names[1:] if names[0] == "" else names)):
        return []
    if len(records) > 1 and len(records[1]) != len(names):
        return []
    return names


def _is_name(name: str) -> bool:
    stripped = name.strip()
    is_sentence = stripped.endswith(".") or len(stripped.split()) > _MOST_WORDS
    return _NAME_OF_COLUMN.fullmatch(stripped) is not None and not is_sentence


def _table(kind: str, separator: str, names: list[str]) -> str:
    columns = ", ".join(name.strip() for name in names if name)
    if separator == ";":
        how = f"write it with commas, as a .csv: {_with_commas(separator)}"
    else:
        how = f"such a table is read under a name that ends in {_SUFFIXES[separator]}; rename it"
    return f"it looks like {kind} with the columns {columns}; {how}"


def _with_commas(separator: str) -> str:
    return f"pandas.read_csv('FILE', sep='{separator}', {_AS_TEXT}).to_csv('rows.csv', index=False)"


def plain_look(text: str, suffix: str) -> str | None:
    """YAML, or any other text."""
    if text[0] in '{["' or "\0" in text:
        return None
    if re.match(r"(?:---\s|- ?\w+:\s|\w+:\s)", text):
        return "it looks like YAML; load it in Python and write its rows as JSON Lines"
    how = "jq -Rc 'select(length > 0) | {prompt: .}' FILE > rows.jsonl"
    return f"it looks like plain text; where each line is a prompt: {how}"
