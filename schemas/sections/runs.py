"""The sections of commands of their own: [verify] and [rounds]."""

from dataclasses import dataclass

from schemas.fields import Section, number


@dataclass(frozen=True)
class Verify(Section):
    """`engine verify`: log-probs computed again in another way."""

    sample: int = number(64, low=1)  # responses that are scored again
    # Largest mean gap that passes, nat a token; 0: as train.tolerance, and 0.05 between vLLM and torch in
    # half precision.
    tolerance: float = number(0.0, low=0)


@dataclass(frozen=True)
class Rounds(Section):
    """Precompute and train n times (pipelines/run.py); each round's reference is the last round's policy."""

    n: int = number(1, low=1)  # rounds
