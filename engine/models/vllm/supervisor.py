"""Keeps an engine going while there are requests.

The supervisor's thread starts an engine, hands it what waits, and takes its answers until it is dead; then it
starts another one. An engine is taken for dead if its pipe ends or if it is silent for too long. A request
that was under way at three deaths in a row is taken for their cause, and ends everything with an error.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.models.spec import ResolvedModel
from engine.models.vllm.fitting import fitted
from engine.models.vllm.messages import Answer, Done, Generate, Ready, Refused, Request, Score
from engine.models.vllm.process import EngineProcess
from engine.models.vllm.settings import engine_arguments, environment
from engine.progress import NO_PROGRESS, StageProgress
from schemas.errors import UserError
from schemas.identity import check_unchanged
from schemas.manifest import Facts
from schemas.model_files import files_of_model, files_of_tokenizer, view

DEATHS = 3  # under which a request may be under way before it is taken for their cause
_START = 1800.0  # seconds that an engine may take to load, at least


@dataclass
class _Call:
    """A call of `ask` that waits for its answers, which are kept by key."""

    left: int  # answers that have not come
    progress: StageProgress
    answers: dict[int, Answer] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


@dataclass
class _Pending:
    """A request that is not answered, the call that waits for it, and the deaths that it was under way at."""

    request: Request
    call: _Call
    deaths: int = 0


class Supervisor:
    """An engine for a model at a place, replaced where it dies. Several threads may ask."""

    def __init__(
        self,
        model: ResolvedModel,
        place: str,
        threads: int,
        planned: Facts | None,
    ):
        """See `client.VLLM`."""
        self.engine: EngineProcess | None = None
        self.pending: dict[int, _Pending] = {}
        self.closed = False
        self.busy = 0.0  # seconds in which the engine had a request, since it was loaded
        self.timeout = model.spec.config.timeout  # seconds of silence after which an engine is dead
        self._model = model
        self._folder = model.identity.path  # while engines run: the view that they load from
        self._place = place
        self._threads = threads
        self._planned = planned
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = False  # whether an engine is to be started before there are requests
        self._error: UserError | None = None  # that it gave up with
        self._longest = 0  # tokens of a sequence that the engine takes which is ready
        self._answered = False  # whether anything was answered since the last death

    def start(self) -> None:
        """Start an engine, so that it loads while the first requests are being made."""
        with self._changed:
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def ask(self, requests: Sequence[Request], progress: StageProgress = NO_PROGRESS) -> list[Answer]:
        """The answers to requests, in their order. Raises UserError where there are none to be had."""
        if not requests:
            return []
        progress.want(len(requests))
        call = _Call(len(requests), progress)
        with self._changed:
            if self.closed:
                raise self._error or UserError("stopped")
            for request in requests:
                self.pending[request.key] = _Pending(request, call)
            if self.engine and self.engine.ready:
                self._send(self.engine, call)
        self.start()
        # Not without a time-out: Ctrl-C would not end it, since polars has a handler of its own.
        while not call.done.wait(0.5):
            pass
        if call.error:
            raise call.error
        return [call.answers[request.key] for request in requests]

    def close(self) -> None:
        """End the engine; calls that are under way fail."""
        with self._changed:
            self.closed = True
            self._fail_calls(UserError("stopped"))
            engine = self.engine
            self.engine = None
            self._changed.notify_all()
        if engine:
            engine.end()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        """The supervisor's thread: engine after engine, until `close` or an error.

        Whatever goes wrong here is the error of every call that waits."""
        path = self._model.identity.path
        try:
            files = files_of_model(path)
            if self._model.spec.engine_tokenizer:
                files = sorted({*files, *files_of_tokenizer(path)})
            with view(path, files) as self._folder:
                while engine := self._start_engine():
                    try:
                        cause = self._listen(engine)
                        self._count_death(engine, cause)
                    finally:
                        engine.end()
        except UserError as error:
            self._give_up(error)
        except Exception as error:
            self._give_up(UserError(f"vLLM: {type(error).__name__}: {error}"))

    def _start_engine(self) -> EngineProcess | None:
        """An engine for the model's files, as soon as it is wanted; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self.pending or self.closed)
            if self.closed:
                return None
            self._wanted = False
            arguments = engine_arguments(self._model, self._place) | {"model": str(self._folder)}
            self.engine = EngineProcess(arguments, environment(self._place, self._threads))
            return self.engine

    def _listen(self, engine: EngineProcess) -> str:
        """Take the engine's messages until it is dead; what it died of.

        Raises UserError where it cannot start, or has loaded another model than planned."""
        limit = max(_START, self.timeout)
        while True:
            try:
                message = engine.receive(limit)
            except EOFError:
                cause = engine.cause()
                if not engine.ready and not self.closed and not engine.was_killed():
                    raise UserError(
                        f"vLLM does not start ({cause}); its last words: {self._last_words(engine)}"
                    ) from None
                return cause
            match message:
                case None:
                    return f"gave no sign of life for {limit:g} s"
                case Ready(longest):
                    limit = self.timeout
                    check_unchanged(self._model.spec.config, self._planned)
                    self._hand_out(engine, longest)
                case Refused(key, reason):
                    self._refuse(key, UserError(f"vLLM refuses a request: {reason}"))
                case Done(answers, busy):
                    self.busy = busy
                    self._take(answers)

    def _last_words(self, engine: EngineProcess) -> str:
        """What an engine said at last, of the model's folder where it speaks of the view."""
        return engine.last_words().replace(str(self._folder), str(self._model.identity.path))

    def _hand_out(self, engine: EngineProcess, longest: int) -> None:
        """Give an engine that is ready all that waits, call after call."""
        with self._changed:
            engine.ready = True
            engine.note_segments()
            self._longest = longest
            calls = {id(pending.call): pending.call for pending in self.pending.values()}
            for call in calls.values():
                self._send(engine, call)

    def _send(self, engine: EngineProcess, call: _Call) -> None:
        """Give an engine a call's requests; one that does not fit it fails that call alone.

        The caller holds the lock."""
        waiting = [pending.request for pending in self.pending.values() if pending.call is call]
        try:
            engine.send(fitted(waiting, self._longest, self._model.positions))
        except UserError as error:
            self._fail(call, error)

    def _refuse(self, key: int, error: UserError) -> None:
        """Fail the call of a request that the engine does not take."""
        with self._changed:
            pending = self.pending.get(key)
            if pending:
                self._fail(pending.call, error)

    def _fail(self, call: _Call, error: UserError) -> None:
        """Make an error the end of a call; the caller holds the lock.

        What the engine may have of it by now is made for nobody."""
        self.pending = {key: pending for key, pending in self.pending.items() if pending.call is not call}
        call.error = error
        call.done.set()

    def _take(self, answers: list[Answer]) -> None:
        """Give answers to the calls that wait for them."""
        finished: list[tuple[_Pending, Answer]] = []
        with self._changed:
            for answer in answers:
                pending = self.pending.pop(answer.key, None)
                if pending:
                    finished.append((pending, answer))
            if finished:
                self._answered = True
        for pending, answer in finished:
            call = pending.call
            call.progress.done(1, _tokens(pending.request, answer))
            call.answers[answer.key] = answer
            call.left -= 1
            if not call.left:
                call.done.set()

    def _count_death(self, engine: EngineProcess, cause: str) -> None:
        """Count an engine's death for all that was under way.

        Raises UserError where it was one too many for a request."""
        with self._changed:
            if self.closed:
                return
            self.engine = None
            worst = 0
            for pending in self.pending.values():
                # As long as others are answered, a request that waits is not the cause. A request that kills
                # engines is at last under way only with others like it.
                if self._answered:
                    pending.deaths = 0
                pending.deaths += 1
                worst = max(worst, pending.deaths)
            self._answered = False
            if worst >= DEATHS:
                raise UserError(
                    f"vLLM's engine ended {DEATHS} times with the same requests under way "
                    f"(the last time it {cause}); its last words: {self._last_words(engine)}; "
                    "finished shards are kept; smaller engine arguments in "
                    f"[{self._model.spec.section}.vllm] may help: "
                    "max_num_seqs, max_model_len, gpu_memory_utilization"
                )

    def _give_up(self, error: UserError) -> None:
        with self._changed:
            self.closed = True
            self.engine = None
            self._error = error
            self._fail_calls(error)

    def _fail_calls(self, error: UserError) -> None:
        """Make an error the end of every call that waits; the caller holds the lock."""
        for pending in self.pending.values():
            call = pending.call
            call.error = call.error or error
            call.done.set()
        self.pending.clear()


def _tokens(request: Request, answer: Answer) -> int:
    """The tokens that were sampled for a request, or scored together with its prompt."""
    match request:
        case Generate():
            return len(answer.ids)
        case Score():
            return len(request.prompt) + len(request.response)
    return len(request.prompt)
