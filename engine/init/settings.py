"""Settings that the user gives over what is found: section.key=value."""

from collections.abc import Iterable, Mapping
from typing import Any

from engine.init.toml_text import read_value
from schemas.errors import UserError


def settings_of(words: Iterable[str]) -> dict[str, Any]:
    """Dotted name -> value. Raises UserError for what is no setting."""
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        parts = name.strip().split(".")
        is_name = all(part.replace("-", "_").isidentifier() for part in parts)
        if not equals or not is_name or (len(parts) < 2 and parts != ["seed"]):
            raise UserError(f"--set {word}: expected section.key=value, such as --set pairs.test_share=0.1")
        read = read_value(value)
        if isinstance(read, dict):
            raise UserError(f"--set {word}: give the table's keys one by one, {name.strip()}.KEY=VALUE")
        settings[name.strip()] = read
    return settings


def of_section(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a section as its keys and tables."""
    own: dict[str, Any] = {}
    for name, value in settings.items():
        if not name.startswith(f"{section}."):
            continue
        _, *keys, last = name.split(".")
        table = own
        for key in keys:
            table = table.setdefault(key, {})
        table[last] = value
    return own
