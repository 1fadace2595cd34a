"""The schedules of the sandbox models' training: their parts, and how much of each job a step has in them."""

from dataclasses import dataclass

from pipelines.sandbox import market, world
from pipelines.sandbox.jobs import Job, Jobs


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


_WORLD = Jobs(world)
_MARKET = Jobs(market)
# First to speak, answer and rewrite.
_SPEAKING = Part(
    steps=1000,
    jobs=(
        JobShare(_WORLD.answering, 48, 1.0),
        JobShare(_WORLD.answering_well, 16, 0.5),
        JobShare(_WORLD.rating, 48, 0.5),
        JobShare(_WORLD.rewriting, 24, 1.0),
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
        JobShare(_WORLD.answering, 24, 1.0),
        JobShare(_WORLD.answering_well, 12, 0.5),
        JobShare(_WORLD.rating, 64, 1.0),
        JobShare(_WORLD.rewriting, 12, 1.0),
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
        JobShare(_WORLD.answering, 16, 0.5),
        JobShare(_WORLD.answering_well, 6, 0.3),
        JobShare(_WORLD.rating, 96, 2.0),
        JobShare(_WORLD.rewriting, 8, 0.5),
    ),
    slips_shown=True,
    peak_rate=1.5e-3,
    constant_share=0.5,
    final_rate=0.0,
)
# In the market nobody rates: what a response is worth is known there. The problems are harder, so one long
# part, whose learning rate falls all the way.
_TRADING = Part(
    steps=1800,
    jobs=(
        JobShare(_MARKET.answering, 64, 1.0),
        JobShare(_MARKET.answering_well, 24, 0.5),
        JobShare(_MARKET.rewriting, 8, 0.5),
    ),
    slips_shown=False,
    peak_rate=3e-3,
    constant_share=0.3,
    final_rate=0.0,
)
# World -> the parts of its model's training.
PARTS = {
    "world": (_SPEAKING, _SEEING_SLIPS, _RATING),
    "market": (_TRADING,),
}
