"""Which special tokens of a dialogue were typed by somebody, and are text: they are hidden from the template.

Whatever a user supplies is looked at: contents, thoughts, calls with their arguments, tools.
"""

from collections.abc import Collection, Iterator

from engine.text.chat import Chat, Turn, is_plain, mapped, texts_in
from engine.text.tokens import Tokens
from engine.text.typed import TypedTokens


class Guard:
    """Knows what in a turn of each role is text."""

    def __init__(self, tokens: Tokens, template: str, markers_are_tokens: bool):
        """`markers_are_tokens`: special tokens in an assistant's turn are what they look like."""
        self._tokens = tokens
        self._template = template
        self._markers_are_tokens = markers_are_tokens
        # Special tokens that mark an assistant's thoughts, which the template itself looks for in its turns.
        self._thoughts = _thought_markers(tokens.all_special, template)

    def typed(self, chat: Chat) -> TypedTokens | None:
        """Hides the special tokens that stand as text in the dialogue; None if there are none.

        Raises TemplateError where nothing can stand in for them."""
        special = self._tokens.special
        if special is None:
            return None
        for role, text in _texts(chat):
            if self._is_guarded(role) and self._tokens.has_special(text, self._left(role)):
                # What the template itself writes must not look like a stand-in either.
                texts = [self._template, *(text for _, text in _texts(chat))]
                return TypedTokens(special, texts)
        return None

    def hidden(self, chat: Chat, typed: TypedTokens | None) -> Chat:
        """The dialogue with stand-ins for the special tokens in it."""
        if typed is None:
            return chat
        messages = [self.hidden_turn(message, typed) for message in chat.messages]
        tools = mapped(chat.tools, typed.hide)
        return Chat(messages, tools)

    def hidden_turn(self, turn: Turn, typed: TypedTokens | None) -> Turn:
        """A turn with stand-ins for the special tokens in it."""
        role = turn["role"]
        if typed is None or not self._is_guarded(role):
            return turn
        leave = self._left(role)
        said: Turn = {}
        for key, value in turn.items():
            said[key] = value if key == "role" else mapped(value, lambda text: typed.hide(text, leave))
        return said

    def _left(self, role: str) -> Collection[str]:
        """The special tokens that stay what they are in a turn of this role."""
        return self._thoughts if role == "assistant" else ()

    def _is_guarded(self, role: str) -> bool:
        """True if special tokens in a turn of this role are text."""
        return role != "assistant" or not self._markers_are_tokens


def _texts(chat: Chat) -> Iterator[tuple[str, str]]:
    """Every text of a dialogue with the role whose it is."""
    for message in chat.messages:
        role = message["role"]
        if is_plain(message):
            yield role, message["content"]
            continue
        for key, value in message.items():
            for text in () if key == "role" else texts_in(value):
                yield role, text
    for text in texts_in(chat.tools):
        yield "tool", text


def _thought_markers(special: Collection[str], template: str) -> set[str]:
    """The special tokens such as <think> and [/THINK], if the template looks for one of them."""
    markers = {token for token in special if "think" in token.lower()}
    return markers if any(token in template for token in markers) else set()
