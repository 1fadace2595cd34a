"""The model on transformers and torch: the embedded default, and what runs on a laptop.

Safetensors only; no code from the hub is run.

    logprobs   the packed forward pass that the trainer uses too (schemas/forward), in batches under a token
               budget; of a judge's questions that begin alike, the beginning is run once
    generate   token after token with rows that are taken by the next sample when one ends (refilling.py);
               of a model that does not run packed, transformers' `generate`, a batch at a time (drawing.py)
"""

import contextlib
import functools
import threading
from collections.abc import Generator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from engine.models import Ids, Sample
from engine.models.batches import batches
from engine.models.drawing import draw_batch
from engine.models.finite import check_logps, check_samples
from engine.models.refilling import Wanted, draw_refilled
from engine.models.sharing import Shared, share
from engine.models.side_by_side import Asked, by_length, in_batches, rows_of
from engine.models.spec import ResolvedModel
from engine.progress import NO_PROGRESS, StageProgress
from engine.text import Text
from schemas.devices import batch_tokens
from schemas.errors import UserError
from schemas.forward.attention import PACKED
from schemas.forward.decoding import decodes, token_bytes
from schemas.forward.layout import Ending, Response, pack
from schemas.forward.load import load
from schemas.forward.logps import decoder_and_head, token_logps
from schemas.identity import check_unchanged
from schemas.manifest import Facts
from schemas.sections import Sampling

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_GENERATE_ROWS = 64  # sequences sampled side by side; changes no sample


