"""Which prompts and responses go through one forward pass: pieces of like length under a token budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.models import Ids


@dataclass(frozen=True, order=True)
class Piece:
    """A prompt with some of its responses, which are run together; sorted by its tokens."""

    tokens: int
    prompt: int  # its index
    responses: list[int]  # their indices among the prompt's


def batches(
    prompts: Sequence[Ids],
    responses: Sequence[Sequence[Ids]],
    budget: int,
) -> list[list[Piece]]:
    """Pieces by length in batches of at most `budget` tokens, unless a single response is above it."""
    pieces: list[Piece] = []
    for number, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        lengths = list(map(len, group))
        pieces.extend(_pieces(number, len(prompt), lengths, budget))
    found: list[list[Piece]] = []
    room = 0
    for piece in sorted(pieces):
        if piece.tokens > room or not found:
            found.append([])
            room = budget
        found[-1].append(piece)
        room -= piece.tokens
    return found


def _pieces(
    prompt: int,
    prompt_length: int,
    lengths: list[int],
    budget: int,
) -> Iterator[Piece]:
    """A prompt's responses, of these lengths, in pieces of at most `budget` tokens."""
    tokens = prompt_length
    chosen: list[int] = []
    for index, length in enumerate(lengths):
        if chosen and tokens + length > budget:
            yield Piece(tokens, prompt, chosen)
            tokens = prompt_length
            chosen = []
        tokens += length
        chosen.append(index)
    if chosen:
        yield Piece(tokens, prompt, chosen)
