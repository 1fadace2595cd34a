"""What rows look like that no format reads: the columns they have, the kind they are of, what to do."""

from collections.abc import Sequence

import orjson

from engine.raw import Row

_COLUMNS_SHOWN = 12
_PAIRS = "make rows of prompt, chosen and rejected"
_KTO = f"{_PAIRS} of two answers to one prompt"
_SEVERAL = "make rows of instruction and completions [{response, overall_score}], the format ultrafeedback"
_DIALOGUE = "make rows of prompt, chosen and rejected, the prompt being all turns but the last"
# Rows that no format reads: the columns they have, what they are, what to do.
_KINDS_OF_ROWS = (
    ({"prompt", "completion", "label"}, "unpaired answers with a label (KTO)", _KTO),
    ({"messages", "label"}, "unpaired dialogues with a label (KTO)", _KTO),
    ({"messages", "kto_tag"}, "unpaired dialogues with a label (KTO)", _KTO),
    ({"conversations", "kto_tag"}, "unpaired dialogues with a label (KTO)", _KTO),
    ({"messages", "rejected_response"}, "dialogues that end with the chosen answer (ms-swift)", _DIALOGUE),
    ({"messages", "rejected_messages"}, "a chosen and a rejected dialogue", "name them chosen and rejected"),
    ({"input", "preferred_output", "non_preferred_output"}, "OpenAI's preference rows", _PAIRS),
    ({"instruction", "chosen", "rejected"}, "rows with the prompt in instruction and input", _PAIRS),
    ({"instruction", "output"}, "instructions with one answer (Alpaca)", "make rows of prompt alone"),
    ({"prompt", "responses"}, "prompts with several answers", _SEVERAL),
    ({"prompt", "completions"}, "prompts with several answers", _SEVERAL),
    ({"prompt", "completion"}, "prompts with one answer", "make rows of prompt alone"),
    ({"prompt", "response"}, "prompts with one answer", "make rows of prompt alone"),
    ({"question", "answer"}, "questions with one answer", "name them prompt and reference"),
    ({"problem", "solution"}, "problems with a solution", "name the problem prompt; solution is a reference"),
    ({"conversation_a", "conversation_b"}, "arena battles", f"{_PAIRS} by the winner"),
    ({"response_0", "response_1"}, "two answers numbered 0 and 1", f"{_PAIRS} by the better one"),
)


def kind_of(rows: Sequence[Row]) -> str | None:
    """What rows are that no format reads, and what to do with them, if they are of a known kind."""
    there = set(columns(rows))
    for needed, what, remedy in _KINDS_OF_ROWS:
        if needed <= there:
            return f"{what}: {remedy}"
    return None


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
