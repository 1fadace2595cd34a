"""What a field of a recipe's section may be: its default, its allowed values, and what is special about it.

    class Train(Section):
        batch_size: int = number(64, low=1)
        dtype: str = choice("float32", "float32", "bfloat16")

The rules stand at the field, so nothing else needs to know a section's name. They are checked whenever a
section is made: by the recipe reader, by a loss's config, in a test.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas.errors import UserError, did_you_mean

# A check gives the rest of the sentence "[section] key = value…" (of a table: "[section.key] …"), or None
# where the value is fine.
Check = Callable[[Any], str | None]


@dataclass(frozen=True)
class Path:
    """The field may be a path. `folder` and `suffix` name files that ship, known by their bare names."""

    folder: str = ""
    suffix: str = ""
    function: bool = False  # the value is path/file.py:name or package.module:name
    keys: tuple[str, ...] = ()  # of a table: those of its keys that may be a path
    data_set: bool = False  # the value may be the name of a data set on the Hub


@dataclass(frozen=True)
class Rules:
    """What is special about one field."""

    check: Check | None = None
    path: Path | None = None
    formerly: str = ""  # an older name: recipes may still use it, and facts and fingerprints keep it
    has_switch: bool = False  # true and false are two of its words, and may be written without quotes
    words: tuple[str, ...] = ()  # all that it may be, where that is one of some words
    tables: bool = False  # takes every table of its section, as [train.dpo] and [train.sft]
    bounds: str = ""  # of a number, in words: "at least 1"


_NO_RULES = Rules()


def rules_of(field: "dataclasses.Field[Any]") -> Rules:
    """The rules of a dataclass field; empty for a field that has none."""
    rules = field.metadata.get("rules", _NO_RULES)
    assert isinstance(rules, Rules)
    return rules


def setting(default: Any, check: Check | None = None, **special: Any) -> Any:
    """A field with any check; `special` are the other fields of Rules."""
    metadata = {"rules": Rules(check=check, **special)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def number(
    default: float,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float = math.inf,
    infinite: bool = False,
) -> Any:
    """A number within bounds: finite unless `infinite`."""

    bounds = _bounds(low, above, high)

    def check(value: float) -> str | None:
        large_enough = (low is None or value >= low) and (above is None or value > above)
        if large_enough and value <= high and (math.isfinite(value) or (value == math.inf and infinite)):
            return None
        if not bounds:
            return ": expected a finite number"
        return f": expected a number {bounds if above is not None else f'of {bounds}'}"

    return setting(default, check, bounds=bounds)


def _bounds(low: float | None, above: float | None, high: float) -> str:
    """The least and the most that a number may be, in words; empty where any finite one will do."""
    if low is None and above is None:
        return ""
    least = f"above {above:g}" if above is not None else f"at least {low:g}"
    most = f" and at most {high:g}" if high < math.inf else ""
    return least + most


def choice(default: str, *allowed: str, formerly: str = "") -> Any:
    """One of some words."""

    def check(value: str) -> str | None:
        return None if value in allowed else f"; {did_you_mean(value, allowed)}"

    return setting(default, check, formerly=formerly, has_switch="true" in allowed, words=allowed)


def choices(default: tuple[str, ...], *allowed: str, may_be_empty: bool = False) -> Any:
    """Some of these words, none of them twice."""

    def check(values: tuple[str, ...]) -> str | None:
        if len(set(values)) < len(values) or (not values and not may_be_empty):
            return ": expected at least one, and none twice"
        unknown = [value for value in values if value not in allowed]
        return f" has '{unknown[0]}'; {did_you_mean(unknown[0], allowed)}" if unknown else None

    return setting(default, check, words=allowed)


def path(
    default: Any,
    folder: str = "",
    suffix: str = "",
    *,
    function: bool = False,
    data_set: bool = False,
    check: Check | None = None,
) -> Any:
    """A path, or the bare name of a file `folder/NAME suffix` that ships."""
    return setting(default, check, path=Path(folder, suffix, function, data_set=data_set))


def tables(*, collects: bool = False, check: Check | None = None, paths: tuple[str, ...] = ()) -> Any:
    """A table within the section: the one of the field's name, or with `collects` every one.

    `paths`: those of its keys that may be a path."""
    return setting({}, check, tables=collects, path=Path(keys=paths) if paths else None)


class Section:
    """Base of a recipe's sections and of the losses' configs: frozen dataclasses that check themselves."""

    __dataclass_fields__: ClassVar[dict[str, "dataclasses.Field[Any]"]]

    # Keys that the section does not have, though a user may look for them -> what to do.
    hints: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check = rules_of(field).check
            value = getattr(self, field.name)
            complaint = check(value) if check else None
            if complaint and isinstance(value, dict):
                table = f"[{self.title().strip('[]')}.{field.name}]"
                raise UserError(f"{table} {complaint}")
            if complaint:
                raise UserError(f"{self.title()} {field.name} = {shown(value)}{complaint}")
        self.check()

    def check(self) -> None:
        """Check what several fields say together. Raises UserError."""

    def check_with_extensions(self) -> None:
        """Check what only a package above this one can. Called when a recipe is read. Raises UserError."""

    def is_name(self, field: str) -> bool:
        """True where a field that may be a path is a name, whatever lies in the folder that one stands in."""
        return False

    @classmethod
    def title(cls) -> str:
        """How the section is written in a recipe: [prompt_gain] for PromptGain."""
        return f"[{re.sub(r'(?<!^)(?=[A-Z])', '_', cls.__name__).lower()}]"


def shown(value: object) -> object:
    """A value as it stands in an error message: tuples as TOML writes them."""
    return list(value) if isinstance(value, tuple) else value


def facts_of(section: Section, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """A section's values for a fingerprint, each under the name it has always had there."""
    facts: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        if field.name not in leave_out:
            facts[rules_of(field).formerly or field.name] = getattr(section, field.name)
    return facts
