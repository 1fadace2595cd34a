"""Samples as vLLM gives them when it is asked for all that there is after each token: the oracle of a test.

    python tests/engine/cumulative.py MODEL

Prints how many samples were compared, and how many outputs vLLM made of them in each way. In a process of
its own, since vLLM wants its environment before it is imported.
"""

import json
import os
import sys
from pathlib import Path

from engine.models.spec import ModelSpec, resolve
from engine.models.stopping import StopStrings
from engine.models.vllm import params
from engine.models.vllm.loading import load
from engine.models.vllm.messages import Answer, Done, Generate
from engine.models.vllm.server import Server
from engine.models.vllm.settings import engine_arguments, environment
from schemas.sections import Model, Sampling
from schemas.tokenizer import load_tokenizer


def requests_of(path: Path, stop_ids: list[int]) -> list[Generate]:
    """Samples that end in every way: by their end token, by a string, by their length."""
    ways = [
        Sampling(temperature=1.2, max_tokens=24),
        Sampling(temperature=0.0, max_tokens=24),
        Sampling(temperature=1.2, max_tokens=24, stop=("1",), min_tokens=3),
        Sampling(temperature=1.2, max_tokens=24, stop=("the", "\n")),
        Sampling(temperature=1.2, max_tokens=5, stop=("no such words at all",)),
    ]
    requests: list[Generate] = []
    for key in range(60):
        sampling = ways[key % len(ways)]
        requests.append(
            Generate(
                key=key,
                prompt=[5 + (7 * key + place) % 300 for place in range(4 + key % 9)],
                sampling=sampling,
                max_tokens=sampling.max_tokens,
                stop_ids=stop_ids,
                seed=key if sampling.temperature else None,
                bad_words=[],
                tokenizer=str(path),
            )
        )
    return requests


class Pipe:
    """Hands over all requests, ends when they are answered, and keeps the answers."""

    def __init__(self, requests: list[Generate]):
        self.requests = list(requests)
        self.answers: dict[int, Answer] = {}
        self.wanted = len(requests)

    def poll(self, seconds: float) -> bool:
        return bool(self.requests) or len(self.answers) == self.wanted

    def recv(self):
        if not self.requests:
            raise EOFError
        requests, self.requests = self.requests, []
        return requests

    def send(self, message) -> None:
        assert isinstance(message, Done), message
        self.answers |= {answer.key: answer for answer in message.answers}


class Counting:
    """An engine that counts the outputs of its steps."""

    def __init__(self, engine):
        self._engine = engine
        self.outputs = 0

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def step(self):
        outputs = self._engine.step()
        self.outputs += len(outputs)
        return outputs


def cumulative(engine, requests: list[Generate]) -> dict[int, tuple]:
    """(ids, log-probs, how it ended, what it says up to a stop string) of each, by the outputs so far."""
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    strings: dict[str, StopStrings] = {}
    for request in requests:
        asked = params.params_of(request, False)
        asked.output_kind = RequestOutputKind.CUMULATIVE
        asked.stream_interval = None
        name = str(request.key)
        engine.add_request(name, TokensPrompt(prompt_token_ids=request.prompt), asked)
        tokenizer = load_tokenizer(Path(request.tokenizer))
        strings[name] = StopStrings(tokenizer, request.sampling.stop, request.sampling.min_tokens)
    found: dict[int, tuple] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            name = output.request_id.split("-")[0]
            sample, looking = output.outputs[0], strings[name]
            ids, logps = list(sample.token_ids), list(sample.logprobs.logprobs)
            end = len(ids) - (sample.finish_reason == "stop")
            if any(looking.add(token) for token in ids[looking.length : end]):
                length = looking.length
                found[int(name)] = (ids[:length], logps[:length], "stop", looking.said)
                if not output.finished:
                    engine.abort_request([name])
            elif output.finished:
                found[int(name)] = (ids, logps, sample.finish_reason, None)
    return found


def main(path: Path) -> None:
    import numpy as np

    model = resolve(ModelSpec(Model(name=str(path), dtype="float32"), "vllm"))
    os.environ.update(environment("cpu", 2))
    engine = Counting(load(engine_arguments(model, "cpu")))
    requests = requests_of(path, sorted(model.open_text().stop_ids))
    wanted = cumulative(engine, requests)
    of_cumulative, engine.outputs = engine.outputs, 0
    pipe = Pipe(requests)
    Server(pipe, engine).run()
    ends: dict[str, int] = {}
    for key, (ids, logps, ended, said) in wanted.items():
        answer = pipe.answers[key]
        assert (answer.ids, answer.finish_reason, answer.said) == (ids, ended, said), (
            answer,
            ids,
            ended,
            said,
        )
        # The batch differs, and so may the order of a sum.
        np.testing.assert_allclose(np.frombuffer(answer.logps, np.float32), logps, atol=1e-5)
        way = "string" if said is not None else ended
        ends[way] = ends.get(way, 0) + 1
    print(json.dumps({"ends": ends, "outputs": engine.outputs, "of_cumulative": of_cumulative}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
