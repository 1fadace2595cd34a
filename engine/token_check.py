"""What the token ids of a sample of log-probs show: where caches go wrong, and what is merely worth knowing.

Each dialogue is rendered and tokenised again as one text, as a trainer without a cache would do it, and the
ids that are trained are compared with that.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from engine.text import Prompt, Response, Text
from engine.text.chat import chat_of, turn_of


@dataclass(frozen=True)
class Scored:
    """A row of `logprobs` with what it was made of.

    `messages`: the prompt as it was rendered, None where it was cut or stands under the quality prompt.
    `response`: the text or the turn that was tokenised, None where the ids are a sample's own or were cut."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    messages: Prompt | None
    response: Response | None


def count(rows: Sequence[Scored], text: Text) -> dict[str, int]:
    """How often the ids show each thing.

    `not_as_rendered`: the ids say something else than the template's rendering of the dialogue.
    `border_merges`: they say the same, but a trainer that tokenises the dialogue as one text would have a
    token across the border."""
    bos = text.tokenizer.bos_token_id
    counts = Counter(
        bos=0, double_bos=0, eos_at_end=0, eos_within=0, border_merges=0, rendered=0, not_as_rendered=0
    )
    for row in rows:
        prompt = list(row.prompt_ids)
        response = list(row.response_ids)
        if bos is not None:
            counts["bos"] += prompt[:1] == [bos]
            counts["double_bos"] += prompt[:2] == [bos, bos]
        counts["eos_at_end"] += response[-1] in text.stop_ids
        counts["eos_within"] += any(token in text.stop_ids for token in response[:-1])
        verdict = _verdict(row, text)
        if verdict:
            counts["rendered"] += 1
            counts[verdict] += 1
    del counts["as_rendered"]
    return dict(counts)


def _verdict(row: Scored, text: Text) -> str | None:
    """`as_rendered`, `border_merges` or `not_as_rendered`; None where there is nothing to compare with.

    A special token that a user typed is text in ours and would be special in the rendering tokenised."""
    if row.messages is None:
        return None
    chat = chat_of(row.messages)
    dialogue = chat if row.response is None else chat.answered(turn_of(row.response))
    if text.has_typed_tokens(dialogue):
        return None
    trained = list(row.prompt_ids)
    if row.response is None:
        rendered = text.template.prompt(chat)
        whole = text.ids(rendered)
        return "as_rendered" if whole == trained else "not_as_rendered"
    trained += row.response_ids
    if not text.template_ends_turns:
        trained.pop()  # EOS, of which the template knows nothing
    rendered = text.template.render(dialogue, add_generation_prompt=False)
    whole = text.ids(rendered)
    if whole[: len(trained)] == trained and not text.tokenizer.decode(whole[len(trained) :]).strip():
        return "as_rendered"
    said = text.tokenizer.decode(trained)
    rendering = text.tokenizer.decode(whole)
    if rendering.startswith(said) and not rendering.removeprefix(said).strip():
        return "border_merges"
    return "not_as_rendered"
