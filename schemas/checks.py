"""Checks of single values of a recipe that are more than a range or a list of words.

Each gives the rest of a sentence about what is wrong, or None (schemas/fields.py: Check).
"""

import datetime
from typing import Any

from schemas.scorers import unknown

_DEVICE_TYPES = ("auto", "cpu", "cuda", "hip", "xpu", "mps", "hpu", "npu", "mtia", "xla")


def device(value: str) -> str | None:
    """Check the name of a device without importing torch; whether it is there shows when it is used."""
    kind, colon, index = value.partition(":")
    if kind in _DEVICE_TYPES and (not colon or (index.isdigit() and kind != "auto")):
        return None
    return ": expected auto, cpu, cuda or one GPU such as cuda:1"


def day(value: str) -> str | None:
    """A day as YYYY-MM-DD."""
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        return ": expected a day as YYYY-MM-DD"
    return None


def engine_arguments(arguments: dict[str, Any]) -> str | None:
    """vLLM checks its own arguments; these three are used here as well."""
    for name in ("max_model_len", "tensor_parallel_size", "pipeline_parallel_size"):
        value = arguments.get(name, 1)
        if type(value) is not int or value < 1:
            return f"{name} = {value}: expected a whole number of at least 1"
    return None


def template_arguments(arguments: dict[str, Any]) -> str | None:
    """Variables of a chat template that are its own, and not what every template is given."""
    for name in ("messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token"):
        if name in arguments:
            return f"{name}: the engine itself gives it to the template; leave it out"
    return None


def scorer(name: str) -> str | None:
    """A scorer that some section makes."""
    return unknown(name)


def scorers(names: tuple[str, ...]) -> str | None:
    """Scorers that some sections make."""
    for name in names:
        complaint = unknown(name)
        if complaint:
            return f" has '{name}'{complaint}"
    return None


def function(name: str) -> str | None:
    """A function that can be imported; whether it is there shows when it is."""
    place, colon, attribute = name.rpartition(":")
    if name and not (colon and place and attribute):
        return ": expected package.module:name or path/file.py:name"
    return None


def betas(values: tuple[float, ...]) -> str | None:
    """AdamW's two averaging factors."""
    if len(values) == 2 and all(0 <= value < 1 for value in values):
        return None
    return ": expected two numbers of at least 0 and below 1"
