"""The stages, one file each. A recipe's section of the same name runs it."""

from engine.stage import Stage
from engine.stages import (
    check,
    generate,
    given,
    judge,
    logprobs,
    pairs,
    prompt_gain,
    prompts,
    reward,
    rewrite,
)

STAGES: dict[str, Stage] = {
    "prompts": prompts.STAGE,
    "given": given.STAGE,
    "generate": generate.STAGE,
    "check": check.STAGE,
    "judge": judge.STAGE,
    "reward": reward.STAGE,
    "rewrite": rewrite.STAGE,
    "logprobs": logprobs.STAGE,
    "prompt_gain": prompt_gain.STAGE,
    "pairs": pairs.STAGE,
}
