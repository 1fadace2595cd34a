"""The supervisor, on a stand-in for an engine's process: which call an error ends, and what stays."""

import queue
import threading
import time
from types import SimpleNamespace

import pytest

from engine.models.vllm import process, supervisor
from engine.models.vllm.fitting import fitted
from engine.models.vllm.messages import Answer, Done, Generate, NextToken, Ready, Refused, Score
from engine.models.vllm.process import EngineProcess
from engine.models.vllm.supervisor import DEATHS, Supervisor
from schemas.errors import UserError
from schemas.sections import Sampling

LONGEST = 10  # tokens of a sequence in the stand-in


class StandIn:
    """Answers every request at once, refuses those whose prompt begins with 13, dies of 99."""

    def __init__(self, arguments, environment):
        self.ready = False
        self.sent: list = []
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._messages.put(Ready(LONGEST))

    def send(self, requests) -> None:
        self.sent += requests
        for request in requests:
            match request.prompt[0]:
                case 13:
                    self._messages.put(Refused(request.key, "it is 13"))
                case 99:
                    self._messages.put(EOFError())
                case _:
                    self._messages.put(Done([Answer(request.key, b"", [1], "stop")]))

    def receive(self, seconds):
        message = self._messages.get()
        if isinstance(message, EOFError):
            raise message
        return message

    def end(self) -> None:
        self._messages.put(EOFError())

    def note_segments(self) -> None: ...

    def cause(self) -> str:
        return "ended with code 3"

    def last_words(self) -> str:
        return "none"


@pytest.fixture
def asked(monkeypatch, model_path):
    """A supervisor of stand-ins."""
    monkeypatch.setattr(supervisor, "EngineProcess", StandIn)
    monkeypatch.setattr(supervisor, "engine_arguments", lambda model, place: {})
    monkeypatch.setattr(supervisor, "check_unchanged", lambda config, planned: None)
    config = SimpleNamespace(timeout=60.0)
    model = SimpleNamespace(
        spec=SimpleNamespace(config=config, section="model", engine_tokenizer=False),
        identity=SimpleNamespace(path=model_path),
        positions=100,
    )
    made = Supervisor(model, "cpu", 1, None)
    yield made
    made.close()


def score(key: int, *prompt: int) -> Score:
    return Score(key, list(prompt), [5])


def generate(key: int, prompt: int, max_tokens: int) -> Generate:
    return Generate(key, [5] * prompt, Sampling(max_tokens=max_tokens), max_tokens, [], 1, [], "")


def errors_of(asked: Supervisor, calls: list[list]) -> list[str]:
    """What became of calls that wait together for the engine to load: the error, or nothing."""
    said = [""] * len(calls)

    def call(number: int) -> None:
        try:
            asked.ask(calls[number])
        except UserError as error:
            said[number] = str(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return said


def test_a_request_that_does_not_fit_fails_its_call_alone(asked):
    too_long = [score(10, 1, 2), generate(11, 8, max_tokens=3)]
    good, bad, other = errors_of(asked, [[score(1, 1, 2)], too_long, [score(20, 4), score(21, 3)]])
    assert (good, other) == ("", "")
    assert "a prompt of 8 tokens and a response of up to 3 may come to 11 tokens" in bad
    assert "holds 10 of one" in bad and "max_model_len = 10" in bad
    # As with an engine that has long been ready, which is not even given it.
    with pytest.raises(UserError, match=r"a sequence of 12 tokens is to be scored, .* 13"):
        asked.ask([score(30, *[1] * 11)])
    assert not asked.pending and not {10, 11, 30} & {request.key for request in asked.engine.sent}
    assert len(asked.ask([score(31, 1), generate(32, 8, max_tokens=2)])) == 2


def test_a_request_that_vllm_refuses_fails_its_call_alone(asked):
    bad, good = errors_of(asked, [[score(1, 4), score(2, 13), score(3, 13)], [score(4, 5)]])
    assert bad == "vLLM refuses a request: it is 13" and good == ""
    assert len(asked.ask([score(5, 4)])) == 1 and not asked.pending


def test_a_later_call_is_told_why_the_engine_gave_up(asked):
    for key in (1, 2):
        with pytest.raises(UserError, match=f"ended {DEATHS} times .*ended with code 3"):
            asked.ask([score(key, 99)])


def test_a_sample_of_a_model_without_known_positions_ends_with_the_engines_length():
    requests = [generate(1, 4, max_tokens=50), generate(2, 4, max_tokens=2), score(3, 1, 2)]
    assert [getattr(made, "max_tokens", 0) for made in fitted(requests, LONGEST, positions=0)] == [6, 2, 0]
    with pytest.raises(UserError, match="may come to 54 tokens"):
        fitted(requests, LONGEST, positions=100)
    for request in (generate(4, 10, max_tokens=1), NextToken(5, [1] * 10, [2])):
        with pytest.raises(UserError, match="11"):
            fitted([request], LONGEST, positions=0)
    assert fitted([NextToken(5, [1] * 9, [2])], LONGEST, positions=0)


def test_an_engine_that_can_be_sent_no_more_is_dead_at_once(monkeypatch):
    """What cannot be pickled stands for whatever may go wrong there; the engine itself says nothing."""
    monkeypatch.setattr(process, "_COMMAND", "import time; time.sleep(60)")
    began = time.monotonic()
    engine = EngineProcess({"a lock": threading.Lock()}, {"PATH": ""})
    with pytest.raises(EOFError):
        engine.receive(30.0)
    assert "could not be sent" in engine.cause() and "pickle" in engine.cause()
    engine.end()
    assert time.monotonic() - began < 20
