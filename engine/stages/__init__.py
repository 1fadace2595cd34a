"""The stages, one file each. A recipe's section of the same name runs it."""

from engine.stage import Stage
from engine.stages import check, generate, given, judge, logprobs, pairs, prompt_gain, prompts, rewrite

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        prompts.STAGE,
        given.STAGE,
        generate.STAGE,
        check.STAGE,
        judge.STAGE,
        rewrite.STAGE,
        logprobs.STAGE,
        prompt_gain.STAGE,
        pairs.STAGE,
    )
}
