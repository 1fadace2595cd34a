"""Rows as their owner has them: columns, turns and roles under the names that a format reads.

- `[prompts.columns] prompt = "question"` moves a column, a part of an object (`question.full_text`) or the
  joined texts of several. All moves are of the row as it was, so two columns may change places.
- `[prompts.turns]` names the keys of turns, `[prompts.roles]` other spellings of roles. They are for columns
  that the format reads as turns (engine/columns.py).
- Turns, lists and tools that stand as JSON in a string are read as what they are (engine/json_strings.py).
- Tool turns in other tools' forms become those that formats read (engine/tool_turns.py).
- A row that says two things at once is refused with both; nobody guesses which one counts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.column_names import holds
from engine.columns import Columns, Unread
from engine.json_strings import unpacked
from engine.row_problem import RowProblem
from engine.row_values import finite_text
from engine.tool_turns import with_tool_turns
from engine.ways import Way, at, way_to, without, without_way
from engine.wording import kind_in_words
from schemas.manifest import Facts
from schemas.row_checks import ALL_COLUMNS
from schemas.sections import Prompts


@dataclass(frozen=True)
class Mapped:
    """A row as the format's SQL is given it.

    `rest`: what is left of objects of which a part was taken; `metadata`: JSON of what is kept of the row."""

    values: dict[str, Any]
    rest: Mapping[str, Any] = field(default_factory=dict)
    metadata: str | None = None

    def unread(self, columns: Columns) -> Unread:
        """What of the row the format does not read."""
        unread = columns.unread(self.values)
        if not self.rest:
            return unread
        beside = columns.beside(self.rest)
        return Unread(
            unread.refused + beside.refused,
            unread.left_out + beside.left_out,
            unread.prompts,
            unread.is_in_a_turn,
            unread.renames,
        )


@dataclass(frozen=True)
class RowMapping:
    """What a recipe says of the names in its input (schemas/sections/prompts.py)."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    turns: Mapping[str, str] = field(default_factory=dict)
    metadata: Sequence[str] = ()

    @classmethod
    def of(cls, config: Prompts) -> "RowMapping":
        """The mapping of a recipe's section."""
        roles: dict[str, str] = {}
        for spelling, role in config.roles.items():
            roles[spelling.strip().lower()] = role
        return cls(config.columns, roles, config.turns, config.metadata)

    def applied(self, row: dict[str, Any], ignore: Iterable[str], columns: Columns | None) -> Mapped:
        """A row under the names that a format reads. A row in which nothing changes is given back itself.

        Raises RowProblem where it cannot be said what the row means."""
        values = without(row, ignore)
        rest: dict[str, Any] = {}
        if self.columns:
            values, opened = self._moved(values)
            values, rest = _settled(values, opened, columns)
        metadata = None
        if self.metadata:
            metadata = self._kept(row, values, rest, columns)
            values = self._apart(values, columns)
            rest = self._apart(rest, columns)
        if columns is not None:
            values = unpacked(values, columns, self.turns)
        if self.turns or self.roles:
            values = self._with_turns(values, columns)
        if columns is not None:
            values = with_tool_turns(values, columns)
        return Mapped(values, rest, metadata)

    def _moved(self, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The row with its columns moved, and what is left of the objects of which a part was taken."""
        kept = dict(values)
        opened: dict[str, Any] = {}
        new: dict[str, Any] = {}
        for ours, theirs in self.columns.items():
            ways = _ways(values, theirs)
            if not ways:
                continue
            new[ours] = _taken(values, ours, theirs, ways)
            for way in ways:
                kept = without_way(kept, way)
                if len(way) > 1:
                    opened[way[0]] = None
        for name in opened:
            opened[name] = kept.pop(name, None)
        for ours, value in new.items():
            there = kept.get(ours)
            if not holds(there):
                kept[ours] = value
            elif holds(value) and value != there:
                raise RowProblem("two_columns", self._two_columns(ours))
        return kept, opened

    def _kept(
        self,
        row: Mapping[str, Any],
        values: Mapping[str, Any],
        rest: Mapping[str, Any],
        columns: Columns | None,
    ) -> str | None:
        """JSON of what prompts.metadata keeps of a row, in the row's order, NaN as null.

        `values` and `rest`: the row under the format's names, which say what of it is not read."""
        kept: dict[str, Any] = {}
        if ALL_COLUMNS in self.metadata and columns is not None:
            for name in row:
                if name in rest:
                    kept[name] = rest[name]
                elif name in values and not columns.reads_column(name, values):
                    kept[name] = values[name]
            return finite_text(kept)
        order = {name: place for place, name in enumerate(row)}
        ways: list[tuple[int, str, Way]] = []
        for name in dict.fromkeys(self.metadata):
            way = way_to(row, name)
            if way:
                ways.append((order[way[0]], name, way))
        for _, name, way in sorted(ways):
            kept[name] = at(row, way)
        return finite_text(kept)

    def _apart(self, values: dict[str, Any], columns: Columns | None) -> dict[str, Any]:
        """Columns without those that are named as metadata and that the format does not read."""
        for name in self.metadata:
            way = way_to(values, name)
            if columns is None or way is None:
                continue
            keys = columns.keys_read(way[0], values[way[0]])
            if keys is None or (keys and len(way) > 1 and way[1] not in keys):
                values = without_way(values, way)
        return values

    def _two_columns(self, ours: str) -> str:
        theirs = self.columns[ours]
        listed = " and ".join([theirs] if isinstance(theirs, str) else theirs)
        return (
            f"the row has a column {ours}, and [prompts.columns] makes {ours} of {listed}, which says "
            f'something else; where {ours} is not the one: prompts.ignore = ["{ours}"]'
        )

    def _with_turns(self, values: dict[str, Any], columns: Columns | None) -> dict[str, Any]:
        """The row with the turns of its columns under other names and roles."""
        names = values.keys() if columns is None else columns.of_turns & values.keys()
        changed = dict(values)
        for name in names:
            changed[name] = self._turns_in(name, values[name])
        return changed

    def _turns_in(self, name: str, value: object) -> object:
        if isinstance(value, list):
            return [self._turns_in(name, item) for item in value]
        if isinstance(value, dict):
            return self._turn(name, value)
        return value

    def _turn(self, name: str, turn: dict[str, Any]) -> dict[str, Any]:
        """A turn of the column `name` with our keys and, where its role is a known spelling, our role."""
        renamed = dict(turn)
        for theirs in self.turns.values():
            renamed.pop(theirs, None)
        for ours, theirs in self.turns.items():
            value = turn.get(theirs)
            there = renamed.get(ours)
            if theirs in turn and not holds(there):
                renamed[ours] = value
            elif holds(value) and value != there:
                sentence = (
                    f"{name} has a turn with {ours} and {theirs}, which differ, and [prompts.turns] makes "
                    f'{ours} of {theirs}; where {ours} is not the one: prompts.ignore = ["{name}.{ours}"]'
                )
                raise RowProblem("two_columns", sentence)
        for key in ("role", "from"):
            role = renamed.get(key)
            if isinstance(role, str):
                renamed[key] = self.roles.get(role.strip().lower(), role)
        return renamed


def mapping_facts(config: Prompts) -> Facts:
    """What of a recipe's mapping is set. What is not is no fact: older folders keep their names."""
    mapping = RowMapping.of(config)
    facts: Facts = {
        "columns": dict(mapping.columns),
        "roles": dict(mapping.roles),
        "turns": dict(mapping.turns),
        "metadata": sorted(set(mapping.metadata)),
    }
    return {key: value for key, value in facts.items() if value}


def _ways(values: Mapping[str, Any], names: str | Sequence[str]) -> list[Way]:
    """Where a row has these columns; those that it has not are left out."""
    ways: list[Way] = []
    listed = [names] if isinstance(names, str) else names
    for name in listed:
        way = way_to(values, name)
        if way:
            ways.append(way)
    return ways


def _taken(
    values: Mapping[str, Any],
    ours: str,
    theirs: str | Sequence[str],
    ways: Sequence[Way],
) -> Any:
    """The value of a moved column: of one name as it is, of a list the joined texts.

    Raises RowProblem where a value that is to be joined is no text."""
    if isinstance(theirs, str):
        return at(values, ways[0])
    texts: list[Any] = []
    for way in ways:
        value = at(values, way)
        if value is not None and not isinstance(value, str):
            kind = kind_in_words(json.dumps(value, default=str))
            raise RowProblem(
                "missing_or_mistyped",
                f"{ours} is made of {' and '.join(theirs)}, and {'.'.join(way)} is {kind}; expected texts",
            )
        if holds(value):
            texts.append(value)
    return "\n".join(texts)


def _settled(
    values: dict[str, Any], opened: Mapping[str, Any], columns: Columns | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row and the objects of which a part was taken: where the format reads one, it stays in the row."""
    rest: dict[str, Any] = {}
    for name, value in opened.items():
        is_free = name not in values
        if is_free and (columns is None or columns.keys_read(name, value) is not None):
            values = values | {name: value}
        else:
            rest[name] = value
    return values, rest
