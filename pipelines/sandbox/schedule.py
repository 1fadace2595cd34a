"""The schedule of the tiny model's training: three parts, and how much of each job a step has in them."""

from dataclasses import dataclass

from pipelines.sandbox.jobs import Job, answering, answering_well, rating, rewriting


@dataclass(frozen=True)
class JobShare:
    """A job's share of a training step: how many examples of it, and the weight of their loss."""

    job: Job
    count: int
    weight: float


@dataclass(frozen=True)
class Part:
    """A part of the training.

    The learning rate warms up to `peak_rate`. After the share `constant_share` of the steps it falls linearly
    to `final_rate`. `slips_shown` says whether the slip heads are trained too.
    """

    steps: int
    jobs: tuple[JobShare, ...]
    slips_shown: bool
    peak_rate: float
    constant_share: float
    final_rate: float


# First to speak, answer and rewrite.
_SPEAKING = Part(
    steps=1000,
    jobs=(
        JobShare(answering, 48, 1.0),
        JobShare(answering_well, 16, 0.5),
        JobShare(rating, 48, 0.5),
        JobShare(rewriting, 24, 1.0),
    ),
    slips_shown=False,
    peak_rate=2e-3,
    constant_share=1.0,
    final_rate=2e-3,
)
# Then to see slips.
_SEEING_SLIPS = Part(
    steps=750,
    jobs=(
        JobShare(answering, 24, 1.0),
        JobShare(answering_well, 12, 0.5),
        JobShare(rating, 64, 1.0),
        JobShare(rewriting, 12, 1.0),
    ),
    slips_shown=True,
    peak_rate=1.5e-3,
    constant_share=0.8,
    final_rate=1.25e-3,
)
# Then above all to rate.
_RATING = Part(
    steps=600,
    jobs=(
        JobShare(answering, 16, 0.5),
        JobShare(answering_well, 6, 0.3),
        JobShare(rating, 96, 2.0),
        JobShare(rewriting, 8, 0.5),
    ),
    slips_shown=True,
    peak_rate=1.5e-3,
    constant_share=0.5,
    final_rate=0.0,
)
PARTS = (_SPEAKING, _SEEING_SLIPS, _RATING)
