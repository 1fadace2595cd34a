"""Where a recipe lies; and the paths in it, made absolute, so that its run can be read from anywhere.

A path in a recipe begins in the folder in which the command runs. In a recipe that ships, one that begins
with the name of its package (pipelines/sandbox/model) is in that, wherever it is installed.
"""

import dataclasses
import json
import os
import typing
from collections.abc import Collection, Mapping
from pathlib import Path

from schemas import extensions, fields
from schemas.data_set_names import data_set_name
from schemas.errors import did_you_mean
from schemas.fields import Section, rules_of

RECIPES, SUFFIX = "recipes", ".toml"  # where those that ship lie


def with_absolute_paths(
    sections: Mapping[str, Section], file: Path | None = None, typed: Collection[str] = ()
) -> dict[str, Section]:
    """Sections with their paths made absolute; what is no file or folder here is a name.

    `file`: the recipe's; `typed`: the settings given over it, such as model.name, whose paths are the
    user's."""
    package = _package_of(file) if file else None
    changed_sections: dict[str, Section] = {}
    for name, config in sections.items():
        changed: dict[str, typing.Any] = {}
        for field in dataclasses.fields(config):
            rule = rules_of(field).path
            if rule is not None and not config.is_name(field.name):
                value = getattr(config, field.name)
                if package and f"{name}.{field.name}" not in typed:
                    value = _in_package(package, value)
                changed[field.name] = _absolute(rule, value)
        changed_sections[name] = dataclasses.replace(config, **changed)
    return changed_sections


def _package_of(recipe: Path) -> Path | None:
    """The folder of the package that a recipe ships in; None for one that does not ship."""
    for package in extensions.folders():
        if recipe.resolve().is_relative_to(package):
            return package
    return None


def _in_package(package: Path, value: typing.Any) -> typing.Any:
    """A value of a recipe that ships: pipelines/… is in the package pipelines, if it is there."""
    if isinstance(value, tuple):
        return tuple(_in_package(package, item) for item in value)
    if not isinstance(value, str) or not value.startswith(f"{package.name}/"):
        return value
    place = package.parent / value
    return str(place) if place.exists() else value


def _absolute(rule: fields.Path, value: typing.Any) -> typing.Any:
    """A field's value with absolute paths: of a tuple each one, of a function its file."""
    if isinstance(value, tuple):
        return tuple(_path_or_data_set(rule, item) for item in value)
    if isinstance(value, dict):
        return {key: _path_in_table(rule, key, item) for key, item in value.items()}
    if rule.function:
        file, colon, function = value.rpartition(":")
        return _full_path(file) + colon + function if file.endswith(".py") else value
    is_a_name = (
        not value or value == "auto" or (rule.folder and extensions.ships(rule.folder, value, rule.suffix))
    )
    if is_a_name or not Path(value).expanduser().exists():
        return value
    return _full_path(value)


def _path_in_table(rule: fields.Path, key: str, value: typing.Any) -> typing.Any:
    """A value of a table, as an absolute path if it is one of a file that is there.

    A table in its place is kept as JSON, in which its order stays as it is; TOML puts tables last."""
    if key in rule.keys and isinstance(value, dict):
        return json.dumps(value)
    if key not in rule.keys or not isinstance(value, str) or value.lstrip().startswith("{"):
        return value
    return _full_path(value) if Path(value).expanduser().exists() else value


def _path_or_data_set(rule: fields.Path, item: str) -> str:
    """An absolute path; the name of a data set on the Hub stays as it is."""
    return item if rule.data_set and data_set_name(item) else _full_path(item)


def _full_path(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def recipe_file(path: str | Path) -> Path:
    """A recipe's file: the one at the path, or the one that ships by such a name, such as dpo."""
    here = Path(path)
    name = here.name
    if str(path) == name and not here.is_file() and extensions.ships(RECIPES, name, SUFFIX):
        return extensions.included(RECIPES, name, SUFFIX)
    return here


def none_ships(name: str) -> str:
    """That no recipe of that name ships, and which do, as the rest of a sentence."""
    known = [path.stem for path in extensions.files(RECIPES, SUFFIX)]
    return f"none that ships has that name: {did_you_mean(name, known)}"
