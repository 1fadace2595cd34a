"""Bridging (BMC, arXiv 2408.07471): ỹ+ = LLM(x, y+, y-), the rejected response, corrected.

- The rejected response is the rewrite's parent (the draft), the chosen one its reference.
- A rewrite that cannot serve is kept with the reason in `fallback`; the pair is then the two it came from.
  The reasons: empty; unfinished (cut off); unchanged (it says what the draft says); copy (it says what the
  reference says); too_far (further from the draft than `too_far` times the reference's own distance).
- Distances are Levenshtein's, in words, so that they mean the same under any tokenizer.
"""

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz.distance import Levenshtein

from engine import choice
from engine.draws import draw_facts
from engine.endpoint import rewriter
from engine.endpoint.spec import Endpoint, endpoint_of
from engine.excerpts import counted, some_words
from engine.ids import content_id, seed_of
from engine.instructions import Instruction, conversation
from engine.models import Sample
from engine.models.abilities import spec_for, with_schema
from engine.models.spec import ModelSpec, spec_of
from engine.models.stopping import texts_of
from engine.rejects import Reject, fit_prompts, rejects_table
from engine.stage import Context, Made, Planning, Stage
from engine.text import Messages, Text
from schemas import sections
from schemas.manifest import Facts
from schemas.sections import Rewrite
from schemas.tables import TABLES

_QUERY = """
with choice as ({choose})
select distinct
       choice.prompt_id as prompt_id,
       prompts.messages as messages,
       prompts.chat as chat,
       prompts.file as file,
       prompts.line as line,
       chosen_response_id,
       rejected_response_id,
       rejected_response_id as response_id,
       c.text as chosen,
       r.text as rejected,
       coalesce(
           skipped,
           case when c.text is null or r.text is null then 'no_response'
                when c.text = r.text then 'same_text' end
       ) as skipped
from choice
join prompts on prompts.prompt_id = choice.prompt_id
left join responses c on c.response_id = chosen_response_id
left join responses r on r.response_id = rejected_response_id
order by choice.prompt_id, chosen_response_id, rejected_response_id, skipped
"""
_WORD = re.compile(r"\w+|[^\w\s]")

# A row of the batch: the rejected response to be rewritten, with all that belongs to it.
Draft = Mapping[str, Any]
# A row of `responses`; what is left out is null.
Response = dict[str, Any]


def query(config: Rewrite) -> str:
    """The two responses that the section's `choose` names, with their texts and their prompt."""
    return _QUERY.format(choose=choice.query(config))


def model_spec(config: Rewrite, reference: sections.Model) -> ModelSpec:
    """The section's model, or the recipe's own."""
    return spec_for(config, spec_of(reference, config))


def facts(config: Rewrite, planning: Planning) -> Facts:
    """The model, what it is told, how it samples, and the choice. Raises UserError as choice.facts does."""
    instruction = Instruction(config.prompt, "conversation", "chosen", "rejected")
    endpoint = endpoint_of(config)
    return {
        "prompt": instruction.digest,
        "model": endpoint.facts() if endpoint else planning.model().facts(),
        "sampling": with_schema(config).sampling_facts(),
        "too_far": config.too_far,
        "seed": planning.seed,
        **choice.unfinished_facts(config, planning),
        **_template_facts(config),
        **({} if endpoint else draw_facts(config, planning.model().spec)),
        **choice.facts(config, planning),
    }


def _template_facts(config: Rewrite) -> Facts:
    """The section's template arguments, where it has some."""
    return {"template_arguments": config.template_arguments} if config.template_arguments else {}


def make(batch: pa.Table, config: Rewrite, context: Context) -> Made:
    """A rewrite for each choice, in the batch's order; those that could not be asked for come last."""
    counts = choice.skipped(batch)
    batch = batch.filter(pc.is_null(batch["skipped"]))
    if not len(batch):
        return Made({}, counts)
    drafts = batch.to_pylist()
    endpoint = endpoint_of(config)
    if endpoint is None:
        responses, rejects = _by_model(drafts, config, context)
    else:
        responses, rejects = _by_server(drafts, config, endpoint, context)
    for reject in rejects:
        # What could not even be asked for falls back as well: the pair is not lost.
        response = rewritten_response(drafts[reject.row], "", "stop", config.too_far)
        response["fallback"] = reject.reason
        response["finish_reason"] = None
        responses.append(response)
    raw = batch["rejected"].to_pylist()
    tables = {
        "responses": pa.Table.from_pylist(responses, schema=TABLES["responses"]),
        "rejects": rejects_table("rewrite", rejects, batch, raw),
    }
    counts |= _counts(responses, len(rejects))
    return Made(tables, counts)


def _by_model(drafts: list[Draft], config: Rewrite, context: Context) -> tuple[list[Response], list[Reject]]:
    """What a model here writes of the drafts, in their order, and those that it could not be asked for."""
    model = context.open_model()
    text = model.text
    if config.template_arguments:
        text = text.with_arguments(config.template_arguments, "rewrite")
    rendered = text.prompts(_questions(drafts, config.prompt))
    prompts, rejects = fit_prompts(rendered, context.positions)
    asked = [drafts[row] for row in prompts]
    seeds = [[_seed(draft, context.seed)] for draft in asked]
    samples = model.generate(list(prompts.values()), seeds, with_schema(config))
    # Under other template arguments a response may begin after other tokens.
    keep_ids = _is_written_by_reference(context) and not config.template_arguments
    return _responses(asked, samples, text, config.too_far, keep_ids), rejects


