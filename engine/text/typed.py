"""Special tokens that a user typed: hidden while a template is rendered, then put back as text.

So every special token of a rendering is the template's own, and only these become special ids: a "</s>" in a
question must not end it.
"""

import re
from collections.abc import Collection, Sequence

from engine.text.chat import TemplateError

# The private-use characters that stand-ins are made of: two that the texts themselves do not hold.
_PRIVATE_USE = range(0xE000, 0xF8FF)


class TypedTokens:
    """Stands in for the special tokens in some texts; `restore` puts them back."""

    def __init__(self, special_tokens: re.Pattern[str], texts: Sequence[str]):
        """`texts`: all that will be hidden or rendered, since a stand-in must not be any part of them.

        Raises TemplateError where nothing is left that could stand in."""
        self._special_tokens = special_tokens
        self._open, self._close = _absent_characters(texts)
        # A template may write what is in an object as Python or JSON does, these letters by their number.
        opening = f"(?:{self._open}|{re.escape(_by_number(self._open))})"
        closing = f"(?:{self._close}|{re.escape(_by_number(self._close))})"
        self._standins = re.compile(f"{opening}(\\d+){closing}")
        self._numbers: dict[str, int] = {}  # of each special token that was hidden

    def hide(self, text: str, leave: Collection[str] = ()) -> str:
        """The text with stand-ins for its special tokens, but for those to `leave`."""

        def hidden(special: re.Match[str]) -> str:
            return special[0] if special[0] in leave else self._standin(special)

        return self._special_tokens.sub(hidden, text)

    def restore(self, text: str) -> str:
        """The text, or a message that shows it, with the special tokens in the place of their stand-ins."""
        return self._standins.sub(self._original, text)

    def _standin(self, special: re.Match[str]) -> str:
        # The same for every occurrence, so that a text is hidden alike each time.
        number = self._numbers.setdefault(special[0], len(self._numbers))
        return f"{self._open}{number}{self._close}"

    def _original(self, standin: re.Match[str]) -> str:
        number = int(standin[1])
        if number >= len(self._numbers):
            raise TemplateError(
                "the chat template changes special tokens that somebody typed", "special_token"
            )
        return list(self._numbers)[number]


def _by_number(character: str) -> str:
    """A private-use character as `repr` and JSON in ASCII write it."""
    return f"\\u{ord(character):04x}"


def _absent_characters(texts: Sequence[str]) -> tuple[str, str]:
    """Two private-use characters that stand in none of the texts. Raises TemplateError if there are none."""
    written = "\n".join(texts)
    present = set(written)
    absent: list[str] = []
    for code in _PRIVATE_USE:
        character = chr(code)
        if character not in present and _by_number(character) not in written:
            absent.append(character)
        if len(absent) == 2:
            return absent[0], absent[1]
    raise TemplateError(
        "the text holds every private-use character, so nothing can stand in for the special token in it",
        "special_token",
    )
