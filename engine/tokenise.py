"""The responses of a batch and their prompts, in every context, as token ids that fit the model.

What cannot be rendered as it is, or does not fit, is a reject.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from engine.instructions import quality_text, under
from engine.rejects import Reject, fit_prompts
from engine.text import Chat, Prompt, Response, TemplateError, Text
from engine.text.chat import chat_of, stored_chat, stored_response
from engine.truncation import PromptGroup, TokenIds, fit
from schemas.sections import Logprobs


def tokenise(
    batch: pa.Table,
    text: Text,
    limit: int,
    config: Logprobs,
) -> tuple[list[PromptGroup], list[Reject]]:
    """The batch's prompts with their responses as token ids, none longer than `limit` in any context.

    The rejects are the responses that cannot be scored."""
    rows_by_prompt = _rows_by_prompt(batch)
    prompts = _prompts(batch, rows_by_prompt)
    responses = _response_ids(batch, rows_by_prompt, prompts, text)
    prompts_by_context: list[Sequence[TokenIds | TemplateError]] = []
    for context in config.contexts:
        in_context = [_in_context(prompt, context, config) for prompt in prompts]
        prompts_by_context.append(text.prompts(in_context))
    contexts_by_prompt = zip(*prompts_by_context, strict=True)
    plain = config.contexts.index("plain")
    groups: list[PromptGroup] = []
    rejects: list[Reject] = []
    for rows, contexts in zip(rows_by_prompt, contexts_by_prompt, strict=True):
        ids_by_context, refusals = fit_prompts(contexts, positions=0)  # the length is judged by `fit`
        if refusals:
            rejects += _rejects_of_prompt(rows, refusals)
            continue
        tokenised, unrendered = _rendered(rows, responses)
        rejects += unrendered
        if not tokenised:
            continue
        group, too_long = fit(
            prompts=list(ids_by_context.values()),
            plain=plain,
            rows=list(tokenised),
            responses=list(tokenised.values()),
            limit=limit,
            ways=config.too_long,
        )
        rejects += too_long
        if group.rows:
            groups.append(group)
    return groups, rejects


def _rendered(
    rows: Sequence[int], responses: Sequence[TokenIds | TemplateError]
) -> tuple[dict[int, TokenIds], list[Reject]]:
    """Of these rows the token ids of each response that the template renders, and a reject for each other."""
    tokenised: dict[int, TokenIds] = {}
    rejects: list[Reject] = []
    for row in rows:
        ids = responses[row]
        if isinstance(ids, TemplateError):
            rejects.append(Reject(row, ids.reason, str(ids)))
        else:
            tokenised[row] = ids
    return tokenised, rejects


def with_special_tokens(batch: pa.Table, text: Text) -> int:
    """How many of the responses that are tokenised here hold a special token as text."""
    unsampled = batch.filter(pc.is_null(batch["response_ids"]))
    return sum(map(text.has_special_tokens, unsampled["text"].to_pylist()))


def _response_ids(
    batch: pa.Table,
    rows_by_prompt: Sequence[Sequence[int]],
    prompts: Sequence[Prompt],
    text: Text,
) -> list[TokenIds | TemplateError]:
    """Token ids of each row's response: as they were sampled, else as the template renders its text."""
    result: list[TokenIds | TemplateError] = batch["response_ids"].to_pylist()
    said: list[Response] = list(map(stored_response, batch["text"].to_pylist(), batch["turn"].to_pylist()))
    unsampled: list[list[int]] = []
    for rows in rows_by_prompt:
        unsampled.append([row for row in rows if result[row] is None])
    said_by_prompt = [list(map(said.__getitem__, rows)) for rows in unsampled]
    tokenised = text.responses(prompts, said_by_prompt)
    for rows, ids_of_rows in zip(unsampled, tokenised, strict=True):
        for row, ids in zip(rows, ids_of_rows, strict=True):
            result[row] = ids
    return result


def _rows_by_prompt(batch: pa.Table) -> list[list[int]]:
    """The rows of each prompt, which follow one another in the batch."""
    prompt_ids = batch["prompt_id"].to_pylist()
    rows_by_prompt: list[list[int]] = []
    for _, rows in itertools.groupby(range(len(batch)), key=prompt_ids.__getitem__):
        rows_by_prompt.append(list(rows))
    return rows_by_prompt


def _prompts(batch: pa.Table, rows_by_prompt: Sequence[Sequence[int]]) -> list[Prompt]:
    """Each prompt as the template is given it."""
    first_rows = pa.array([rows[0] for rows in rows_by_prompt], pa.int64())
    messages = batch["messages"].take(first_rows).to_pylist()
    chats = batch["chat"].take(first_rows).to_pylist()
    return list(map(stored_chat, messages, chats))


def _in_context(prompt: Prompt, context: str, config: Logprobs) -> Prompt:
    """A prompt in a context."""
    if context == "plain":
        return prompt
    chat = chat_of(prompt)
    quality_prompt = quality_text(config.quality_prompt)
    return Chat(under(chat.messages, quality_prompt, config.quality_place), chat.tools)


def _rejects_of_prompt(rows: Sequence[int], refusals: Sequence[Reject]) -> list[Reject]:
    """A reject for each response to a prompt; `refusals` are those of the prompt's contexts."""
    # That the template cannot render the messages says more than that they give no tokens.
    refusal = min(refusals, key=lambda one: one.reason == "empty_prompt")
    return [replace(refusal, row=row) for row in rows]
