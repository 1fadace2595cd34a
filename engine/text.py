"""Text to token ids and back: the only place where either is made from the other.

- Prompt and response are tokenised apart and joined as ids. So no merge crosses the border, the template
  alone decides on BOS, and EOS ends every response exactly once.
- Special tokens inside a user's text stay text: a "</s>" in a question must not end it.
"""

import datetime
import functools
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from schemas.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]
# Stands for the n-th special token that a user typed, while the template is rendered. Its private-use
# characters are absent from the text itself.
_STANDIN = "\ue000{}\ue001"
_STANDINS = re.compile(_STANDIN.format(r"(\d+)"))
_RESPONSE_MARK = "\ue002response\ue002"


class TemplateError(ValueError):
    """The chat template refuses these messages (a role it does not know, turns that do not alternate)."""


class Text:
    """Token ids of prompts and responses for one tokenizer and one chat template.

    `stop_ids` are the tokens at which sampling stops; `end_id` is the one that ends a given response.
    """

    def __init__(self, path: Path, template: str, date: str = "2024-07-26"):
        """`date` (YYYY-MM-DD) is today for a template that asks for it.

        Raises UserError if the tokenizer in `path` or the template cannot work at all.
        """
        self.tokenizer = _load_tokenizer(path)
        self.tokenizer.chat_template = template
        # split_special_tokens is a field of the one tokenizer underneath, so two threads at once would get
        # each other's ids.
        self._lock = threading.Lock()
        # Warnings about the length that the tokenizer believes in are noise: the engine checks max_length.
        self.tokenizer.model_max_length = int(1e30)
        bos = self.tokenizer.bos_token_id
        self._adds_bos = bos is not None and self.tokenizer("").input_ids[:1] == [bos]
        self._special_tokens = _special_tokens_pattern(self.tokenizer)
        self.stop_ids = _stop_ids(path, self.tokenizer)
        today = datetime.date.fromisoformat(date)
        self._date_variables = {"strftime_now": today.strftime, "date_string": today.strftime("%d %b %Y")}
        self._check_template(path)

    def _check_template(self, path: Path) -> None:
        """Raises UserError if the template's syntax is wrong."""
        try:
            self._apply_template([{"role": "user", "content": "a"}], add_generation_prompt=True)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template of {path} is no template: {error}; give another by model.chat_template"
            ) from None
        except (jinja2.TemplateError, TypeError, ValueError):
            pass  # it may refuse this one prompt and take others

    def prompts(self, prompts: Sequence[Messages]) -> list[list[int] | TemplateError]:
        """Token ids of each prompt, up to where the assistant's turn begins; or the template's refusal."""
        return self.openings(prompts, [""] * len(prompts))

    def openings(self, prompts: Sequence[Messages], begun: Sequence[str]) -> list[list[int] | TemplateError]:
        """The same, followed by what the assistant's text begins with: one text to the tokenizer."""
        rendered: list[str | TemplateError] = []
        typed: list[bool] = []
        for messages, beginning in zip(prompts, begun, strict=True):
            typed.append(self._has_special_tokens([*messages, {"content": beginning}]))
            try:
                rendered.append(self._render(messages) + beginning)
            except TemplateError as error:
                rendered.append(error)
        # Prompts without typed special tokens are tokenised in one batch.
        plain: list[str] = []
        for text, has_special_tokens in zip(rendered, typed, strict=True):
            if isinstance(text, str) and not has_special_tokens:
                plain.append(text)
        plain_ids = iter(self._ids_of_all(plain))
        result: list[list[int] | TemplateError] = []
        for number, text in enumerate(rendered):
            if isinstance(text, TemplateError):
                result.append(text)
            elif typed[number]:
                result.append(self._guarded_ids(prompts[number], begun[number]))
            else:
                result.append(next(plain_ids))
        return result

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each response, with `end_id` at the end."""
        all_ids = self._ids_of_all(list(texts), split_special_tokens=True)
        return [[*ids, self.end_id] for ids in all_ids]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of sampled responses, without the token that ended them or any other special one."""
        if not rows:
            return []
        return self.tokenizer.batch_decode(
            [list(row) for row in rows],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    def spellings(self, word: str) -> list[list[int]]:
        """The tokens of a word where a text begins, after a space, and after a line's end."""
        spellings = [self._ids(word), self._ids(" " + word)]
        # After a line's end tokenizers that put a space in front of every text put none.
        line_end = self._ids("\n")
        after_line_end = self._ids("\n" + word)
        if after_line_end[: len(line_end)] == line_end:
            spellings.append(after_line_end[len(line_end) :])
        return spellings

    @functools.cached_property
    def end_id(self) -> int:
        """The token that ends a response.

        It is what the template puts after an assistant's turn if the model stops there, else EOS.
        """
        fallback = self.tokenizer.eos_token_id
        if fallback is None:
            fallback = min(self.stop_ids)
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _RESPONSE_MARK}]
        try:
            rendered = self._render(turns, add_generation_prompt=False)
        except TemplateError:
            return fallback
        after_response = rendered.partition(_RESPONSE_MARK)[2]
        for token in self._ids(after_response):
            if token in self.stop_ids:
                return token
        return fallback

    def _ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """Token ids of a text, nothing added.

        What looks like a special token is one, or with `split_special_tokens` is text.
        """
        return self._encode(text, split_special_tokens)

    def _ids_of_all(self, texts: list[str], split_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text, as `_ids` gives them, in one call."""
        if not texts:
            return []
        return self._encode(texts, split_special_tokens)

    def _encode(self, text: str | list[str], split_special_tokens: bool) -> Any:
        with self._lock:
            encoding = self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens
            )
        return encoding.input_ids

    def _has_special_tokens(self, messages: Messages) -> bool:
        """True if a special token stands, as text, in the messages themselves."""
        if self._special_tokens is None:
            return False
        return any(self._special_tokens.search(message["content"]) for message in messages)

    def _render(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """The messages as the template renders them. Raises TemplateError if it refuses them."""
        try:
            return self._apply_template(messages, add_generation_prompt)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TemplateError(str(error).strip() or type(error).__name__) from None

    def _apply_template(self, messages: Messages, add_generation_prompt: bool) -> str:
        variables: dict[str, Any] = {}
        if self.tokenizer.bos_token is not None and not self._adds_bos:
            variables["unwanted_bos"] = True
        template = self.tokenizer.chat_template or ""
        for name, value in self._date_variables.items():
            if name in template:
                variables[name] = value
        rendered = self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
        assert isinstance(rendered, str)
        return rendered

    def _guarded_ids(self, messages: Messages, begun: str = "") -> list[int]:
        """Token ids of a prompt and a begun response in which a user typed special tokens.

        They are hidden while the template is rendered, then tokenised as text. So any special token that is
        rendered is the template's own, and only these become special ids.
        """
        assert self._special_tokens is not None
        typed = _TypedSpecialTokens(self._special_tokens)
        safe_messages: list[dict[str, str]] = []
        for message in messages:
            safe_messages.append(message | {"content": typed.hide(message["content"])})
        rendered = self._render(safe_messages) + typed.hide(begun)
        ids: list[int] = []
        part_begin = 0
        for special in self._special_tokens.finditer(rendered):
            ids += self._ids_as_text(typed.restore(rendered[part_begin : special.start()]))
            special_id = self.tokenizer.convert_tokens_to_ids(special[0])
            assert isinstance(special_id, int)
            ids.append(special_id)
            part_begin = special.end()
        ids += self._ids_as_text(typed.restore(rendered[part_begin:]))
        return ids

    def _ids_as_text(self, text: str) -> list[int]:
        """Token ids of a part of a prompt, in which every special token is text."""
        if not text:
            return []
        return self._ids(text, split_special_tokens=True)


class _TypedSpecialTokens:
    """The special tokens that a user typed, with a stand-in for each while the template is rendered."""

    def __init__(self, special_tokens: re.Pattern[str]):
        self._special_tokens = special_tokens
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        """The text with stand-ins for its special tokens."""
        return self._special_tokens.sub(self._standin, text)

    def restore(self, text: str) -> str:
        """The text with the special tokens in the place of their stand-ins."""
        return _STANDINS.sub(self._original, text)

    def _standin(self, special: re.Match[str]) -> str:
        self._hidden.append(special[0])
        return _STANDIN.format(len(self._hidden) - 1)

    def _original(self, standin: re.Match[str]) -> str:
        number = int(standin[1])
        if number < len(self._hidden):
            return self._hidden[number]
        return standin[0]  # none of ours


def _load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder. Raises UserError if it does not load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the tokenizer in {path} does not load: {str(error).strip().splitlines()[0]}"
        ) from None


def _special_tokens_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Matches any special token, the longest one first; None if the tokenizer has none."""
    # Not only the named ones: a chat model's turn markers are often special without a name.
    special_tokens = set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            special_tokens.add(token.content)
    special_tokens.discard("")
    if not special_tokens:
        return None
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def _stop_ids(path: Path, tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """EOS and the end tokens of generation_config.json. Raises UserError if there is none."""
    from transformers import GenerationConfig

    configured: int | list[int] | None = None
    if (path / "generation_config.json").exists():
        configured = GenerationConfig.from_pretrained(path).eos_token_id
    if isinstance(configured, int):
        configured = [configured]
    candidates = [*(configured or []), tokenizer.eos_token_id]
    stop_ids = {token for token in candidates if token is not None}
    if not stop_ids:
        raise UserError(
            f"the tokenizer in {path} has no EOS token: a response could not be ended; "
            "set eos_token in its tokenizer_config.json"
        )
    return stop_ids