def _by_server(
    drafts: list[Draft], config: Rewrite, endpoint: Endpoint, context: Context
) -> tuple[list[Response], list[Reject]]:
    """The same by the model behind a server. There are no token ids: logprobs tokenises the texts."""
    questions = _questions(drafts, config.prompt)
    seeds = [_seed(draft, context.seed) for draft in drafts]
    responses: list[Response] = []
    rejects: list[Reject] = []
    all_written = rewriter.write(endpoint, questions, seeds, with_schema(config), context.progress)
    for draft, written in zip(drafts, all_written, strict=True):
        if isinstance(written, Reject):
            rejects.append(written)
        else:
            text = written.text.strip()
            responses.append(rewritten_response(draft, text, written.finish_reason, config.too_far))
    return responses, rejects


def _questions(drafts: list[Draft], prompt: str) -> list[Messages]:
    """What the model is told for each draft."""
    instruction = Instruction(prompt)
    questions: list[Messages] = []
    for draft in drafts:
        question = instruction(
            conversation=conversation(draft["messages"], draft.get("chat")),
            chosen=draft["chosen"],
            rejected=draft["rejected"],
        )
        questions.append(question)
    return questions


def _seed(draft: Draft, seed: int) -> int:
    """The seed of a draft's rewrite, by the run's."""
    return seed_of(
        seed,
        "rewrite",
        draft["chosen_response_id"],
        draft["rejected_response_id"],
    )


def _is_written_by_reference(context: Context) -> bool:
    """True if the rewriter is the recipe's own model, so that its token ids are the reference's too."""
    assert context.model is not None and context.reference is not None
    return context.model.facts() == context.reference.facts()


def _responses(
    drafts: list[Draft],
    samples: list[list[Sample]],
    text: Text,
    too_far: float,
    keep_ids: bool,
) -> list[Response]:
    """Rows of `responses` for what the model wrote: one sample for each draft.

    With `keep_ids` the token ids are kept where the text is all that they say; else (white space around it, a
    stop string behind it) logprobs tokenises the text for the reference."""
    texts = texts_of([sample for (sample,) in samples], text)
    responses: list[Response] = []
    for draft, (sample,), decoded in zip(drafts, samples, texts, strict=True):
        said = decoded.strip()
        response = rewritten_response(draft, said, sample.finish_reason, too_far)
        if keep_ids and sample.said is None and said == decoded:
            response["response_ids"] = sample.ids
            response["sampled_token_logps"] = sample.token_logps
        responses.append(response)
    return responses


def rewritten_response(draft: Draft, text: str, finish_reason: str, too_far: float) -> Response:
    """A row of `responses` for a rewrite; its `fallback` says why it cannot serve, if it cannot."""
    new = _WORD.findall(text)
    parent = _WORD.findall(draft["rejected"])
    reference = _WORD.findall(draft["chosen"])
    to_parent = Levenshtein.distance(new, parent)
    between = Levenshtein.distance(reference, parent)
    fallback = _fallback_by_words(new, parent, reference, finish_reason)
    if fallback is None and to_parent > too_far * between:
        fallback = "too_far"
    length_ratio = None
    if parent:
        length_ratio = len(new) / len(parent)
    prompt_id = draft["prompt_id"]
    parent_id = draft["rejected_response_id"]
    reference_id = draft["chosen_response_id"]
    return {
        "response_id": content_id(prompt_id, "rewritten", parent_id, reference_id, text),
        "prompt_id": prompt_id,
        "source": "rewritten",
        "text": text,
        "parent_id": parent_id,
        "reference_id": reference_id,
        "edit_to_parent": to_parent,
        "edit_to_reference": Levenshtein.distance(new, reference),
        "edit_between": between,
        "length_ratio": length_ratio,
        "finish_reason": finish_reason,
        "fallback": fallback,
    }


def _fallback_by_words(
    new: list[str],
    parent: list[str],
    reference: list[str],
    finish_reason: str,
) -> str | None:
    """Why a rewrite cannot serve, whatever its distance from the draft."""
    if not new:
        return "empty"
    if finish_reason == "length":
        return "unfinished"
    if new == parent:
        return "unchanged"
    if new == reference:
        return "copy"
    return None


def _counts(responses: list[Response], rejects: int) -> dict[str, int]:
    """How many rewrites can serve, how many could not be asked for, and how many fall back, by reason."""
    counts = {"rewritten": 0, "rejects": rejects}
    for response in responses:
        name = "rewritten"
        if response["fallback"]:
            name = f"fallback_{response['fallback']}"
        counts[name] = counts.get(name, 0) + 1
    return counts


def explain(tables: Mapping[str, pa.Table], config: Rewrite) -> str:
    """Why no rewrite can serve, with some of them."""
    responses = tables["responses"]
    return (
        f"{counted(responses['fallback'])}. The model wrote, for example, "
        f"{some_words(responses['text'].to_pylist())}. Ask in another way (rewrite.prompt), ask another "
        "model (rewrite.model), or change rewrite.max_tokens or rewrite.too_far"
    )


STAGE = Stage(
    name="rewrite",
    version=2,
    reads=("prompts", "responses", "scores"),
    writes=("responses", "rejects"),
    query=query,
    fn=make,
    facts=facts,
    variables=choice.variables,
    model=model_spec,
    endpoint=endpoint_of,
    explain=explain,
    compares_with_reference=True,
)
