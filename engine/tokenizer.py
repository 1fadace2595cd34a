"""The tokenizer of a model's folder, made from the files that its digest names; whether it fits the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import UserError
from schemas.identity import Identity
from schemas.model_content import read_json
from schemas.model_errors import shown
from schemas.model_files import TOKENIZER_CONFIG, files_of_tokenizer, place_of, view
from schemas.panics import panics_as_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Special tokens that may get into a prompt though its template does not spell them.
_NAMED = ("bos_token", "eos_token", "unk_token")


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder. Raises UserError if it does not load."""
    from transformers import AutoTokenizer

    with view(path, files_of_tokenizer(path)) as folder:
        try:
            with panics_as_errors():
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # each tokenizer class fails in its own way; tokenizers' errors are bare
            reason = shown(error, folder, path) + _remedy(path)
            raise UserError(f"the tokenizer in {path} does not load: {reason}") from None
    tokenizer.name_or_path = str(path)
    return tokenizer


def _remedy(path: Path) -> str:
    """What to do where a tokenizer asks for code of its own; empty where it does not."""
    if not read_json(place_of(path, TOKENIZER_CONFIG)).get("auto_map"):
        return ""
    advice = "use a model whose tokenizer transformers supports itself"
    if place_of(path, "tokenizer.json").is_file():
        advice += (
            ", or, if its tokenizer.json is all of it, set tokenizer_class to PreTrainedTokenizerFast in "
            f"{TOKENIZER_CONFIG} and remove auto_map there"
        )
    return (
        f"; it asks for code of its own (auto_map in {TOKENIZER_CONFIG}), and no code of a model folder is "
        f"run: {advice}"
    )


def embedding_rows(identity: Identity) -> int | None:
    """The rows of a model's embedding, by its config. Raises UserError where that does not load."""
    from transformers import AutoConfig

    with view(identity.path, files_of_tokenizer(identity.path)) as folder:
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # each config class checks itself in its own way
            reason = shown(error, folder, identity.path)
            raise UserError(f"config.json in {identity.path} does not load: {reason}") from None
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", identity: Identity) -> None:
    """Raise UserError, before any work, where a model's tokenizer does not fit it."""
    rows = embedding_rows(identity)
    if rows is not None:
        check_tokens(tokenizer, rows, identity)


def check_tokens(tokenizer: "PreTrainedTokenizerBase", rows: int, identity: Identity) -> None:
    """Raise UserError where a text can have tokens that an embedding with so many rows does not hold.

    Special tokens that no prompt can hold may lie beyond it: what a user types is never taken for one, so
    they come from the template alone. Some published models of text have such ones, for pictures."""
    beyond: dict[int, str] = {}
    for token, number in _reachable_tokens(tokenizer, identity.template_text):
        if number >= rows:
            beyond[number] = token
    if not beyond:
        return
    first = min(beyond)
    raise UserError(
        f"the tokenizer in {identity.path} has ids up to {max(beyond)} ({beyond[first]!r} is {first}), but "
        f"the model has {rows} rows, for ids up to {rows - 1}: take the tokenizer that belongs to the model, "
        "or resize the model's embedding (resize_token_embeddings), train the new rows and save it again"
    )


def _reachable_tokens(tokenizer: "PreTrainedTokenizerBase", template: str) -> Iterator[tuple[str, int]]:
    """The tokens that a text or the template can give, with their ids."""
    special: set[str] = set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            special.add(token.content)
    named: set[str] = set()
    for name, value in tokenizer.special_tokens_map.items():
        if name in _NAMED or name in template:
            named.add(str(value))
    for token, number in tokenizer.get_vocab().items():
        if token not in special or token in named or token in template:
            yield token, number
