"""Tool turns in other tools' forms, put into the one form that formats read.

- ms-swift has a turn of role tool_call, LLaMA-Factory one from function_call; its text is JSON
  {name, arguments}, or a list of such. It is a turn of the assistant's with `tool_calls`. Several in a row
  are one turn, and so are the assistant's words right before them, as ms-swift renders them.
- tool_response and observation are a tool's result; so is OpenAI's older role `function` with a `name`.
- OpenAI's older `function_call: {name, arguments}` beside a content is a list of one call.
- Only columns are looked at of whose turns the format reads `tool_calls` (engine/columns.py).
"""

from collections.abc import Mapping
from typing import Any

from engine.column_names import TURN_KEYS, holds, says_nothing
from engine.columns import Columns
from engine.row_problem import RowProblem
from engine.turns import Malformed, calls_in
from schemas.row_checks import CALL_ROLES, RESULT_ROLES

_ASSISTANTS = frozenset({"assistant", "gpt", "bot", "model"})
_OLD_CALL = "function_call"
_LOOKED_AT = frozenset({*CALL_ROLES, *RESULT_ROLES, "function"})
_OLD_CALL_KEYS = frozenset({"name", "arguments"})


def with_tool_turns(values: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """The row with its tool turns in the one form; a row without such turns is given back itself.

    Raises RowProblem for a turn that should call a tool and names none."""
    changed: dict[str, Any] = {}
    stand_ins = frozenset().union(*columns.instead.values())
    for name, value in values.items():
        keys = columns.reads.get(name, frozenset())
        if "tool_calls" in keys or name in stand_ins:
            if _has_tool_turn(value):
                changed[name] = _said(name, value)
        elif "messages" in keys and isinstance(value, dict) and _has_tool_turn(value.get("messages")):
            changed[name] = value | {"messages": _said(f"{name}.messages", value["messages"])}
    return values | changed if changed else values


def _has_tool_turn(value: object) -> bool:
    """Whether a column may hold such a turn: most rows do not, and are not looked at any closer."""
    if isinstance(value, list):
        return any(map(_has_tool_turn, value))
    if not isinstance(value, dict):
        return False
    return value.get(_OLD_CALL) is not None or _role(value) in _LOOKED_AT


def _said(name: str, value: object) -> Any:
    """A column's turn, turns, or lists of turns."""
    if isinstance(value, dict):
        return _turn(name, value)
    if not isinstance(value, list):
        return value
    turns: list[Any] = []
    was_call = False
    for item in value:
        turn = _said(name, item)
        is_call = _role(item) in CALL_ROLES
        goes_on = was_call or (bool(turns) and _only_speaks(turns[-1]))
        if is_call and goes_on and not _says_more(turn):
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
        was_call = is_call
    return turns


def _turn(name: str, turn: dict[str, Any]) -> dict[str, Any]:
    role = _role(turn)
    who, _ = _places(turn)
    if role in CALL_ROLES:
        return _call_turn(name, turn)
    if role in RESULT_ROLES or (role == "function" and holds(turn.get("name"))):
        return turn | {who: "tool"}
    if role in _ASSISTANTS and _is_old_call(turn.get(_OLD_CALL)):
        return _old_call_turn(name, turn)
    return turn


def _is_old_call(value: object) -> bool:
    """Whether this is {name, arguments}; anything else stays a key that is not read."""
    return isinstance(value, dict) and value.keys() >= _OLD_CALL_KEYS and holds(value)


def _old_call_turn(name: str, turn: dict[str, Any]) -> dict[str, Any]:
    """A turn with the one call of its `function_call`."""
    if not says_nothing("tool_calls", turn.get("tool_calls")):
        sentence = (
            f"{name} has a turn with tool_calls and {_OLD_CALL}; keep one: "
            f'prompts.ignore = ["{name}.{_OLD_CALL}"]'
        )
        raise RowProblem("bad_tool_call", sentence)
    kept = dict(turn)
    call = kept.pop(_OLD_CALL)
    _, what = _places(turn)
    if kept.get(what) is None:
        kept[what] = ""
    return kept | {"tool_calls": _calls(call, f"the {_OLD_CALL} of a turn in {name}")}


def _call_turn(name: str, turn: dict[str, Any]) -> dict[str, Any]:
    """The assistant's turn that a turn of a call's role is."""
    who, what = _places(turn)
    if not says_nothing("tool_calls", turn.get("tool_calls")):
        sentence = f"{name} has a turn of {turn[who]} with tool_calls; give it the role assistant"
        raise RowProblem("bad_tool_call", sentence)
    calls = _calls(turn.get(what), f"{name} has a turn of {turn[who]} whose {what}")
    return turn | {who: "assistant", what: "", "tool_calls": calls}


def _calls(value: object, what: str) -> list[dict[str, Any]]:
    try:
        return calls_in(value, what)
    except Malformed as error:
        code, _, sentence = str(error).partition(": ")
        raise RowProblem(code, sentence) from None


def _places(turn: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of a turn that say who speaks, and what."""
    who = "role" if isinstance(turn.get("role"), str) else "from"
    what = "content" if turn.get("content") is not None or "value" not in turn else "value"
    return who, what


def _role(turn: object) -> str | None:
    """Who speaks, in lower case; None where that is not said."""
    if not isinstance(turn, dict):
        return None
    role = turn.get("role")
    if not isinstance(role, str):
        role = turn.get("from")
    return role.strip().lower() if isinstance(role, str) else None


def _only_speaks(turn: object) -> bool:
    """Whether this is the assistant's turn with words and no calls."""
    if _role(turn) not in _ASSISTANTS or not isinstance(turn, dict):
        return False
    return isinstance(turn.get(_places(turn)[1]), str) and not holds(turn.get("tool_calls"))


def _says_more(turn: Mapping[str, Any]) -> bool:
    """Whether a turn says something beside its calls that would be lost in the turn before it."""
    return any(holds(turn.get(key)) for key in TURN_KEYS if key != "tool_calls")


def _joined(before: dict[str, Any], turn: dict[str, Any]) -> dict[str, Any]:
    """Two turns as one; keys that are not read stay in it, so that they are refused by their names."""
    calls = [*(before.get("tool_calls") or ()), *turn["tool_calls"]]
    more = {key: value for key, value in turn.items() if not holds(before.get(key))}
    places = (*_places(before), *_places(turn))
    for key in places:
        more.pop(key, None)
    return before | more | {"tool_calls": calls}
