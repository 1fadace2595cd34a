"""Lines that no reader expects: the rows of every format with something hostile at a random place of them."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.engine.test_shapes import SHAPES, assistant, gpt, user

KEYS = [
    *(
        "",
        '"',
        '""',
        "'",
        "\\",
        "\\\\",
        "a\\",
        '\\"',
        '."',
        '".',
        ".",
        "$",
        "$.a",
        '$."a"',
        "[*]",
        "[0]",
        "*",
        "**",
    ),
    *(
        "a.b",
        'a"b',
        "a]b",
        "#-1",
        "0",
        "-1",
        "/",
        "/a",
        "?(@.a)",
        "\x00",
        "a\x00b",
        "\n",
        " ",
        "\u2028",
        "\u202e",
    ),
    *("\ue000", "\ue0000\ue001", "\U0001f300", "é", "K" * 10_000, "select", "from", "null", "true", "order"),
    *(
        "row",
        "n",
        "others",
        "file",
        "line",
        "turn",
        "score",
        "text",
        "content",
        "role",
        "name",
        "items",
        "messages",
    ),
    *(
        "tool_calls",
        "arguments",
        "function",
        "problem",
        "reasoning_content",
        "is_correct",
        "solution",
        "tools",
    ),
    *("split", "rating", "comparison", "{", "}", "{}", "%s", "{{ x }}", "</s>", "--", ";", "/*", "__class__"),
]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        10**30,
        2**63,
        2**64,
        -(2**63) - 1,
        1e308,
        5e-324,
        -0.0,
        "",
        " ",
        "\x00",
        "</s>",
    ),
    *("\ue0000\ue001", "\u2028", "\u202e", "[", "{", "[]", "{}", "null", "NaN", "[1, 2]", '{"a": 1, "a": 2}'),
    *('[{"role": "user", "content": NaN}]', '[{"role": "user", "content": "\\ud800"}]', '"\\ud800"'),
    *('{"n": 1e400}', f'{{"n": {"9" * 5000}}}', "[" * 5000, "[" * 60 + "]" * 60, "x" * 20_000),
    *(
        [],
        {},
        [None],
        [[]],
        [{}],
        [[[[[[[[[[]]]]]]]]]],
        {"": ""},
        {'"': {'"': '"'}},
        {"\\": 1},
        ["a", 1, None, {}, []],
    ),
    *({"role": "user"}, {"content": "x"}, {"role": 1, "content": 2}, {"role": "\x00", "content": "x"}),
    *([{"role": "user", "content": [{"type": "text", "text": "x"}]}], [{"role": "user", "content": [{}]}]),
    *({"is_correct": True, "solution": "x"}, {"is_correct": True, "solution": 1, "": 2}, {"solution": "x"}),
    *(
        [{"function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}],
        [{"name": "f", "arguments": "[" * 200}],
    ),
    *(
        [{"function": {"name": "f", "arguments": {"": {'"': 1}}}}],
        [{"function": None}],
        [{"id": 1}],
        "tool_call",
    ),
]
_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}
_TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
_DIALOGUE = [
    user("q"),
    assistant("") | {"tool_calls": [_CALL]},
    {"role": "tool", "name": "f", "content": "2"},
]
_MORE: list[dict[str, Any]] = [
    {"prompt": "How much?", "chosen": "Three.", "rejected": "Four."},
    {"chosen": "\n\nHuman: hi\n\nAssistant: yo", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
    {
        "instruction": "q",
        "completions": [{"response": "a", "overall_score": 9}, {"response": "b", "score": 1}],
    },
    {"question": "q", "ground_truth": "A: 2", "6b": {"is_correct": False, "solution": "A: 3"}},
    {"prompt": "q"},
    {"messages": [user("hi"), assistant("yo"), user("and?")]},
    {"prompt": _DIALOGUE, "tools": _TOOLS, "chosen": [assistant("2")], "rejected": [assistant("3")]},
    {"prompt": json.dumps(_DIALOGUE), "tools": json.dumps(_TOOLS), "chosen": "2", "rejected": "3"},
    {"conversations": [{"from": "human", "value": "q"}], "chosen": gpt("a"), "rejected": gpt("b")},
    {
        "messages": [user("q"), {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}],
        "rejected_response": "b",
    },
]


def seeds() -> list[dict[str, Any]]:
    """A row or more of every format."""
    rows = [row(1) for _, row, _ in SHAPES.values()]
    return [*rows, *_MORE]


def hostile_rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Rows of every format, each changed at one place or at two."""
    draw = random.Random(seed)
    rows = seeds()
    for number in range(count):
        row = json.loads(json.dumps(rows[number % len(rows)]))
        for _ in range(draw.choice((1, 1, 2))):
            row = _changed(row, draw)
        yield row if isinstance(row, dict) else {"prompt": row}


