"""What a comparison says of a claim: shown, refuted here, or undecided."""

from dataclasses import dataclass

from pipelines.evidence.intervals import Interval

SHOWN = "shown"
REFUTED = "refuted here"
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """One comparison. `question`: what is claimed; `value`: what must be above 0 for it to be so.

    `unit`: of the value; `figures`: the two sides that it is the difference of, for people."""

    claim: str
    question: str
    value: Interval
    unit: str
    figures: str = ""

    @property
    def says(self) -> str:
        """shown, refuted here or undecided."""
        if self.value.low > 0:
            return SHOWN
        return REFUTED if self.value.high < 0 else UNDECIDED

    @property
    def in_words(self) -> str:
        """The verdict, and where it is undecided how many seeds would decide."""
        if self.says != UNDECIDED:
            return self.says
        needed = self.value.seeds_to_decide()
        if needed is None:
            return f"{UNDECIDED}; more than 1,000 seeds or a larger test set would decide"
        return f"{UNDECIDED}; about {needed:,} seeds would decide"

    def row(self) -> dict[str, object]:
        """As a row of the table `verdicts`."""
        value = self.value
        return {
            "claim": self.claim,
            "question": self.question,
            "verdict": self.says,
            "mean": value.mean,
            "low": value.low,
            "high": value.high,
            "unit": self.unit,
            "seeds": value.seeds,
            "seeds_to_decide": value.seeds_to_decide() if self.says == UNDECIDED else None,
            "figures": self.figures,
        }
