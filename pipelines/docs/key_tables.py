"""The keys of a recipe's section as a Markdown table: key, type, default, meaning.

A key's meaning is the comment at its field: the lines above it, or what stands behind it.
"""

import ast
import dataclasses
import inspect
import io
import re
import tokenize
import typing
from typing import Any

from schemas.fields import Section, rules_of

_HEAD = "| key | type | default | meaning |\n|---|---|---|---|"
_TYPES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    tuple[str, ...]: "list of texts",
    tuple[int, ...]: "list of whole numbers",
    tuple[float, ...]: "list of numbers",
}


def key_table(section: type[Section]) -> str:
    """The table of a section's keys; empty where it has none. Tables for others to read are left out."""
    hints = typing.get_type_hints(section)
    rows: list[str] = []
    for field in dataclasses.fields(section):
        if rules_of(field).tables:
            continue
        cells = (
            f"`{field.name}`",
            _type(field, hints[field.name]),
            _default(field),
            meaning_of(section, field.name),
        )
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([_HEAD, *rows]) if rows else ""


def meaning_of(section: type[Section], key: str) -> str:
    """The comment at a key's field; where a section has its own default, that of the one it is derived from.

    Empty where there is none."""
    for kind in section.__mro__:
        if key in inspect.get_annotations(kind):
            comment = _comments_of(kind).get(key, "")
            if comment:
                return _as_sentence(comment)
    return ""


def _as_sentence(text: str) -> str:
    """A comment with a capital at its beginning, if that is a word and not a value, and a full stop."""
    if re.match(r"[a-z]+(?![\w:,.(])", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "…")) else text + "."


def _comments_of(kind: type) -> dict[str, str]:
    """Field -> its comment, of the fields that stand in a class itself."""
    source = inspect.getsource(inspect.getmodule(kind))  # type: ignore[arg-type]
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    lines = source.splitlines()
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef) or node.name != kind.__name__:
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found[item.target.id] = _comment_at(item, comments, lines)
    return found


def _comment_at(item: ast.AnnAssign, comments: dict[int, str], lines: list[str]) -> str:
    """The comment lines right above a field, and the comment behind it."""
    first = item.lineno
    while lines[first - 2].lstrip().startswith("#"):
        first -= 1
    numbers = range(first, (item.end_lineno or item.lineno) + 1)
    return " ".join(comments[number] for number in numbers if number in comments)


def _type(field: "dataclasses.Field[Any]", hint: Any) -> str:
    """A key's type in words, with the values that it may have."""
    rules = rules_of(field)
    if typing.get_origin(hint) is dict:
        return "table"
    kind = _TYPES[hint]
    if rules.words:
        words = ", ".join(f"`{word}`" for word in rules.words)
        return words if hint is str else f"list of {words}"
    return f"{kind}, {rules.bounds}" if rules.bounds else kind


def _default(field: "dataclasses.Field[Any]") -> str:
    """A key's default as a recipe writes it; empty for a table."""
    if field.default is dataclasses.MISSING:
        return ""
    return f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return re.sub(r"e-0(?=\d)", "e-", repr(value))  # 5e-7, not 5e-07


def _cell(text: str) -> str:
    """Text in a cell of a table: no bar of its own, no HTML."""
    return re.sub(r"<(?=\w)", r"\\<", text.replace("|", r"\|"))
