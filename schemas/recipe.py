"""A recipe: a TOML file in which a section is a stage and a key is a field of its config.

Sections run in the order in which they stand. An unknown section or key is refused with a hint, since a
misspelt one would otherwise be a setting that silently does nothing. `section.key=value` settings override
the file; a value is read as TOML, or else as text. Everything that can be checked without data or model is
checked here.
"""

import dataclasses
import hashlib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import UserError, did_you_mean
from schemas.fields import Section, rules_of
from schemas.manifest import RECIPE
from schemas.ownership import why_foreign
from schemas.plain_files import MOST_TEXT, read_plain
from schemas.plans import planned_recipe
from schemas.recipe_paths import none_ships, recipe_file, with_absolute_paths
from schemas.secrets import refuse_secrets
from schemas.sections import SECTIONS
from schemas.store import Store

AnySection = typing.TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Recipe:
    """`sections` in order of execution; only those that the file has.

    `foreign`: why its file may be somebody else's (schemas/ownership.py), empty where it is the user's own;
    `typed`: the names of the settings that the user gave over it; `file`: where it was read, if from one."""

    sections: dict[str, Section]
    seed: int = 0
    foreign: str = dataclasses.field(default="", compare=False)
    typed: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    file: Path | None = dataclasses.field(default=None, compare=False)

    def section(self, name: str) -> typing.Any:
        """A section's config. Raises UserError where the recipe does not have it."""
        if name not in self.sections:
            raise UserError(
                f"the recipe has no section [{name}]; "
                "add it (an empty one takes every default), or set one of its keys"
            )
        return self.sections[name]

    def with_sections(self, **changed: Section) -> "Recipe":
        """The same recipe with some sections replaced or added."""
        return dataclasses.replace(self, sections=self.sections | changed)


