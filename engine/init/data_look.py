"""What the first rows of the data bring, by the engine's own recognition (engine/recognise.py)."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.attempts import Attempt, attempts
from engine.inputs import inputs
from engine.readings import Reading
from engine.recognise import format_of
from schemas.recipe import parse
from schemas.sections import Prompts

_log = logging.getLogger("prefmill")


@dataclass
class DataLook:
    """Of the first rows: how many were looked at, are read, and what they bring.

    `pairs`: rows with two responses at least of which one is better; `several`: rows with two responses at
    least; `complaint`: why most of the rows that are not read are not; `left_out`: columns that are not read
    and may be left out."""

    format: str
    files: int
    rows: int = 0
    read: int = 0
    pairs: int = 0
    several: int = 0
    answered: int = 0
    most_responses: int = 0
    rated: int = 0
    references: int = 0
    systems: int = 0
    tools: int = 0
    dialogues: int = 0
    guessed: int = 0
    complaint: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def brings(self) -> str:
        """What the rows bring, as a noun phrase."""
        if self.pairs:
            return f"pairs ({self.pairs:,} rows with a better and a worse response)"
        if self.several:
            return f"several responses a prompt, and nothing says which is better ({self.several:,} rows)"
        if self.answered:
            return f"one response a prompt ({self.answered:,} rows)"
        return "prompts only"


def look_at(source: str, settings: Mapping[str, Any]) -> DataLook:
    """What a file, a folder, a glob or a data set of the Hub brings. `settings`: other keys of [prompts].

    A data set of the Hub is fetched. Raises UserError where nothing can be read, as `engine precompute`."""
    config = parse({"prompts": {"source": [source], **settings}}, "engine init").section("prompts")
    assert isinstance(config, Prompts)
    with _silent():
        found = inputs(config)
        path = format_of(found.files, config, found.of_test_source)
        return _looked(path, found.files, config)


def _looked(path: Path, files: Mapping[str, Path], config: Prompts) -> DataLook:
    look = DataLook(path.stem, len(files))
    left_out: dict[str, None] = {}
    for _, tried in attempts(path, files, config):
        _add(look, tried)
        left_out |= dict.fromkeys(tried.left_out())
    look.left_out = tuple(left_out)
    return look


def _add(look: DataLook, tried: Attempt) -> None:
    """Count what some rows bring."""
    look.rows += len(tried.readings)
    look.read += tried.read
    if tried.read < len(tried.readings) and not look.complaint:
        look.complaint = tried.complaint()
    for reading in tried.readings:
        if reading.reason is None:
            _add_row(look, reading)


def _add_row(look: DataLook, reading: Reading) -> None:
    responses = reading.responses
    scores = {response.get("score") for response in responses} - {None}
    look.answered += bool(responses)
    look.several += len(responses) > 1
    look.pairs += len(responses) > 1 and len(scores) > 1
    look.most_responses = max(look.most_responses, len(responses))
    numbers = any(response.get("rating") is not None for response in responses)
    look.rated += numbers or bool(scores - {0.0, 1.0})
    look.references += reading.reference is not None
    roles = [message["role"] for message in reading.messages]
    look.systems += "system" in roles
    look.dialogues += "assistant" in roles
    look.tools += bool(reading.chat and json.loads(reading.chat).get("tools"))
    look.guessed += reading.prompt_is_guessed


def lines_about(look: DataLook) -> list[str]:
    """What was found, one fact a line."""
    files = "" if look.files == 1 else f" of {look.files:,} files"
    lines = [
        f"format {look.format}: {look.read:,} of the first {look.rows:,} rows{files} are read; "
        f"they bring {look.brings}"
    ]
    if look.complaint:
        lines.append(f"rows that are not read go to rejects, most for this reason: {look.complaint}")
    also = {
        "scores of their responses": look.rated,
        "a right answer as reference": look.references,
        "a system prompt": look.systems,
        "tools": look.tools,
        "earlier turns of a dialogue": look.dialogues,
        "a prompt that is what both sides begin with": look.guessed,
    }
    found = [f"{what} ({count:,})" for what, count in also.items() if count]
    lines.append(
        f"rows with: {', '.join(found)}" if found else "no scores, reference, system prompt or tools"
    )
    if look.left_out:
        lines.append(f"not read and left out: {', '.join(look.left_out)}")
    return lines


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the engine's own remarks on the input: they speak of a run."""
    before = _log.level
    _log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _log.setLevel(before)
