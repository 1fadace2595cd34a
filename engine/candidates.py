"""What the SQL of [pairs] chose: whether a choice can be a pair, and if not, why and by which response.

A choice that cannot be a pair is a reject, so that nothing is lost in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.rejects import Reject, rejects_table
from schemas.sections import Pairs

_DETAILS = {
    "no_response": "the SQL names a response that there is not, or that answers another prompt",
    "same_response": "the SQL chose one response as chosen and as rejected",
    "same_text": "chosen and rejected say the same",
    "same_ids": "chosen and rejected are the same tokens: the template or max_length cuts off what differs",
    "no_logprobs": "a response of the pair has no log-probs: see the reject of logprobs for it",
    "unfinished": "a response of the pair was cut off before its end: pairs.unfinished keeps such pairs, "
    'rewrite.unfinished = "drop" rewrites no such draft',
    "no_baseline": "the prompt has no baseline response, or that has no log-probs",
    "no_score": "not rated by every scorer of pairs.scored_by: {}",
}


@dataclass(frozen=True)
class Side:
    """One response of a choice. `text` is None where there is no such response to the prompt, `ids` where it
    has no log-probs."""

    response_id: str | None
    text: str | None
    ids: Sequence[int] | None
    scorers: frozenset[str]
    is_unfinished: bool

    @property
    def has_logprobs(self) -> bool:
        return self.ids is not None

    def unrated_by(self, scored_by: Sequence[str]) -> list[str]:
        """Those of the scorers that gave it no score."""
        return [scorer for scorer in scored_by if scorer not in self.scorers]


@dataclass(frozen=True)
class Candidate:
    """A choice, with what decides whether it is a pair."""

    chosen: Side
    rejected: Side
    has_baseline: bool

    def reason(self, config: Pairs) -> str | None:
        """Why it is no pair, None where it is one. Of several reasons the first says most."""
        return self._cannot_be_one() or self._is_left_out(config)

    def _cannot_be_one(self) -> str | None:
        chosen = self.chosen
        rejected = self.rejected
        if chosen.text is None or rejected.text is None:
            return "no_response"
        if chosen.response_id == rejected.response_id:
            return "same_response"
        if chosen.text == rejected.text:
            return "same_text"
        if not (chosen.has_logprobs and rejected.has_logprobs):
            return "no_logprobs"
        if chosen.ids == rejected.ids:
            return "same_ids"
        return None

    def _is_left_out(self, config: Pairs) -> str | None:
        """Why the recipe does not want it."""
        chosen = self.chosen
        rejected = self.rejected
        if self._is_refused_as_unfinished(config.unfinished):
            return "unfinished"
        if config.baseline and not self.has_baseline:
            return "no_baseline"
        if chosen.unrated_by(config.scored_by) or rejected.unrated_by(config.scored_by):
            return "no_score"
        return None

    def _is_refused_as_unfinished(self, unfinished: str) -> bool:
        """Whether pairs.unfinished leaves out a choice with these responses."""
        if unfinished == "keep":
            return False
        rejected_may_be = unfinished == "rejected_only"
        return self.chosen.is_unfinished or (self.rejected.is_unfinished and not rejected_may_be)

    def lost_by(self, reason: str, scored_by: Sequence[str]) -> Side:
        """The response that a reject names."""
        is_unrated = reason == "no_score" and self.chosen.unrated_by(scored_by)
        if not self.chosen.has_logprobs or reason in ("same_text", "same_ids") or is_unrated:
            return self.chosen
        return self.rejected

    def detail(self, reason: str, scored_by: Sequence[str]) -> str:
        """The reason as a sentence."""
        unrated = self.chosen.unrated_by(scored_by) or self.rejected.unrated_by(scored_by)
        return _DETAILS[reason].format(", ".join(unrated))


def candidates_of(rows: pa.Table) -> list[Candidate]:
    """The rows of the query of [pairs]."""
    result: list[Candidate] = []
    columns = zip(
        _sides(rows, "chosen"),
        _sides(rows, "rejected"),
        rows["baseline_ids"].is_valid().to_pylist(),
        strict=True,
    )
    for chosen, rejected, has_baseline in columns:
        result.append(Candidate(chosen, rejected, has_baseline))
    return result


def _sides(rows: pa.Table, side: str) -> list[Side]:
    """The chosen or the rejected response of each row."""
    sides: list[Side] = []
    columns = zip(
        rows[f"{side}_response_id"].to_pylist(),
        rows[side].to_pylist(),
        rows[f"{side}_ids"].to_pylist(),
        scorers_of(rows, side),
        rows[f"{side}_finish_reason"].to_pylist(),
        strict=True,
    )
    for response_id, text, ids, scorers, finish_reason in columns:
        sides.append(Side(response_id, text, ids, scorers, is_unfinished=finish_reason == "length"))
    return sides


def scorers_of(rows: pa.Table, side: str) -> list[frozenset[str]]:
    """For each row the scorers that rated its chosen or its rejected response."""
    scorers: list[frozenset[str]] = []
    for scores in rows[f"{side}_scores"].to_pylist():
        score_by_scorer = dict(scores or ())
        scorers.append(frozenset(score_by_scorer))
    return scorers


def lost_choices(
    rows: pa.Table,
    candidates: Sequence[Candidate],
    reasons: Sequence[str | None],
    scored_by: Sequence[str],
) -> pa.Table:
    """Rows of `rejects` for the choices that have a reason, each naming the response that it was lost by."""
    rejects: list[Reject] = []
    response_ids: list[str | None] = [None] * len(rows)
    texts: list[str | None] = [None] * len(rows)
    for row, candidate in enumerate(candidates):
        reason = reasons[row]
        if reason is None:
            continue
        detail = candidate.detail(reason, scored_by)
        rejects.append(Reject(row, reason, detail))
        side = candidate.lost_by(reason, scored_by)
        response_ids[row] = side.response_id
        texts[row] = side.text
    named = rows.append_column("response_id", pa.array(response_ids, pa.string()))
    return rejects_table("pairs", rejects, named, texts)
