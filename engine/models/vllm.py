"""The model on vLLM: one engine a place, each in a process of its own that is watched. The only import of vllm.

    VLLM    in the worker: turns both verbs into requests, hands them over, waits; several shards' calls may be under way at once
    serve   in the engine's process: feeds vLLM's scheduler as requests come and gives each answer back as it is done

An engine process can die or hang in mid-call, and vLLM's own client then waits for ever (pitfalls). So the engine has a process group of its own
and gives a sign of life every second and after each step; one that is silent for `model.timeout`, or dead, is ended with its group and
started anew, and what it had not finished is given out again. A request that was under way at three deaths is an error. An engine whose
worker is gone ends itself and its group.

Token ids in and out: the tokenizer stays on our side. Every sample has its own seed, so that on one kind of machine it depends on its
prompt and seed and not on what is beside it (measured on CPU; on a GPU kernels may differ by batch unless VLLM_BATCH_INVARIANT=1).
"""

import contextlib
import functools
import itertools
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np

from engine.models import Ids, Sample, Uses
from engine.text import Text
from schemas.errors import UserError
from schemas.identity import identify
from schemas.sections import Sampling

DEATHS = 3  # under which a request may be under way before it is taken for their cause
_START = 1800.0  # seconds that an engine may take to load, at least
_BEAT = 1.0
_LOGITS = (
    1 << 32
)  # bytes of float32 logits that scoring prompts may hold at once: tokens of a step × vocabulary
# Without chunked prefill: where a prompt is split over two steps vLLM turns back its seeded generator, which a CPU's cannot do («CPU Generator
# does not use offset», 0.32).
_CPU = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    "enable_chunked_prefill": False,
    "max_num_seqs": 128,
}


@dataclass
class _Call:
    """A call of a verb: what came back for each of its requests, by its number."""

    answers: list
    left: int
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


@dataclass
class _Request:
    """`message`: (key, kind, prompt ids, what else the kind needs)."""

    message: tuple
    call: _Call
    number: int
    deaths: int = 0