def load(path: str | Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe, from a file or one that ships by its name, and `section.key=value` settings.

    Paths in it are made absolute, so that the run can be read from anywhere. Raises UserError for anything
    that is wrong with it."""
    path = recipe_file(path)
    try:
        data = read_plain(path, MOST_TEXT, or_own_pipe=True)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no recipe at {path}, and {none_ships(path.name)}") from None
    settings = tuple(settings)
    typed = tuple(setting.partition("=")[0].strip() for setting in settings)
    recipe = _read(data, str(path), settings, path, typed)
    return dataclasses.replace(recipe, foreign=why_foreign(path), typed=typed, file=path)


def load_text(data: bytes, where: str) -> Recipe:
    """A recipe from a text that is in no file yet; `where` names it in errors. Raises UserError."""
    return _read(data, where, ())


def load_of_run(folder: Store, settings: Iterable[str] = ()) -> Recipe:
    """The recipe that a run folder, or a train folder in it, was made with. Raises UserError."""
    try:
        data = folder.read(RECIPE)
    except FileNotFoundError:
        raise UserError(f"{folder} has no {RECIPE}: it is not a run folder") from None
    where = folder.where(RECIPE)
    planned = planned_recipe(folder)
    if planned is not None and planned != hashlib.sha256(data).hexdigest():
        raise UserError(
            f"{where} is not the recipe that the run was planned by: run the same `engine precompute` again, "
            f"which writes it anew; or `engine precompute {where} -o {folder}` if the change is meant"
        )
    return _read(data, where, settings)


def _read(
    data: bytes, where: str, settings: Iterable[str], file: Path | None = None, typed: tuple[str, ...] = ()
) -> Recipe:
    """A recipe from a file's bytes; `where` names the file in errors. `file`, `typed`: as of Recipe."""
    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not TOML: {error}") from None
    for setting in settings:
        _apply(tree, setting)
    refuse_secrets(_plain(tree), f"{where}:")
    recipe = parse(tree, where)
    recipe = dataclasses.replace(recipe, sections=with_absolute_paths(recipe.sections, file, typed))
    for section in recipe.sections.values():
        try:
            section.check_with_extensions()
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return recipe


@dataclass(frozen=True)
class _Typed:
    """A value from the command line, as TOML reads it and as it was typed: model.name=123 is a name."""

    value: object
    text: str


def _apply(tree: dict[str, typing.Any], setting: str) -> None:
    """Put a `section.key=value` setting into TOML's dicts."""
    name, equals, value = setting.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {setting}: expected section.key=value, such as --set train.max_steps=50")
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {setting}: '{key}' is a value, not a section")
    try:
        read = tomllib.loads(f"v = {value}")["v"]
        tree[keys[-1]] = read if isinstance(read, dict) else _Typed(read, value)
    except tomllib.TOMLDecodeError:
        tree[keys[-1]] = _Typed(value, value)


def parse(tree: Mapping[str, typing.Any], where: str) -> Recipe:
    """A recipe from TOML's dicts. Raises UserError naming `where` and the key."""
    seed = 0
    sections: dict[str, Section] = {}
    for name, body in tree.items():
        if name == "seed":
            seed = _converted(body, int, f"{where}: seed")
            if seed < 0:
                raise UserError(f"{where}: seed = {seed}: expected 0 or more")
        elif name not in SECTIONS:
            raise UserError(f"{where}: unknown section [{name}]; {did_you_mean(name, [*SECTIONS, 'seed'])}")
        elif not isinstance(body, dict):
            raise UserError(f"{where}: {name} must be a section, written [{name}], not a value")
        else:
            sections[name] = section_of(SECTIONS[name], body, f"{where}: [{name}]")
    return Recipe(sections, seed)


def section_of(kind: type[AnySection], body: Mapping[str, typing.Any], where: str) -> AnySection:
    """A section's config from its keys, each checked against its field. Raises UserError naming `where`."""
    names = _names_of_keys(kind)
    collector = next((field.name for field in dataclasses.fields(kind) if rules_of(field).tables), None)
    hints = typing.get_type_hints(kind)
    rules = {field.name: rules_of(field) for field in dataclasses.fields(kind)}
    values: dict[str, typing.Any] = {}
    collected: dict[str, typing.Any] = {}
    for key, value in body.items():
        if collector and isinstance(value, dict):
            collected[key] = _plain(value)
            continue
        name = names.get(key)
        if name is None or name == collector:
            raise UserError(f"{where} has no {_what_is_missing(kind, key, value)}")
        if name in values:  # by its name and by the one it had formerly
            raise UserError(f"{where} has {_both_names(names, name)}, which are one setting: keep '{name}'")
        if typing.get_origin(hints[name]) is dict and not isinstance(value, dict):
            table = f"{kind.title().strip('[]')}.{key}"
            raise UserError(
                f"{where} has no key '{key}': it is a table, written [{table}], or --set {table}.KEY=VALUE"
            )
        if rules[name].has_switch and isinstance(value, bool):
            value = str(value).lower()
        values[name] = _converted(value, hints[name], f"{where} {key}")
    if collector:
        values[collector] = collected
    return _made(kind, values, where)


def _made(kind: type[AnySection], values: Mapping[str, typing.Any], where: str) -> AnySection:
    """The section, which checks itself; its complaints are told with the file that `where` begins with."""
    try:
        return kind(**values)
    except UserError as error:
        file, _, _ = where.rpartition("[")
        raise UserError(f"{file}{error}") from None


def _names_of_keys(kind: type[Section]) -> dict[str, str]:
    """Key in a recipe -> name of the field: the field's own name, and the one it had formerly."""
    names: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        names[field.name] = field.name
        if former := rules_of(field).formerly:
            names[former] = field.name
    return names


def _both_names(names: Mapping[str, str], field: str) -> str:
    return " and ".join(f"'{key}'" for key, name in names.items() if name == field)


def _tables_of(kind: type[Section]) -> list[str]:
    hints = typing.get_type_hints(kind)
    return [field.name for field in dataclasses.fields(kind) if typing.get_origin(hints[field.name]) is dict]


def _plain_keys(kind: type[Section]) -> list[str]:
    """The keys of a section that take a value, not a table."""
    tables = _tables_of(kind)
    return [field.name for field in dataclasses.fields(kind) if field.name not in tables]


def _what_is_missing(kind: type[Section], key: str, value: object) -> str:
    """The end of a sentence about a key or table that the section does not have."""
    section = kind.title().strip("[]")
    tables = _tables_of(kind)
    if key in kind.hints:
        return f"key '{key}': {kind.hints[key]}"
    if isinstance(value, dict) and tables:
        known = ", ".join(f"[{section}.{name}]" for name in tables)
        return f"table [{section}.{key}]; there is {known}"
    return f"key '{key}'; {did_you_mean(key, _plain_keys(kind))}"


def _plain(value: typing.Any) -> typing.Any:
    """A table, with what was typed on the command line taken as TOML reads it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, _Typed) else value


def _converted(value: typing.Any, kind: typing.Any, where: str) -> typing.Any:
    """A value as its field's type wants it. Raises UserError where it is of another type."""
    if typing.get_origin(kind) is dict:
        return _plain(value)
    if typing.get_origin(kind) is tuple:
        item_kind, _ = typing.get_args(kind)
        return tuple(_converted(item, item_kind, where) for item in _items(value, item_kind))
    if isinstance(value, _Typed):
        if kind is str and not isinstance(value.value, str):
            return value.text
        value = value.value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, types.GenericAlias) or type(value) is not kind:
        raise UserError(f"{where} must be {kind.__name__}, not {type(value).__name__} ({value!r})")
    return value


def _items(value: typing.Any, kind: type) -> list[typing.Any]:
    """The items of a list; a single value stands for a list of one, and if typed may be text as it is."""
    plain = value.value if isinstance(value, _Typed) else value
    if isinstance(plain, list):
        return plain
    if isinstance(value, _Typed) and kind is str:
        return [value.text]
    return [plain]


def dump(recipe: Recipe) -> bytes:
    """The recipe as TOML, every default written out; `load` gives the same recipe back.

    Raises UserError where the library that writes TOML is not there, as on a machine with torch alone."""
    try:
        import tomli_w
    except ImportError:
        raise UserError(
            "a run writes its recipe down as TOML, by the package tomli-w, which is not installed here: "
            "pip install tomli-w"
        ) from None
    tree: dict[str, typing.Any] = {"seed": recipe.seed}
    for name, config in recipe.sections.items():
        body: dict[str, typing.Any] = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if rules_of(field).tables:
                body |= value
            else:
                body[field.name] = list(value) if isinstance(value, tuple) else value
        # An empty table says nothing.
        tree[name] = {key: value for key, value in body.items() if value != {}}
    return tomli_w.dumps(tree).encode()
