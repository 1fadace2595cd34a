"""A recipe's text in sections, and a value in it: comments stay, as TOML's own writers cannot keep them.

The recipes that ship have a blank line before each section, and comments above or behind their values.
"""

import re
import textwrap
import tomllib
import unicodedata
from typing import Any

from schemas.errors import UserError
from schemas.extensions import included
from schemas.printable import one_line
from schemas.recipe_paths import RECIPES, SUFFIX
from schemas.sections import SECTIONS

Sections = dict[str, str]  # name -> its text with its comments, in the order in which they run

_WIDTH = 110
_HEADER = re.compile(r"^\[([\w.]+)\]", re.MULTILINE)
# Comments right above a place; not a key or a table that is commented out.
_PROSE_ABOVE = re.compile(r"(?:^# (?!\w+ = |\[).*\n)+\Z", re.MULTILINE)
# What shows nothing, or is obeyed by what shows it.
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Co", "Cn")


def sections_of(recipe: str) -> dict[str, str]:
    """Section -> its text with its comments, of a recipe that ships, in order.

    A paragraph without a section of its own belongs to the one before it."""
    text = included(RECIPES, recipe, SUFFIX).read_text(encoding="utf-8")
    _, _, body = text.partition("seed = 0\n")
    sections: dict[str, str] = {}
    last = ""
    for paragraph in body.strip().split("\n\n"):
        header = _HEADER.search(paragraph)
        if header:
            last = header[1]
            sections[last] = paragraph.strip("\n") + "\n"
        else:
            sections[last] += "\n" + paragraph.strip("\n") + "\n"
    return sections


def add_section(sections: Sections, name: str, text: str) -> None:
    """Put a section where its stage runs: by the order of schemas/sections, behind those of its own place."""
    place = _place_of(name)
    later = [other for other in sections if _place_of(other) > place]
    behind = list(sections)[list(sections).index(later[0]) :] if later else []
    moved = {other: sections.pop(other) for other in behind}
    sections[name] = text
    sections |= moved


def _place_of(name: str) -> int:
    """Of a section, or of a table in it. What no recipe may have is last, and refused when it is read."""
    stage = name.split(".")[0]
    order = list(SECTIONS)
    return order.index(stage) if stage in order else len(order)


def with_value(text: str, key: str, value: object, why: str = "") -> str:
    """A section's text with a key set. `why`: a comment above it, in place of those it has, if given."""
    found = _line_of(key).search(text)
    written = f"{key} = {toml_value(value)}"
    if why:
        written = f"{comment(why)}\n{written}"
    elif found and found["comment"]:
        written = _beside(written, found["comment"])
    if found:
        before = text[: found.start()]
        if why:
            before = _PROSE_ABOVE.sub("", before)
        return before + written + text[found.end() :]
    return f"{text.rstrip()}\n{written}\n"


def _line_of(key: str) -> re.Pattern[str]:
    """The line of a key, one that is commented out among them."""
    return re.compile(rf"^(?:# )?{re.escape(key)} = [^#\n]*(?P<comment>#.*)?$", re.MULTILINE)


def with_own_value(text: str, key: str, value: object) -> str:
    """A section's text with a key as the user sets it.

    The comments at the old value go, since they may speak of it alone; what it was is said instead."""
    old = value_in(text, key)
    remark = "# yours, by --set"
    if old is not None and old != value:
        remark = f"{remark}; without it: {toml_value(old)}"
    written = _beside(f"{key} = {toml_value(value)}", remark)
    found = _line_of(key).search(text)
    if not found:
        return f"{text.rstrip()}\n{written}\n"
    return _PROSE_ABOVE.sub("", text[: found.start()]) + written + text[found.end() :]


def value_in(text: str, key: str) -> Any:
    """The value of a key in a section's text; None where it has none."""
    return tomllib.loads(_HEADER.sub("", text)).get(key)


def _beside(written: str, remark: str) -> str:
    """A value with the comment that stood behind it, above it where both are too long for a line."""
    line = f"{written:<24} {remark}"
    if len(line) <= _WIDTH:
        return line
    words = remark.removeprefix("# ")
    return f"# {words[:1].upper()}{words[1:]}\n{written}"


def without_key(text: str, key: str) -> str:
    """A section's text without a key."""
    return re.sub(rf"^{re.escape(key)} = .*\n", "", text, flags=re.MULTILINE)


def comment(text: str) -> str:
    """A text as lines of a comment: nothing in it can end the comment."""
    lines = textwrap.wrap(_seen(one_line(text)), _WIDTH - 2, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def toml_value(value: object) -> str:
    """A value as TOML; what cannot be seen in a text is written by its number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    return repr(value)


def read_value(text: str) -> Any:
    """A value as --set takes it: as TOML reads it, or else as text."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _escaped(text: str) -> str:
    letters: list[str] = []
    for letter in text:
        if "\ud800" <= letter <= "\udfff":
            raise UserError(f"{one_line(text)} has a character that is not UTF-8, and a recipe is: rename it")
        if letter in '"\\':
            letters.append(f"\\{letter}")
        elif unicodedata.category(letter) in _UNSEEN:
            letters.append(f"\\U{ord(letter):08X}")
        else:
            letters.append(letter)
    return "".join(letters)


def can_be_seen(text: str) -> bool:
    """False where a letter shows nothing (a line break among them), or is obeyed by what shows it."""
    return not any(unicodedata.category(letter) in _UNSEEN for letter in text)


def _seen(text: str) -> str:
    """A text without signs that show nothing."""
    return "".join(letter for letter in text if can_be_seen(letter))
