"""A recipe: a TOML file in which a section is a stage and a key is a field of its config (schemas/sections.py).

Sections run in the order in which they stand. An unknown section or key is refused with a hint, since a misspelt one would otherwise
be a setting that silently does nothing. `section.key=value` settings override the file; a value is read as TOML, else as text.
"""

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from schemas.errors import UserError, did_you_mean
from schemas.sections import SECTIONS, Check, Model, Prompts, Train


@dataclass(frozen=True)
class Recipe:
    """`sections` in order of execution; only those that the file has."""

    sections: dict[str, object]
    seed: int = 0

    def section(self, name: str) -> typing.Any:
        if name not in self.sections:
            raise UserError(
                f"the recipe has no section [{name}]; add it (an empty one takes every default), or set one of its keys"
            )
        return self.sections[name]


def load(path: str | Path, settings: Iterable[str] = ()) -> Recipe:
    """A recipe from a file and `section.key=value` settings. Paths in it are made absolute, so that the run can be read from anywhere."""
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no recipe at {path}; those that ship lie in pipelines/recipes/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    for setting in settings:
        _apply(tree, setting)
    return _absolute(parse(tree, str(path)))


def _apply(tree: dict, setting: str) -> None:
    name, equals, value = setting.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {setting}: expected section.key=value, such as --set train.max_steps=50")
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {setting}: '{key}' is a value, not a section")
    try:
        tree[keys[-1]] = _Typed(tomllib.loads(f"v = {value}")["v"], value)
    except tomllib.TOMLDecodeError:
        tree[keys[-1]] = _Typed(value, value)


@dataclass(frozen=True)
class _Typed:
    """A value from the command line: as TOML reads it, and as it was typed, since model.name=123 is a name."""

    value: object
    text: str


def parse(tree: dict, where: str) -> Recipe:
    """A recipe from TOML's dicts; raises UserError naming `where` and the key."""
    seed, sections = 0, {}
    for name, body in tree.items():
        if name == "seed":
            seed = _value(body, int, f"{where}: seed")
            if seed < 0:
                raise UserError(f"{where}: seed = {seed}: expected 0 or more")
        elif name not in SECTIONS:
            raise UserError(f"{where}: unknown section [{name}]; {did_you_mean(name, [*SECTIONS, 'seed'])}")
        elif not isinstance(body, dict):
            raise UserError(f"{where}: {name} must be a section, written [{name}], not a value")
        else:
            sections[name] = _section(SECTIONS[name], body, f"{where}: [{name}]")
    return Recipe(sections, seed)


def _section(kind: type, body: dict, where: str) -> object:
    """A section's keys; the tables within it (as [train.dpo]) go whole into the field that takes them."""
    body = dict(body)
    if kind in (Train, Model):
        tables = {
            key: _plain(body.pop(key))
            for key in [key for key, value in body.items() if isinstance(value, dict)]
        }
        if kind is Model and (other := tables.keys() - {"vllm"}):
            raise UserError(f"{where} has no table [model.{min(other)}]; there is [model.vllm]")
        body |= {"options": tables} if kind is Train else tables
    return fields_of(kind, body, where)


def _plain(value: object) -> typing.Any:
    """A table with what was typed on the command line taken as TOML reads it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, _Typed) else value


def fields_of(kind: type, body: dict, where: str) -> typing.Any:
    """A frozen dataclass from a dict, each value checked against its field's type."""
    hints = typing.get_type_hints(kind)
    for key in body:
        if key not in hints or (hints[key] is dict and not isinstance(body[key], dict)):
            raise UserError(
                f"{where} has no key '{key}'; {did_you_mean(key, {name for name in hints if hints[name] is not dict})}"
            )
    return kind(**{key: _value(value, hints[key], f"{where} {key}") for key, value in body.items()})


def _value(value: object, kind: typing.Any, where: str) -> typing.Any:
    typed = value.text if isinstance(value, _Typed) else None
    value = value.value if isinstance(value, _Typed) else value
    if kind is dict:
        return value
    if typing.get_origin(kind) is tuple:
        items = (
            value
            if isinstance(value, list)
            else [typed if typed is not None and typing.get_args(kind)[0] is str else value]
        )
        return tuple(_value(item, typing.get_args(kind)[0], where) for item in items)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and typed is not None:
        return value if isinstance(value, str) else typed
    if isinstance(kind, types.GenericAlias) or type(value) is not kind:
        raise UserError(f"{where} must be {kind.__name__}, not {type(value).__name__} ({value!r})")
    return value


# The keys that may be a path: section -> key -> the folder of pipelines and the suffix of a file that ships, None where nothing ships.
_PATHS: dict[str, dict[str, tuple[str, str] | None]] = {
    "model": {"name": None, "template": ("prompts", ".jinja"), "chat_template": ("prompts", ".jinja")},
    "prompts": {"format": ("sql", ".sql")},
    "judge": {"rating_prompt": ("prompts", ".txt"), "pairwise_prompt": ("prompts", ".txt"), "model": None},
    "rewrite": {"prompt": ("prompts", ".txt"), "choose": ("sql", ".sql"), "model": None},
    "logprobs": {"quality_prompt": ("prompts", ".txt")},
    "pairs": {"choose": ("sql", ".sql")},
}


def _absolute(recipe: Recipe) -> Recipe:
    """Paths made absolute; what is no file or folder here is a name: on the hub, or of a file that ships."""
    sections = dict(recipe.sections)
    for name, keys in _PATHS.items():
        if name in sections:
            found = {key: getattr(sections[name], key) for key in keys}
            paths = {
                key: os.path.abspath(Path(value).expanduser())
                for key, value in found.items()
                if value and not _ships(keys[key], value) and Path(value).expanduser().exists()
            }
            sections[name] = dataclasses.replace(sections[name], **paths)
    if isinstance(prompts := sections.get("prompts"), Prompts):
        source = tuple(os.path.abspath(Path(item).expanduser()) for item in prompts.source)
        sections["prompts"] = dataclasses.replace(prompts, source=source)
    if isinstance(check := sections.get("check"), Check):
        file, colon, function = check.function.rpartition(":")
        if file.endswith(".py"):
            sections["check"] = Check(os.path.abspath(Path(file).expanduser()) + colon + function)
    return Recipe(sections, recipe.seed)


def _ships(where: tuple[str, str] | None, name: str) -> bool:
    """Whether a bare name means a file under pipelines/, whatever else of that name lies here; `auto` means none."""
    return name == "auto" or (where is not None and (_shipped(where[0]) / f"{name}{where[1]}").is_file())


def dump(recipe: Recipe) -> bytes:
    """The recipe as TOML, every default written out; `load` gives the same recipe back."""
    tree: dict = {"seed": recipe.seed}
    for name, config in recipe.sections.items():
        body = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(config).items()
        }
        tree[name] = {key: value for key, value in (body | body.pop("options", {})).items() if value != {}}
    return tomli_w.dumps(tree).encode()


def _shipped(folder: str) -> Path:
    import importlib.util

    spec = importlib.util.find_spec("pipelines")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / folder


def included(folder: str, name: str, suffix: str) -> Path:
    """A file named in a recipe: one that ships under pipelines/<folder> by its bare name, or any other by its path."""
    shipped = _shipped(folder)
    for path in (shipped / f"{name}{suffix}", Path(name).expanduser()):
        if path.is_file():
            return path
    known = [path.stem for path in shipped.glob(f"*{suffix}")]
    raise UserError(
        f"no '{name}' in pipelines/{folder} and no file of that path; {did_you_mean(name, known)}"
    )
