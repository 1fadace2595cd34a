"""A response's tokens, each with how likely the reference holds it to be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.cells import number
from schemas.errors import UserError
from schemas.fetching import nothing_fetched
from schemas.identity import resolve, tokenizer_digest
from schemas.plans import read_plan
from schemas.recipe import load_of_run
from schemas.store import Store
from schemas.styled import Part
from schemas.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# From so many nat down a token has this background, the less likely the darker.
_SHADES = {
    -8.0: (128, 0, 0),
    -4.0: (152, 40, 24),
    -2.0: (120, 72, 24),
    -1.0: (88, 80, 32),
}
_NO_STYLE = MappingProxyType[str, Any]({})
LEGEND = "a token's background: from -1, -2, -4, -8 nat down"


class Tokens:
    """The tokens of a run's model by their ids."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}  # id -> its text where it stands alone

    @classmethod
    def of(cls, run: Store) -> "Tokens":
        """Raises UserError where the model's tokenizer is not here any more, or is another one."""
        try:
            with nothing_fetched():
                folder = resolve(load_of_run(run).section("model"))
                _check_same(run, folder)
                return cls(load_tokenizer(folder))
        except UserError as error:
            raise UserError(f"tokens are shown by the tokenizer of the run's model: {error}") from None

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each id. Letters that several tokens make together stand at the last of them."""
        alone = [self._alone(token) for token in ids]
        # Of most tokenizers the text is that of its tokens, one after another.
        whole = self._decoded(ids)
        if "".join(alone) == whole:
            return alone
        in_places = self._texts_in_places(ids)
        return in_places if "".join(in_places) == whole else self._texts_by_beginnings(ids)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _alone(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._decoded([token])
        return self._known[token]

    def _texts_in_places(self, ids: Sequence[int]) -> list[str]:
        """What each id adds to the text of the few before it: as a text is printed while it is sampled."""
        texts: list[str] = []
        begin = done = 0  # of the tokens whose text is known: those to be decoded again, and their end
        for end in range(1, len(ids) + 1):
            before = self._decoded(ids[begin:done])
            text = self._decoded(ids[begin:end])
            is_whole = not text.endswith("\ufffd") or end == len(ids)
            texts.append(text[len(before) :] if is_whole else "")
            if is_whole:
                begin, done = done, end
        return texts

    def _texts_by_beginnings(self, ids: Sequence[int]) -> list[str]:
        """What each id adds to the text of those before it."""
        texts: list[str] = []
        done = ""
        for end in range(1, len(ids) + 1):
            text = self._decoded(ids[:end])
            is_whole = not text.endswith("\ufffd") or end == len(ids)
            texts.append(text[len(done) :] if is_whole else "")
            done = text if is_whole else done
        return texts


def _check_same(run: Store, folder: Path) -> None:
    """Raise UserError where the log-probs of a run were made with another tokenizer than this folder's."""
    for stage in read_plan(run)[0]:
        model = stage.facts.get("model")
        known = model.get("tokenizer") if stage.stage == "logprobs" and isinstance(model, Mapping) else None
        if known is not None and known != tokenizer_digest(folder):
            raise UserError(f"the one in {folder} is not the one that the run was made with")


def shaded(tokens: Tokens, logps: dict[str, Any]) -> list[Part]:
    """The tokens of a row of `logprobs`."""
    parts: list[Part] = []
    for text, logp in zip(tokens.texts(logps["response_ids"]), logps["token_logps"], strict=True):
        parts.append(Part(text, _style_of(logp), ("", f"({number(logp)})")))
    return parts


def _style_of(logp: float) -> Any:
    for least, colour in _SHADES.items():
        if logp <= least:
            return {"bg": colour, "fg": "bright_white"}
    return _NO_STYLE
