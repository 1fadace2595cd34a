"""What is said and refused of the models before any work: how their templates and tokenizers are read.

It loads each tokenizer once, which the work itself does too.
"""

from collections.abc import Sequence

from engine.executors.phases import Gaps, phases
from engine.models.spec import ResolvedModel
from engine.plan import Run
from engine.tokenizer import check_tokenizer


def remarks(run: Run, gaps: Gaps) -> list[str]:
    """Lines about the models that have work to do. Raises UserError where one cannot do it."""
    lines: list[str] = []
    for model in _models_with_work(run, gaps):
        text = model.open_text()
        check_tokenizer(text.tokenizer, model.identity)
        said = text.remarks()
        if model.identity.template_source == "plain":
            template = model.spec.config.template
            said.append(
                f"the model has no chat template: prompts are rendered by model.template = {template}"
            )
        for remark in said:
            line = f"{model.spec.config.name}: {remark}"
            if line not in lines:
                lines.append(line)
    return lines


def _models_with_work(run: Run, gaps: Gaps) -> Sequence[ResolvedModel]:
    """The model of each phase in which a stage that opens it is still to be made."""
    missing = {stage.name for stages in gaps.values() for stage in stages if stage.model}
    models: list[ResolvedModel] = []
    for phase in phases(run):
        has_work = any(stage.name in missing for stage in phase.stages)
        if phase.model is not None and has_work:
            models.append(phase.model)
    return models