def _changed(row: Any, draw: random.Random) -> Any:
    """The row with one of its values, or one of their keys, made hostile."""
    places = list(_places(row, ()))
    way = draw.choice(places)
    change: Callable[[Any, random.Random], Any] = draw.choice(_CHANGES)
    return _with(row, way, lambda value: change(value, draw))


def _places(value: Any, way: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield way
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, one in inner:
        yield from _places(one, (*way, key))


def _with(value: Any, way: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not way:
        return change(value)
    value[way[0]] = _with(value[way[0]], way[1:], change)
    return value


def _other_value(value: Any, draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(VALUES))


def _another_key(value: Any, draw: random.Random) -> Any:
    more = {draw.choice(KEYS): copy.deepcopy(draw.choice(VALUES))}
    return value | more if isinstance(value, dict) else more


def _renamed_key(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, dict) or not value:
        return {draw.choice(KEYS): value}
    renamed = dict(value)
    name = draw.choice(list(renamed))
    renamed[draw.choice(KEYS)] = renamed.pop(name)
    return renamed


def _as_text(value: Any, draw: random.Random) -> Any:
    return json.dumps(value)


def _in_a_list(value: Any, draw: random.Random) -> Any:
    return [copy.deepcopy(value) for _ in range(draw.choice((1, 2, 3)))]


def _deep(value: Any, draw: random.Random) -> Any:
    for _ in range(draw.choice((3, 95, 120))):
        value = [value]
    return value


_CHANGES = [_other_value, _another_key, _another_key, _renamed_key, _as_text, _in_a_list, _deep]


def hostile_lines(seed: int, count: int) -> Iterator[bytes]:
    """Lines of JSON that hold such rows, some of them spoilt as bytes; none holds a line's end."""
    draw = random.Random(seed)
    for row in hostile_rows(seed, count):
        text = json.dumps(row, ensure_ascii=draw.random() < 0.5)
        line = text.encode(errors="surrogatepass")
        if draw.random() < 0.15:
            line = _spoilt(line, draw)
        yield line.replace(b"\n", b" ") or b"x"


def _spoilt(line: bytes, draw: random.Random) -> bytes:
    """The line cut, with other bytes in it, or with what JSON does not have."""
    place = draw.randrange(len(line))
    pieces = [
        b"\xff",
        b"\xed\xa0\x80",
        b"\x00",
        b'"',
        b"\\",
        b"}",
        b"]",
        b",",
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"\r",
    ]
    spoilt = [
        line[:place],
        line[:place] + draw.choice(pieces) + line[place:],
        line[:place] + draw.choice(pieces) + line[place + 1 :],
        line + line,
        line.replace(b": 1", b": NaN"),
        line.replace(b": 1", b": 1" + b"0" * 5000),
        line[:-1] + b', "chosen": "again"}',
        b"[" * 200_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"\xef\xbb\xbf" + line,
        b'"text"',
    ]
    return draw.choice(spoilt) or b"{"
