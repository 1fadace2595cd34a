"""Where a response ends: the tokens that end it, and what the template puts after an assistant's text."""

from dataclasses import dataclass
from pathlib import Path

from engine.text.tokens import Tokens
from schemas.errors import UserError
from schemas.model_content import read_json
from schemas.model_files import CONFIG, GENERATION_CONFIG, place_of


@dataclass(frozen=True)
class Ends:
    """`turn_end`: what the template puts after a response, up to the token that ends it; or text, or nothing.

    `end_id`: the token that ends a response; `stop_ids`: all at which sampling stops; `is_rendered`: True if
    `turn_end` ends with `end_id`, False if that is put behind it."""

    turn_end: str
    end_id: int
    stop_ids: frozenset[int]
    is_rendered: bool


def ends_of(path: Path, tokens: Tokens, after_response: str) -> Ends:
    """The ends of a model's responses; `after_response` is what its template puts after one.

    Raises UserError if neither the template nor the model ends a response, or if the tokenizer does not know
    the template's end of turn."""
    named = _named_end_ids(path, tokens.tokenizer.eos_token_id)
    place = _end_token(tokens, after_response, named)
    if place is None:
        return Ends(after_response.rstrip(), _fallback(path, tokens, named), frozenset(named), False)
    begin, end = place
    end_id = tokens.id_of(after_response[begin:end])
    turn_end = after_response[:end]
    if tokens.ids("x" + turn_end)[-1] != end_id:
        raise UserError(
            f"the tokenizer in {path} cuts {after_response[begin:end]!r}, by which the chat template ends a "
            'response, into pieces: make it a special token with "normalized": false in tokenizer.json'
        )
    return Ends(turn_end, end_id, frozenset({*named, end_id}), True)


def _end_token(tokens: Tokens, after_response: str, named: set[int]) -> tuple[int, int] | None:
    """Where the token that ends a response stands in what follows it: the first by which the model ends one,
    else the first special one, else the first that is no plain text; None if there is none."""
    if tokens.added is None:
        return None
    found = list(tokens.added.finditer(after_response))
    for token in found:
        if tokens.id_of(token[0]) in named:
            return token.span()
    for token in found:
        if tokens.has_special(token[0]):
            return token.span()
    return found[0].span() if found else None


def _fallback(path: Path, tokens: Tokens, named: set[int]) -> int:
    """The token that ends a response where the template puts none after it."""
    if tokens.tokenizer.eos_token_id is not None:
        return int(tokens.tokenizer.eos_token_id)
    if named:
        return min(named)
    raise UserError(
        f"the tokenizer in {path} has no EOS token: a response could not be ended; "
        "set eos_token in its tokenizer_config.json"
    )


def _named_end_ids(path: Path, eos: int | None) -> set[int]:
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
