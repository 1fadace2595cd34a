"""Responses by the model itself: n samples a prompt, all of them kept, with their token ids, log-probs and how they ended."""

import pyarrow as pa

from engine.ids import content_id, lists, seed_of
from engine.instructions import conversation
from engine.models import uses
from engine.stage import Made, Stage
from engine.text import TemplateError
from schemas.recipe import Recipe
from schemas.sections import Generate
from schemas.tables import table

_QUERY = "select prompt_id, messages, file, line from prompts order by prompt_id"


def facts(recipe: Recipe) -> dict:
    config: Generate = recipe.section("generate")
    return {"model": uses(recipe).facts(), "sampling": sampling_facts(config), "seed": recipe.seed}


def sampling_facts(config: Generate) -> dict:
    return {
        name: getattr(config, name) for name in ("n", "temperature", "top_p", "top_k", "min_p", "max_tokens")
    }


def make(batch: pa.Table, recipe: Recipe, model) -> Made:
    if not len(batch):
        return Made({})
    config: Generate = recipe.section("generate")
    ids, messages, text = batch["prompt_id"].to_pylist(), batch["messages"].to_pylist(), model().text
    prompts, reasons = text.prompts(messages), {}
    for row, prompt in enumerate(prompts):
        if reason := unfit(prompt, uses(recipe).positions):
            reasons[row] = reason
    rows = [row for row in range(len(batch)) if row not in reasons]
    seeds = [[seed_of(recipe.seed, ids[row], k) for k in range(config.n)] for row in rows]
    groups = model().generate([prompts[row] for row in rows], seeds, config)
    samples = [sample for group in groups for sample in group]
    owners = [ids[row] for row in rows for _ in range(config.n)]
    responses = {
        # The place among the samples is part of the id: two samples that say the same are two rows, so that shares and means are right.
        "response_id": [
            content_id(owner, "generated", number % config.n, sample.ids)
            for number, (owner, sample) in enumerate(zip(owners, samples, strict=True))
        ],
        "prompt_id": owners,
        "source": ["generated"] * len(samples),
        "text": text.decode([sample.ids for sample in samples]),
        "response_ids": lists([sample.ids for sample in samples], "int32"),
        "sampled_token_logps": lists([sample.token_logps for sample in samples], "float32"),
        "finish_reason": [sample.finish_reason for sample in samples],
    }
    rejects = refused("generate", reasons, batch, [conversation(row) for row in messages])
    counts = {
        "responses": len(samples),
        "unfinished": sum(sample.finish_reason == "length" for sample in samples),
        "rejects": len(reasons),
    }
    return Made({"responses": table("responses", responses), "rejects": rejects}, counts)


def unfit(prompt: list[int] | TemplateError, positions: int) -> tuple[str, str] | None:
    """Why a prompt cannot be given to a model (a code and a sentence), if it cannot."""
    if isinstance(prompt, TemplateError):
        return "template", f"the chat template refuses the messages: {prompt}"
    if not prompt:
        return "empty_prompt", "the rendered prompt has no tokens"
    if positions and len(prompt) >= positions:
        return (
            "too_long",
            f"the prompt has {len(prompt)} tokens and leaves no room for a response: the model takes {positions} in all",
        )
    return None


def refused(stage: str, reasons: dict[int, tuple[str, str]], batch: pa.Table, raw: list[str]) -> pa.Table:
    """Rows of `rejects` for the rows of a batch that a stage refused: row -> (reason, detail)."""
    where = pa.array(list(reasons), pa.int64())
    columns = {
        "stage": [stage] * len(reasons),
        "reason": [reason for reason, _ in reasons.values()],
        "detail": [detail for _, detail in reasons.values()],
    }
    columns |= {
        name: batch[name].take(where)
        for name in ("file", "line", "prompt_id", "response_id")
        if name in batch.column_names
    }
    return table("rejects", columns | {"raw": [raw[row] for row in reasons]})


STAGE = Stage(
    name="generate",
    version=1,
    reads=("prompts",),
    writes=("responses", "rejects"),
    query=_QUERY,
    fn=make,
    facts=facts,
    uses=uses,
)
