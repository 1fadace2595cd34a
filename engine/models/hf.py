"""The model on transformers and torch: the embedded default, and what runs on a laptop. Safetensors only; no code from the hub is run."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from engine.models import Ids, Sample, Uses
from engine.text import Text
from schemas.devices import batch_tokens
from schemas.errors import UserError
from schemas.forward.layout import pack
from schemas.forward.load import load
from schemas.forward.logps import split, token_logps
from schemas.identity import identify
from schemas.sections import Sampling

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_GENERATE_ROWS = 64  # sequences sampled side by side; changes no sample


class HF:
    """Implements `engine.models.Model`. Tokenizer and weights are each loaded at first use."""

    def __init__(
        self,
        use: Uses,
        device: str,
        report: Callable[[int], None] = lambda done: None,
        planned: dict[str, str] | None = None,
        threads: int = 0,
    ):
        """`planned`: the digests that the folders to be filled are named by; a model that has others by now is refused. `threads`: torch's, until
        `close`; 0 leaves them as they are."""
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or self._threads_before)
        self._config, self._device, self._report = use.config, device, report
        self._identity, self._planned, self._positions = identify(use.config), planned, use.positions
        self._batch_tokens = batch_tokens(use.batch_tokens, torch.device(device).type)
        if self._config.dtype not in DTYPES:
            raise UserError(f"model.dtype = {self._config.dtype}: expected one of {', '.join(DTYPES)}")

    @functools.cached_property
    def text(self) -> Text:
        text = Text(self._identity.path, self._identity.template_text, self._config.date)
        self._as_planned()
        return text

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        model = load(self._identity.path, DTYPES[self._config.dtype], self._device)
        self._as_planned()
        return model

    def _as_planned(self) -> None:
        """After loading, so that what was loaded is what the digests name."""
        now = identify(self._config).facts()
        if self._planned and (changed := [name for name in now if now[name] != self._planned[name]]):
            raise UserError(
                f"{', '.join(changed)} of the model in {self._identity.path} changed while the run was going; run the same command again"
            )

    def close(self) -> None:
        self.__dict__.pop("_model", None)
        # As it was: what is computed in this process afterwards must not depend on whether there was anything to do here.
        torch.set_num_threads(self._threads_before)
        if self._device != "cpu":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def logprobs(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> list[list[np.ndarray]]:
        """Groups of like length together under the token budget, each prompt run once for its responses (again where they exceed the budget)."""
        found: list[list[np.ndarray | None]] = [[None] * len(group) for group in responses]
        for batch in _batches(prompts, responses, self._batch_tokens):
            layout = pack(
                [(prompts[i], [responses[i][k] for k in chosen]) for i, chosen in batch], self._device
            )
            decoder, head = split(self._model)
            logps = token_logps(decoder, head, layout).cpu().numpy()
            parts = iter(np.split(logps, np.cumsum(layout.lengths)[:-1]))
            for i, chosen in batch:
                for k in chosen:
                    found[i][k] = next(parts)
            self._report(len(layout.lengths))
        return found  # type: ignore[return-value]

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Ids], seeds: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Sample]]:
        """Sampling by Gumbel noise of each sample's own generator over transformers' `generate`: argmax(log p + noise) is a draw from p."""
        found: list[list[Sample | None]] = [[None] * sampling.n for _ in prompts]
        # Where a prompt leaves less room than max_tokens, only prompts of its length go beside it, so that all end together.
        rooms = [
            min(sampling.max_tokens, self._positions - len(prompt))
            if self._positions
            else sampling.max_tokens
            for prompt in prompts
        ]
        assert all(room > 0 for room in rooms), "a prompt leaves no room for a response"
        jobs = sorted(
            (rooms[i], len(prompt), i, k) for i, prompt in enumerate(prompts) for k in range(sampling.n)
        )
        for room, group in itertools.groupby(jobs, key=lambda job: job[0]):
            alike = list(group)
            for begin in range(0, len(alike), _GENERATE_ROWS):
                rows = alike[begin : begin + _GENERATE_ROWS]
                samples = self._sample([(prompts[i], seeds[i][k]) for *_, i, k in rows], sampling, room)
                for (*_, i, k), sample in zip(rows, samples, strict=True):
                    found[i][k] = sample
                self._report(len(rows))
        return found  # type: ignore[return-value]

    def _sample(self, rows: list[tuple[Ids, int]], sampling: Sampling, room: int) -> list[Sample]:
        width = max(len(prompt) for prompt, _ in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, _) in enumerate(rows):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
        stops = sorted(self.text.stop_ids)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=room, eos_token_id=stops, pad_token_id=stops[0], use_cache=True
        )
        draw = _Draw([seed for _, seed in rows], sampling, self._device)
        with _own_attention(self._model):
            out = self._model.generate(
                ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=config,
                logits_processor=[draw],
            )
        logps = torch.stack(draw.logps, 1).cpu().numpy()
        return [
            _cut(new, logp, self.text.stop_ids)
            for new, logp in zip(out[:, width:].tolist(), logps, strict=True)
        ]


class _own_attention:
    """`generate` keeps a key-value cache, which the packed attention knows nothing of."""

    def __init__(self, model: PreTrainedModel):
        self._config = model.config

    def __enter__(self) -> None:
        self._was, self._config._attn_implementation = self._config._attn_implementation, "sdpa"

    def __exit__(self, *_: object) -> None:
        self._config._attn_implementation = self._was


class _Draw(LogitsProcessor):
    """Temperature and the cuts of `cut`, then Gumbel noise from each row's own generator; greedy decoding of the result is the draw.

    `logps`: for each step the model's own log-prob of the token drawn in each row, before temperature."""

    def __init__(self, seeds: list[int], sampling: Sampling, device: str):
        # Drawn on the CPU, so that a sample is the same whatever the device.
        self._generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
        self._sampling, self._device = sampling, device
        self.logps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        own = scores.float().log_softmax(-1)
        wanted = own
        if self._sampling.temperature > 0:
            wanted = cut((own / self._sampling.temperature).log_softmax(-1), self._sampling)
            uniform = torch.stack(
                [
                    torch.rand(own.shape[1], generator=generator, dtype=torch.float64)
                    for generator in self._generators
                ]
            )
            wanted = wanted.double() - (-uniform.clamp_min(math.ulp(0.0)).log()).log().to(wanted.device)
        self.logps.append(own.gather(1, wanted.argmax(-1, keepdim=True))[:, 0])
        return wanted


