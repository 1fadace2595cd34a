"""Per-token reference log-probs: text to token ids, once, and the ids with their log-probs into one row.

The trainer takes both from here, so it needs neither tokenizer nor template and the two cannot drift apart. The prompt is cut, where it must
be, for all its responses alike: the responses of a pair share it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from engine.stage import Made, Stage
from engine.text import Text, TemplateError
from schemas.errors import UserError, did_you_mean
from schemas.identity import identify
from schemas.recipe import Logprobs, Recipe
from schemas.tables import table

_QUERY = """
select prompt_id, prompts.messages as messages, prompts.file as file, prompts.line as line, response_id, responses.text as text, responses.response_ids as response_ids
from responses join prompts using (prompt_id)
order by prompt_id, response_id
"""
_WAYS = ("drop", "truncate_prompt_left", "truncate_response")
# truncate_prompt_left leaves at least this share of max_length to the prompt: less than that is another question.
_PROMPT_SHARE = 4


def facts(recipe: Recipe) -> dict:
    config: Logprobs = recipe.section("logprobs")
    model = recipe.section("model")
    identity = identify(model)
    for way in config.too_long:
        if way not in _WAYS:
            raise UserError(f"logprobs.too_long has '{way}'; {did_you_mean(way, _WAYS)}")
    if "drop" in config.too_long and len(config.too_long) > 1:
        raise UserError("logprobs.too_long has drop beside another way: what cannot be cut to fit is dropped anyway; leave drop out")
    if identity.positions and config.max_length > identity.positions:
        raise UserError(f"logprobs.max_length = {config.max_length}, but the model was made for {identity.positions} positions; set it to that or less (0 takes the model's own)")
    max_length = config.max_length or identity.positions
    return {"model": identity.facts() | {"dtype": model.dtype, "backend": "hf"}, "max_length": max_length, "too_long": sorted(config.too_long), "contexts": ["plain"]}


@dataclass
class Scored:
    """A prompt and those of its responses that will be scored; `rows` are their places in the batch."""

    prompt: list[int]
    rows: list[int] = field(default_factory=list)
    responses: list[list[int]] = field(default_factory=list)
    truncated: list[str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Reject:
    row: int
    reason: str
    detail: str


def make(batch: pa.Table, recipe: Recipe, model) -> Made:
    config: Logprobs = recipe.section("logprobs")
    max_length = config.max_length or identify(recipe.section("model")).positions
    prompt_ids, response_ids = batch["prompt_id"].to_pylist(), batch["response_id"].to_pylist()
    groups, rejects = tokenised(batch, prompt_ids, model().text, max_length, config.too_long) if len(batch) else ([], [])
    token_logps = model().logprobs([group.prompt for group in groups], [group.responses for group in groups]) if groups else []
    rows = [row for group in groups for row in group.rows]
    flat = [logps for group in token_logps for logps in group]
    truncated = [cut for group in groups for cut in group.truncated]
    columns = {
        "prompt_id": [prompt_ids[row] for row in rows],
        "response_id": [response_ids[row] for row in rows],
        "context": ["plain"] * len(rows),
        "prompt_ids": lists([group.prompt for group in groups for _ in group.rows], np.int32),
        "response_ids": lists([ids for group in groups for ids in group.responses], np.int32),
        "token_logps": lists(flat, np.float32),
        "logps": [float(np.sum(logps, dtype=np.float64)) for logps in flat],
        "truncated": truncated,
    }
    refused = {
        "stage": ["logprobs"] * len(rejects),
        "reason": [reject.reason for reject in rejects],
        "detail": [reject.detail for reject in rejects],
        "prompt_id": [prompt_ids[reject.row] for reject in rejects],
        "response_id": [response_ids[reject.row] for reject in rejects],
    }
    where = pa.array([reject.row for reject in rejects], pa.int64())
    refused |= {"file": batch["file"].take(where), "line": batch["line"].take(where), "raw": batch["text"].take(where)}
    counts = {"scored": len(rows), "rejects": len(rejects), "truncated": sum(cut is not None for cut in truncated), "tokens": sum(map(len, flat))}
    return Made({"logprobs": table("logprobs", columns), "rejects": table("rejects", refused)}, counts)


def tokenised(batch: pa.Table, prompt_ids: list[str], text: Text, max_length: int, ways: Sequence[str]) -> tuple[list[Scored], list[Reject]]:
    """The batch's prompts with their responses as token ids, none longer than max_length; and what could not be."""
    texts, sampled = batch["text"].to_pylist(), batch["response_ids"].to_pylist()
    given = iter(text.responses([text for text, ids in zip(texts, sampled, strict=True) if ids is None]))
    responses = [next(given) if ids is None else ids for ids in sampled]
    runs = [list(run) for _, run in itertools.groupby(range(len(prompt_ids)), key=prompt_ids.__getitem__)]
    prompts = text.prompts(batch["messages"].take(pa.array([run[0] for run in runs])).to_pylist())
    groups, rejects = [], []
    for run, prompt in zip(runs, prompts, strict=True):
        if isinstance(prompt, TemplateError):
            rejects += [Reject(row, "template", f"the chat template refuses the messages: {prompt}") for row in run]
        elif not prompt:
            rejects += [Reject(row, "empty_prompt", "the rendered prompt has no tokens") for row in run]
        else:
            group, refused = fit(prompt, run, [responses[row] for row in run], max_length, ways)
            rejects += refused
            groups += [group] if group.rows else []
    return groups, rejects


def fit(prompt: list[int], rows: list[int], responses: list[list[int]], max_length: int, ways: Sequence[str]) -> tuple[Scored, list[Reject]]:
    """Cuts a prompt and its responses to max_length tokens together, by the ways allowed; what still does not fit is refused. 0 is no limit."""
    longest = max(map(len, responses))
    kept, cut_prompt = prompt, False
    if max_length and "truncate_prompt_left" in ways and len(prompt) + longest > max_length:
        room = max(max_length - longest, max_length // _PROMPT_SHARE, 1)
        # The first token stays: it is BOS, or what the template begins with.
        kept = prompt if room >= len(prompt) else [*prompt[:1], *prompt[len(prompt) - room + 1 :]] if room > 1 else prompt[-1:]
        cut_prompt = len(kept) < len(prompt)
    group, rejects = Scored(kept), []
    for row, response in zip(rows, responses, strict=True):
        room = max_length - len(kept) if max_length else len(response)
        cut = len(response) > room and "truncate_response" in ways and room > 0
        if len(response) > room and not cut:
            rejects.append(Reject(row, "too_long", f"prompt {len(prompt)} + response {len(response)} tokens, more than max_length = {max_length}"))
            continue
        group.rows.append(row)
        group.responses.append(response[:room] if cut else response)
        group.truncated.append("both" if cut and cut_prompt else "response" if cut else "prompt" if cut_prompt else None)
    return group, rejects


def lists(rows: Sequence, kind: type) -> pa.ListArray:
    """An Arrow list column from sequences, without a Python object a token."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.concatenate([np.asarray(row, kind) for row in rows]) if len(rows) else np.zeros(0, kind)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


STAGE = Stage(name="logprobs", version=1, reads=("prompts", "responses"), writes=("logprobs", "rejects"), query=_QUERY, fn=make, facts=facts)
