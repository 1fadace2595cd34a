"""Cut a prompt and its responses to a length.

- The prompt is cut for all its responses alike, since the responses of a pair share it.
- A prompt may stand in several contexts (the bare one, and one under the quality prompt). It is cut by the
  same tokens in all of them, and what a context adds is kept whole.
- A response is cut to what the longest context leaves, so that its tokens are the same in all contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.edits import common_prefix
from engine.rejects import Reject

TokenIds = list[int]

# truncate_prompt_left leaves at least a quarter of the limit to the prompt: less is another question.
_PROMPT_SHARE = 4


@dataclass
class PromptGroup:
    """A prompt and those of its responses that will be scored.

    `prompts`: its token ids in each context; `rows`: the responses' places in the batch; `responses`: their
    token ids; `truncated`: what of each was cut, `prompt`, `response` or `both`, else None."""

    prompts: list[TokenIds]
    rows: list[int] = field(default_factory=list)
    responses: list[TokenIds] = field(default_factory=list)
    truncated: list[str | None] = field(default_factory=list)


def fit(
    prompts: list[TokenIds],
    rows: Sequence[int],
    responses: Sequence[TokenIds],
    limit: int,
    ways: Sequence[str],
    plain: int = 0,
) -> tuple[PromptGroup, list[Reject]]:
    """Cut a prompt and its responses to `limit` tokens together; refuse what still does not fit.

    `prompts` are the prompt's contexts, prompts[plain] the bare one; `limit` 0 is no limit; `ways` are the
    values of logprobs.too_long."""
    kept = prompts
    if limit and "truncate_prompt_left" in ways:
        longest_response = max(map(len, responses))
        kept = _cut_left(prompts, plain, longest_response, limit)
    prompt_is_cut = kept != prompts
    longest_kept = max(map(len, kept))
    group = PromptGroup(kept)
    rejects: list[Reject] = []
    for row, response in zip(rows, responses, strict=True):
        room = len(response)
        if limit:
            room = limit - longest_kept
        response_is_cut = len(response) > room
        if response_is_cut and (room <= 0 or "truncate_response" not in ways):
            longest_prompt = max(map(len, prompts))
            detail = (
                f"prompt {longest_prompt} + response {len(response)} tokens, more than max_length = {limit}"
            )
            rejects.append(Reject(row, "too_long", detail))
            continue
        group.rows.append(row)
        group.responses.append(response[:room])
        group.truncated.append(_truncated(prompt_is_cut, response_is_cut))
    return group, rejects


def _truncated(prompt_is_cut: bool, response_is_cut: bool) -> str | None:
    """The column `truncated`."""
    if prompt_is_cut and response_is_cut:
        return "both"
    if prompt_is_cut:
        return "prompt"
    return "response" if response_is_cut else None


def _cut_left(prompts: list[TokenIds], plain: int, longest_response: int, limit: int) -> list[TokenIds]:
    """Cut a prompt at the left by the same tokens in all contexts, so that the longest response fits.

    A quarter of the limit at least is left to it. The tokens that all contexts begin with (the turns before
    the quality prompt) are cut first, then those that all end with. What stands between them is what a
    context adds, so it is kept whole; where that would not do, nothing is cut."""
    bare = prompts[plain]
    too_many = max(map(len, prompts)) + longest_response - limit
    least_kept = min(len(bare), max(limit // _PROMPT_SHARE, 1))
    to_cut = min(too_many, len(bare) - least_kept)
    if to_cut <= 0:
        return prompts
    common_start, common_end = _common_ends(prompts, bare)
    # The first token stays: it is BOS, or what the template begins with.
    cut_at_start = min(to_cut, max(common_start - 1, 0))
    cut_at_end = to_cut - cut_at_start
    if cut_at_end >= common_end:
        return prompts
    kept_end = bare[len(bare) - common_end + cut_at_end :]
    result: list[TokenIds] = []
    for prompt in prompts:
        before_end = prompt[: len(prompt) - common_end]
        result.append([*before_end[:1], *before_end[1 + cut_at_start :], *kept_end])
    return result


def _common_ends(prompts: list[TokenIds], bare: TokenIds) -> tuple[int, int]:
    """How many tokens all contexts begin with alike, and how many they end with alike.

    The two do not overlap within the bare prompt, and its first token is no part of the end."""
    common_end = len(bare) - 1
    for prompt in prompts:
        common_end = min(common_end, common_prefix(bare[::-1], prompt[::-1]))
    common_start = len(bare) - common_end
    for prompt in prompts:
        common_start = min(common_start, common_prefix(bare, prompt))
    return common_start, common_end
