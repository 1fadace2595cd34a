"""Text to token ids and back: the only place where either is made from the other.

Prompt and response are tokenised apart and joined as ids, so that no merge crosses the border, the template alone decides on BOS, and EOS
ends every response exactly once. Special tokens inside a user's text stay text: a "</s>" in a question must not end it.
"""

import datetime
import functools
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]
# Stands for the n-th special token that a user typed, while the template is rendered: a private-use character, absent from the text itself.
_STANDIN = "\ue000{}\ue001"
_STANDINS = re.compile(_STANDIN.format(r"(\d+)"))
_MARK = "\ue002response\ue002"


class TemplateError(ValueError):
    """The chat template refuses these messages (a role it does not know, turns that do not alternate)."""


class Text:
    """Token ids of prompts and responses for one tokenizer and one template."""

    def __init__(self, path: Path, template: str, date: str = "2024-07-26"):
        """`date` (YYYY-MM-DD) is today for a template that asks for it. Raises UserError where tokenizer or template cannot work at all."""
        import jinja2
        from transformers import AutoTokenizer, GenerationConfig

        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                path, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the tokenizer in {path} does not load: {str(error).strip().splitlines()[0]}"
            ) from None
        self.tokenizer.chat_template = template
        # split_special_tokens is a field of the one tokenizer underneath, so two threads at once would give each other's ids.
        self._coding = threading.Lock()
        # Warnings about a length the tokenizer believes in are noise here: max_length is ours to judge.
        self.tokenizer.model_max_length = int(1e30)
        bos = self.tokenizer.bos_token_id
        self._adds_bos = bos is not None and self.tokenizer("").input_ids[:1] == [bos]
        # Not only the named ones: a chat model's turn markers are often special without a name.
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted(filter(None, added | set(self.tokenizer.all_special_tokens)), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        ends = (
            GenerationConfig.from_pretrained(path).eos_token_id
            if (path / "generation_config.json").exists()
            else None
        )
        self.stop_ids = {*([ends] if isinstance(ends, int) else ends or []), self.tokenizer.eos_token_id} - {
            None
        }
        if not self.stop_ids:
            raise UserError(
                f"the tokenizer in {path} has no EOS token: a response could not be ended; set eos_token in its tokenizer_config.json"
            )
        day = datetime.date.fromisoformat(date)
        self._today = {"strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")}
        try:
            self._apply([{"role": "user", "content": "a"}], True)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template of {path} is no template: {error}; give another by model.chat_template"
            ) from None
        except (jinja2.TemplateError, TypeError, ValueError):
            pass  # it may refuse this one prompt and take others

    def prompts(self, prompts: Sequence[Messages]) -> list[list[int] | TemplateError]:
        """Token ids of each prompt, up to where the assistant's turn begins; a refusal in place of those that the template refuses."""
        rendered: list[str | TemplateError] = []
        for messages in prompts:
            try:
                rendered.append(self._render(messages))
            except TemplateError as error:
                rendered.append(error)
        plain = [
            text
            for text, messages in zip(rendered, prompts, strict=True)
            if isinstance(text, str) and not self._typed(messages)
        ]
        ids = iter(self._ids(plain) if plain else [])
        result: list[list[int] | TemplateError] = []
        for text, messages in zip(rendered, prompts, strict=True):
            if isinstance(text, TemplateError):
                result.append(text)
            else:
                result.append(self._guarded(messages) if self._typed(messages) else next(ids))
        return result

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each response, EOS at the end."""
        if not texts:
            return []
        return [[*row, self.end_id] for row in self._ids(list(texts), split_special_tokens=True)]

    def _ids(self, text, split_special_tokens: bool = False):
        """Token ids of a text or of each of a list, nothing added; what looks like a special token is one, or with `split_special_tokens` is text."""
        with self._coding:
            return self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens
            ).input_ids

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of sampled responses, without the token that ended them or any other special one."""
        if not rows:
            return []
        return self.tokenizer.batch_decode(
            [list(row) for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def single_ids(self, word: str) -> list[int]:
        """Every token that a model may say this word by at the beginning of its answer; raises UserError where it is more than one token."""
        found = [self._ids(space + word) for space in ("", " ")]
        # After a line's end, where tokenizers that put a space in front of every text do not.
        line = self._ids("\n")
        if (after := self._ids("\n" + word))[: len(line)] == line:
            found.append(after[len(line) :])
        ids = sorted({ids[0] for ids in found if len(ids) == 1})
        if not ids:
            raise UserError(
                f"'{word}' is not a single token of {self.tokenizer.name_or_path}: a judge's answer is read from the probabilities of single tokens; change [judge] low and high"
            )
        return ids

    @functools.cached_property
    def end_id(self) -> int:
        """The token that ends a response: what the template puts after an assistant's turn if the model stops there, else EOS."""
        fallback = (
            self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else min(self.stop_ids)
        )
        try:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
            after = self._render(turns, generation=False).partition(_MARK)[2]
        except TemplateError:
            return fallback
        return next((token for token in self._ids(after) if token in self.stop_ids), fallback)

    def _typed(self, messages: Messages) -> bool:
        return self._special is not None and any(
            self._special.search(message["content"]) for message in messages
        )

    def _render(self, messages: Messages, generation: bool = True) -> str:
        import jinja2

        try:
            return self._apply(messages, generation)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TemplateError(str(error).strip() or type(error).__name__) from None

    def _apply(self, messages: Messages, generation: bool) -> str:
        own = {} if self._adds_bos or self.tokenizer.bos_token is None else {"unwanted_bos": True}
        today = {
            name: value for name, value in self._today.items() if name in (self.tokenizer.chat_template or "")
        }
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation, **own, **today
        )

    def _guarded(self, messages: Messages) -> list[int]:
        """Ids of a prompt in which a user typed a special token: it is hidden while the template is rendered, then tokenised as text."""
        assert self._special is not None
        hidden: list[str] = []

        def hide(match: re.Match) -> str:
            hidden.append(match[0])
            return _STANDIN.format(len(hidden) - 1)

        safe = [message | {"content": self._special.sub(hide, message["content"])} for message in messages]
        ids: list[int] = []
        rendered, at = self._render(safe), 0
        for special in [*self._special.finditer(rendered), None]:
            text = rendered[at : special.start() if special else None]
            text = _STANDINS.sub(
                lambda match: hidden[int(match[1])] if int(match[1]) < len(hidden) else match[0], text
            )
            ids += self._ids(text, split_special_tokens=True) if text else []
            if special:
                ids.append(self.tokenizer.convert_tokens_to_ids(special[0]))
                at = special.end()
        return ids
