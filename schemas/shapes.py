"""JSON of ours into the dataclasses that it was made from, every key and type checked on the way."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

_Kind = TypeVar("_Kind")


class ShapeError(ValueError):
    """The value is not of the shape: says at which key, and what was expected there."""


def shaped(kind: type[_Kind], value: object) -> _Kind:
    """The value as the dataclass. A key that its field has a default for may be absent.

    Raises ShapeError."""
    built: _Kind = _shaped(kind, value, "")
    return built


def _shaped(kind: Any, value: object, at: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, at)
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [one for one in typing.get_args(kind) if one is not types.NoneType]
        return None if value is None else _shaped(inner, value, at)
    if origin is dict:
        return _mapping(typing.get_args(kind)[1], value, at)
    if origin in (tuple, list):
        items = _of_type(list, value, at)
        inner = typing.get_args(kind)[0]
        return origin(_shaped(inner, item, f"{at}[{number}]") for number, item in enumerate(items))
    return _of_type(kind, value, at)


def _dataclass(kind: Any, value: object, at: str) -> Any:
    given = _of_type(dict, value, at)
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        place = f"{at}.{field.name}" if at else field.name
        if field.name in given:
            values[field.name] = _shaped(hints[field.name], given[field.name], place)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ShapeError(f"it lacks the key {place}")
    unknown = sorted(map(str, given.keys() - values.keys()))
    if unknown:
        where = f" in {at}" if at else ""
        raise ShapeError(f"it has a key {unknown[0]!a}{where} that is unknown here")
    return kind(**values)


def _mapping(inner: Any, value: object, at: str) -> dict[str, Any]:
    return {key: _shaped(inner, item, f"{at}.{key}") for key, item in _of_type(dict, value, at).items()}


_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number from 0 on"}


def _of_type(kind: type, value: object, at: str) -> Any:
    """The value if it is exactly of the type (true is no number); numbers count something."""
    if type(value) is kind and not (kind is int and value < 0):  # type: ignore[operator]
        return value
    place = at or "the whole"
    raise ShapeError(f"{ascii(place)[1:-1]} is {ascii(value)[:40]}, expected {_NAMES[kind]}")
