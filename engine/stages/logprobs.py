"""Per-token reference log-probs: text to token ids, once, and the ids with their log-probs into one row.

The trainer takes both from here, so it needs neither tokenizer nor template and the two cannot drift apart. The prompt is cut, where it must
be, for all its responses alike: the responses of a pair share it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from engine.ids import lists
from engine.instructions import quality_text, under
from engine.models import Uses, backend, use
from engine.stage import Made, Stage
from engine.text import TemplateError, Text
from schemas.commit import fingerprint
from schemas.errors import UserError
from schemas.recipe import Recipe
from schemas.sections import Logprobs
from schemas.tables import table

_QUERY = """
select prompt_id, prompts.messages as messages, prompts.file as file, prompts.line as line, response_id, responses.text as text, responses.response_ids as response_ids
from responses join prompts using (prompt_id)
where fallback is null
order by prompt_id, response_id
"""
# truncate_prompt_left leaves at least this share of max_length to the prompt: less than that is another question.
_PROMPT_SHARE = 4


def uses(recipe: Recipe) -> Uses:
    config, model = recipe.section("logprobs"), recipe.section("model")
    if config.backend == "vllm":
        backend(replace(model, backend="vllm"))  # refuses where there is none
    return use(model, config.backend, config.batch_tokens)


def facts(recipe: Recipe) -> dict:
    config: Logprobs = recipe.section("logprobs")
    sections = list(recipe.sections)
    if late := [
        name for name in sections[sections.index("logprobs") :] if name in ("given", "generate", "rewrite")
    ]:
        raise UserError(
            f"[{late[0]}] stands below [logprobs], so its responses would have no log-probs: put it above (sections run in their order)"
        )
    quality = {"prompt": fingerprint(quality_text(config.quality_prompt)), "place": config.quality_place}
    contexts = {context: quality if context == "quality" else None for context in config.contexts}
    return {
        "model": uses(recipe).facts(),
        "max_length": max_length(recipe),
        "too_long": sorted(config.too_long),
        "contexts": contexts,
    }


def max_length(recipe: Recipe) -> int:
    """Tokens of prompt and response together, 0 for no limit; raises UserError where the recipe asks for more than the model takes."""
    config: Logprobs = recipe.section("logprobs")
    positions = uses(recipe).positions
    # vLLM scores a sequence as a prompt, and wants room for one token more.
    most = positions - 1 if positions and config.backend == "vllm" else positions
    if most and config.max_length > most:
        less = " (less one with vLLM)" if config.backend == "vllm" else ""
        raise UserError(
            f"logprobs.max_length = {config.max_length}, but the model was made for {positions} positions{less}; set it to that or less (0 takes the model's own)"
        )
    return config.max_length or most


@dataclass
class Scored:
    """A prompt in each context and those of its responses that will be scored; `rows` are their places in the batch."""

    prompts: list[list[int]]
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
    prompt_ids, response_ids = batch["prompt_id"].to_pylist(), batch["response_id"].to_pylist()
    groups, rejects = (
        tokenised(batch, prompt_ids, model().text, max_length(recipe), config) if len(batch) else ([], [])
    )
    # Each prompt's contexts one after the other, all of its responses under each: the response's tokens are the same ones.
    laid = [(number, group) for group in groups for number in range(len(config.contexts))]
    token_logps = (
        model().logprobs(
            [group.prompts[number] for number, group in laid], [group.responses for _, group in laid]
        )
        if laid
        else []
    )
    rows = [row for _, group in laid for row in group.rows]
    flat = [logps for group in token_logps for logps in group]
    truncated = [cut for _, group in laid for cut in group.truncated]
    columns = {
        "prompt_id": [prompt_ids[row] for row in rows],
        "response_id": [response_ids[row] for row in rows],
        "context": [config.contexts[number] for number, group in laid for _ in group.rows],
        "prompt_ids": lists([group.prompts[number] for number, group in laid for _ in group.rows], "int32"),
        "response_ids": lists([ids for _, group in laid for ids in group.responses], "int32"),
        "token_logps": lists(flat, "float32"),
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
    refused |= {
        "file": batch["file"].take(where),
        "line": batch["line"].take(where),
        "raw": batch["text"].take(where),
    }
    counts = {
        "scored": len(rows),
        "rejects": len(rejects),
        "truncated": sum(cut is not None for cut in truncated),
        "tokens": sum(map(len, flat)),
    }
    return Made({"logprobs": table("logprobs", columns), "rejects": table("rejects", refused)}, counts)


def tokenised(
    batch: pa.Table, prompt_ids: list[str], text: Text, limit: int, config: Logprobs
) -> tuple[list[Scored], list[Reject]]:
    """The batch's prompts with their responses as token ids, none longer than `limit` in any context; and what could not be."""
    texts, sampled = batch["text"].to_pylist(), batch["response_ids"].to_pylist()
    given = iter(text.responses([text for text, ids in zip(texts, sampled, strict=True) if ids is None]))
    responses = [next(given) if ids is None else ids for ids in sampled]
    runs = [list(run) for _, run in itertools.groupby(range(len(prompt_ids)), key=prompt_ids.__getitem__)]
    messages = batch["messages"].take(pa.array([run[0] for run in runs])).to_pylist()
    contexts = [
        text.prompts([_in_context(one, context, config) for one in messages]) for context in config.contexts
    ]
    groups, rejects = [], []
    for run, prompts in zip(runs, zip(*contexts, strict=True), strict=True):
        if error := next((prompt for prompt in prompts if isinstance(prompt, TemplateError)), None):
            rejects += [
                Reject(row, "template", f"the chat template refuses the messages: {error}") for row in run
            ]
        elif not all(prompts):
            rejects += [Reject(row, "empty_prompt", "the rendered prompt has no tokens") for row in run]
        else:
            group, refused = fit(
                list(prompts),
                run,
                [responses[row] for row in run],
                limit,
                config.too_long,
                config.contexts.index("plain"),
            )
            rejects += refused
            groups += [group] if group.rows else []
    return groups, rejects


