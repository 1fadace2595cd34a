"""A recipe: a TOML file in which a section is a stage and a key is a field of its config. This page is the reference of all of them.

Sections run in the order in which they stand. An unknown section or key is refused with a hint, since a misspelt one would otherwise
be a setting that silently does nothing. `section.key=value` settings override the file; a value is read as TOML, else as text.
"""

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from schemas.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Model:
    """The reference, and the policy at its start."""

    name: str = ""  # a folder in Hugging Face form, or a name on the hub; safetensors only
    revision: str = "main"  # of a hub name
    dtype: str = "float32"  # float32, bfloat16 or float16: of the engine's pass
    device: str = "auto"  # auto (every GPU there is, else the CPU), cpu, cuda, cuda:1 …
    template: str = "plain"  # template for a model that has no chat template: a file of pipelines/prompts without .jinja, or a path
    chat_template: str = ""  # a .jinja file to use in place of the model's own chat template


@dataclass(frozen=True)
class Prompts:
    """Raw files to prompts, with the responses they bring."""

    source: tuple[str, ...] = ()  # files, folders or globs: JSON Lines, JSON arrays, Parquet; .gz, .zst, .bz2
    format: str = "auto"  # auto, a file of pipelines/sql without .sql, or a path to one of your own
    shards: int = 0  # 0: one for every 8 MiB of input
    max_row_bytes: int = 4 << 20  # a longer row goes to rejects


@dataclass(frozen=True)
class Given:
    """The responses that came with the prompts, and what the data says of them."""


@dataclass(frozen=True)
class Logprobs:
    """Per-token reference log-probs of every response."""

    max_length: int = 0  # tokens of prompt and response together; 0: as many as the model has positions
    # What to do with more, in this order until it fits: drop, truncate_prompt_left, truncate_response. What never fits goes to rejects.
    too_long: tuple[str, ...] = ("drop",)
    batch_tokens: int = 0  # tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected."""

    choose: str = "given"  # a file of pipelines/sql without .sql, or a path to one of your own
    test_share: float = 0.02  # share of the prompts held out as split = 'test'


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
    except FileNotFoundError:
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
            raise UserError(f"{where} has no key '{key}'; {did_you_mean(key, hints)}")
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
    if isinstance(model := sections.get("model"), Model) and model.name and Path(model.name).expanduser().exists():
        sections["model"] = dataclasses.replace(model, name=os.path.abspath(Path(model.name).expanduser()))
    if isinstance(prompts := sections.get("prompts"), Prompts):
        source = tuple(os.path.abspath(Path(item).expanduser()) for item in prompts.source)
        sections["prompts"] = dataclasses.replace(prompts, source=source)
    return Recipe(sections, recipe.seed)


def dump(recipe: Recipe) -> bytes:
    """The recipe as TOML, every default written out; `load` gives the same recipe back."""
    tree: dict = {"seed": recipe.seed}
    for name, config in recipe.sections.items():
        body = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()}
        tree[name] = body | body.pop("options", {})
    return tomli_w.dumps(tree).encode()


def included(folder: str, name: str, suffix: str) -> Path:
    """A file named in a recipe: one that ships under pipelines/<folder> by its bare name, or any other by its path."""
    import importlib.util

    spec = importlib.util.find_spec("pipelines")
    assert spec is not None and spec.submodule_search_locations
    shipped = Path(spec.submodule_search_locations[0]) / folder
    for path in (shipped / f"{name}{suffix}", Path(name).expanduser()):
        if path.is_file():
            return path
    known = [path.stem for path in shipped.glob(f"*{suffix}")]
    raise UserError(f"no '{name}' in pipelines/{folder} and no file of that path; {did_you_mean(name, known)}")
