"""How an engine is fed, on a stand-in for vLLM that only counts: not starved, not drowned, not silent."""

import time
from collections import deque
from types import SimpleNamespace

import pytest

from engine.models.vllm import params
from engine.models.vllm.messages import SLICE, Done, Score
from engine.models.vllm.server import Server

AT_ONCE = 50  # requests that the stand-in works on at once


class Engine:
    """Finishes what it works on in one step; refuses nothing."""

    def __init__(self):
        self.vllm_config = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=AT_ONCE),
            model_config=SimpleNamespace(max_model_len=100),
        )
        self.waiting: deque[str] = deque()
        self.most = 0
        self.worked_on: list[int] = []
        self.seconds_an_add = 0.0

    def get_num_unfinished_requests(self) -> int:
        return len(self.waiting)

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def add_request(self, name, prompt, params) -> None:
        time.sleep(self.seconds_an_add)
        self.waiting.append(name)
        self.most = max(self.most, len(self.waiting))

    def step(self):
        names = [self.waiting.popleft() for _ in range(min(AT_ONCE, len(self.waiting)))]
        self.worked_on.append(len(names))
        return [output(name) for name in names]


def output(name: str):
    prompt_logprobs = SimpleNamespace(logprobs=[-1.0, -2.0, -3.0])
    return SimpleNamespace(request_id=name, finished=True, prompt_logprobs=prompt_logprobs, outputs=[])


class Pipe:
    """Hands over messages that are made only when they are taken, and ends behind the last."""

    def __init__(self, requests: int):
        self.left = requests
        self.taken = 0
        self.sent: list[object] = []

    def poll(self, seconds: float) -> bool:
        """Whether there is something to take; once all is answered that is the end."""
        return bool(self.left) or self.answered() == self.taken

    def answered(self) -> int:
        return sum(len(message.answers) for message in self.sent if isinstance(message, Done))

    def recv(self):
        if not self.left:
            raise EOFError
        count = min(SLICE, self.left)
        keys = range(self.taken, self.taken + count)
        self.left -= count
        self.taken += count
        return [Score(key, [1, 2], [3]) for key in keys]

    def send(self, message) -> None:
        self.sent.append(message)


@pytest.fixture(autouse=True)
def _no_vllm(monkeypatch):
    """The stand-in needs no parameters of vLLM's."""
    monkeypatch.setattr("engine.models.vllm.server.params_of", lambda request, rows_only: None)
    monkeypatch.setitem(
        __import__("sys").modules, "vllm.inputs", SimpleNamespace(TokensPrompt=lambda prompt_token_ids: None)
    )


def run(requests: int, engine: Engine) -> Pipe:
    pipe = Pipe(requests)
    Server(pipe, engine).run()
    return pipe


def test_the_scheduler_is_full_and_holds_no_more_than_twice_what_runs_at_once():
    engine = Engine()
    pipe = run(2000, engine)
    keys: list[int] = []
    for message in pipe.sent:
        keys += [answer.key for answer in message.answers]
    assert len(set(keys)) == len(keys) == 2000
    assert engine.most == 2 * AT_ONCE
    # All steps are full but the first, which waits for few requests, and the last.
    first, *full, _ = engine.worked_on
    assert first < AT_ONCE and set(full) == {AT_ONCE}


def test_the_first_step_waits_for_no_more_than_there_is_room_for():
    engine = Engine()
    pipe = Pipe(10**6)
    server = Server(pipe, engine)
    assert server._take_requests()
    server._add_some()
    assert len(server._step()) == engine.worked_on[0] == SLICE
    assert pipe.taken <= 2 * AT_ONCE + SLICE, "the rest is not even pickled yet"


def test_an_engine_that_adds_slowly_is_not_silent(monkeypatch):
    monkeypatch.setattr("engine.models.vllm.server._BEAT", 0.02)
    engine = Engine()
    engine.seconds_an_add = 0.005
    server = Server(pipe := Pipe(SLICE), engine)
    server._take_requests()
    server._add_some()
    beats = [message for message in pipe.sent if isinstance(message, Done) and not message.answers]
    assert len(beats) >= 3


def test_a_request_that_scores_wants_room_for_one_token():
    assert params.room_of(Score(1, [1, 2], [3])) == 1
    assert params.ids_of(Score(1, [1, 2], [3])) == [1, 2, 3]