class HF:
    """Implements `engine.models.Model`. Tokenizer and weights are each loaded at first use.

    Of several threads that call it one is served after the other: a verb changes how the model attends."""

    def __init__(
        self,
        model: ResolvedModel,
        place: str,
        planned: Facts | None = None,
        threads: int = 0,
    ):
        """`place`: cpu, or a GPU such as cuda:0.

        `planned`: the digests that the folders to be filled are named by; a model that has others by now is
        refused when it is loaded. `threads`: torch's, until `close`; 0 leaves them as they are."""
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or self._threads_before)
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._resolved = model
        self._device = place
        self._planned = planned
        device_type = torch.device(place).type
        self._batch_tokens = batch_tokens(model.spec.batch_tokens, device_type)

    @functools.cached_property
    def text(self) -> Text:
        """Its tokenizer and template. Raises UserError where they changed since the plan."""
        text = self._resolved.open_text()
        check_unchanged(self._resolved.spec.config, self._planned)
        return text

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        self._check_open()
        config = self._resolved.spec.config
        dtype = _DTYPES[config.dtype]
        model = load(self._resolved.identity.path, dtype, self._device, config.quantization)
        check_unchanged(config, self._planned)
        self._check_open()
        return model

    @functools.cached_property
    def _decodes(self) -> bool:
        return decodes(self._model)

    @functools.cached_property
    def _token_bytes(self) -> int:
        return token_bytes(self._model)

    def close(self) -> None:
        """Give back memory, and torch's threads. A call under way in another thread ends with an error.

        It is not waited for: a command that is stopped must not last as long as a shard."""
        self._closed.set()
        self.__dict__.pop("_model", None)
        # As it was: what is computed in this process afterwards must not depend on whether there was anything
        # to do here.
        torch.set_num_threads(self._threads_before)
        if self._device != "cpu":
            torch.cuda.empty_cache()

    def _check_open(self) -> None:
        """Raise UserError once the model is closed. Nothing is loaded for a call that comes later."""
        if self._closed.is_set():
            raise UserError("stopped: the model was closed while it was asked; the same command goes on")

    @torch.inference_mode()
    def logprobs(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[np.ndarray]]:
        """Groups of like length are run together under the token budget.

        A prompt is run once for its responses, and again where they exceed the budget."""
        with self._lock:
            if _are_questions(responses):
                return self._next_tokens(prompts, responses, progress)
            return self._responses(prompts, responses, progress)

    def _responses(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress,
    ) -> list[list[np.ndarray]]:
        progress.want(sum(map(len, responses)))
        logps_of: dict[tuple[int, int], np.ndarray] = {}
        for batch in batches(prompts, responses, self._batch_tokens):
            groups: list[tuple[Ids, list[Ids]]] = []
            keys: list[tuple[int, int]] = []
            for piece in batch:
                chosen: list[Ids] = []
                for index in piece.responses:
                    chosen.append(responses[piece.prompt][index])
                    keys.append((piece.prompt, index))
                groups.append((prompts[piece.prompt], chosen))
            logps = self._score(groups)
            logps_of.update(zip(keys, logps, strict=True))
            progress.done(len(keys), _tokens_of(groups))
        result: list[list[np.ndarray]] = []
        for number, group in enumerate(responses):
            result.append([logps_of[number, index] for index in range(len(group))])
        check_logps(result, self._resolved)
        return result

    def _next_tokens(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress,
    ) -> list[list[np.ndarray]]:
        """The same where every response is a single token: what prompts begin with alike is run once."""
        progress.want(len(prompts))
        if self._model.config._attn_implementation == PACKED:
            shared = share(prompts)
        else:
            shared = [Shared(len(prompt), [number]) for number, prompt in enumerate(prompts)]
        beginnings: list[Ids] = []
        rests: list[list[Ids]] = []
        for one in shared:
            beginnings.append(prompts[one.members[0]][: one.length])
            rests.append([prompts[member][one.length :] for member in one.members])
        logps_of: dict[int, np.ndarray] = {}
        for batch in batches(beginnings, rests, self._batch_tokens):
            groups: list[tuple[Ids, list[Ending]]] = []
            asked: list[int] = []
            for piece in batch:
                endings: list[Ending] = []
                for index in piece.responses:
                    number = shared[piece.prompt].members[index]
                    tokens = [token for (token,) in responses[number]]
                    endings.append(Ending(rests[piece.prompt][index], tokens))
                    asked.append(number)
                groups.append((beginnings[piece.prompt], endings))
            logps_of.update(zip(asked, self._score(groups), strict=True))
            progress.done(len(asked), sum(len(prompts[number]) for number in asked))
        result = [np.split(logps_of[number], len(group)) for number, group in enumerate(responses)]
        check_logps(result, self._resolved)
        return result

    def _score(self, groups: Sequence[tuple[Ids, Sequence[Response]]]) -> list[np.ndarray]:
        """The log-probs of every response of these groups, in their order: one forward pass."""
        self._check_open()
        layout = pack(groups, self._device)
        decoder, head = decoder_and_head(self._model)
        logps = token_logps(decoder, head, layout).cpu().numpy()
        ends = np.cumsum(layout.lengths)
        return np.split(logps, ends[:-1])

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[Sample]]:
        """Up to `_GENERATE_ROWS` samples side by side; where one ends the next begins, if the model can."""
        if not prompts:
            return []  # and no weights are loaded for it
        with self._lock:
            wanted: list[Asked] = []
            for number, prompt in enumerate(prompts):
                room = self._resolved.response_room(len(prompt), sampling.max_tokens)
                for index in range(sampling.n):
                    wanted.append(Asked(room, len(prompt), number, index))
            progress.want(len(wanted))
            sample_of: dict[tuple[int, int], Sample] = {}
            draw = self._draw_refilled if self._decodes else self._draw_in_batches
            # Closed at once where something fails, so that the model attends as before.
            with contextlib.closing(draw(wanted, prompts, seeds, sampling)) as samples:
                for one, sample in samples:
                    sample_of[one.prompt, one.index] = sample
                    progress.done(1, len(sample.ids))
            result: list[list[Sample]] = []
            for number in range(len(prompts)):
                result.append([sample_of[number, index] for index in range(sampling.n)])
            check_samples(result, self._resolved)
            return result

    def _draw_refilled(
        self,
        wanted: list[Asked],
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
    ) -> Generator[tuple[Asked, Sample]]:
        """Every sample as it ends."""
        for alike in by_length(wanted):
            asked: list[Wanted] = []
            for one in alike:
                seed = seeds[one.prompt][one.index]
                asked.append(Wanted(one.prompt, prompts[one.prompt], seed, one.room))
            samples = draw_refilled(
                self._model,
                self.text,
                asked,
                sampling,
                rows=rows_of(self._model, min(_GENERATE_ROWS, len(asked)), self._token_bytes),
                tokens=self._batch_tokens,
                check=self._check_open,
            )
            with contextlib.closing(samples):
                for place, sample in samples:
                    yield alike[place], sample

    def _draw_in_batches(
        self,
        wanted: list[Asked],
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
    ) -> Generator[tuple[Asked, Sample]]:
        """Every sample of batches that begin and end together."""
        for rows in in_batches(wanted, _GENERATE_ROWS):
            self._check_open()
            samples = draw_batch(
                self._model,
                self.text,
                prompts=[prompts[row.prompt] for row in rows],
                seeds=[seeds[row.prompt][row.index] for row in rows],
                sampling=sampling,
                max_tokens=rows[0].room,
            )
            yield from zip(rows, samples, strict=True)


def _tokens_of(groups: Sequence[tuple[Ids, Sequence[Ids]]]) -> int:
    """The tokens of prompts, each once, and of their responses."""
    tokens = 0
    for prompt, responses in groups:
        tokens += len(prompt) + sum(map(len, responses))
    return tokens


def _are_questions(responses: Sequence[Sequence[Ids]]) -> bool:
    """True where single tokens are asked about, and several after one prompt: a judge's marks.

    Log-probs of responses never look so: two equal responses are one, and an empty one is its end token."""
    lengths: set[int] = set()
    for group in responses:
        lengths.update(map(len, group))
    return lengths == {1} and all(responses) and any(len(group) > 1 for group in responses)
