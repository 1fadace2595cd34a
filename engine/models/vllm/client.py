"""Both verbs as requests to an engine, and its answers as samples and log-probs."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from engine.models import Ids, Sample
from engine.models.finite import check_logps, check_samples
from engine.models.shaping import bad_word_ids
from engine.models.spec import ResolvedModel
from engine.models.stopping import all_stop_ids, with_said
from engine.models.vllm.messages import MAX_NEXT_TOKENS, Answer, Generate, NextToken, Request, Score
from engine.models.vllm.supervisor import Supervisor
from engine.progress import NO_PROGRESS, StageProgress
from engine.text import Text
from schemas.manifest import Facts
from schemas.sections import Sampling


class VLLM:
    """Implements `engine.models.Model`. The engine is started by `start`, or at the first call of a verb."""

    def __init__(
        self,
        model: ResolvedModel,
        place: str,
        threads: int,
        planned: Facts | None = None,
    ):
        """`place`: cpu, or cuda: and the numbers of its GPUs. `threads`: of an engine on a CPU.

        `planned`: the digests that the model must have when it is loaded."""
        self._model = model
        self._keys = itertools.count()
        self.supervisor = Supervisor(
            model,
            place=place,
            threads=threads,
            planned=planned,
        )

    @functools.cached_property
    def text(self) -> Text:
        """Its tokenizer and template."""
        return self._model.open_text()

    def start(self) -> "VLLM":
        """Start the engine, so that it loads while the first requests are being made."""
        self.supervisor.start()
        return self

    def generate(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[Sample]]:
        """A request for each sample."""
        stop_ids = all_stop_ids(self.text, sampling)
        bad_words = bad_word_ids(self.text.tokenizer, sampling.bad_words)
        requests: list[Request] = []
        for prompt, own_seeds in zip(prompts, seeds, strict=True):
            room = self._model.response_room(len(prompt), sampling.max_tokens)
            for seed in own_seeds[: sampling.n]:
                requests.append(
                    Generate(
                        key=next(self._keys),
                        prompt=list(prompt),
                        sampling=sampling,
                        max_tokens=room,
                        stop_ids=stop_ids,
                        seed=seed if sampling.temperature > 0 else None,
                        bad_words=bad_words,
                        tokenizer=str(self._model.identity.path),
                    )
                )
        answers = self.supervisor.ask(requests, progress)
        result: list[list[Sample]] = []
        for begin in range(0, len(answers), sampling.n):
            group: list[Sample] = []
            for answer in answers[begin : begin + sampling.n]:
                logps = _logps_of(answer)
                group.append(Sample(answer.ids, logps, answer.finish_reason, answer.said))
            result.append(with_said(group, self.text))
        check_samples(result, self._model)
        return result

    def logprobs(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[np.ndarray]]:
        """A request for each response, or for many single tokens after one prompt."""
        requests: list[Request] = []
        for prompt, group in zip(prompts, responses, strict=True):
            requests += self._scoring_requests(list(prompt), group)
        answers = iter(self.supervisor.ask(requests, progress))
        result: list[list[np.ndarray]] = []
        for group in responses:
            if _are_single_tokens(group):
                own_answers = itertools.islice(answers, math.ceil(len(group) / MAX_NEXT_TOKENS))
                logps = np.concatenate(list(map(_logps_of, own_answers)))
                result.append(np.split(logps, len(group)))
            else:
                own_answers = itertools.islice(answers, len(group))
                result.append(list(map(_logps_of, own_answers)))
        check_logps(result, self._model)
        return result

    def _scoring_requests(self, prompt: list[int], group: Sequence[Ids]) -> list[Request]:
        """The requests that give a group's log-probs."""
        requests: list[Request] = []
        if _are_single_tokens(group):
            tokens = [response[0] for response in group]
            for begin in range(0, len(tokens), MAX_NEXT_TOKENS):
                some = tokens[begin : begin + MAX_NEXT_TOKENS]
                requests.append(NextToken(next(self._keys), prompt, some))
            return requests
        for response in group:
            key = next(self._keys)
            requests.append(Score(key, prompt, list(response)))
        return requests

    def close(self) -> None:
        """Give back the engine's process; calls that are under way fail."""
        self.supervisor.close()


def _are_single_tokens(group: Sequence[Ids]) -> bool:
    """Single tokens (a judge's marks) are one question: the next token's probabilities."""
    return bool(group) and all(len(response) == 1 for response in group)


def _logps_of(answer: Answer) -> np.ndarray:
    return np.frombuffer(answer.logps, np.float32)
