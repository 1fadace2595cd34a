"""Responses by the model itself: n samples a prompt.

All of them are kept, with their token ids, their log-probs and how they ended. Of a sample that a stop string
or a stop token of the recipe ended only the text is kept: its ids say more, and have no end token.
"""

import numpy as np
import pyarrow as pa

from engine.draws import draw_facts
from engine.ids import content_id, lists, seed_of
from engine.instructions import conversation
from engine.models import Sample
from engine.models.abilities import spec_for, with_schema
from engine.models.spec import ModelSpec, spec_of
from engine.models.stopping import texts_of
from engine.rejects import fit_prompts, rejects_table
from engine.stage import Context, Made, Planning, Stage
from engine.text import Text
from engine.text.chat import stored_chat
from schemas import sections
from schemas.manifest import Facts
from schemas.sections import Generate
from schemas.tables import table

_QUERY = "select prompt_id, messages, chat, file, line from prompts order by prompt_id"


def model_spec(config: Generate, reference: sections.Model) -> ModelSpec:
    """The recipe's own model."""
    return spec_for(config, spec_of(reference))


def facts(config: Generate, planning: Planning) -> Facts:
    """The model, how it samples, and the seed."""
    model = planning.model()
    return {
        "model": model.facts(),
        "sampling": with_schema(config).sampling_facts(),
        "seed": planning.seed,
        **draw_facts(config, model.spec),
    }


def make(batch: pa.Table, config: Generate, context: Context) -> Made:
    """`config.n` responses for each prompt that leaves room for one."""
    if not len(batch):
        return Made({})
    model = context.open_model()
    prompt_ids = batch["prompt_id"].to_pylist()
    messages = batch["messages"].to_pylist()
    chats = batch["chat"].to_pylist()
    asked = list(map(stored_chat, messages, chats))
    prompts, rejects = fit_prompts(model.text.prompts(asked), context.positions)
    seeds: list[list[int]] = []
    owners: list[str] = []
    for row in prompts:
        seeds.append([seed_of(context.seed, prompt_ids[row], place) for place in range(config.n)])
        owners.append(prompt_ids[row])
    samples_by_prompt = model.generate(list(prompts.values()), seeds, with_schema(config))
    responses = _responses(owners, samples_by_prompt, model.text)
    tables = {
        "responses": responses,
        "rejects": rejects_table("generate", rejects, batch, list(map(conversation, messages, chats))),
    }
    counts = {
        "responses": len(responses),
        "unfinished": responses["finish_reason"].to_pylist().count("length"),
        "rejects": len(rejects),
    }
    return Made(tables, counts)


def _responses(owners: list[str], samples_by_prompt: list[list[Sample]], text: Text) -> pa.Table:
    """Rows of `responses`; `owners` are the ids of the prompts that the samples answer."""
    response_ids: list[str] = []
    prompt_ids: list[str] = []
    texts: list[str] = []
    token_ids: list[list[int] | None] = []
    token_logps: list[np.ndarray | None] = []
    finish_reasons: list[str] = []
    for owner, group in zip(owners, samples_by_prompt, strict=True):
        texts += texts_of(group, text)
        for place, sample in enumerate(group):
            # The place among the samples is part of the id: two samples that say the same are two rows, so
            # that shares and means are right.
            response_ids.append(content_id(owner, "generated", place, sample.ids))
            prompt_ids.append(owner)
            is_whole = sample.said is None  # else logprobs tokenises what it says
            token_ids.append(sample.ids if is_whole else None)
            token_logps.append(sample.token_logps if is_whole else None)
            finish_reasons.append(sample.finish_reason)
    columns = {
        "response_id": response_ids,
        "prompt_id": prompt_ids,
        "source": ["generated"] * len(prompt_ids),
        "text": texts,
        "response_ids": lists(token_ids, "int32"),
        "sampled_token_logps": lists(token_logps, "float32"),
        "finish_reason": finish_reasons,
    }
    return table("responses", columns)


STAGE = Stage(
    name="generate",
    version=2,
    reads=("prompts",),
    writes=("responses", "rejects"),
    query=_QUERY,
    fn=make,
    facts=facts,
    model=model_spec,
)
