"""Who plays the models of a rehearsal: stand-ins, or the models themselves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from typing import cast as typed

from engine.executors.phases import phases
from engine.models import Model, Rater
from engine.models.open import open_model, places
from engine.models.spec import ResolvedModel
from engine.plan import Run
from engine.planning.stand_in import Asked, StandIn, StandInRater, Watched, WatchedRater
from engine.stage import Stage
from engine.text import Text


@dataclass
class StandIns:
    """No model is loaded, each tokenizer once."""

    is_real: bool = False
    _texts: dict[Path, Text] = field(default_factory=dict)

    def model(self, stage: Stage, resolved: ResolvedModel, length: int | None, asked: Asked) -> Model:
        """A stand-in."""
        if resolved.spec.is_reward:
            return typed(Model, WatchedRater(StandInRater(resolved.identity.path), asked))
        return Watched(StandIn(self.text(resolved), resolved.positions, length), asked)

    def text(self, resolved: ResolvedModel) -> Text:
        """The model's tokenizer and template."""
        path = resolved.identity.path
        if path not in self._texts:
            self._texts[path] = resolved.open_text()
        return self._texts[path]


class _Loads(Protocol):
    """A model on torch, which loads its weights when they are first looked at."""

    _model: object


class Models:
    """The models themselves, on the first of their places, one at a time as a worker has them; what is behind
    a server has a stand-in."""

    def __init__(self, run: Run, threads: int):
        """`threads`: of a model on the CPU."""
        self.is_real = True
        self._run = run
        self._threads = threads
        self._stand_ins = StandIns()
        self._opened: dict[int, Model] = {}

    def model(self, stage: Stage, resolved: ResolvedModel, length: int | None, asked: Asked) -> Model:
        """The model of the stage's phase."""
        if stage.name not in self._run.models:
            return self._stand_ins.model(stage, resolved, length, asked)
        model = self._of_phase(stage)
        if resolved.spec.is_reward:
            return typed(Model, WatchedRater(typed(Rater, model), asked))
        return Watched(model, asked)

    def _of_phase(self, stage: Stage) -> Model:
        for number, phase in enumerate(phases(self._run)):
            if stage not in phase.stages:
                continue
            if number not in self._opened:
                self.close()
                assert phase.model is not None
                planned = self._run.planned[stage.name].facts["model"]
                place = places(phase.model.spec)[0]
                model = open_model(phase.model, place, self._threads, planned)
                self._opened[number] = model
                if phase.model.spec.backend != "vllm":  # vLLM has loaded when it has started
                    _ = typed(_Loads, model)._model
            return self._opened[number]
        raise AssertionError("a stage is in no phase")

    def text(self, resolved: ResolvedModel) -> Text:
        """The model's tokenizer and template."""
        return self._stand_ins.text(resolved)

    def close(self) -> None:
        """Give back memory and processes."""
        while self._opened:
            _, model = self._opened.popitem()
            model.close()
