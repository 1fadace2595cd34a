"""Which share of the pairs each max_length would leave whole, cut or drop, by the recipe's own too_long."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from engine.plan import Run
from engine.planning.casts import StandIns
from engine.planning.rehearsal import Rehearsed
from engine.stages.logprobs import max_length
from engine.tokenise import tokenise
from engine.truncation import PromptGroup, fit
from schemas.sections import Logprobs

_TRIED = (512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Cut:
    """What one max_length does to the pairs, as shares of them. `what`: whose length it is, if anybody's."""

    max_length: int
    what: str
    whole: float
    cut: float
    dropped: float


@dataclass(frozen=True)
class Lengths:
    """Tokens of a pair's prompt and its longer response together, and what bounds do to the pairs.

    `pairs`: that were looked at; what the template refuses is none of them."""

    pairs: int
    median: int
    longest: int
    cuts: tuple[Cut, ...]


def lengths_of(run: Run, rehearsed: Sequence[Rehearsed], cast: StandIns) -> Lengths | None:
    """None where the recipe makes no pairs or no log-probs, or the rehearsal had none."""
    by_name = {one.stage.name: one for one in rehearsed}
    config = run.recipe.sections.get("logprobs")
    if not isinstance(config, Logprobs) or "pairs" not in by_name:
        return None
    batch = by_name["logprobs"].batch
    model = run.models["logprobs"]
    groups, _ = tokenise(batch, cast.text(model), 0, config)
    sides = _sides(by_name["pairs"], batch["response_id"].to_pylist())
    group_of: dict[int, int] = {}
    for number, group in enumerate(groups):
        group_of.update(dict.fromkeys(group.rows, number))
    pairs = [pair for pair in sides if pair[0] in group_of and pair[1] in group_of]
    if not pairs:
        return None
    tokens: dict[int, int] = {}
    for group in groups:
        prompt = max(map(len, group.prompts))
        for row, response in zip(group.rows, group.responses, strict=True):
            tokens[row] = prompt + len(response)
    longest_sides = sorted(max(tokens[chosen], tokens[rejected]) for chosen, rejected in pairs)
    cuts: list[Cut] = []
    for limit, what in _limits(config, model.made_for):
        cuts.append(_cut(groups, pairs, limit, what, config))
    return Lengths(len(pairs), longest_sides[len(pairs) // 2], longest_sides[-1], tuple(cuts))


def _sides(pairs: Rehearsed, response_ids: Sequence[str]) -> list[tuple[int, int]]:
    """The rows of chosen and rejected of each choice, among those that were tokenised."""
    row_of = {response_id: row for row, response_id in enumerate(response_ids)}
    batch = pairs.batch.filter(pc.is_null(pairs.batch["skipped"]))
    sides: list[tuple[int, int]] = []
    columns = (batch["chosen_response_id"].to_pylist(), batch["rejected_response_id"].to_pylist())
    for chosen, rejected in zip(*columns, strict=True):
        if chosen in row_of and rejected in row_of:
            sides.append((row_of[chosen], row_of[rejected]))
    return sides


def _limits(config: Logprobs, positions: int) -> list[tuple[int, str]]:
    """The lengths to be tried, in order; none that the model does not take."""
    named = {limit: "" for limit in _TRIED if not positions or limit < positions}
    most = max_length(config, positions)
    if positions:
        named[positions] = "the model's positions"
    if most:
        named[most] = "the recipe's" if config.max_length else "the model's positions, the recipe's"
    return sorted(named.items())


def _cut(
    groups: Sequence[PromptGroup],
    pairs: Sequence[tuple[int, int]],
    limit: int,
    what: str,
    config: Logprobs,
) -> Cut:
    """What a length does, by the code that cuts."""
    truncated: dict[int, str | None] = {}
    plain = config.contexts.index("plain")
    for group in groups:
        fitted, _ = fit(group.prompts, group.rows, group.responses, limit, config.too_long, plain)
        truncated.update(zip(fitted.rows, fitted.truncated, strict=True))
    whole = 0
    dropped = 0
    for chosen, rejected in pairs:
        if chosen not in truncated or rejected not in truncated:
            dropped += 1
        elif truncated[chosen] is None and truncated[rejected] is None:
            whole += 1
    count = len(pairs)
    return Cut(limit, what, whole / count, (count - whole - dropped) / count, dropped / count)
