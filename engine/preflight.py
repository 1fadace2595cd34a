"""What is said and refused of the models before any work: how their templates and tokenizers are read, and
whether a server that is asked later takes the key.

It loads each tokenizer once, which the work itself does too.
"""

from collections.abc import Sequence, Set

from engine.endpoint.client import look
from engine.endpoint.rewriter import foreign_keys
from engine.executors.phases import Gaps, phases
from engine.models.abilities import check_ids
from engine.models.spec import ResolvedModel
from engine.plan import Run
from engine.stage import Stage
from engine.text import Text
from engine.tokenizer import check_tokens, embedding_rows
from schemas.errors import UserError
from schemas.identity import Identity
from schemas.manifest import marker_name
from schemas.sections import Sampling


def remarks(run: Run, gaps: Gaps) -> list[str]:
    """Lines about the models that have work to do. Raises UserError where one cannot do it."""
    missing = _missing(run, gaps)
    lines: list[str] = []
    _check_sampling(run, gaps)
    for stage in run.stages:
        if stage.name in missing:
            lines += _server_remarks(run, stage)
    for model, stages in _models_with_work(run, missing):
        if model.spec.is_reward:
            _check_reward_model(model)
            continue
        model.check_runs()
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


def _server_remarks(run: Run, stage: Stage) -> list[str]:
    """Lines about the server that a stage asks, if it asks one. Raises UserError where it refuses the key."""
    endpoint = run.endpoint(stage)
    if endpoint is None:
        return []
    lines: list[str] = []
    seen = look(endpoint)
    if seen:
        lines.append(seen)
    config = run.config(stage)
    foreign = foreign_keys(config) if isinstance(config, Sampling) else []
    if foreign:
        lines.append(f"{stage.name}: sent to the server, which may ignore them: {', '.join(foreign)}")
    return lines


def _check_reward_model(model: ResolvedModel) -> None:
    """Raise UserError where a reward model's tokenizer or template cannot work, or does not fit it."""
    rows = embedding_rows(model.identity)
    tokenizer = model.open_dialogues().tokenizer
    if rows is not None:
        check_tokens(tokenizer, rows, model.identity)


def check_end(text: Text, rows: int, identity: Identity) -> None:
    """Raise UserError where the token that ends a response is none of the model's."""
    if text.end_id >= rows:
        raise UserError(
            f"responses of {identity.path} would end with the token {text.end_id}, but the model has {rows} "
            "rows: set eos_token_id in its generation_config.json or config.json to one of its own"
        )


def _check_sampling(run: Run, gaps: Gaps) -> None:
    """Raise UserError where a stage with work samples by token ids that its model does not have."""
    for stage in run.stages:
        config = run.config(stage)
        is_to_make = any(stage in stages for stages in gaps.values())
        if isinstance(config, Sampling) and is_to_make and stage.name in run.models:
            identity = run.models[stage.name].identity
            names_ids = config.stop_token_ids or config.logit_bias
            rows = embedding_rows(identity) if names_ids else None
            if rows is not None:
                check_ids(config, rows, identity)


def _missing(run: Run, gaps: Gaps) -> set[str]:
    """The stages that are still to be made.

    A shard that has its marker most likely needs no model, although one above it is made again: then nobody
    waits for a tokenizer."""
    missing: set[str] = set()
    for shard, stages in gaps.items():
        for stage in stages:
            if not run.folder(stage).exists(marker_name(shard)):
                missing.add(stage.name)
    return missing


def _models_with_work(run: Run, missing: Set[str]) -> Sequence[tuple[ResolvedModel, Sequence[Stage]]]:
    """The model of each phase in which a stage that opens it is still to be made, with those stages."""
    models: list[tuple[ResolvedModel, Sequence[Stage]]] = []
    for phase in phases(run):
        names = missing & run.models.keys()
        with_work = [stage for stage in phase.stages if stage.name in names]
        if phase.model is not None and with_work:
            models.append((phase.model, with_work))
    return models
