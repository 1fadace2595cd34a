"""Phases of a run, and how one worker takes shards through a phase: what every executor shares.

Stages that follow each other and use one model (or none) take a shard together from the first to the last. A
stage that uses another model, or another backend, begins the next phase, which starts when all shards are
through this one. So one model at a time is in memory, each is loaded once, and no shard waits for what it
does not need. A stage that asks a server shares a phase only with stages that open no model.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from engine.executors.deal import Shards
from engine.make import make
from engine.models import Model
from engine.models.open import open_model, places
from engine.models.reporting import reporting
from engine.models.spec import ResolvedModel
from engine.plan import Run
from engine.progress import Progress, StageProgress
from engine.stage import Stage
from engine.text.time_limit import raise_in
from schemas.errors import UserError
from schemas.manifest import Marker

Gaps = Mapping[int, Sequence[Stage]]

# Shards that a worker has under way. With vLLM the requests of the next ones fill the engine while the last
# long answers of this one finish. On a GPU the model works on one while stages without it take the other
# along; on a CPU both would want the same cores.
UNDER_WAY_VLLM = 3
_UNDER_WAY_GPU = 2


@dataclass(frozen=True)
class Phase:
    """Stages that follow each other and share a model; or some that open none and may ask servers."""

    stages: tuple[Stage, ...]
    model: ResolvedModel | None
    asks_server: bool = False

    @property
    def uses_vllm(self) -> bool:
        """True if the phase's model runs on vLLM."""
        return self.model is not None and self.model.spec.backend == "vllm"


def phases(run: Run) -> list[Phase]:
    """The phases of a run, in order; each stage is in one of them."""
    result: list[Phase] = []
    for stage in run.stages:
        alone = Phase((stage,), run.models.get(stage.name), run.endpoint(stage) is not None)
        if result and _share_phase(result[-1], alone):
            last = result.pop()
            model = _merged(last.model, alone.model)
            asks_server = last.asks_server or alone.asks_server
            result.append(Phase((*last.stages, stage), model, asks_server))
        else:
            result.append(alone)
    return result


def _share_phase(one: Phase, other: Phase) -> bool:
    """True if a shard may go through both before the next shard does."""
    if one.asks_server or other.asks_server:
        return one.model is None and other.model is None
    return _share(one.model, other.model)


def _share(one: ResolvedModel | None, other: ResolvedModel | None) -> bool:
    """True if at most one model has to be loaded for both."""
    return one is None or other is None or one.spec.shares_engine_with(other.spec)


def _merged(one: ResolvedModel | None, other: ResolvedModel | None) -> ResolvedModel | None:
    """The one model of two stages, with the bound on memory that the later one sets, if it sets one, with the
    tokenizer in the engine where either needs it there, and for the longest sequence of both."""
    if one is None or other is None:
        return one or other
    batch_tokens = other.spec.batch_tokens or one.spec.batch_tokens
    engine_tokenizer = one.spec.engine_tokenizer or other.spec.engine_tokenizer
    lengths = (one.spec.longest, other.spec.longest)
    spec = replace(
        other.spec,
        batch_tokens=batch_tokens,
        engine_tokenizer=engine_tokenizer,
        longest=max(lengths) if all(lengths) else 0,
    )
    return replace(other, spec=spec)


class _Interrupted(BaseException):
    """Raised in a thread that loads a model which nobody wants any more, as Ctrl-C is in the main thread."""


