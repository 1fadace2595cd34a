"""What a loss may need of a pair beyond token ids and their reference log-probs.

A loss's options name it (trainer/losses/options.py: `needs`) and the trainer reads its columns. If they are
missing, the error names the section of a recipe that makes them.
"""

from dataclasses import dataclass

from schemas import scorers
from schemas.errors import UserError


@dataclass(frozen=True)
class Need:
    """What a loss may need of a pair."""

    what: str  # a noun phrase for messages
    columns: tuple[str, ...]  # of the table `pairs`
    remedy: str  # what to change in a recipe to have it


SCORE_COLUMNS = ("chosen_scores", "rejected_scores")  # maps: scorer -> score
_SCORE = "score."
_NEEDS = {
    "edit_mask": Need(
        what="edit masks",
        columns=("chosen_edit_mask", "rejected_edit_mask"),
        remedy="every [pairs] makes them",
    ),
    "quality": Need(
        what="log-probs under the quality prompt",
        columns=(
            "quality_prompt_ids",
            "ref_chosen_quality_token_logps",
            "ref_rejected_quality_token_logps",
        ),
        remedy='set contexts = ["plain", "quality"] in [logprobs]',
    ),
    "baseline": Need(
        what="a baseline response",
        columns=("baseline_ids", "ref_baseline_token_logps"),
        remedy='set baseline = "sample" in [pairs], with a section [generate] above [logprobs]',
    ),
}


def scorer_of(name: str) -> str | None:
    """The scorer whose scores a need is for: rating for score.rating, None for any other need."""
    return name.removeprefix(_SCORE) if name.startswith(_SCORE) else None


def need_of(name: str) -> Need:
    """The need of a name: edit_mask, quality, baseline, or score.<scorer>.

    Raises UserError for a scorer that does not exist."""
    scorer = scorer_of(name)
    if scorer is None:
        return _NEEDS[name]
    if complaint := scorers.unknown(scorer):
        raise UserError(f"the loss's scorer = {scorer}{complaint}")
    return Need(f"the scores of '{scorer}'", SCORE_COLUMNS, scorers.remedy(scorer))
