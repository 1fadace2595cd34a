"""The section [pairs]: chosen and rejected."""

from dataclasses import dataclass

from schemas import checks
from schemas.fields import Section, choice, number, path, setting


@dataclass(frozen=True)
class Pairs(Section):
    """Chosen and rejected."""

    # given, best_vs_worst, best_vs_random, above_margin, rewritten_vs_parent, all_pairs, bradley_terry (files
    # of pipelines/sql), or a path to one of your own.
    choose: str = path("given", "sql", ".sql")
    # Whose scores the two are chosen by: given, given_rating, rating, pairwise, reward, prompt_gain or check.
    scorer: str = setting("rating", checks.scorer)
    margin: float = number(0.0, low=0)  # above_margin: the least gap between the scores
    # bradley_terry: how much chance there is in the choice: the odds are exp(gap between the scores / this).
    # 0: the better rated is always chosen.
    label_temperature: float = number(1.0, low=0)
    # bradley_terry: the share of pairs that are turned round after that.
    label_noise: float = number(0.0, low=0, high=1)
    # Scorers that must have rated both responses: a choice without their scores goes to rejects.
    scored_by: tuple[str, ...] = setting((), checks.scorers)
    # RPO's baseline response beside the two: sample (one of [generate]'s, drawn at random), or a path to a
    # SQL file of your own.
    baseline: str = path("", "sql", ".sql")
    # Responses that were cut off before their end. drop: the choice is among the others. rejected_only: a
    # pair that has one as its chosen response goes to rejects. keep: they are as any other.
    unfinished: str = choice("drop", "drop", "rejected_only", "keep")
    # How the edit masks are found: levenshtein (BMC's paper) or difflib (its code).
    diff: str = choice("levenshtein", "levenshtein", "difflib")
    # Share of the prompts held out as split = 'test'.
    test_share: float = number(0.02, low=0, high=1)
