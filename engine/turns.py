"""Tools, tool calls and thoughts of a row, in the one form that templates are given (engine/text/chat.py).

- Arguments are an object, however a row writes them; a call without any has an empty one.
- `reasoning` and `thinking` are other names of `reasoning_content`.
- Null keys say nothing: columnar files have them for what other rows hold. In arguments they may be meant, so
  there only those of a columnar file are taken out, while it is read (`without_nulls`).
- What is malformed is 'code: sentence'. Whether a template can express the rest, it says itself.
"""

import json
from collections.abc import Mapping
from typing import Any

from engine.column_names import THOUGHTS, says_nothing
from engine.row_values import DEEPEST, is_too_deep, name_twice
from engine.text.chat import CHAT_KEYS, as_json

_HOLD_CALLS = ("tools", "tool_calls")
_CALL_KEYS = frozenset({"id", "type", "name", "arguments", "function"})
_PROBLEM = "problem"


class Malformed(ValueError):
    """'code: sentence' of what a row may not be."""


def turn_in_full(text: str | None) -> str | None:
    """For SQL: what a turn says beside role and content, as JSON; null where that is nothing.

    {problem: 'code: sentence'} where it is malformed."""
    if text is None:
        return None
    turn = json.loads(text)
    try:
        said = _beside_content(turn)
    except Malformed as error:
        return as_json({_PROBLEM: str(error)})
    return as_json(said) if said else None


def problem_of(turn: Mapping[str, Any]) -> str | None:
    """'code: sentence' that stands in the place of a malformed turn."""
    problem = turn.get(_PROBLEM)
    return str(problem) if problem else None


def tools_of(text: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """The tools of a row from its column, JSON that may be a string of JSON; and why they are none."""
    try:
        value = json.loads(text or "null")
        if says_nothing("tools", value):
            return [], None
        value = _decoded(value, "tools is a string that")
        if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
            raise Malformed(
                "bad_tools: tools must be a list of JSON schemas, each an object, or such a list as text"
            )
        for tool in value:
            _check_tool(tool)
        return value, None
    except Malformed as error:
        return [], str(error)


def _check_tool(tool: Mapping[str, Any]) -> None:
    """Raise Malformed for a tool without a name: {type, function: {name …}} or {name …}."""
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise Malformed(f"bad_tools: a tool has no name: {as_json(tool)[:60]}")


def _beside_content(turn: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of CHAT_KEYS that a turn has, in their order."""
    said: dict[str, Any] = {}
    thoughts = _thoughts(turn)
    if thoughts:
        said["reasoning_content"] = thoughts
    calls = _decoded(turn.get("tool_calls"), "tool_calls is a string that")
    if calls:
        if not isinstance(calls, list):
            raise Malformed("bad_tool_call: tool_calls must be a list of calls {function: {name, arguments}}")
        said["tool_calls"] = list(map(_call, calls))
    for key in ("tool_call_id", "name"):
        value = turn.get(key)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise Malformed(
                f"missing_or_mistyped: a turn's {key} must be a string, not {as_json(value)[:60]}"
            )
        said[key] = value
    assert said.keys() <= set(CHAT_KEYS)
    return said


def _thoughts(turn: Mapping[str, Any]) -> str:
    """What the assistant thought, under any of its names."""
    found: dict[str, str] = {}
    for name in THOUGHTS:
        value = turn.get(name)
        if value is not None and not isinstance(value, str):
            raise Malformed(
                f"missing_or_mistyped: a turn's {name} must be a string, not {as_json(value)[:60]}"
            )
        if value and value.strip():
            found[name] = value
    if len(set(found.values())) > 1:
        names = " and ".join(found)
        raise Malformed(f"two_reasonings: a turn's {names} say different things; keep one by prompts.ignore")
    return next(iter(found.values()), "")


def _call(call: object) -> dict[str, Any]:
    """A call as {id, type, function: {name, arguments}}; {name, arguments} alone is its function."""
    if not isinstance(call, dict):
        raise Malformed(f"bad_tool_call: a tool call must be an object, not {as_json(call)[:60]}")
    call = {key: value for key, value in call.items() if value is not None}
    if "function" not in call and "name" in call:
        inner = {"name": call.pop("name"), "arguments": call.pop("arguments", None)}
        call = {**call, "type": "function", "function": inner}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Malformed(f"bad_tool_call: a tool call has no function name: {as_json(call)[:60]}")
    name = function["name"]
    arguments = _decoded(function.get("arguments"), f"the arguments of {name} are a string that")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Malformed(
            f"bad_tool_call: the arguments of {name} must be an object, or one as JSON text, not "
            f"{as_json(arguments)[:60]}"
        )
    others = {key: value for key, value in function.items() if value is not None}
    return {**call, "function": {**others, "arguments": arguments}}


def calls_in(value: object, what: str) -> list[dict[str, Any]]:
    """The calls that a text or a value says, {name, arguments} or a list of such; `what`: whose it is.

    Raises Malformed where it says none, or more than calls."""
    if isinstance(value, list) and value and all(map(_is_text_part, value)):
        value = "".join(part["text"] for part in value)
    decoded = _decoded(value, what)
    if isinstance(value, str) and decoded is not None:
        twice = name_twice(value, decoded)
        if twice is not None:
            raise Malformed(f'bad_tool_call: {what} has "{twice}" twice in one object; keep one of them')
    calls = decoded if isinstance(decoded, list) else [decoded]
    if decoded is None or not calls:
        raise Malformed(f"bad_tool_call: {what} is empty; expected JSON {{name, arguments}}")
    found: list[dict[str, Any]] = []
    for call in calls:
        found.append(_call(call))
        more = call.keys() - _CALL_KEYS
        if more:
            listed = ", ".join(sorted(more))
            raise Malformed(
                f"bad_tool_call: {what} has {listed} in a call; expected JSON {{name, arguments}}, or a list"
            )
    return found


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _decoded(value: object, what: str) -> Any:
    """A value, out of the JSON text that it may be written as; blank text is nothing."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    code = "bad_tools" if what.startswith("tools") else "bad_tool_call"
    if is_too_deep(value):
        raise Malformed(f"{code}: {what} holds lists or objects more than {DEEPEST} deep in each other")
    try:
        decoded = json.loads(value, parse_constant=_no_number)
        as_json(decoded).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Malformed(f"{code}: {what} is no JSON: {value[:60]!r}") from None
    return decoded


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def without_nulls(value: Any) -> Any:
    """A value of a columnar file without the nulls that its tools and calls have for other rows' keys."""
    if isinstance(value, list):
        return list(map(without_nulls, value))
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for name, inner in value.items():
        kept[name] = _pruned(inner) if name in _HOLD_CALLS else without_nulls(inner)
    return kept


def _pruned(value: Any) -> Any:
    """A value without the null keys of its objects; null items of lists stay."""
    if isinstance(value, list):
        return list(map(_pruned, value))
    if not isinstance(value, dict):
        return value
    return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
