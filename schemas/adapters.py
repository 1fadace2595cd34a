"""An adapter in place of a model: a folder that PEFT wrote, LoRA (or DoRA, rsLoRA) on a base that it names.

adapter_config.json is foreign: only the keys listed here are used, those that change nothing are passed over,
and any other that is set is refused. Its regular expressions are run on the modules' names, so they must be
ones that cannot take for ever. https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.hub_models import find
from schemas.model_content import INDEX, WEIGHTS, read_json

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_BASE = "base_model_name_or_path"
# What a key of LoraConfig does not say about the model: where it is from, how it was trained.
_IDLE = {
    _BASE,
    "revision",
    "peft_type",
    "task_type",
    "peft_version",
    "auto_mapping",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "megatron_core",
    "runtime_config",
    "qalora_group_size",
}
# Others begin by changing the base's own weights (PiSSA, OLoRA, LoftQ …), or are another method (MiCA).
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
MERGE_IT = (
    "merge the two with the PEFT that wrote it (model.merge_and_unload(), then save_pretrained of model and "
    "tokenizer into a new folder) and name that folder"
)
# A regular expression that cannot take for ever: names, and one part that repeats at most.
_PATTERN = re.compile(r"[\w.^$\\-]*(?:[*+][\w.^$\\-]*)?")


def is_adapter(path: Path) -> bool:
    """True if a folder holds an adapter and no whole model beside it."""
    is_whole = (path / WEIGHTS).exists() or (path / INDEX).exists()
    return (path / ADAPTER).exists() and not is_whole


def base_of(path: Path) -> Path:
    """The folder of the model that an adapter is on. Raises UserError where it is not there."""
    settings = read_json(path / ADAPTER)
    name = settings.get(_BASE)
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{path / ADAPTER} does not say which model the adapter is on: set {_BASE} to its folder, or to "
            "its name on the hub"
        )
    base = _found(path, name, str(settings.get("revision") or "main"))
    if is_adapter(base):
        raise UserError(
            f"{path} is an adapter on {base}, which is an adapter itself: `trainer merge {base} -o FOLDER`, "
            f"and name that folder by {_BASE} in {path / ADAPTER}"
        )
    return base


def _found(path: Path, name: str, revision: str) -> Path:
    """The base: a folder, absolute or seen from the adapter's; else what the name means anywhere."""
    near = Path(os.path.normpath(path / Path(name).expanduser()))
    if near.is_dir():
        return near
    try:
        return _elsewhere(name, revision)
    except UserError as error:
        kind = read_json(path / ADAPTER).get("peft_type") or "PEFT"
        raise UserError(
            f"{path} is an adapter ({kind}) on {name}, which is not there: {error}; if it lies elsewhere, "
            f"set {_BASE} in {path / ADAPTER} to its folder"
        ) from None


@functools.cache
def _elsewhere(name: str, revision: str) -> Path:
    """Looked up once: with a name on the hub each time is a request."""
    return find(name, revision).absolute()


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of an adapter that its numbers depend on, as arguments of PEFT's LoraConfig.

    Raises UserError for what is no LoRA adapter of a language model, or has settings that are not known."""
    file = path / ADAPTER
    given = read_json(file)
    _check_kind(path, given)
    for name, value in given.items():
        if value and name not in _USED and name not in _IDLE:
            raise UserError(
                f"the adapter in {path} cannot be used here: its {ADAPTER} sets {name} "
                f"({str(value)[:60]}), which is not known here; {MERGE_IT}"
            )
    taken: dict[str, Any] = {}
    for name, (default, is_valid, expected) in _USED.items():
        value = given.get(name)
        value = default if value is None else value
        if not is_valid(value):
            raise UserError(
                f"{file} says {name} = {str(value)[:60]!r}; expected {expected}: get the folder again, or "
                f"{MERGE_IT}"
            )
        # PEFT writes a set as a list, in any order.
        taken[name] = sorted(value) if isinstance(value, list) else value
    return taken


def _check_kind(path: Path, given: dict[str, Any]) -> None:
    kind = str(given.get("peft_type") or "none")
    if kind.upper() != "LORA":
        raise UserError(
            f"the adapter in {path} cannot be used here: its peft_type is {kind[:40]}, and only LORA is "
            f"known (with DoRA and rsLoRA); {MERGE_IT}"
        )
    task = given.get("task_type") or "CAUSAL_LM"
    if task != "CAUSAL_LM":
        raise UserError(
            f"the adapter in {path} cannot be used here: its task_type is {str(task)[:40]}, which gives no "
            "log-probs of tokens; use one of a language model (CAUSAL_LM)"
        )
    beginning = given.get("init_lora_weights")
    if not any(beginning is plain or beginning == plain for plain in _PLAIN_BEGINNINGS):
        raise UserError(
            f"the adapter in {path} cannot be used here: it began as {str(beginning)[:40]}, which changes "
            "the base's own weights or what an adapter is; save it as LoRA with PEFT (save_pretrained with "
            f"path_initial_model_for_weight_conversion), or {MERGE_IT}"
        )


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_rank(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_names_or_pattern(value: object) -> bool:
    return value is None or _is_names(value) or _is_pattern(value)


def _is_pattern(value: object) -> bool:
    if not isinstance(value, str) or not _PATTERN.fullmatch(value):
        return False
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _is_patterns(value: object, is_valid: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(_is_pattern(key) and is_valid(value[key]) for key in value)


def _is_layers(value: object) -> bool:
    if value is None or type(value) is int:
        return True
    return isinstance(value, list) and all(type(layer) is int for layer in value)


_A_PATTERN = "a list of names, or a name in which one part repeats at most, such as .*_proj"
_PATTERNS = "such names as q_proj or .*_proj, each with a number"
# Key of LoraConfig -> what it is where it is not there, what it may be, and that in words.
_USED: dict[str, tuple[object, Callable[[object], bool], str]] = {
    "r": (8, _is_rank, "a number from 1 up"),
    "lora_alpha": (8, _is_number, "a number"),
    "use_rslora": (False, _is_bool, "true or false"),
    "use_dora": (False, _is_bool, "true or false"),
    "fan_in_fan_out": (False, _is_bool, "true or false"),
    "lora_bias": (False, _is_bool, "true or false"),
    "bias": ("none", lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    "target_modules": (
        None,
        lambda value: value is None or isinstance(value, str) or _is_names(value),
        "names",
    ),
    "exclude_modules": (None, _is_names_or_pattern, _A_PATTERN),
    "modules_to_save": (None, lambda value: value is None or _is_names(value), "a list of names"),
    "layers_to_transform": (None, _is_layers, "a number or a list of numbers"),
    "layers_pattern": (None, _is_names_or_pattern, _A_PATTERN),
    "rank_pattern": ({}, lambda value: _is_patterns(value, _is_rank), _PATTERNS),
    "alpha_pattern": ({}, lambda value: _is_patterns(value, _is_number), _PATTERNS),
}
