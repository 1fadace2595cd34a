"""Scores by a reward model: the logit that a sequence-classification model gives prompt and response.

- Its scorer is `reward`. The score is the logit as it is, not through a sigmoid.
- What the chat template cannot render, and what is longer than the model takes, has a null score and goes to
  rejects, so no response is lost.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from engine import queries
from engine.models.spec import REWARD_BACKEND, ModelSpec, ResolvedModel
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Stage
from engine.text import TemplateError
from engine.text.chat import stored_chat, stored_response
from engine.text.dialogues import Dialogues, Pairs, Reading
from schemas import sections
from schemas.errors import UserError
from schemas.manifest import Facts
from schemas.model_content import read_json
from schemas.model_files import CONFIG
from schemas.reward_checks import label_number, labels_of, positions_of
from schemas.sections import Reward
from schemas.tables import table


def model_spec(config: Reward, reference: sections.Model) -> ModelSpec:
    """The section's model, on the device of the recipe's. Raises UserError where it names none."""
    if not config.model:
        raise UserError(
            "[reward] names no model: set model to the folder of a reward model (a model for sequence "
            "classification in Hugging Face form) or to its name on the hub"
        )
    model = sections.Model(
        name=config.model,
        revision=config.revision,
        dtype=config.dtype,
        device=reference.device,
        backend="hf",
        date=reference.date,
        chat_template=config.chat_template,
        template_arguments=config.template_arguments,
    )
    return ModelSpec(model, REWARD_BACKEND, config.batch_tokens)


def facts(config: Reward, planning: Planning) -> Facts:
    """The model, what it reads, which of its logits is the score, and the length.

    Raises UserError where the model has no template to read by, where the score cannot be told among its
    logits, or where the length is more than it takes."""
    model = planning.model()
    path = model.identity.path
    if config.input == "dialogue" and model.identity.template_source == "plain":
        raise UserError(
            f"the reward model in {path} has no chat template, so what it reads cannot be known: set "
            '[reward] input = "pair" for a cross-encoder, which reads prompt and response as two texts, or '
            'chat_template to the template that it was trained with (a .jinja file, or "plain")'
        )
    own: Facts = {
        "model": model.facts(),
        "input": config.input,
        "max_length": max_length(config, model),
    }
    labels = labels_of(read_json(path / CONFIG))
    number = label_number(config.label, labels, path)
    if len(labels) > 1:
        own["label"] = number
    return own


def max_length(config: Reward, model: ResolvedModel) -> int:
    """Tokens of prompt and response together, 0 for no limit. Raises UserError where the recipe asks for more
    than the model takes."""
    settings = read_json(model.identity.path / CONFIG)
    positions = positions_of(settings, model.identity.positions)
    if positions and config.max_length > positions:
        raise UserError(
            f"reward.max_length = {config.max_length}, but the reward model was made for {positions} "
            "positions; set it to that or less (0 takes the model's own)"
        )
    # Beyond its steady positions a text would change the scores of those beside it (schemas/rope.py).
    limits = (config.max_length or positions, model.identity.steady)
    return min((limit for limit in limits if limit), default=0)


def open_reader(config: Reward, model: ResolvedModel) -> Dialogues | Pairs:
    """What makes token ids of prompts and responses. Raises UserError where it cannot work."""
    if config.input == "pair":
        return Pairs(model.identity.path)
    return model.open_dialogues()


def make(batch: pa.Table, config: Reward, context: Context) -> Made:
    """Rows of `scores`: one for each response."""
    if not len(batch):
        return Made({})
    assert context.model is not None
    path = context.model.identity.path
    reader = open_reader(config, context.model)
    texts: list[str] = batch["text"].to_pylist()
    prompts = map(stored_chat, batch["messages"].to_pylist(), batch["chat"].to_pylist())
    responses = map(stored_response, texts, batch["turn"].to_pylist())
    read = reader.read(list(prompts), list(responses))
    fitting, rejects = _fitting(read, max_length(config, context.model))
    scores: list[float | None] = [None] * len(batch)
    if fitting:
        label = label_number(config.label, labels_of(read_json(path / CONFIG)), path)
        logits = context.open_reward_model().scores(list(fitting.values()))
        for row, score in zip(fitting, logits[:, label].tolist(), strict=True):
            scores[row] = score
    columns = {
        "prompt_id": batch["prompt_id"],
        "response_id": batch["response_id"],
        "scorer": ["reward"] * len(batch),
        "score": scores,
    }
    tables = {
        "scores": table("scores", columns),
        "rejects": rejects_table("reward", rejects, batch, texts),
    }
    counts = {
        "scored": len(fitting),
        "unscored": len(rejects),
        "rejects": len(rejects),
        "tokens": sum(len(reading.ids) for reading in fitting.values()),
    }
    return Made(tables, counts)


def _fitting(read: Sequence[Reading | TemplateError], limit: int) -> tuple[dict[int, Reading], list[Reject]]:
    """What can be given to the model, by its row; and a reject for each other row."""
    fitting: dict[int, Reading] = {}
    rejects: list[Reject] = []
    for row, reading in enumerate(read):
        if isinstance(reading, TemplateError):
            rejects.append(Reject(row, reading.reason, str(reading)))
        elif not reading.ids:
            rejects.append(Reject(row, "empty_prompt", "the rendered dialogue has no tokens"))
        elif limit and len(reading.ids) > limit:
            found = len(reading.ids)
            detail = f"prompt and response have {found} tokens, and the reward model is given {limit} at most"
            rejects.append(Reject(row, "too_long", detail))
        else:
            fitting[row] = reading
    return fitting, rejects


def explain(tables: Mapping[str, pa.Table], config: Reward) -> str:
    """What to change where every response was refused."""
    return (
        "give the reward model another template (reward.chat_template) or more room (reward.max_length), let "
        "it read pairs (reward.input), or take another one (reward.model)"
    )


STAGE = Stage(
    name="reward",
    version=1,
    reads=("prompts", "responses"),
    writes=("scores", "rejects"),
    query=queries.used_responses("text", "turn", of_prompts=("chat",)),
    fn=make,
    facts=facts,
    model=model_spec,
    explain=explain,
)