def _in_context(messages: list[dict], context: str, config: Logprobs) -> Sequence[dict[str, str]]:
    return (
        messages
        if context == "plain"
        else under(messages, quality_text(config.quality_prompt), config.quality_place)
    )


def fit(
    prompts: list[list[int]],
    rows: list[int],
    responses: list[list[int]],
    limit: int,
    ways: Sequence[str],
    plain: int = 0,
) -> tuple[Scored, list[Reject]]:
    """Cuts a prompt (in each of its contexts, prompts[plain] the bare one) and its responses to `limit` tokens together, by the ways allowed; what
    still does not fit is refused. A response is cut to what the longest context leaves, so that it is the same in all. 0 is no limit."""
    longest = max(map(len, responses))
    kept = _cut_left(prompts, plain, longest, limit) if limit and "truncate_prompt_left" in ways else prompts
    cut_prompt = kept != prompts
    used = max(map(len, kept))
    group, rejects = Scored(kept), []
    for row, response in zip(rows, responses, strict=True):
        room = limit - used if limit else len(response)
        cut = len(response) > room and "truncate_response" in ways and room > 0
        if len(response) > room and not cut:
            rejects.append(
                Reject(
                    row,
                    "too_long",
                    f"prompt {max(map(len, prompts))} + response {len(response)} tokens, more than max_length = {limit}",
                )
            )
            continue
        group.rows.append(row)
        group.responses.append(response[:room] if cut else response)
        group.truncated.append(
            "both" if cut and cut_prompt else "response" if cut else "prompt" if cut_prompt else None
        )
    return group, rejects


def _cut_left(prompts: list[list[int]], plain: int, longest: int, limit: int) -> list[list[int]]:
    """A prompt cut at the left in all of its contexts alike, so that the longest response fits or a quarter of the limit is left to it. What a context
    adds (the quality prompt) is kept whole: cut are the tokens that all contexts begin with (the turns before it), then those that all end with."""
    over = max(map(len, prompts)) + longest - limit
    own = prompts[plain]
    cut = min(over, len(own) - min(len(own), max(limit // _PROMPT_SHARE, 1)))
    if cut <= 0:
        return prompts
    # The first token stays: it is BOS, or what the template begins with.
    after = min(len(own) - 1, *(_common(own[::-1], prompt[::-1]) for prompt in prompts))
    before = min(len(own) - after, *(_common(own, prompt) for prompt in prompts))
    first = min(cut, max(before - 1, 0))
    if cut - first >= after:
        return prompts
    heads = [prompt[: len(prompt) - after] for prompt in prompts]
    return [[*head[:1], *head[1 + first :], *own[len(own) - after + cut - first :]] for head in heads]


def _common(a: list[int], b: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


STAGE = Stage(
    name="logprobs",
    version=3,
    reads=("prompts", "responses"),
    writes=("logprobs", "rejects"),
    query=_QUERY,
    fn=make,
    facts=facts,
    uses=uses,
)
