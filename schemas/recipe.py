"""A recipe: a TOML file in which a section is a stage and a key is a field of its config. This page is the reference of all of them.

Sections run in the order in which they stand. An unknown section or key is refused with a hint, since a misspelt one would otherwise
be a setting that silently does nothing. `section.key=value` settings override the file; a value is read as TOML, else as text.
"""

import dataclasses
import datetime
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from schemas.errors import UserError, did_you_mean


def _bounds(section: object, low: float, *names: str, above: bool = False, high: float = math.inf) -> None:
    """Raises UserError for a field of a section that is below `low` (or not above it), above `high`, or no number."""
    for name in names:
        value = getattr(section, name)
        if not (low < value if above else low <= value) or not value <= high or value in (math.inf, -math.inf):
            most = f" and at most {high:g}" if high < math.inf else ""
            raise UserError(f"[{type(section).__name__.lower()}] {name} = {value}: expected a number {'above' if above else 'of at least'} {low:g}{most}")


@dataclass(frozen=True)
class Model:
    """The reference, and the policy at its start."""

    name: str = ""  # a folder in Hugging Face form, or a name on the hub; safetensors only
    revision: str = "main"  # of a hub name
    dtype: str = "float32"  # float32, bfloat16 or float16: of the engine's pass
    device: str = "auto"  # auto (every GPU there is, else the CPU), cpu, cuda, cuda:1 …
    template: str = "plain"  # template for a model that has no chat template: a file of pipelines/prompts without .jinja, or a path
    date: str = "2024-07-26"  # the day that a template which prints today's date is told: token ids must not depend on the day of the run
    chat_template: str = ""  # a .jinja file to use in place of the model's own chat template

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise UserError(f"[model] date = {self.date}: expected a day as YYYY-MM-DD") from None


@dataclass(frozen=True)
class Prompts:
    """Raw files to prompts, with the responses they bring."""

    source: tuple[str, ...] = ()  # files, folders or globs: JSON Lines, JSON arrays, Parquet; .gz, .zst, .bz2
    format: str = "auto"  # auto, a file of pipelines/sql without .sql, or a path to one of your own
    shards: int = 0  # 0: one for every 8 MiB of input, 4096 at most
    max_row_bytes: int = 4 << 20  # a longer row goes to rejects

    def __post_init__(self) -> None:
        _bounds(self, 0, "shards", high=99_999)  # five digits in a file's name
        _bounds(self, 1, "max_row_bytes")


@dataclass(frozen=True)
class Given:
    """The responses that came with the prompts, and what the data says of them."""


