"""Bridging (BMC, methods §5): ỹ+ = LLM(x, y+, y-), the rejected response corrected with the chosen one as reference.

A rewrite that cannot serve is kept with the reason: empty, unchanged (it says what the draft says), copy (it says what the reference says),
too_far (further from the draft than the reference itself is, times `too_far`), unfinished (cut off). The pair is then the two it came from.
Distances are Levenshtein's, in words, so that they mean the same under any tokenizer.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz.distance import Levenshtein

from engine import choice
from engine.ids import content_id, lists, seed_of
from engine.instructions import Instruction, conversation
from engine.models import Uses
from engine.models import uses as model_of
from engine.stage import Made, Stage
from engine.stages.generate import refused, sampling_facts, unfit
from schemas.recipe import Recipe
from schemas.sections import Rewrite
from schemas.tables import table

_QUERY = """
with choice as ({choose})
select distinct choice.prompt_id as prompt_id, prompts.messages as messages, prompts.file as file, prompts.line as line,
       chosen_response_id, rejected_response_id, rejected_response_id as response_id, c.text as chosen, r.text as rejected,
       coalesce(skipped, case when c.text is null or r.text is null then 'no_response' when c.text = r.text then 'same_text' end) as skipped
from choice
join prompts on prompts.prompt_id = choice.prompt_id
left join responses c on c.response_id = chosen_response_id
left join responses r on r.response_id = rejected_response_id
order by choice.prompt_id, chosen_response_id, rejected_response_id, skipped
"""
_WORD = re.compile(r"\w+|[^\w\s]")


def uses(recipe: Recipe) -> Uses:
    return model_of(recipe, recipe.section("rewrite").model)


def facts(recipe: Recipe) -> dict:
    config: Rewrite = recipe.section("rewrite")
    own = {
        "prompt": Instruction(config.prompt, "conversation", "chosen", "rejected").digest,
        "sampling": sampling_facts(config),
        "too_far": config.too_far,
        "seed": recipe.seed,
    }
    return {"model": uses(recipe).facts(), **own, **choice.facts(recipe, "rewrite")}


def make(batch: pa.Table, recipe: Recipe, model) -> Made:
    counts = choice.skipped(batch)
    batch = batch.filter(pc.is_null(batch["skipped"]))
    if not len(batch):
        return Made({}, counts)
    config: Rewrite = recipe.section("rewrite")
    rows, ask, text = (
        batch.select(
            ["prompt_id", "chosen_response_id", "rejected_response_id", "chosen", "rejected"]
        ).to_pylist(),
        Instruction(config.prompt),
        model().text,
    )
    asked = [conversation(messages) for messages in batch["messages"].to_pylist()]
    prompts = text.prompts(
        [
            ask(conversation=question, chosen=row["chosen"], rejected=row["rejected"])
            for question, row in zip(asked, rows, strict=True)
        ]
    )
    reasons = {
        number: reason
        for number, prompt in enumerate(prompts)
        if (reason := unfit(prompt, uses(recipe).positions))
    }
    fit = [number for number in range(len(rows)) if number not in reasons]
    seeds = [
        [
            seed_of(
                recipe.seed,
                "rewrite",
                rows[number]["chosen_response_id"],
                rows[number]["rejected_response_id"],
            )
        ]
        for number in fit
    ]
    samples = [group[0] for group in model().generate([prompts[number] for number in fit], seeds, config)]
    # The reference model's own tokens, where it is the one that wrote them; else the text is tokenised for it by logprobs.
    own = uses(recipe).facts() == model_of(recipe).facts()
    made = []
    for number, sample, said in zip(
        fit, samples, text.decode([sample.ids for sample in samples]), strict=True
    ):
        kept = (
            {"response_ids": sample.ids, "sampled_token_logps": sample.token_logps}
            if own and said == said.strip()
            else {}
        )
        made.append(_rewritten(rows[number], said.strip(), sample.finish_reason, config.too_far) | kept)
    # What could not even be asked falls back as well: the pair is not lost.
    made += [
        _rewritten(rows[number], "", "stop", config.too_far) | {"fallback": reason, "finish_reason": None}
        for number, (reason, _) in reasons.items()
    ]
    columns = {
        name: [row.get(name) for row in made]
        for name in made[0] | {"response_ids": 0, "sampled_token_logps": 0}
    }
    columns |= {
        "response_ids": lists(columns["response_ids"], "int32"),
        "sampled_token_logps": lists(columns["sampled_token_logps"], "float32"),
    }
    counts |= {"rewritten": sum(row["fallback"] is None for row in made), "rejects": len(reasons)}
    for row in made:
        if row["fallback"]:
            counts[f"fallback_{row['fallback']}"] = counts.get(f"fallback_{row['fallback']}", 0) + 1
    return Made(
        {
            "responses": table("responses", columns),
            "rejects": refused("rewrite", reasons, batch, batch["rejected"].to_pylist()),
        },
        counts,
    )


def _rewritten(row: dict, text: str, finish_reason: str, too_far: float) -> dict:
    """A row of `responses` for a rewrite, `fallback` saying why it cannot serve, if it cannot."""
    new, parent, reference = (_WORD.findall(said) for said in (text, row["rejected"], row["chosen"]))
    to_parent, between = Levenshtein.distance(new, parent), Levenshtein.distance(reference, parent)
    fallback = (
        "empty"
        if not new
        else "unfinished"
        if finish_reason == "length"
        else "unchanged"
        if new == parent
        else "copy"
        if new == reference
        else "too_far"
        if to_parent > too_far * between
        else None
    )
    return {
        "response_id": content_id(
            row["prompt_id"], "rewritten", row["rejected_response_id"], row["chosen_response_id"], text
        ),
        "prompt_id": row["prompt_id"],
        "source": "rewritten",
        "text": text,
        "parent_id": row["rejected_response_id"],
        "reference_id": row["chosen_response_id"],
        "edit_to_parent": to_parent,
        "edit_to_reference": Levenshtein.distance(new, reference),
        "edit_between": between,
        "length_ratio": len(new) / len(parent) if parent else None,
        "finish_reason": finish_reason,
        "fallback": fallback,
    }


def query(recipe: Recipe) -> str:
    return _QUERY.format(choose=choice.sql(recipe, "rewrite"))


def settings(recipe: Recipe) -> dict[str, object]:
    return choice.settings(recipe, "rewrite")


STAGE = Stage(
    name="rewrite",
    version=1,
    reads=("prompts", "responses", "scores"),
    writes=("responses", "rejects"),
    query=query,
    fn=make,
    facts=facts,
    uses=uses,
    settings=settings,
)
