"""What a row has beside what its format reads, and whether that may be left out.

- A format says in lines of its SQL what it reads. `-- reads: prompt[role content], chosen, *[solution]` is a
  column with the keys read in its objects, a whole column, and any column that is an object with that key.
  `-- leaves:` names what it knowingly leaves out, `-- optional:` in which columns NaN counts as null,
  `-- instead: prompt[messages]` whose turns it reads where there is no column prompt. A format without the
  first line is not checked. `prompt[turn]`: a turn with its role, content, tool calls and thoughts.
- A key within a column is written `chosen.tool_calls`, whether chosen is an object or a list of objects.
- A column that may change what is learned (tools, images, scores, another answer) is never left out unasked;
  any other one is left out and named to the user.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.column_names import (
    ASKS,
    OF_A_TURN,
    TURN_KEYS,
    changes_meaning,
    could_be_prompt,
    says_nothing,
    words_of,
)
from engine.spellings import renames
from engine.ways import without as without

_ENTRY = re.compile(r"([^\s\[,]+)(?:\[([^\]]*)\])?")
# What the word `turn` in brackets stands for.
_WHOLE_TURN = frozenset({"role", "content", *TURN_KEYS})
_SPEAKERS = frozenset({"role", "from"})


@dataclass(frozen=True)
class Unread:
    """What a row has that its format does not read, each by its name.

    `refused`: what may change the meaning; `left_out`: all else; `prompts`: columns that could be prompts;
    `is_in_a_turn`: something is refused within a column that is read; `renames`: (ours, theirs) of what is
    refused and may be a column that the format reads in another spelling."""

    refused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    is_in_a_turn: bool = False
    renames: tuple[tuple[str, str], ...] = ()


NOTHING_UNREAD = Unread()


@dataclass(frozen=True)
class Columns:
    """What a format reads: column -> the keys read in its objects, empty for the whole column."""

    reads: Mapping[str, frozenset[str]]
    leaves: frozenset[str]
    optional: frozenset[str] = frozenset()
    instead: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @functools.cached_property
    def of_turns(self) -> frozenset[str]:
        """The columns that are read as turns, where they are no text."""
        found: set[str] = set()
        for name, keys in self.reads.items():
            if name != "*" and keys & _SPEAKERS:
                found.add(name)
        return frozenset(found.union(*self.instead.values()))

    def keys_read(self, name: str, value: object) -> frozenset[str] | None:
        """The keys of a column's objects that are read, none for all of them; None: it is not read."""
        if name in self.reads:
            return self.reads[name]
        keys_of_any = self.reads.get("*")
        # A JSON path has no way to write a name that is empty or has a quotation mark.
        can_be_named = name != "" and '"' not in name
        if keys_of_any and can_be_named and isinstance(value, dict) and keys_of_any & value.keys():
            return keys_of_any
        return None

    def reads_column(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether anything of a column is read in this row."""
        return self.keys_read(name, row[name]) is not None or self._stands_in(name, row)

    def unread(self, row: Mapping[str, Any]) -> Unread:
        """What of a row is not read."""
        refused: list[str] = []
        left_out: list[str] = []
        prompts: list[str] = []
        is_in_a_turn = False
        for name, value in row.items():
            keys = self.keys_read(name, value)
            if keys is None and self._stands_in(name, row):
                keys = _WHOLE_TURN
            if keys is None and not says_nothing(name, value):
                if could_be_prompt(name, value):
                    prompts.append(name)
                self._sort_column(name, value, row, refused, left_out)
            elif keys:
                refused_before = len(refused)
                for key, may_change in _unread_keys(value, keys).items():
                    self._sort(f"{name}.{key}", may_change, refused, left_out)
                is_in_a_turn = is_in_a_turn or len(refused) > refused_before
        spelled = renames(refused, row, self.optional) if refused else ()
        return Unread(tuple(refused), tuple(left_out), tuple(prompts), is_in_a_turn, spelled)

    def beside(self, rest: Mapping[str, object]) -> Unread:
        """What is not read of objects of which the recipe takes a part: each other key, by itself."""
        refused: list[str] = []
        left_out: list[str] = []
        for name, value in rest.items():
            for key, may_change in _unread_keys(value, frozenset()).items():
                self._sort(f"{name}.{key}", may_change, refused, left_out)
        return Unread(tuple(refused), tuple(left_out))

    def _stands_in(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether a column's turns are read instead of another column's, which the row does not have."""
        return any(name in names and column not in row for column, names in self.instead.items())

    def _sort_column(
        self, name: str, value: object, row: Mapping[str, Any], refused: list[str], left_out: list[str]
    ) -> None:
        """Sort a column that is not read; of an object that may be left out, the keys that may not."""
        if changes_meaning(name, value):
            self._sort(name, not self._is_the_prompt_again(name, value, row), refused, left_out)
            return
        inner = {} if name in self.leaves else _unread_keys(value, frozenset())
        keys = [f"{name}.{key}" for key, may_change in inner.items() if may_change]
        for key in keys:
            self._sort(key, True, refused, left_out)
        if not keys:
            left_out.append(name)

    def _is_the_prompt_again(self, name: str, value: object, row: Mapping[str, Any]) -> bool:
        """Whether a text is nothing but that of a prompt that is read, under another name."""
        if not isinstance(value, str) or not ASKS & set(words_of(name)):
            return False
        for column in ("prompt", "question", "instruction", "messages"):
            if column in self.reads and _asked(row.get(column)) == value.strip():
                return True
        return False

    def _sort(self, name: str, may_change: bool, refused: list[str], left_out: list[str]) -> None:
        if may_change and name not in self.leaves:
            refused.append(name)
        else:
            left_out.append(name)


def _asked(prompt: object) -> str | None:
    """The text of a prompt: itself, or that of the last of its turns."""
    if isinstance(prompt, str):
        return prompt.strip()
    turns = _objects(prompt)
    content = turns[-1].get("content") if turns else None
    return content.strip() if isinstance(content, str) else None


def _unread_keys(value: object, keys: frozenset[str]) -> dict[str, bool]:
    """The other keys that a column's objects hold, and of each whether it may change the meaning."""
    found: dict[str, bool] = {}
    for item in _objects(value):
        is_turn = "role" in item or "from" in item
        for key, inner in item.items():
            if key not in keys and not says_nothing(key, inner):
                may_change = changes_meaning(key, inner) or (is_turn and key in OF_A_TURN)
                found[key] = found.get(key, False) or may_change
    return found


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects of a column: itself, or those of its list, or of the lists in it (several dialogues)."""
    if isinstance(value, dict):
        return [value]
    found: list[dict[str, Any]] = []
    for item in value if isinstance(value, list) else []:
        found += _objects(item)
    return found


def columns_of(sql: str, more: Iterable[str] = ()) -> Columns | None:
    """What a format's SQL says that it reads, and `more` columns; None where it says nothing."""
    reads_line = _line(sql, "reads")
    if not reads_line:
        return None
    reads = _keys(reads_line)
    for name in more:
        reads.setdefault(name, frozenset())
    leaves: set[str] = set()
    for name, keys in _keys(_line(sql, "leaves")).items():
        leaves |= {f"{name}.{key}" for key in keys} or {name}
    optional = frozenset(_keys(_line(sql, "optional")))
    return Columns(reads, frozenset(leaves), optional, _keys(_line(sql, "instead")))


def _keys(line: str) -> dict[str, frozenset[str]]:
    """Each column that a line names, and its keys in brackets."""
    read: dict[str, frozenset[str]] = {}
    for name, words in _ENTRY.findall(line):
        keys = frozenset(words.split())
        if "turn" in keys:
            keys = keys - {"turn"} | _WHOLE_TURN
        read[name] = keys
    return read


def _line(sql: str, what: str) -> str:
    """What the comment lines `-- what: …` say, empty where there is none."""
    return ",".join(re.findall(rf"^-- {what}:(.*)$", sql, re.MULTILINE))