@dataclass(frozen=True)
class Logprobs:
    """Per-token reference log-probs of every response."""

    max_length: int = 0  # tokens of prompt and response together; 0: as many as the model has positions
    # What to do with more: drop alone, or truncate_prompt_left (to a quarter of max_length at least), or truncate_response, or both, the prompt
    # first. What does not fit even then goes to rejects.
    too_long: tuple[str, ...] = ("drop",)
    batch_tokens: int = 0  # tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU

    def __post_init__(self) -> None:
        _bounds(self, 0, "max_length", "batch_tokens")


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected."""

    choose: str = "given"  # a file of pipelines/sql without .sql, or a path to one of your own
    test_share: float = 0.02  # share of the prompts held out as split = 'test'

    def __post_init__(self) -> None:
        _bounds(self, 0, "test_share", high=1)


@dataclass(frozen=True)
class Train:
    """Optimise the policy on the pairs. A loss has its own keys in [train.<loss>]."""

    loss: str = "dpo"
    learning_rate: float = 5e-7
    optimizer: str = "adamw"  # adamw or rmsprop
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)  # of adamw
    schedule: str = "linear"  # linear, cosine or constant, after the warm-up
    warmup_steps: int = 0
    warmup_ratio: float = 0.0  # of all steps, where warmup_steps is 0
    max_grad_norm: float = 1.0  # 0: no clipping
    batch_size: int = 64  # pairs of one optimizer step, over all ranks
    micro_batch_tokens: int = 0  # tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU
    epochs: int = 1
    max_steps: int = -1  # above 0: this many steps, whatever epochs says
    dtype: str = "float32"  # float32, or bfloat16: autocast over float32 weights
    gradient_checkpointing: bool = False
    eval_every: int = 0  # steps between evaluations on the test split; 0: at the start and at the end only
    save_every: int = 500  # steps between checkpoints; the last step is always saved
    keep: int = 2  # checkpoints kept; 0: all
    tolerance: float = 0.0  # largest mean gap, nat a token, between cache and policy at step 0; 0: 1e-3 in float32, 0.05 otherwise
    tensorboard: bool = False
    options: dict = field(default_factory=dict)  # the tables [train.<loss>], read by the losses

    def __post_init__(self) -> None:
        _bounds(self, 0, "learning_rate", above=True)
        _bounds(self, 1, "batch_size", "epochs")
        _bounds(self, 0, "weight_decay", "warmup_steps", "max_grad_norm", "micro_batch_tokens", "eval_every", "save_every", "keep", "tolerance")
        _bounds(self, 0, "warmup_ratio", high=1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"[train] betas = {list(self.betas)}: expected two numbers of at least 0 and below 1")


SECTIONS: dict[str, type] = {"model": Model, "prompts": Prompts, "given": Given, "logprobs": Logprobs, "pairs": Pairs, "train": Train}


@dataclass(frozen=True)
class Recipe:
    """`sections` in order of execution; only those that the file has."""

    sections: dict[str, object]
    seed: int = 0

    def section(self, name: str) -> typing.Any:
        if name not in self.sections:
            raise UserError(f"the recipe has no section [{name}]; add it (an empty one takes every default), or set one of its keys")
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
    body = dict(body)
    if kind is Train:
        tables = {key: body.pop(key) for key in [key for key, value in body.items() if isinstance(value, dict)]}
        body["options"] = {name: {k: v.value if isinstance(v, _Typed) else v for k, v in table.items()} for name, table in tables.items()}
    return fields_of(kind, body, where)


def fields_of(kind: type, body: dict, where: str) -> typing.Any:
    """A frozen dataclass from a dict, each value checked against its field's type."""
    hints = typing.get_type_hints(kind)
    for key in body:
        if key not in hints:
            raise UserError(f"{where} has no key '{key}'; {did_you_mean(key, set(hints) - {'options'})}")
    return kind(**{key: _value(value, hints[key], f"{where} {key}") for key, value in body.items()})


def _value(value: object, kind: typing.Any, where: str) -> typing.Any:
    typed = value.text if isinstance(value, _Typed) else None
    value = value.value if isinstance(value, _Typed) else value
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [typed if typed is not None and typing.get_args(kind)[0] is str else value]
        return tuple(_value(item, typing.get_args(kind)[0], where) for item in items)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and typed is not None:
        return value if isinstance(value, str) else typed
    if isinstance(kind, types.GenericAlias) or type(value) is not kind:
        raise UserError(f"{where} must be {kind.__name__}, not {type(value).__name__} ({value!r})")
    return value


def _absolute(recipe: Recipe) -> Recipe:
    sections = dict(recipe.sections)
    for name, keys in {"model": ("name", "template", "chat_template"), "prompts": ("format",), "pairs": ("choose",)}.items():
        if name in sections:
            found = {key: getattr(sections[name], key) for key in keys}
            # What is no file or folder here is a name: on the hub, or of a file that ships.
            paths = {key: os.path.abspath(Path(value).expanduser()) for key, value in found.items() if value and not _ships(name, value) and Path(value).expanduser().exists()}
            sections[name] = dataclasses.replace(sections[name], **paths)
    if isinstance(prompts := sections.get("prompts"), Prompts):
        source = tuple(os.path.abspath(Path(item).expanduser()) for item in prompts.source)
        sections["prompts"] = dataclasses.replace(prompts, source=source)
    return Recipe(sections, recipe.seed)


def _ships(section: str, name: str) -> bool:
    """Whether a bare name means a file under pipelines/, whatever else of that name lies here; `auto` means none."""
    folders = {"prompts": ("sql", ".sql"), "pairs": ("sql", ".sql")}
    folder, suffix = folders.get(section, ("prompts", ".jinja"))
    return name == "auto" or (_shipped(folder) / f"{name}{suffix}").is_file()


def dump(recipe: Recipe) -> bytes:
    """The recipe as TOML, every default written out; `load` gives the same recipe back."""
    tree: dict = {"seed": recipe.seed}
    for name, config in recipe.sections.items():
        body = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()}
        tree[name] = body | body.pop("options", {})
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
    raise UserError(f"no '{name}' in pipelines/{folder} and no file of that path; {did_you_mean(name, known)}")
