"""Cutting to max_length in several contexts.

The quality prompt stays whole, and the prompt is the same in all.
"""

import pytest

from engine.stages.logprobs import facts
from engine.truncation import fit
from schemas.errors import UserError
from schemas.sections import Generate, Given, Logprobs, Model, Pairs
from tests.engine.planned import planning

HEAD, P, X = [1], list(range(100, 130)), list(range(200, 220))
PLAIN, QUALITY = [*HEAD, *X], [*HEAD, *P, *X]
LEFT, BOTH = ("truncate_prompt_left",), ("truncate_prompt_left", "truncate_response")


@pytest.mark.parametrize("order", [0, 1])
def test_the_quality_prompt_is_never_cut(order):
    prompts = [PLAIN, QUALITY] if order == 0 else [QUALITY, PLAIN]
    group, rejects = fit(prompts, [0, 1], [list(range(10)), list(range(4))], 56, LEFT, plain=order)
    kept = {len(prompt): prompt for prompt in group.prompts}
    assert not rejects and group.truncated == ["prompt", "prompt"] and max(kept) + 10 <= 56
    assert kept[max(kept)][: len(HEAD) + len(P)] == HEAD + P, "the quality prompt was cut"
    assert (
        kept[max(kept)][len(HEAD) + len(P) :] == X[-(len(kept[max(kept)]) - 31) :] == kept[min(kept)][1:]
    ), "the contexts end in other words"


@pytest.mark.parametrize("over", [3, 12, 17, 20])
def test_turns_before_the_quality_prompt_are_cut_first(over):
    """A dialogue: the quality prompt stands in front of its last turn, so all contexts begin with the turns
    before it."""
    turns = list(range(300, 312))
    prompts = [[*HEAD, *turns, *X], [*HEAD, *turns, *P, *X]]
    group, rejects = fit(prompts, [0], [list(range(10))], len(prompts[1]) + 10 - over, LEFT)
    plain, quality = group.prompts
    assert (
        not rejects
        and len(quality) + 10 == len(prompts[1]) + 10 - over
        and len(plain) == len(prompts[0]) - over
    )
    kept, last = turns[over:], X[max(0, over - len(turns)) :]
    assert quality == [*HEAD, *kept, *P, *last] and plain == [*HEAD, *kept, *last]


def test_what_cannot_be_cut_so_is_refused_or_its_response_cut():
    group, rejects = fit([PLAIN, QUALITY], [0], [list(range(10))], 36, LEFT)
    assert not group.rows and rejects[0].reason == "too_long"
    group, rejects = fit([PLAIN, QUALITY], [0, 1], [list(range(30)), list(range(3))], 60, BOTH)
    assert (
        not rejects
        and group.truncated[0] == "both"
        and all(len(prompt) + len(response) <= 60 for prompt in group.prompts for response in group.responses)
    )
    assert group.prompts[1][:31] == HEAD + P


def test_one_context_is_cut_as_ever():
    group, _ = fit([list(range(40))], [0], [list(range(10))], 32, LEFT)
    assert group.prompts == [[0, *range(19, 40)]] and group.truncated == ["prompt"]


def test_contexts_are_each_named_once_and_plain_among_them():
    with pytest.raises(UserError, match="none twice"):
        Logprobs(contexts=("plain", "plain"))
    with pytest.raises(UserError, match="plain must be among them"):
        Logprobs(contexts=("quality",))
    with pytest.raises(UserError, match="did you mean 'quality'"):
        Logprobs(contexts=("plain", "qualty"))


@pytest.mark.parametrize("name", ["given", "generate"])
def test_responses_made_below_would_never_be_scored(name):
    sections = {
        "model": Model(),
        "logprobs": Logprobs(),
        name: {"given": Given(), "generate": Generate()}[name],
        "pairs": Pairs(),
    }
    said = rf"\[{name}\] stands below \[logprobs\], so its responses would have no log-probs: put it above"
    with pytest.raises(UserError, match=said):
        facts(sections["logprobs"], planning(sections, "logprobs"))
