"""The tokenizer of a model's folder, from the files that its digest names; the tokens that end a text."""

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import UserError
from schemas.model_content import read_json
from schemas.model_errors import shown
from schemas.model_files import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    files_of_tokenizer,
    place_of,
    view,
)
from schemas.panics import panics_as_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def named_end_ids(path: Path, eos: int | None) -> set[int]:
    """The end tokens of a model folder, from every place that transformers takes them from."""
    named: set[int] = set()
    if eos is not None:
        named.add(eos)
    for name in (GENERATION_CONFIG, CONFIG):
        file = place_of(path, name)
        settings = read_json(file)
        for holder in (settings, settings.get("text_config") or {}):
            ends = holder.get("eos_token_id")
            if ends is None:
                continue
            ids = ends if isinstance(ends, list) else [ends]
            if not all(type(one) is int for one in ids):
                raise UserError(f"{file}: eos_token_id is {ends!r}; expected a number or a list of them")
            named.update(ids)
    return named
