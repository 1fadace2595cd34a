"""Rows of the table `rejects`: what a stage could not use, why, and where it came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.text import TemplateError
from schemas.tables import table

# The columns of a batch that say where a row came from.
_ORIGIN = ("file", "line", "prompt_id", "response_id")


@dataclass(frozen=True)
class Reject:
    """Why a row of a batch is refused. `reason` is a short code to group by, `detail` a sentence."""

    row: int
    reason: str
    detail: str


def rejects_table(
    stage: str,
    rejects: Sequence[Reject],
    batch: pa.Table,
    raw: Sequence[str | None],
) -> pa.Table:
    """Rows of `rejects` for rows of a batch; `raw` has for each row of the batch what it said."""
    rows: list[int] = []
    reasons: list[str] = []
    details: list[str] = []
    raw_texts: list[str | None] = []
    for reject in rejects:
        rows.append(reject.row)
        reasons.append(reject.reason)
        details.append(reject.detail)
        raw_texts.append(raw[reject.row])
    columns: dict[str, object] = {
        "stage": [stage] * len(rejects),
        "reason": reasons,
        "detail": details,
        "raw": raw_texts,
    }
    places = pa.array(rows, pa.int64())
    for name in _ORIGIN:
        if name in batch.column_names:
            columns[name] = batch[name].take(places)
    return table("rejects", columns)


def unfit(prompt: list[int] | TemplateError, positions: int, room: int = 1) -> tuple[str, str] | None:
    """Why a prompt cannot be given to a model: the reason and the detail of a Reject. None if it can.

    `positions` are the tokens of prompt and response together that the model takes, 0 for no limit; `room`
    of them must be left to the response."""
    if isinstance(prompt, TemplateError):
        return prompt.reason, str(prompt)
    if not prompt:
        return "empty_prompt", "the rendered prompt has no tokens"
    if positions and len(prompt) + room > positions:
        detail = (
            f"the prompt has {len(prompt)} tokens and leaves no room for a response: "
            f"the model takes {positions} in all"
        )
        return "too_long", detail
    return None


def fit_prompts(
    prompts: Sequence[list[int] | TemplateError], positions: int
) -> tuple[dict[int, list[int]], list[Reject]]:
    """The prompts that can be given to a model, by their place in `prompts`; and a Reject for each other."""
    fit: dict[int, list[int]] = {}
    rejects: list[Reject] = []
    for row, prompt in enumerate(prompts):
        refusal = unfit(prompt, positions)
        if refusal:
            reason, detail = refusal
            rejects.append(Reject(row, reason, detail))
        else:
            assert not isinstance(prompt, TemplateError)
            fit[row] = prompt
    return fit, rejects
