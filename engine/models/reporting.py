"""A model as one stage sees it: what it does is told to the stage's progress."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from engine.models import Ids, Model, Rater, Sample
from engine.progress import NO_PROGRESS, StageProgress
from engine.text import Text
from engine.text.dialogues import Reading
from schemas.sections import Sampling


class Reporting:
    """Implements `engine.models.Model` by another model that several stages may share."""

    def __init__(self, model: Model, progress: StageProgress):
        self._model = model
        self._progress = progress

    @property
    def text(self) -> Text:
        """The model's tokenizer and template."""
        return self._model.text

    def generate(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[Sample]]:
        """The model's samples. `progress` is not for a stage to give."""
        return self._model.generate(prompts, seeds, sampling, self._progress)

    def logprobs(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[np.ndarray]]:
        """The model's log-probs. `progress` is not for a stage to give."""
        return self._model.logprobs(prompts, responses, self._progress)

    def close(self) -> None:
        """Close the model for all stages."""
        self._model.close()


class ReportingRater:
    """Implements `engine.models.Rater` by a reward model."""

    def __init__(self, model: Rater, progress: StageProgress):
        self._model = model
        self._progress = progress

    def scores(self, texts: Sequence[Reading], progress: StageProgress = NO_PROGRESS) -> np.ndarray:
        """The model's logits. `progress` is not for a stage to give."""
        return self._model.scores(texts, self._progress)


def reporting(model: Model, is_reward: bool, progress: StageProgress) -> Model:
    """A model as a stage sees it; a reward model stands for one (Context.open_reward_model)."""
    if is_reward:
        return cast(Model, ReportingRater(cast(Rater, model), progress))
    return Reporting(model, progress)
