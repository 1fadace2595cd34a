"""How large a template may make a value: each is weighed before it is made, or as soon as it is.

A template is anybody's: `"a" * 10 ** 10` or a text that doubles itself thirty times would eat the memory in
one step that nothing can interrupt. A weight is about a value's bytes; a list or an object weighs as much as
all that is in it, each time that it is in it, since that is what writing it out would take.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jinja2.utils import Namespace

MOST = 64 << 20  # of one value, and of a rendering
MOST_OF_ALL = 1 << 30  # of all that one rendering makes
# Shorter texts are not counted: how many there are the time limits.
SMALL = 256
_OF_A_VALUE = 32
_MOST_BITS = 100_000  # of a whole number
_LONG_NUMBER = "it makes a number of more digits than any text needs"
_MOST_DIGITS = 1000  # to which a number is rounded
_NUMBER = re.compile(r"\d+")
_GIVEN_WIDTH = re.compile(r"\*|\{[^{}]*\{")  # in a text that is filled: %*d, {:{width}}
# What adds as many of something as a number says.
_ADDING = frozenset({"batch", "center", "ljust", "rjust", "slice", "to_bytes", "zfill"})
# What works on the items of a list without writing them out or comparing them.
OF_ITEMS = frozenset(
    {
        *("abs", "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map"),
        *("random", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "round"),
    }
)
# What may look at a text many times over.
QUADRATIC = frozenset({"striptags", "urlize"})
_MOST_QUADRATIC = 1 << 20
# What makes a list of a text's parts.
SPLITTING = frozenset({"list", "rsplit", "sort", "split", "splitlines", "title", "wordcount"})
# Where the parts of a text end that is split without a word about it; `title` ends them at more.
_BETWEEN_WORDS = "".join(filter(str.isspace, map(chr, range(0x3001))))
_BETWEEN_TITLES = _BETWEEN_WORDS + "-({[<"
_PARTS_OF_WORDS = frozenset({"rsplit", "split", "splitlines"})
# The filters that may make much of one text alone.
LOOKED_AT = QUADRATIC | SPLITTING | {"format", "join"}


class TooLarge(Exception):
    """A value would be larger than a template may make one."""


def weight(value: object) -> int:
    """About a value's bytes; no more than a little above MOST is counted."""
    if isinstance(value, str):
        return len(value) if value.isascii() else 4 * len(value)
    total = 0
    waiting: list[object] = [value]
    while waiting and total <= MOST:
        one = waiting.pop()
        if isinstance(one, str):
            total += (len(one) if one.isascii() else 4 * len(one)) + _OF_A_VALUE
        elif isinstance(one, bytes | bytearray):
            total += len(one)
        elif isinstance(one, int):
            total += _OF_A_VALUE + (one.bit_length() >> 3)
        else:
            total += _OF_A_VALUE
            waiting.extend(_inner(one))
    return total


def own_weight(value: object) -> int:
    """What a value adds to what there was before: of a list its places, not what is in it."""
    if isinstance(value, str):
        return _OF_A_VALUE + (len(value) if value.isascii() else 4 * len(value))
    places = len(value) if isinstance(value, list | tuple | dict) else 0
    return _OF_A_VALUE + 16 * places


def _inner(value: object) -> Iterable[object]:
    """What a container holds."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Collection) and not isinstance(value, range):
        return value  # a set, or what a mapping's items() are
    if isinstance(value, Namespace):
        attributes: dict[str, object] = object.__getattribute__(value, "_Namespace__attrs")
        return attributes.values()
    return ()


def check_weight(count: int) -> None:
    """Raise TooLarge for a weight that is more than one value's."""
    if count > MOST:
        raise TooLarge(f"it makes a value of more than {MOST >> 20} MiB")


