"""A row as a format reads it, and what is common to all formats: empty texts, equal responses, roles.

The SQL of a format says what a row means (engine/formats.py); what no format may let pass is judged here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.column_names import words_of
from engine.columns import NOTHING_UNREAD, Unread
from engine.markup import repeats_prompt, texts_problem
from engine.raw import Row
from engine.text.chat import Chat, Turn, as_json, as_text, is_plain
from engine.turns import problem_of, tools_of
from engine.wording import columns_setting, role_in_words
from schemas.row_checks import ROLES

UNREAD = "unread_column"
# The words of a column of variables of the chat template.
_ARGUMENTS = ({"chat", "template", "kwarg"}, {"template", "kwarg"}, {"template", "argument"})
# What a format may give of a message or a response beside its text (engine/formats.py).
_OPTIONAL = frozenset({"turn", "rating", "comparison"})


@dataclass(frozen=True, slots=True)
class Reading:
    """A row as a format reads it; or the reason why the format cannot, with a sentence in `detail`."""

    row: Row
    messages: list[dict[str, str]]
    # text: str, score: float or None; turn: JSON where the assistant's turn is more than its text.
    responses: list[dict[str, Any]]
    reason: str | None = None
    detail: str | None = None
    split: str | None = None  # train or test, where the row says so
    reference: str | None = None  # a right answer for the judge
    unread: Unread = NOTHING_UNREAD
    # True if the format could read the row, were it not for the columns that it does not read.
    is_its_format: bool = False
    metadata: str | None = None  # JSON of what prompts.metadata keeps of the row
    chat: str | None = None  # JSON {messages, tools}, where the prompt is more than `messages`
    prompt_is_guessed: bool = False  # no column is the prompt: it is what both answers begin with


def refused(row: Row, reason: str, detail: str | None, unread: Unread = NOTHING_UNREAD) -> Reading:
    """A reading of a row that cannot be read."""
    return Reading(row, messages=[], responses=[], reason=reason, detail=detail, unread=unread)


def reading_of(row: Row, answer: dict[str, Any], unread: Unread, split: str | None) -> Reading:
    """The reading that an answer of the SQL gives, after all checks of its prompt and its responses."""
    said = _said(answer)
    problem = said.problem or _problem(row, answer, said)
    if unread.refused and (problem is None or unread.is_in_a_turn):
        detail = unread_sentence(unread.refused, renames=dict(unread.renames))
        return Reading(
            row, [], [], reason=UNREAD, detail=detail, unread=unread, is_its_format=problem is None
        )
    if problem:
        code, sentence = problem
        return refused(row, code, sentence, unread)
    return Reading(
        row,
        said.messages,
        said.responses,
        split=split,
        reference=answer.get("reference"),
        unread=unread,
        is_its_format=True,
        chat=said.chat,
        prompt_is_guessed=bool(answer.get("prompt_is_guessed")),
    )


def unread_sentence(
    names: tuple[str, ...], to_ignore: tuple[str, ...] = (), renames: Mapping[str, str] | None = None
) -> str:
    """Why columns may not be left out unasked, and the setting that leaves them out (and more, if given).

    `renames`: ours -> theirs of those that are another spelling of a column that is read."""
    hints = ""
    if renames:
        hints = f"to read {', '.join(renames.values())}: {columns_setting(renames)}; or "
    arguments = [name for name in names if set(words_of(name)) in _ARGUMENTS]
    if arguments:
        hints += f"what {arguments[0]} says of all rows stands in [model.template_arguments]; "
    listed = ", ".join(f'"{name}"' for name in to_ignore or names)
    return (
        f"not read, and they may change what is learned: {', '.join(names)}; "
        f"{hints}leave them out by prompts.ignore = [{listed}], or read them by a format of your own"
    )


def _items(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The messages or the responses of an answer, without the keys that a format need not give."""
    items: list[dict[str, Any]] = []
    for item in answer[name] or []:
        items.append({key: value for key, value in item.items() if value is not None or key not in _OPTIONAL})
    return items


@dataclass
class _Said:
    """An answer of the SQL with its turns in full: calls and thoughts are in the texts, for people."""

    messages: list[dict[str, str]] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)
    chat: str | None = None
    problem: tuple[str, str] | None = None


def _said(answer: dict[str, Any]) -> _Said:
    """What an answer says, or the SQL's reason why not."""
    if answer["problem"]:
        return _Said(problem=_code_and_sentence(answer["problem"]))
    said = _Said()
    turns: list[Turn] = []
    problems: list[str | None] = []
    for message in _messages(answer):
        turn, problem = _in_full({"role": message["role"], "content": message["content"]}, message)
        problems.append(problem)
        turns.append(turn)
        text = message["content"] if is_plain(turn) else as_text(turn)
        said.messages.append({"role": message["role"], "content": text})
    for response in _items(answer, "responses"):
        turn, problem = _in_full({"role": "assistant", "content": response["text"]}, response)
        problems.append(problem)
        response.pop("turn", None)
        if not is_plain(turn):
            response |= {"text": as_text(turn), "turn": as_json(turn)}
        said.responses.append(response)
    tools, problem = tools_of(answer.get("tools"))
    for found in (*problems, problem):
        if found and said.problem is None:
            said.problem = _code_and_sentence(found)
    if tools or not all(map(is_plain, turns)):
        said.chat = Chat(turns, tools).to_json()
    return said


