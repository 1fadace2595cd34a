"""Who makes which score. A scorer is a value of the column `scorer` in the table `scores`."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import did_you_mean


@dataclass(frozen=True)
class Scorer:
    """The section that makes a scorer's scores, and the kind it must have among its `kinds`, if any."""

    section: str
    kind: str = ""
    besides: str = ""  # what else the recipe must say

    def how(self) -> str:
        """The section as it is written in a recipe."""
        return f'[{self.section}] with kinds = ["{self.kind}"]' if self.kind else f"[{self.section}]"

    def made_by(self, sections: Mapping[str, object]) -> bool:
        """True if these sections make the scores."""
        if self.section not in sections:
            return False
        return not self.kind or self.kind in getattr(sections[self.section], "kinds", ())


SCORERS: dict[str, Scorer] = {
    "given": Scorer("given"),
    # The data's own numbers for the sides of pairs that it brings (score_chosen …).
    "given_rating": Scorer("given"),
    "check": Scorer("check"),
    "rating": Scorer("judge", kind="rating"),
    "pairwise": Scorer("judge", kind="pairwise"),
    "reward": Scorer("reward"),
    "prompt_gain": Scorer("prompt_gain", besides='contexts = ["plain", "quality"] in [logprobs]'),
}


def remedy(scorer: str) -> str:
    """What to add to a recipe so that [pairs] has a scorer's scores."""
    maker = SCORERS[scorer]
    also = f", and {maker.besides}" if maker.besides else ""
    return f"put a section {maker.how()} above [pairs]{also}"


def unknown(scorer: str) -> str | None:
    """The end of a sentence about a scorer that does not exist; None for one that does."""
    return None if scorer in SCORERS else f": {did_you_mean(scorer, SCORERS)}"
