"""The story of a prompt as text: what was asked, each answer with its scores, what a pair's two differ in."""

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

from engine.cells import number
from engine.story.gather import Row, Story
from engine.story.tokens import Tokens, shaded
from engine.story.word_edits import Piece, word_edits
from schemas.styled import Part, folded

_INDENT = 2
_BOLD = MappingProxyType({"bold": True})
_DIM = MappingProxyType({"dim": True})
_CHOSEN = MappingProxyType({"fg": "green"})
_REJECTED = MappingProxyType({"fg": "red"})
_OWN_OF_CHOSEN = MappingProxyType({"fg": "green", "bold": True, "underline": True})
_OWN_OF_REJECTED = MappingProxyType({"fg": "red", "bold": True, "underline": True})
_LEGEND = "[-…-] stands in the rejected response alone, {+…+} in the chosen one alone"


def written(story: Story, width: int, tokens: Tokens | None) -> list[Part]:
    """All of it, line by line. `tokens`: gives the tokens of ids; None: no token is shown."""
    parts: list[Part] = []
    for block in _blocks(story, width, tokens):
        parts += [*block, Part("\n")]
    return parts


def _blocks(story: Story, width: int, tokens: Tokens | None) -> Iterator[Sequence[Part]]:
    yield from _prompt(story.prompt, width)
    numbers = {row["response_id"]: place for place, row in enumerate(story.responses, 1)}
    count = len(numbers)
    yield _heading(f"{count} response{'s' if count != 1 else ''}", width)
    for row in story.responses:
        yield from _response(story, row, numbers, width, tokens)
    for pair in story.pairs:
        yield from _pair(pair, numbers, width)
    if not story.pairs:
        yield [Part("no pair was chosen from them", _DIM)]


def _heading(text: str, width: int) -> list[Part]:
    return [Part(f"── {text} ".ljust(min(width, 100), "─"), _BOLD)]


def _prompt(row: Row, width: int) -> Iterator[Sequence[Part]]:
    yield _heading(f"prompt {row['prompt_id']}", width)
    if "messages" not in row:
        yield [Part("  its row is not in the table prompts", _DIM)]
        return
    split = f", {row['given_split']} by the input" if row["given_split"] else ""
    yield [Part(f"  {row['file']} line {row['line']}{split}", _DIM)]
    for turn in row["messages"]:
        yield folded([Part(f"{turn['role']}: ", _BOLD), Part(turn["content"])], width, _INDENT)
    if row["reference"]:
        yield folded([Part("right answer: ", _BOLD), Part(row["reference"])], width, _INDENT)


def _response(
    story: Story, row: Row, numbers: dict[str, int], width: int, tokens: Tokens | None
) -> Iterator[Sequence[Part]]:
    role, style = _role(story, row["response_id"])
    name = f"{numbers[row['response_id']]} {role}".strip()
    yield [Part(name, style or _BOLD), Part(f"  {row['response_id']}  {_origin(row, numbers)}", _DIM)]
    yield folded([Part(row["text"], style)], width, _INDENT)
    for score in story.scores_of(row["response_id"]):
        yield from _score(score, numbers, width)
    logps = story.logps_of(row["response_id"])
    if logps is not None:
        count = len(logps["token_logps"])
        mean = number(logps["logps"] / count) if count else "none"
        cut = f", {logps['truncated']}" if logps["truncated"] else ""
        yield [Part(f"  reference: {number(logps['logps'])} nat, {mean} a token of {count}{cut}", _DIM)]
        if tokens is not None:
            yield folded(shaded(tokens, logps), width, _INDENT)


def _role(story: Story, response_id: str) -> tuple[str, Any]:
    """chosen or rejected, with its colour, where the pairs shown have one role for it."""
    is_chosen = any(pair["chosen_response_id"] == response_id for pair in story.pairs)
    is_rejected = any(pair["rejected_response_id"] == response_id for pair in story.pairs)
    if is_chosen == is_rejected:
        return ("chosen and rejected" if is_chosen else ""), {}
    return ("chosen", _CHOSEN) if is_chosen else ("rejected", _REJECTED)


def _origin(row: Row, numbers: dict[str, int]) -> str:
    """Where a response comes from, and how it ended."""
    said = [row["source"]]
    if row["parent_id"]:
        said[0] += f" from {_named(row['parent_id'], numbers)}"
        if row["reference_id"]:
            said[0] += f" with {_named(row['reference_id'], numbers)} as reference"
        if row["edit_to_parent"] is not None:
            said.append(f"{row['edit_to_parent']} words changed")
    if row["fallback"]:
        said.append(f"not used: {row['fallback']}")
    if row["finish_reason"]:
        said.append({"stop": "ended by itself", "length": "cut off"}.get(row["finish_reason"], ""))
    return ", ".join(filter(None, said))


def _named(response_id: str, numbers: dict[str, int]) -> str:
    return str(numbers.get(response_id, response_id))


def _score(row: Row, numbers: dict[str, int], width: int) -> Iterator[Sequence[Part]]:
    said = "no score" if row["score"] is None else number(row["score"])
    if row["agreed"] is not None:
        said += ", both orders agree" if row["agreed"] else ", the orders disagree"
    if row["mass"] is not None:
        said += f", mass {number(row['mass'])}"
    if row["distribution"]:
        said += f" of [{', '.join(map(number, row['distribution']))}]"
    yield [Part(f"  {row['scorer']}: ", _BOLD), Part(said)]
    if row["answer"]:
        yield folded([Part(f"{row['scorer']} said: ", _DIM), Part(row["answer"], _DIM)], width, 2 * _INDENT)


def _pair(pair: Row, numbers: dict[str, int], width: int) -> Iterator[Sequence[Part]]:
    yield _heading(f"pair {pair['pair_id']}", width)
    sides = [_named(pair[f"{side}_response_id"], numbers) for side in ("chosen", "rejected")]
    scores = ""
    if pair["chosen_score"] is not None and pair["rejected_score"] is not None:
        scores = f", {number(pair['chosen_score'])} against {number(pair['rejected_score'])}"
    yield [Part(f"  {pair['split']}: {sides[0]} chosen, {sides[1]} rejected{scores}", _DIM)]
    chosen, rejected = word_edits(pair["chosen"], pair["rejected"])
    yield [Part("  chosen", _CHOSEN)]
    yield folded(_edited(chosen, _OWN_OF_CHOSEN, ("{+", "+}")), width, 2 * _INDENT)
    yield [Part("  rejected", _REJECTED)]
    yield folded(_edited(rejected, _OWN_OF_REJECTED, ("[-", "-]")), width, 2 * _INDENT)
    yield [Part("", plain=(f"  {_LEGEND}", ""))]


def _edited(pieces: Sequence[Piece], style: Any, marks: tuple[str, str]) -> list[Part]:
    return [Part(piece.text, style, marks) if piece.is_own else Part(piece.text) for piece in pieces]
