"""What is said and refused of the models before any work: how their templates and tokenizers are read.

It loads each tokenizer once, which the work itself does too.
"""

from collections.abc import Sequence

from engine.executors.phases import Gaps, phases
from engine.models.spec import ResolvedModel
from engine.plan import Run
from engine.stage import Stage
from engine.text import Text
from engine.tokenizer import check_tokens, embedding_rows
from schemas.errors import UserError
from schemas.identity import Identity
from schemas.manifest import marker_name


def remarks(run: Run, gaps: Gaps) -> list[str]:
    """Lines about the models that have work to do. Raises UserError where one cannot do it."""
    lines: list[str] = []
    for model, stages in _models_with_work(run, gaps):
        rows = embedding_rows(model.identity)  # before the tokenizer, which reads the config too
        text = model.open_text()
        if rows is not None:
            check_tokens(text.tokenizer, rows, model.identity)
            check_end(text, rows, model.identity)
        for stage in stages:
            arguments = getattr(run.config(stage), "template_arguments", {})
            if arguments:
                text.with_arguments(arguments, stage.name)
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


def check_end(text: Text, rows: int, identity: Identity) -> None:
    """Raise UserError where the token that ends a response is none of the model's."""
    if text.end_id >= rows:
        raise UserError(
            f"responses of {identity.path} would end with the token {text.end_id}, but the model has {rows} "
            "rows: set eos_token_id in its generation_config.json or config.json to one of its own"
        )


def _models_with_work(run: Run, gaps: Gaps) -> Sequence[tuple[ResolvedModel, Sequence[Stage]]]:
    """The model of each phase in which a stage that opens it is still to be made, with those stages.

    A shard that has its marker most likely needs no model, although one above it is made again: then nobody
    waits for a tokenizer."""
    missing: set[str] = set()
    for shard, stages in gaps.items():
        for stage in stages:
            if stage.model and not run.folder(stage).exists(marker_name(shard)):
                missing.add(stage.name)
    models: list[tuple[ResolvedModel, Sequence[Stage]]] = []
    for phase in phases(run):
        with_work = [stage for stage in phase.stages if stage.name in missing]
        if phase.model is not None and with_work:
            models.append((phase.model, with_work))
    return models
