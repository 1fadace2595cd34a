"""What a judge is asked about responses: one at a time, or two of a prompt against each other.

The questions' files (pipelines/prompts/judge_*.txt) are given the prompt as `conversation`, its right answer
as `reference` where the data brings one, `rubric`, and `think`, which is true where the judge thinks first.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.instructions import Instruction, Question, conversation, read
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Judge

_RATING_VALUES = ("conversation", "response", "low", "high")
_PAIRWISE_VALUES = ("conversation", "a", "b")
# What a file must show, by the kind of question.
_MUST_SHOW = {"rating": ("response",), "pairwise": ("a", "b")}
_USUAL_SCALE = (1, 5)
_OPTIONAL_VALUES = ("reference", "rubric", "think")


@dataclass(frozen=True)
class Response:
    """A row of the judge's batch; `conversation` is its prompt as one text, `reference` may be empty."""

    prompt_id: str
    response_id: str
    text: str
    conversation: str
    reference: str


def responses_of(batch: pa.Table) -> list[Response]:
    """The batch's rows."""
    responses: list[Response] = []
    for row in batch.to_pylist():
        response = Response(
            prompt_id=row["prompt_id"],
            response_id=row["response_id"],
            text=row["text"],
            conversation=conversation(row["messages"], row.get("chat")),
            reference=row["reference"] or "",
        )
        responses.append(response)
    return responses


def check_files(config: Judge) -> dict[str, str]:
    """The digest of the file of each kind of question that the section asks.

    Raises UserError where one cannot be filled, or has no place for the rubric that the section names."""
    instructions: dict[str, Instruction] = {}
    if "rating" in config.kinds:
        instructions["rating"] = Instruction(config.rating_prompt, *_RATING_VALUES, optional=_OPTIONAL_VALUES)
    if "pairwise" in config.kinds:
        instructions["pairwise"] = Instruction(
            config.pairwise_prompt, *_PAIRWISE_VALUES, optional=_OPTIONAL_VALUES
        )
    digests: dict[str, str] = {}
    for kind, instruction in instructions.items():
        _check_uses(instruction, _MUST_SHOW[kind])
        if kind == "rating" and (config.low, config.high) != _USUAL_SCALE:
            _check_scale(instruction, config)
        if rubric(config) and "rubric" not in instruction.uses:
            raise UserError(
                f"[judge] rubric = {config.rubric}, but {instruction.path} does not use it: "
                f"write {{{{ rubric }}}} there, or leave the rubric out"
            )
        digests[kind] = instruction.digest
    return digests


def _check_uses(instruction: Instruction, needed: Sequence[str]) -> None:
    """Raise UserError where a file does not show the judge what it is to judge."""
    for name in needed:
        if name not in instruction.uses:
            raise UserError(
                f"{instruction.path} does not show the judge {name}: "
                f"write {{{{ {name} }}}} where it is to stand"
            )


def _check_scale(instruction: Instruction, config: Judge) -> None:
    """Raise UserError where a file asks for a scale of its own, whatever the section says."""
    if not instruction.uses & {"low", "high"}:
        raise UserError(
            f"[judge] low = {config.low}, high = {config.high}, but {instruction.path} does not say so: "
            "write {{ low }} and {{ high }} there, so that the scale asked is the scale read"
        )


def rubric(config: Judge) -> str:
    """The text of the section's rubric; empty if it names none. Raises UserError if its file is empty."""
    if not config.rubric:
        return ""
    path = included("prompts", config.rubric, ".txt")
    text = read(path).strip()
    if not text:
        raise UserError(f"[judge] rubric = {config.rubric}: {path} is empty")
    return text


def rating_questions(responses: Sequence[Response], config: Judge) -> list[Question]:
    """Which mark a response deserves, of each."""
    ask = _asks(config.rating_prompt, config)
    questions: list[Question] = []
    for response in responses:
        question = ask(
            conversation=response.conversation,
            reference=response.reference,
            response=response.text,
            low=config.low,
            high=config.high,
        )
        questions.append(question)
    return questions


def pairwise_questions(
    responses: Sequence[Response],
    matches: Sequence[tuple[int, int]],
    config: Judge,
) -> list[Question]:
    """Which of two responses, by their places, is better: asked twice of each match, in both orders."""
    ask = _asks(config.pairwise_prompt, config)
    questions: list[Question] = []
    for place, other_place in matches:
        a = responses[place]
        b = responses[other_place]
        ask_of_prompt = functools.partial(ask, conversation=a.conversation, reference=a.reference)
        questions.append(ask_of_prompt(a=a.text, b=b.text))
        questions.append(ask_of_prompt(a=b.text, b=a.text))
    return questions


def _asks(name: str, config: Judge) -> Callable[..., Question]:
    """A function that asks by the file of that name, with what every question of the section is given."""
    instruction = Instruction(name)
    return functools.partial(
        instruction.question,
        rubric=rubric(config),
        think=config.think > 0,
    )


def matches(responses: Sequence[Response]) -> list[tuple[int, int]]:
    """The places of every two responses to a prompt that say something different."""
    places_by_prompt = itertools.groupby(
        range(len(responses)),
        key=lambda place: responses[place].prompt_id,
    )
    found: list[tuple[int, int]] = []
    for _, places in places_by_prompt:
        for a, b in itertools.combinations(places, 2):
            if responses[a].text != responses[b].text:
                found.append((a, b))
    return found
