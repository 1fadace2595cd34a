r"""Text from outside, made safe to print: nothing in it may move a cursor, set a title or turn a line around.

A terminal obeys control characters wherever they come from: a row, a file's name, a model's answer. They are
shown as Python writes them: `\x1b`, `\u202e`.
"""

import re

# C0 but for tab and line feed, DEL, C1; marks that change the direction of text; line and paragraph
# separators; lone surrogates, which no terminal can be given.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text with every character that a terminal would obey written by its number."""
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    r"""The text as one printable line. A break is shown as `\n`, or a name could add lines of its own."""
    return printable(text).replace("\n", "\\n")


def escaped_in_json(text: str) -> str:
    """JSON with the same characters as escapes: it means what it meant, and is safe to print."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
