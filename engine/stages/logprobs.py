"""Per-token reference log-probs: text to token ids, once, and the ids with their log-probs into one row.

The trainer takes both from here. So it needs neither tokenizer nor template, and the two cannot drift apart.
Cutting to `max_length` is engine/truncation.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import queries
from engine.ids import lists
from engine.instructions import quality_text
from engine.models.spec import ModelSpec, require_vllm, spec_on
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Stage
from engine.tokenise import tokenise, with_special_tokens
from engine.truncation import PromptGroup, TokenIds
from schemas import quantization, sections
from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.manifest import Facts
from schemas.sections import Logprobs
from schemas.tables import table

_MAKE_RESPONSES = ("given", "generate", "rewrite")


def model_spec(config: Logprobs, reference: sections.Model) -> ModelSpec:
    """The recipe's model, on the section's own backend. Raises UserError where a package is missing."""
    if config.backend == "vllm":
        require_vllm()
    quantization.check(reference.quantization)
    spec = spec_on(reference, config.backend, config.batch_tokens)
    if config.max_length and config.backend == "vllm":
        spec = replace(spec, longest=config.max_length + 1)  # vLLM wants room for one token more
    return spec


def facts(config: Logprobs, planning: Planning) -> Facts:
    """The model, the length and the contexts.

    Raises UserError where responses would have no log-probs, or where the length is more than the model
    takes."""
    for name in planning.below:
        if name in _MAKE_RESPONSES:
            raise UserError(
                f"[{name}] stands below [logprobs], so its responses would have no log-probs: "
                "put it above (sections run in their order)"
            )
    quality = {
        "prompt": fingerprint(quality_text(config.quality_prompt)),
        "place": config.quality_place,
    }
    contexts: Facts = dict.fromkeys(config.contexts)
    if "quality" in contexts:
        contexts["quality"] = quality
    model = planning.model()
    return {
        "model": model.facts(),
        "max_length": max_length(config, model.made_for),
        "too_long": sorted(config.too_long),
        "contexts": contexts,
    }


def max_length(config: Logprobs, positions: int) -> int:
    """Tokens of prompt and response together, 0 for no limit; `positions` are those that the model takes.

    Raises UserError where the recipe asks for more."""
    most = positions
    remark = ""
    if positions and config.backend == "vllm":
        # vLLM scores a sequence as a prompt, and wants room for one token more.
        most = positions - 1
        remark = " (less one with vLLM)"
    if most and config.max_length > most:
        raise UserError(
            f"logprobs.max_length = {config.max_length}, "
            f"but the model was made for {positions} positions{remark}; "
            "set it to that or less (0 takes the model's own)"
        )
    return config.max_length or most


def _limit(config: Logprobs, context: Context) -> int:
    """The same, or less: the longest text whose numbers do not depend on the batch (schemas/rope.py).

    It is no part of the facts: folders keep the names that they had without it."""
    assert context.model is not None
    most = max_length(config, context.model.made_for)
    limits = [limit for limit in (most, context.positions) if limit]
    return min(limits, default=0)


@dataclass(frozen=True)
class _Pass:
    """A prompt in one of its contexts, with the responses that are scored under it."""

    context: str
    prompt: TokenIds
    group: PromptGroup


def make(batch: pa.Table, config: Logprobs, context: Context) -> Made:
    """Rows of `logprobs`: each response under each context."""
    groups: list[PromptGroup] = []
    rejects: list[Reject] = []
    special = 0
    if len(batch):
        text = context.open_model().text
        limit = _limit(config, context)
        groups, rejects = tokenise(batch, text, limit, config)
        special = with_special_tokens(batch, text)
    passes = _passes(groups, config.contexts)
    token_logps = _score(passes, context)
    logprobs = _logprobs_table(batch, passes, token_logps)
    texts = batch["text"].to_pylist()
    tables = {
        "logprobs": logprobs,
        "rejects": rejects_table("logprobs", rejects, batch, texts),
    }
    token_counts = pc.list_value_length(logprobs["token_logps"])
    counts = {
        "scored": len(logprobs),
        "rejects": len(rejects),
        "holding_special_tokens": special,
        "truncated": logprobs["truncated"].drop_null().length(),
        "tokens": pc.sum(token_counts).as_py() or 0,
    }
    return Made(tables, counts)


def _passes(groups: Sequence[PromptGroup], contexts: Sequence[str]) -> list[_Pass]:
    """A prompt's contexts follow one another, with all of its responses under each."""
    passes: list[_Pass] = []
    for group in groups:
        for context, prompt in zip(contexts, group.prompts, strict=True):
            passes.append(_Pass(context, prompt, group))
    return passes


def _score(passes: Sequence[_Pass], context: Context) -> list[list[np.ndarray]]:
    """For each pass the log-probs of each response's tokens. The model is not opened for no pass."""
    if not passes:
        return []
    prompts: list[TokenIds] = []
    responses: list[list[TokenIds]] = []
    for one in passes:
        prompts.append(one.prompt)
        responses.append(one.group.responses)
    return context.open_model().logprobs(prompts, responses)


def _logprobs_table(
    batch: pa.Table,
    passes: Sequence[_Pass],
    logps_by_pass: Sequence[Sequence[np.ndarray]],
) -> pa.Table:
    """Rows of `logprobs`: one for each response of each pass."""
    rows: list[int] = []
    contexts: list[str] = []
    prompt_ids: list[TokenIds] = []
    response_ids: list[TokenIds] = []
    truncated: list[str | None] = []
    token_logps: list[np.ndarray] = []
    logps: list[float] = []
    for one, logps_by_response in zip(passes, logps_by_pass, strict=True):
        group = one.group
        rows += group.rows
        response_ids += group.responses
        truncated += group.truncated
        for logps_of_tokens in logps_by_response:
            contexts.append(one.context)
            prompt_ids.append(one.prompt)
            token_logps.append(logps_of_tokens)
            logps.append(float(np.sum(logps_of_tokens, dtype=np.float64)))
    places = pa.array(rows, pa.int64())
    columns = {
        "prompt_id": batch["prompt_id"].take(places),
        "response_id": batch["response_id"].take(places),
        "context": contexts,
        "prompt_ids": lists(prompt_ids, "int32"),
        "response_ids": lists(response_ids, "int32"),
        "token_logps": lists(token_logps, "float32"),
        "logps": logps,
        "truncated": truncated,
    }
    return table("logprobs", columns)


STAGE = Stage(
    name="logprobs",
    version=4,
    reads=("prompts", "responses"),
    writes=("logprobs", "rejects"),
    query=queries.used_responses("text", "response_ids", "turn", of_prompts=("chat",)),
    fn=make,
    facts=facts,
    model=model_spec,
)