def _in_full(turn: Turn, item: dict[str, Any]) -> tuple[Turn, str | None]:
    """A turn with what a message or a response of the SQL says beside its content; and what is wrong."""
    written = item.get("turn")
    if not written:
        return turn, None
    beside: dict[str, Any] = json.loads(written)
    problem = problem_of(beside)
    if problem:
        return turn, problem
    role = turn["role"]
    if role != "assistant":
        for key in ("tool_calls", "reasoning_content"):
            if key in beside:
                return (
                    turn,
                    f"bad_tool_call: {key} can only stand in an assistant's turn, not in one of {role}",
                )
    return turn | beside, None


def _code_and_sentence(problem: str) -> tuple[str, str]:
    code, _, sentence = problem.partition(": ")
    return code, sentence or code


def _problem(row: Row, answer: dict[str, Any], said: _Said) -> tuple[str, str] | None:
    """Why a row cannot be used by one of the checks below: a code and a sentence."""
    return (
        _prompt_problem(said.messages)
        or _responses_problem(said.responses)
        or _texts_problem(row, said.messages, said.responses, bool(answer.get("prompt_is_guessed")))
    )


def _texts_problem(
    row: Row, messages: list[dict[str, str]], responses: list[dict[str, Any]], prompt_is_guessed: bool
) -> tuple[str, str] | None:
    """Why texts are not what they are read as. A guessed prompt has been cut off its answers."""
    texts = [response["text"] for response in responses]
    problem = texts_problem(row, messages, texts)
    if problem is None and not prompt_is_guessed and messages[-1]["role"] == "user":
        problem = repeats_prompt(messages, texts)
    return problem


def _messages(answer: dict[str, Any]) -> list[dict[str, str]]:
    """The prompt's messages, without a blank system message and without one that says the same again."""
    messages: list[dict[str, str]] = []
    for message in _items(answer, "messages"):
        is_system = message["role"] == "system" and message["content"] is not None
        says_nothing_new = is_system and (not message["content"].strip() or message in messages)
        if not says_nothing_new:
            messages.append(message)
    return messages


def _system_problem(messages: list[dict[str, str]]) -> tuple[str, str] | None:
    """Why the system messages of a prompt cannot be used: a template has room for one, at the beginning."""
    places = [place for place, message in enumerate(messages) if message["role"] == "system"]
    if len(places) > 1:
        return (
            "two_systems",
            "the prompt has several system turns that differ (or a column system beside one)",
        )
    if places and places[0] > 0:
        return (
            "two_systems",
            f"the system turn is turn {places[0] + 1}; it must be the first and the only one",
        )
    return None


def _prompt_problem(messages: list[dict[str, str]]) -> tuple[str, str] | None:
    """Why these messages are no prompt: a code and a sentence."""
    if not messages:
        return "empty_prompt", "the row has no prompt"
    for message in messages:
        if message["role"] not in ROLES:
            return "bad_role", role_in_words(message["role"])
        if message["content"] is None:
            return "missing_or_mistyped", "a turn's content must be a string"
    system_problem = _system_problem(messages)
    if system_problem:
        return system_problem
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        drop = "; drop the last turn, to have it answered anew" if last["role"] == "assistant" else ""
        return "last_turn", f"the prompt must end with the user's turn, not the {last['role']}'s{drop}"
    if last["role"] == "user" and not last["content"].strip():
        return "empty_prompt", "the last user message is empty"
    return None


def _responses_problem(responses: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Why these responses cannot be used: a code and a sentence."""
    texts = [response["text"] for response in responses]
    if None in texts:
        return "missing_or_mistyped", "a response must be a string"
    for text in texts:
        if not text.strip():
            return "empty_response", "a response is empty"
    if len(texts) > 1 and len(set(texts)) == 1:
        return "same_responses", "chosen and rejected are the same text"
    return _comparisons_problem(responses)


def _comparisons_problem(responses: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Why the comparisons of a row cannot be used: one of them has the same text on both sides."""
    texts: dict[int, list[str]] = {}
    for response in responses:
        if "comparison" in response:
            texts.setdefault(response["comparison"], []).append(response["text"])
    for number, compared in texts.items():
        if len(compared) > 1 and len(set(compared)) == 1:
            return "same_responses", f"chosen and rejected number {number + 1} are the same text"
    return None
