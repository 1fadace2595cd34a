"""What runs in an engine's process: it keeps vLLM's scheduler fed, and gives back each answer that is whole.

- The scheduler holds twice as many requests as run at once. What is more waits: a few here, the rest with the
  worker, whose pipe hands them over as there is room. So the first step comes after a few dozen requests, and
  memory does not grow with a call.
- Between two steps requests are added in a slice, at first a small one that doubles from step to step.
- A sign of life is given in that loop too.
"""

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.models.stopping import StopStrings
from engine.models.vllm import shared_memory
from engine.models.vllm.answers import Growing, answer_of
from engine.models.vllm.loading import load
from engine.models.vllm.messages import Answer, Done, Generate, Ready, Refused, Request
from engine.models.vllm.params import ids_of, params_of
from schemas.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from vllm import LLMEngine

_BEAT = 1.0  # seconds between signs of life
_FIRST_SLICE = 32  # requests that are added before the first step; 0.2 ms each


def serve(handle: int, worker: int) -> None:
    """Run an engine until its pipe ends or the process `worker` is gone. `handle`: of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    there_before = shared_memory.names()
    threading.Thread(target=_end_with_worker, args=(worker, there_before), daemon=True).start()
    pipe: Connection[Any, Any] = Connection(handle)
    server = Server(pipe, load(pipe.recv()))
    threading.Thread(target=_end_with_children, args=(there_before,), daemon=True).start()
    pipe.send(Ready(server.longest))
    server.run()


def _end_with_worker(worker: int, there_before: set[str]) -> None:
    """End this process group as soon as the worker is not its parent any more, and release what it shares."""
    while os.getppid() == worker:
        time.sleep(_BEAT)
    _end_group(there_before)


def _end_with_children(there_before: set[str]) -> None:
    """End this process group as soon as one of vLLM's own processes is gone (an engine core, a worker of a
    tensor-parallel engine): vLLM may wait for it for ever."""
    sentinels = [child.sentinel for child in multiprocessing.active_children()]
    if sentinels:
        wait(sentinels)
        _end_group(there_before)


def _end_group(there_before: set[str]) -> None:
    group = os.getpgrp()
    shared_memory.release(shared_memory.mapped_by(group) - there_before, group)
    os.killpg(0, signal.SIGKILL)


class Server:
    """An engine that is loaded, its pipe, and the requests under way by the id that vLLM knows them by."""

    def __init__(self, pipe: "Connection[Any, Any]", engine: "LLMEngine"):
        config = engine.vllm_config
        self._pipe = pipe
        self._engine = engine
        # Model runner V2 (on GPUs) runs the head on the response's rows alone and gives an array.
        self._scores_rows = bool(getattr(config, "use_v2_model_runner", False))
        self._capacity = 2 * config.scheduler_config.max_num_seqs
        self.longest: int = config.model_config.max_model_len  # tokens of a sequence
        self._slice = _FIRST_SLICE
        self._waiting: deque[Request] = deque()
        self._requests: dict[str, Request] = {}
        # Those that a stop string of ours may end, by the request.
        self._growing: dict[str, Growing] = {}
        self._last_beat = time.monotonic()
        self._busy = 0.0  # seconds in which there was a request under way
        self._busy_from = 0.0  # up to when they are counted

    def run(self) -> None:
        """Take requests, step the engine and send answers until the pipe ends."""
        while self._take_requests():
            self._add_some()
            if self._engine.has_unfinished_requests():
                self._tell(self._step())
            else:
                self._tell([])

    def _tell(self, answers: list[Answer]) -> None:
        """Send answers, or a sign of life where the last one is a while ago."""
        now = time.monotonic()
        if answers or now - self._last_beat > _BEAT:
            self._pipe.send(Done(answers, self._busy))
            self._last_beat = now

    def _take_requests(self) -> bool:
        """Take from the pipe as many as there is room for; False once it has ended."""
        known = self._engine.get_num_unfinished_requests() + len(self._waiting)
        if not known:
            self._slice = _FIRST_SLICE
        seconds = 0.0 if known else _BEAT
        while known < self._capacity and self._pipe.poll(seconds):
            try:
                requests: list[Request] = self._pipe.recv()
            except EOFError:
                return False
            self._waiting.extend(requests)
            known += len(requests)
            seconds = 0.0
        return True

    def _add_some(self) -> None:
        """Hand the next slice of what waits to vLLM's scheduler."""
        room = self._capacity - self._engine.get_num_unfinished_requests()
        for _ in range(min(room, self._slice, len(self._waiting))):
            request = self._waiting.popleft()
            try:
                self._add(request)
            except Exception as error:
                self._pipe.send(Refused(request.key, str(error)))
            self._tell([])
        self._slice = min(2 * self._slice, self._capacity)

    def _add(self, request: Request) -> None:
        from vllm.inputs import TokensPrompt

        name = str(request.key)
        ids = ids_of(request)
        prompt = TokensPrompt(prompt_token_ids=ids)
        if not self._engine.has_unfinished_requests():
            self._busy_from = time.monotonic()
        self._engine.add_request(name, prompt, params_of(request, self._scores_rows))
        self._requests[name] = request
        if isinstance(request, Generate) and request.sampling.stop:
            sampling = request.sampling
            tokenizer = _tokenizer(request.tokenizer)
            self._growing[name] = Growing(StopStrings(tokenizer, sampling.stop, sampling.min_tokens))

    def _step(self) -> list[Answer]:
        """One step of the engine; the answers that it finished, by itself or by a stop string."""
        answers: list[Answer] = []
        for output in self._engine.step():
            # vLLM may add to an id what tells it from others of that name.
            name = output.request_id
            if name not in self._requests:
                name = name.split("-")[0]
            growing = self._growing.get(name)
            stopped = growing is not None and growing.add(output)
            if not (stopped or output.finished):
                continue
            request = self._requests.pop(name)
            self._growing.pop(name, None)
            if not output.finished:
                self._engine.abort_request([name])
            answers.append(growing.answer(request, output) if growing else answer_of(request, output))
        now = time.monotonic()
        self._busy += now - self._busy_from
        self._busy_from = now
        return answers


@functools.cache
def _tokenizer(path: str) -> Any:
    return load_tokenizer(Path(path))