class VLLM:
    """Implements `engine.models.Model`. The engine is started by `start`, or at the first call of a verb."""

    def __init__(
        self,
        use: Uses,
        place: str,
        threads: int,
        report: Callable[[int], None] = lambda done: None,
        planned: dict | None = None,
    ):
        """`place`: cpu, or cuda: and the numbers of its GPUs. `planned`: the digests that the model must have."""
        self._use, self._config, self._place, self._threads, self._report = (
            use,
            use.config,
            place,
            threads,
            report,
        )
        self._identity, self._planned = identify(use.config), planned
        self._keys = itertools.count()
        self._pending: dict[int, _Request] = {}
        self._changed = threading.Condition()
        self._engine: _Engine | None = None
        self._supervisor: threading.Thread | None = None
        self._closed = self._wanted = False
        self._moved = False  # whether anything was answered since the last death

    @functools.cached_property
    def text(self) -> Text:
        return Text(self._identity.path, self._identity.template_text, self._config.date)

    def start(self) -> "VLLM":
        """Starts the engine, so that it loads while the first requests are being made; a verb's call does so too."""
        with self._changed:
            self._wanted = True
            if self._supervisor is None:
                self._supervisor = threading.Thread(target=self._supervise, daemon=True)
                self._supervisor.start()
            self._changed.notify_all()
        return self

    def generate(
        self, prompts: Sequence[Ids], seeds: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Sample]]:
        chosen = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p")} | {
            "stop_token_ids": sorted(self.text.stop_ids)
        }
        positions = self._use.positions
        requests = []
        for prompt, own in zip(prompts, seeds, strict=True):
            # vLLM would shorten in silence as well; said here, both backends do the same.
            room = min(sampling.max_tokens, positions - len(prompt)) if positions else sampling.max_tokens
            assert room > 0, "a prompt leaves no room for a response"
            requests += [
                (
                    "generate",
                    list(prompt),
                    chosen | {"max_tokens": room, "seed": seed if sampling.temperature > 0 else None},
                )
                for seed in own[: sampling.n]
            ]
        samples = [
            Sample(ids, np.frombuffer(logps, np.float32), reason)
            for ids, logps, reason in self._ask(requests)
        ]
        return [samples[begin : begin + sampling.n] for begin in range(0, len(samples), sampling.n)]

    def logprobs(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> list[list[np.ndarray]]:
        requests, owners = [], []
        for i, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
            if group and all(len(response) == 1 for response in group):
                # Single tokens (a judge's marks) are one question: the next token's probabilities.
                requests.append(("next", list(prompt), [response[0] for response in group]))
                owners.append((i, None))
            else:
                requests += [("score", list(prompt), list(response)) for response in group]
                owners += [(i, k) for k in range(len(group))]
        found: list[list] = [[None] * len(group) for group in responses]
        for (i, k), answer in zip(owners, self._ask(requests), strict=True):
            logps = np.frombuffer(answer, np.float32)
            if k is None:
                found[i] = [logps[place : place + 1] for place in range(len(logps))]
            else:
                found[i][k] = logps
        return found

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._fail(UserError("stopped"))
            engine, self._engine = self._engine, None
            self._changed.notify_all()
        if engine:
            engine.end()
        if self._supervisor and self._supervisor is not threading.current_thread():
            self._supervisor.join()

    def _ask(self, requests: Iterable[tuple]) -> list:
        """The answers to requests (kind, prompt ids, …), in their order."""
        requests = list(requests)
        if not requests:
            return []
        call = _Call([None] * len(requests), len(requests))
        with self._changed:
            if self._closed:
                raise UserError("stopped")
            new = [
                _Request((next(self._keys), *request), call, number)
                for number, request in enumerate(requests)
            ]
            self._pending |= {request.message[0]: request for request in new}
            if self._engine and self._engine.ready:
                self._engine.send([request.message for request in new])
        self.start()
        while not call.done.wait(
            0.5
        ):  # not without a time-out: Ctrl-C would not end it (polars has a handler of its own)
            pass
        if call.error:
            raise call.error
        return call.answers

    def _supervise(self) -> None:
        """Keeps an engine going while there are requests; whatever goes wrong here is the error of every call that waits."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._wanted or self._pending or self._closed)
                    if self._closed:
                        return
                    self._wanted = False
                    engine = self._engine = _Engine(self._settings(), self._environment())
                try:
                    self._listen(engine)
                finally:
                    engine.end()
        except Exception as error:
            with self._changed:
                self._closed, self._engine = True, None
                self._fail(
                    error
                    if isinstance(error, UserError)
                    else UserError(f"vLLM: {type(error).__name__}: {error}")
                )

    def _listen(self, engine: "_Engine") -> None:
        """Until the engine is dead: takes its answers."""
        ready, limit = False, max(_START, self._config.timeout)
        while True:
            try:
                if not engine.pipe.poll(limit):
                    cause = f"gave no sign of life for {limit:g} s"
                    break
                kind, value = engine.pipe.recv()
            except (EOFError, OSError):
                cause = engine.cause()
                if not ready and not self._closed and not engine.killed():
                    raise UserError(
                        f"vLLM does not start ({cause}); its last words: {engine.last_words()}"
                    ) from None
                break
            if kind == "ready":
                ready, limit = True, self._config.timeout
                self._as_planned()
                with self._changed:
                    engine.ready = True
                    engine.send([request.message for request in self._pending.values()])
                    if self._closed:
                        return
            elif kind == "refused":
                raise UserError(f"vLLM refuses a request: {value}")
            elif kind == "done":
                self._take(value)
        with self._changed:
            if self._closed:
                return
            self._engine = None
            for request in self._pending.values():
                # What waits beside others that are answered is no cause; a cause is left alone with its like in the end.
                request.deaths = 1 if self._moved else request.deaths + 1
            self._moved = False
            if max((request.deaths for request in self._pending.values()), default=0) >= DEATHS:
                raise UserError(
                    f"vLLM's engine ended {DEATHS} times with the same requests under way (the last time it {cause}); its last words: {engine.last_words()}; "
                    "finished shards are kept; smaller engine arguments in [model.vllm] may help: max_num_seqs, max_model_len, gpu_memory_utilization"
                )

    def _take(self, answers: list[tuple]) -> None:
        with self._changed:
            finished = [(self._pending.pop(key), answer) for key, answer in answers if key in self._pending]
            self._moved = self._moved or bool(finished)
        for request, answer in finished:
            request.call.answers[request.number] = answer
            request.call.left -= 1
            if not request.call.left:
                request.call.done.set()
        self._report(len(finished))

    def _fail(self, error: Exception) -> None:
        for request in self._pending.values():
            request.call.error = request.call.error or error
            request.call.done.set()
        self._pending.clear()

    def _as_planned(self) -> None:
        now = identify(self._config).facts()
        if self._planned and (changed := [name for name in now if now[name] != self._planned[name]]):
            raise UserError(
                f"{', '.join(changed)} of the model in {self._identity.path} changed while the run was going; run the same command again"
            )

    def _settings(self) -> dict:
        own = (
            _CPU | {"max_num_batched_tokens": max(2048, self._use.positions)} if self._place == "cpu" else {}
        )
        limits = {"max_model_len": self._use.positions} if self._use.positions else {}
        fixed = {
            "model": str(self._identity.path),
            "dtype": self._config.dtype,
            "seed": 0,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "trust_remote_code": False,
            "disable_log_stats": True,
            "max_logprobs": 64,
        }
        if clash := fixed.keys() & self._config.vllm.keys():
            raise UserError(
                f"[model.vllm] {min(clash)} is not for a recipe to set: the engine needs it as it is (model and dtype stand in [model])"
            )
        return fixed | own | limits | self._config.vllm

    def _environment(self) -> dict[str, str]:
        env = os.environ | {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
            "VLLM_NO_USAGE_STATS": "1",
        }
        if self._place == "cpu":
            return env | {
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "TORCHDYNAMO_DISABLE": "1",
                "OMP_NUM_THREADS": str(self._threads),
            }
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        all_ = seen.split(",") if seen else None
        numbers = (
            [int(number) for number in self._place.removeprefix("cuda:").split(",")]
            if ":" in self._place
            else [0]
        )
        return env | {
            "CUDA_VISIBLE_DEVICES": ",".join(all_[number] if all_ else str(number) for number in numbers)
        }


class _Engine:
    """An engine's process, its pipe and its last words."""

    def __init__(self, settings: dict, environment: dict[str, str]):
        self.pipe, theirs = Pipe()
        self._log = tempfile.TemporaryFile()
        command = [
            sys.executable,
            "-c",
            "import sys; from engine.models.vllm import serve; serve(*map(int, sys.argv[1:]))",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        self.process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        theirs.close()
        self.ready = False
        self._outbox: queue.SimpleQueue = queue.SimpleQueue()
        # Sent by a thread of its own: a full pipe to a dead engine must block nobody who could notice it.
        threading.Thread(target=self._post, daemon=True).start()
        self._outbox.put(settings)

    def send(self, messages: list[tuple]) -> None:
        self._outbox.put(messages)

    def _post(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (message := self._outbox.get()) is not None:
                self.pipe.send(message)

    def end(self) -> None:
        """Ends the process and all that it started; nothing is left of it."""
        self._outbox.put(None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def killed(self) -> bool:
        return (self.process.poll() or 0) < 0

    def cause(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.poll()
        return (
            f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        )

    def last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 20_000))
        lines = [
            line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()
        ]
        errors = [line for line in lines if "Error" in line and "Traceback" not in line]
        return " | ".join(errors[-3:])[-600:] or "none"


# In the engine's process.


def serve(handle: int, worker: int) -> None:
    """An engine, until its pipe ends or the process `worker` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_worker, args=(worker,), daemon=True).start()
    pipe = Connection(handle)
    settings = pipe.recv()
    from vllm import LLM

    if "max_num_batched_tokens" not in settings:
        settings["max_num_batched_tokens"] = _tokens_of_a_step(settings)
    engine = LLM(**settings).llm_engine
    rows_only = bool(getattr(engine.vllm_config, "use_v2_model_runner", False))
    pipe.send(("ready", None))
    kinds: dict[str, tuple[str, object]] = {}
    beat = time.monotonic()
    while True:
        # Everything that waits is handed to vLLM's own scheduler: it, not we, keeps the batch full.
        while pipe.poll(0 if engine.has_unfinished_requests() else _BEAT):
            try:
                messages = pipe.recv()
            except EOFError:
                return
            for key, kind, prompt, more in messages:
                kinds[str(key)] = (kind, more)
                try:
                    _add(engine, str(key), kind, prompt, more, rows_only)
                except Exception as error:
                    pipe.send(("refused", str(error)))
        finished = []
        if engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    # vLLM may add to an id what tells it from others of that name.
                    key = output.request_id if output.request_id in kinds else output.request_id.split("-")[0]
                    finished.append((int(key), _answer(output, *kinds.pop(key))))
        if finished or time.monotonic() - beat > _BEAT:
            pipe.send(("done", finished))
            beat = time.monotonic()


def _tokens_of_a_step(settings: dict) -> int:
    """V1 scores prompts with [tokens of a step × vocabulary] logits in float32: bounded here where the recipe leaves it open."""
    from transformers import AutoConfig

    vocabulary = (
        AutoConfig.from_pretrained(settings["model"], trust_remote_code=False).get_text_config().vocab_size
    )
    return max(2048, min(16384, _LOGITS // (4 * vocabulary)))


def _add(engine, key: str, kind: str, prompt: list[int], more, rows_only: bool) -> None:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    common = {"flat_logprobs": True, "detokenize": False}
    if kind == "generate":
        # Our own stop tokens alone; log-probs are of the model, before temperature (vLLM's raw_logprobs).
        params = SamplingParams(**more, logprobs=0, ignore_eos=True, **common)
    elif kind == "next":
        params = SamplingParams(
            max_tokens=1, temperature=0, logprob_token_ids=sorted(set(more)), ignore_eos=True, **common
        )
    elif rows_only:
        ids = np.asarray(more, np.int32)[:, None]
        params = SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprob_token_ids=ids,
            prompt_logprob_start=len(prompt) - 1,
            **common,
        )
        prompt = prompt + more
    else:
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, **common)
        prompt = prompt + more
    engine.add_request(key, TokensPrompt(prompt_token_ids=prompt), params)


def _answer(output, kind: str, more):
    """(ids, log-probs as bytes, how it ended) of a sample; of scores the log-probs' bytes."""
    if kind == "score":
        rows = getattr(output, "prompt_token_id_logprobs", None)
        logps = rows[:, 0] if rows is not None else output.prompt_logprobs.logprobs[-len(more) :]
        return np.asarray(logps, np.float32).tobytes()
    sample = output.outputs[0]
    if kind == "next":
        by_id = dict(zip(sample.logprobs.token_ids, sample.logprobs.logprobs, strict=True))
        return np.array([by_id[token] for token in more], np.float32).tobytes()
    return (
        list(sample.token_ids),
        np.asarray(sample.logprobs.logprobs, np.float32).tobytes(),
        "stop" if sample.finish_reason == "stop" else "length",
    )


def _end_with_worker(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(_BEAT)
    os.killpg(0, signal.SIGKILL)
