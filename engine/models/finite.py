"""No number that is not finite leaves a model: a NaN in the cache would be trained on."""

from collections.abc import Iterable

import numpy as np

from engine.models import Sample
from engine.models.spec import ResolvedModel
from schemas.errors import UserError


def check_logps(groups: Iterable[Iterable[np.ndarray]], model: ResolvedModel) -> None:
    """Raise UserError, which names the model, where a log-prob of a response is NaN or infinite."""
    for group in groups:
        for logps in group:
            if not np.isfinite(logps).all():
                raise UserError(_message(model))


def check_samples(groups: Iterable[Iterable[Sample]], model: ResolvedModel) -> None:
    """The same for the log-probs of samples."""
    for group in groups:
        check_logps([[sample.token_logps for sample in group]], model)


def check_scores(scores: np.ndarray, model: ResolvedModel) -> None:
    """The same where a score of a reward model is."""
    if not np.isfinite(scores).all():
        raise UserError(_message(model, "reward", "scores"))


def _message(model: ResolvedModel, section: str = "model", numbers: str = "log-probs") -> str:
    """`section`: that the model stands in, `numbers`: that it gives."""
    config = model.spec.config
    remedy = "get the model again, or take the checkpoint before it"
    if config.dtype == "float16":
        remedy = f"set {section}.dtype to bfloat16 or float32; if that does not help, {remedy}"
    return (
        f"the model in {model.identity.path} gives {numbers} that are not finite (NaN or infinity) in "
        f"{config.dtype}: its weights hold such values, or its numbers overflow; nothing of this shard is "
        f"kept; {remedy}"
    )
