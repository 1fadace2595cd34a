"""What rows look like that no format reads: the columns they have, the kind they are of, what to do."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from engine.raw import Row
from engine.wording import columns_setting

_COLUMNS_SHOWN = 12
_PAIRS = "make rows of prompt, chosen and rejected"
_KTO = f"{_PAIRS} of two answers to one prompt"
SEVERAL = "make rows of instruction and completions [{response, overall_score}], the format ultrafeedback"
_ALONE = "make rows of prompt alone"
_SHAREGPT = (
    "for their prompts, name the turns role (user, assistant) and content, the list messages, and drop the "
    "last turn"
)

# A row that has one of these is no prompt alone.
_ANY_OTHER = (
    "prompt messages chosen rejected answer answers response responses output outputs completion completions "
    "conversations generations candidates image images label labels"
)


class _Kind(NamedTuple):
    """A kind of rows that no format reads: the columns they have and have not, what they are, what to do."""

    needed: frozenset[str]
    what: str
    remedy: str
    without: frozenset[str] = frozenset()


def _kind(needed: str, what: str, remedy: str, without: str = "") -> _Kind:
    return _Kind(frozenset(needed.split()), what, remedy, frozenset(without.split()))


def _asked_in(name: str) -> _Kind:
    """Pairs whose prompt is under another name."""
    how = columns_setting({"prompt": name})
    return _kind(f"{name} chosen rejected", f"pairs with the prompt in {name}", how, without="prompt")


def _prompts_in(name: str) -> _Kind:
    """Prompts alone under another name."""
    how = columns_setting({"prompt": name})
    return _kind(name, f"prompts in the column {name}", how, without=_ANY_OTHER)


# The first that fits is the one: what has more columns stands before what has fewer.
_KINDS_OF_ROWS = (
    _kind("prompt completion label", "unpaired answers with a label (KTO)", _KTO),
    _kind("messages label", "unpaired dialogues with a label (KTO)", _KTO),
    _kind("messages kto_tag", "unpaired dialogues with a label (KTO)", _KTO),
    _kind("conversations kto_tag", "unpaired dialogues with a label (KTO)", _KTO),
    _kind("conversations label", "unpaired dialogues with a label (KTO)", _KTO),
    _kind("prompt response helpfulness correctness", "answers rated by attributes (HelpSteer)", SEVERAL),
    _kind("question answer_0 answer_1 score_0", "two scored answers (webgpt_comparisons)",
          f"{_PAIRS}, the prompt being question.full_text, by the higher score"),
    _kind("info summaries choice", "two summaries (summarize_from_feedback)",
          f"{_PAIRS}, the prompt being made of info, the chosen one being summaries[choice].text"),
    _kind("question response_j response_k", "two answers (stack-exchange-paired)",
          columns_setting({"prompt": "question", "chosen": "response_j", "rejected": "response_k"})),
    _kind("response_a response_b winner_model_a", "arena battles in strings of JSON (arena-55k)",
          f"{_PAIRS} of the texts in the strings, by the winner"),
    _kind("instruction output_1 output_2 preference", "two answers and the number of the better (AlpacaFarm)",
          f"{_PAIRS}, the prompt being instruction and input"),
    _kind("instruction generations", "an instruction with several answers (distilabel)", SEVERAL),
    _kind("instruction candidates", "an instruction with several answers", SEVERAL),
    _kind("fields responses", "records of Argilla, the rows being in fields",
          f"{_PAIRS} of what is in fields, by the annotators' responses"),
    _kind("prompt response rejected_response", "pairs with the chosen answer in response",
          columns_setting({"chosen": "response", "rejected": "rejected_response"})),
    *map(_asked_in, ("question", "query", "input", "text", "problem")),
    _kind("instruction context response", "instructions with one answer (Dolly)",
          f"{_ALONE}, of instruction and context"),
    _kind("instruction output", "instructions with one answer (Alpaca)",
          f"{_ALONE}, of instruction and input"),
    _kind("instruction response", "instructions with one answer", _ALONE),
    _kind("conversations", "dialogues (ShareGPT)", _SHAREGPT, "prompt chosen rejected"),
    _kind("conversation", "dialogues", _SHAREGPT, "prompt chosen rejected"),
    _kind("prompt responses", "prompts with several answers", SEVERAL),
    _kind("prompt completions", "prompts with several answers", SEVERAL),
    _kind("prompt answers", "prompts with several answers", SEVERAL),
    _kind("prompt completion", "prompts with one answer", _ALONE),
    _kind("prompt response", "prompts with one answer", _ALONE),
    _kind("prompt output", "prompts with one answer", _ALONE),
    _kind("prompt answer", "prompts with one answer", "name it reference where it is the right one"),
    _kind("query response", "prompts with one answer", f"{_ALONE}, of query"),
    _kind("question answer", "questions with one answer", "name them prompt and reference"),
    _kind("question response", "questions with one answer", f"{_ALONE}, of question"),
    _kind("problem solution", "problems with a solution", "name the problem prompt; solution is a reference"),
    _kind("problem answer", "problems with their answer", "name them prompt and reference"),
    _kind("conversation_a conversation_b", "arena battles", f"{_PAIRS} by the winner"),
    _kind("response_0 response_1", "two answers numbered 0 and 1", f"{_PAIRS} by the better one"),
    *map(_prompts_in, ("instruction", "question", "query", "problem", "text", "input", "prompts")),
)  # fmt: skip


def kind_of(rows: Sequence[Row]) -> str | None:
    """What rows are that no format reads, and what to do with them, if they are of a known kind."""
    there = frozenset(columns(rows))
    for kind in _KINDS_OF_ROWS:
        if kind.needed <= there and not kind.without & there:
            return f"{kind.what}: {kind.remedy}"
    return None


def near_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Columns that are known ones but for case and white space, and the right name of each."""
    by_letters = {name.lower(): name for name in known}
    there = set(names)
    found: dict[str, str] = {}
    for name in names:
        right = by_letters.get(name.strip().lower())
        if right is not None and right not in there:
            found[name] = right
    return found


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns of the first rows, in the order in which they are met."""
    names: dict[str, None] = {}
    for row in rows:
        if row.reason is None:
            names |= dict.fromkeys(orjson.loads(row.text))
    return list(names)


def columns_text(rows: Sequence[Row]) -> str:
    names = columns(rows)
    if not names:
        return "none of its first rows is a JSON object"
    shown = ", ".join(names[:_COLUMNS_SHOWN])
    return f"its columns are {shown}" + (" …" if len(names) > _COLUMNS_SHOWN else "")