def check_number(value: object) -> None:
    """Raise TooLarge for a whole number with which a calculation would take long, in one step."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise TooLarge(_LONG_NUMBER)


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise TooLarge before `left * right`, `left ** right` or `left % right` makes too much.

    A division of very long numbers would take too long."""
    check_number(left)
    check_number(right)
    if operator in ("%", "/", "//"):
        if isinstance(left, str | bytes):
            check_format(left if isinstance(left, str) else left.decode("latin-1"), "%", right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        if operator == "**" and abs(left) > 1:
            bits = left.bit_length() * max(0, right)
        if bits > _MOST_BITS:
            raise TooLarge(_LONG_NUMBER)
    elif operator == "*":
        for times, value in ((left, right), (right, left)):
            if isinstance(times, int) and not isinstance(value, float):
                check_weight(times * weight(value))


def check_format(form: str, mark: str, arguments: object) -> None:
    """Raise TooLarge before a text with places to fill (`mark`) is filled."""
    widest = max([0, *map(_width, _NUMBER.findall(form))])
    if _GIVEN_WIDTH.search(form):
        widest += _numbers(arguments)
    given = list(_inner(arguments)) or [arguments]
    largest = max(map(weight, given))
    check_weight(weight(form) + form.count(mark) * (largest + widest))


def _width(digits: str) -> int:
    return int(digits) if len(digits) < 10 else MOST


def check_growth(name: str, value: Any, given: Sequence[Any]) -> None:
    """Raise TooLarge before a filter or a method, by its name, makes too much of a value."""
    if name in _ADDING:
        check_weight(weight(value) + _numbers(given) * (1 + _texts(given)))
    elif name == "replace" and len(given) > 1:
        check_weight(weight(value) + _count(value, given[0]) * weight(given[1]))
    elif name == "indent":
        check_weight(weight(value) + (1 + _count(value, "\n")) * (_numbers(given) + _texts(given)))
    elif name == "expandtabs":
        check_weight(weight(value) + _count(value, "\t") * (8 + _numbers(given)))
    elif name in ("tojson", "wordwrap"):
        numbers = _numbers(given) if name == "tojson" else 0
        check_weight(weight(value) * (1 + numbers + _texts(given)))
    elif name == "translate" and given:
        check_weight((1 + weight(value)) * max([0, *map(weight, _inner(given[0]))]))
    elif name == "round" and _numbers(given) > _MOST_DIGITS:
        raise TooLarge("it rounds to more digits than a number has")
    elif name in SPLITTING and isinstance(value, str | bytes):
        check_weight(weight(value) + _OF_A_VALUE * _parts(name, value, given))
    elif name in QUADRATIC and weight(value) > _MOST_QUADRATIC:
        raise TooLarge(f"{name} is given more than {_MOST_QUADRATIC >> 20} MiB")


def _parts(name: str, value: str | bytes, given: Sequence[Any]) -> int:
    """At most how many parts a text is split into."""
    if isinstance(value, bytes):
        return len(value) + 1
    if name in _PARTS_OF_WORDS and given and isinstance(given[0], str) and given[0]:
        return value.count(given[0]) + 1
    if name in _PARTS_OF_WORDS:
        return 1 + sum(map(value.count, _BETWEEN_WORDS))
    if name == "title":  # which keeps what is between the words
        return 1 + 2 * sum(map(value.count, _BETWEEN_TITLES))
    return len(value)


def _count(value: Any, part: Any) -> int:
    """How often a part stands in a text, or in what is written of another value."""
    if isinstance(value, bytes) and isinstance(part, bytes):
        return value.count(part)
    return str(value).count(str(part))


def _numbers(arguments: object) -> int:
    """The sum of the whole numbers in what a call is given."""
    if isinstance(arguments, int):
        return abs(arguments)
    if isinstance(arguments, Mapping):
        return sum(map(_numbers, arguments.values()))
    if isinstance(arguments, list | tuple):
        return sum(map(_numbers, arguments))
    return 0


def _texts(arguments: Sequence[Any]) -> int:
    """The weight of the texts and containers in what a call is given."""
    return sum(weight(one) for one in arguments if not isinstance(one, int))


def joined(items: Iterable[Any], separator: object) -> list[Any]:
    """The items that are to be joined. Raises TooLarge where they are too much together."""
    total = 0
    each = weight(str(separator))
    kept: list[Any] = []
    for item in items:
        total += weight(item) + each
        check_weight(total)
        kept.append(item)
    return kept