def cut(logps: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Rows cut as vLLM cuts them: to the top_k likeliest tokens, of these to top_p, and to those of at least min_p times the likeliest's probability."""
    out = float("-inf")
    if sampling.min_p > 0:
        logps = logps.masked_fill(logps < logps.max(-1, keepdim=True).values + math.log(sampling.min_p), out)
    if 0 < sampling.top_k < logps.shape[1]:
        logps = logps.masked_fill(logps < logps.topk(sampling.top_k).values[:, -1:], out)
    return _top_p(logps.log_softmax(-1), sampling.top_p)


def _top_p(logps: torch.Tensor, top_p: float) -> torch.Tensor:
    """Rows cut to the smallest set of likeliest tokens whose probability reaches top_p."""
    if top_p >= 1:
        return logps
    ordered, index = logps.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return logps.masked_fill((before >= top_p).gather(-1, index.argsort(-1)), float("-inf"))


def _cut(ids: list[int], logps: np.ndarray, stops: set[int]) -> Sample:
    """A row up to and with its stop token."""
    end = next((place + 1 for place, token in enumerate(ids) if token in stops), None)
    length = end or min(len(ids), len(logps))
    return Sample(ids[:length], logps[:length], "stop" if end else "length")


def _batches(
    prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], budget: int
) -> list[list[tuple[int, list[int]]]]:
    """Batches of (prompt, its responses) by length, none above the budget unless a single response is."""
    pieces: list[tuple[int, int, list[int]]] = []
    for i, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        chosen, tokens = [], len(prompt)
        for k, response in enumerate(group):
            if chosen and tokens + len(response) > budget:
                pieces.append((tokens, i, chosen))
                chosen, tokens = [], len(prompt)
            chosen, tokens = [*chosen, k], tokens + len(response)
        if chosen:
            pieces.append((tokens, i, chosen))
    batches: list[list[tuple[int, list[int]]]] = []
    room = 0
    for tokens, i, chosen in sorted(pieces):
        if tokens > room or not batches:
            batches.append([])
            room = budget
        batches[-1].append((i, chosen))
        room -= tokens
    return batches
