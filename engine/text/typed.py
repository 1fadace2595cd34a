"""Special tokens that a user typed: hidden while a template is rendered, then put back as text.

So every special token of a rendering is the template's own, and only these become special ids: a "</s>" in a
question must not end it.
"""

import re
from collections.abc import Collection, Sequence

# The private-use characters that stand-ins are made of: two that the texts themselves do not hold.
_PRIVATE_USE = range(0xE000, 0xF8FF)


class TypedTokens:
    """Stands in for the special tokens in some texts; `restore` puts them back."""

    def __init__(self, special_tokens: re.Pattern[str], texts: Sequence[str]):
        """`texts`: all that will be hidden or rendered, since a stand-in must not be any part of them."""
        self._special_tokens = special_tokens
        self._open, self._close = _absent_characters(texts)
        self._standins = re.compile(f"{self._open}(\\d+){self._close}")
        self._numbers: dict[str, int] = {}  # of each special token that was hidden

    def hide(self, text: str, leave: Collection[str] = ()) -> str:
        """The text with stand-ins for its special tokens, but for those to `leave`."""

        def hidden(special: re.Match[str]) -> str:
            return special[0] if special[0] in leave else self._standin(special)

        return self._special_tokens.sub(hidden, text)

    def restore(self, text: str) -> str:
        """The text with the special tokens in the place of their stand-ins."""
        return self._standins.sub(self._original, text)

    def restore_shown(self, text: str) -> str:
        """The same for a message, in which the stand-ins may be shown as `repr` does."""
        text = self.restore(text)
        begin = re.escape(repr(self._open)[1:-1])
        end = re.escape(repr(self._close)[1:-1])
        return re.sub(f"{begin}(\\d+){end}", self._original, text)

    def hide_in(self, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """The messages with stand-ins for the special tokens in their texts."""
        return [{**message, "content": self.hide(message["content"])} for message in messages]

    def _standin(self, special: re.Match[str]) -> str:
        # The same for every occurrence, so that a text is hidden alike each time.
        number = self._numbers.setdefault(special[0], len(self._numbers))
        return f"{self._open}{number}{self._close}"

    def _original(self, standin: re.Match[str]) -> str:
        return list(self._numbers)[int(standin[1])]


def _absent_characters(texts: Sequence[str]) -> tuple[str, str]:
    """Two private-use characters that stand in none of the texts."""
    present: set[str] = set()
    for text in texts:
        present.update(text)
    absent: list[str] = []
    for code in _PRIVATE_USE:
        character = chr(code)
        if character not in present:
            absent.append(character)
        if len(absent) == 2:
            return absent[0], absent[1]
    raise ValueError("the text holds every private-use character: nothing can stand in for a special token")