class ModelOpener:
    """Opens a phase's model at the first call; a phase that comes to need none loads none."""

    def __init__(self, run: Run, phase: Phase, place: str, threads: int, progress: Progress):
        """`place`: one of `places`, or auto for the first of them; `threads`: of a model on the CPU."""
        self._run = run
        self._resolved = phase.model
        self._place = place
        self._threads = threads
        self._progress = progress
        self._opening = threading.Lock()  # held while a model loads
        self._lock = threading.Lock()  # for a moment, around what follows
        self._model: Model | None = None
        self._loader: int | None = None  # the thread that loads it now, where that takes time
        self._closed = False
        self.first_error: BaseException | None = None

    def __call__(self, stage: Stage) -> Model:
        """The model, which tells the stage's progress what it does."""
        assert self._resolved is not None, f"[{stage.name}] opens a model and says that it uses none"
        progress = StageProgress(stage.name, self._progress)
        with self._opening:
            try:
                model = self._opened(self._resolved, stage)
            except _Interrupted:
                raise UserError("stopped") from None
        return reporting(model, self._resolved.spec.is_reward, progress)

    def _opened(self, resolved: ResolvedModel, stage: Stage) -> Model:
        """The model, loaded where it is not yet."""
        with self._lock:
            if self._closed:
                raise UserError("stopped")
            if self._model is not None:
                return self._model
            # vLLM's engine loads in a process of its own, which closing ends.
            self._loader = None if resolved.spec.backend == "vllm" else threading.get_ident()
        try:
            place = places(resolved.spec)[0] if self._place == "auto" else self._place
            planned = self._run.planned[stage.name].facts["model"]
            model = open_model(resolved, place=place, threads=self._threads, planned=planned)
        finally:
            with self._lock:
                self._loader = None
        with self._lock:
            if not self._closed:
                self._model = model
                return model
        model.close()
        raise UserError("stopped")

    def close(self) -> None:
        """Close the model, if there is one; one that loads is given up, and calls that wait for it fail.

        Remembers the error behind it."""
        with self._lock:
            self.first_error = self.first_error or sys.exc_info()[1]
            if self._loader is not None and not self._closed:
                raise_in(self._loader, _Interrupted)
            self._closed = True
            model = self._model
            self._model = None
        if model is not None:
            model.close()


def under_way(phase: Phase, place: str) -> int:
    """How many shards a worker at a place takes through a phase side by side."""
    if phase.uses_vllm:
        return UNDER_WAY_VLLM
    return _UNDER_WAY_GPU if phase.model is not None and place.startswith("cuda") else 1


def work_through(
    run: Run, phase: Phase, place: str, threads: int, shards: Shards, progress: Progress
) -> None:
    """Take shards through a phase until there are no more.

    The model is opened at the first need and closed at the end."""
    opener = ModelOpener(
        run=run,
        phase=phase,
        place=place,
        threads=threads,
        progress=progress,
    )
    loop = _ShardLoop(
        run=run,
        phase=phase,
        opener=opener,
        shards=shards,
        progress=progress,
    )
    side_by_side = under_way(phase, place)
    try:
        if side_by_side > 1:
            loop.run_in_threads(side_by_side)
        else:
            loop.run()
    finally:
        opener.close()


class _ShardLoop:
    """Asks for shards and makes them; may run in several threads at once."""

    def __init__(self, run: Run, phase: Phase, opener: ModelOpener, shards: Shards, progress: Progress):
        self._run = run
        self._phase = phase
        self._opener = opener
        self._shards = shards
        self._progress = progress
        self._asking = threading.Lock()
        self._stop = threading.Event()

    def run(self) -> None:
        """One shard after another."""
        while not self._stop.is_set():
            try:
                with self._asking:
                    shard = None if self._stop.is_set() else self._shards.take()
                if shard is None:
                    return
                make(
                    self._run,
                    shard,
                    stages=self._phase.stages,
                    open_model=self._opener,
                    progress_of=self._progress_of,
                    done=self._shard_done,
                )
                self._shards.ended(shard)
            except BaseException:
                self._give_up()
                raise

    def _progress_of(self, stage: Stage) -> StageProgress:
        return StageProgress(stage.name, self._progress)

    def _shard_done(self, stage: Stage, marker: Marker) -> None:
        self._progress.shard_done(stage.name, marker)

    def _give_up(self) -> None:
        """Stop all threads: what they wait for fails now."""
        self._stop.set()
        self._shards.stop()
        self._opener.close()

    def run_in_threads(self, count: int) -> None:
        """Several shards side by side. Raises the first error of any of them."""
        with ThreadPoolExecutor(count) as pool:
            under_way = [pool.submit(self.run) for _ in range(count)]
            try:
                # With a time-out: polars installs its own handler of Ctrl-C, under which a wait without one
                # is not interrupted.
                while wait(under_way, timeout=0.5).not_done:
                    pass
            except BaseException:
                self._give_up()
                raise
        for future in under_way:
            error = future.exception()
            if error is not None:
                raise self._opener.first_error or error
