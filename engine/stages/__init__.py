"""The stages, one file each. A recipe's section of the same name runs it."""

from engine.stage import Stage
from engine.stages import given, logprobs, pairs, prompts

STAGES: dict[str, Stage] = {stage.name: stage for stage in (prompts.STAGE, given.STAGE, logprobs.STAGE, pairs.STAGE)}
