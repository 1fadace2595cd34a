"""What the policy answers to some held-out prompts at each evaluation (`train.eval_samples`): samples.jsonl.

The prompts are the first different ones of the test split, which has a fixed order, and the answers are
greedy: the same weights give the same answers. Token ids become text by the tokenizer of the model's folder,
which nothing else in the trainer needs.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from schemas.errors import UserError
from schemas.forward.generating import generating, padded_left
from schemas.rope import steady_positions_of
from schemas.sections import Train
from schemas.store import Store
from schemas.tokenizer import load_tokenizer, named_end_ids
from trainer import data
from trainer.pairs import Pair, Pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = "samples.jsonl"
_REMEDY = "delete this line, or the file, to go on without it"

# (prompts, most new tokens) -> the new tokens of each; what follows an end token is left out here.
Generate = Callable[[list[list[int]], int], list[list[int]]]
# What is done with the model, where its weights are at hand.
Work = Callable[[PreTrainedModel], list[list[int]]]


def check(config: Train, pairs: Pairs) -> None:
    """Raise UserError where answers are wanted and no prompt is held out."""
    if config.eval_samples and not pairs.count("test"):
        raise UserError(
            f"train.eval_samples = {config.eval_samples} asks for answers to held-out prompts, and "
            f"{pairs.folder} holds none out: set pairs.test_share and run `engine precompute` again"
        )


@dataclass(frozen=True)
class Sampler:
    """The prompts that are answered, and what makes text of token ids.

    `shown`: pair_id, prompt, chosen and rejected of each, as text; `end_ids`: at which an answer ends."""

    prompts: list[list[int]]
    shown: list[dict[str, str]]
    tokenizer: "PreTrainedTokenizerBase"
    end_ids: list[int]
    max_tokens: int

    @classmethod
    def of(cls, config: Train, pairs: Pairs, source: Path) -> "Sampler | None":
        """What [train] asks for, with the tokenizer in `source`; None where it asks for nothing.

        Raises UserError where the tokenizer does not load."""
        if not config.eval_samples:
            return None
        tokenizer = load_tokenizer(source)
        chosen = _first_prompts(pairs, config.eval_samples)
        end_ids = named_end_ids(source, tokenizer.eos_token_id) | _usual_ends(chosen)
        if not end_ids:
            raise UserError(
                f"nothing says by which token an answer of the model in {source} ends: set eos_token in its "
                "tokenizer_config.json, or train.eval_samples = 0"
            )
        sampler = cls(
            prompts=[pair.prompt_ids.tolist() for pair in chosen],
            shown=[],
            tokenizer=tokenizer,
            end_ids=sorted(end_ids),
            max_tokens=config.eval_sample_tokens,
        )
        for pair in chosen:
            sampler.shown.append(
                {
                    "pair_id": pair.pair_id,
                    "prompt": sampler.text(pair.prompt_ids.tolist()),
                    "chosen": sampler.text(sampler.until_end(pair.chosen_ids.tolist())[0]),
                    "rejected": sampler.text(sampler.until_end(pair.rejected_ids.tolist())[0]),
                }
            )
        return sampler

    def answers(self, generate: Generate) -> list[dict[str, str]]:
        """An answer to each prompt: pair_id, prompt, answer, finish_reason, chosen, rejected.

        finish_reason is the engine's: `stop` at an end token, `length` where the answer was cut off."""
        generated = generate(self.prompts, self.max_tokens)
        answers: list[dict[str, str]] = []
        for shown, new_ids in zip(self.shown, generated, strict=True):
            ids, has_ended = self.until_end(new_ids)
            answers.append(
                {
                    "pair_id": shown["pair_id"],
                    "prompt": shown["prompt"],
                    "answer": self.text(ids),
                    "finish_reason": "stop" if has_ended else "length",
                    "chosen": shown["chosen"],
                    "rejected": shown["rejected"],
                }
            )
        return answers

    def greedy(self, look: Callable[[Work], list[list[int]]], together: bool) -> Generate:
        """The likeliest token after token, by transformers' `generate`, for all prompts in one batch.

        `look`: runs work on the model (trainer/parallel.py). `together`: a pass takes all ranks, so each of
        them makes as many passes as the one that needs the most."""

        def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
            def work(model: PreTrainedModel) -> list[list[int]]:
                return generate_greedily(model, prompts, max_tokens, self.end_ids, together)

            return look(work)

        return generate

    def text(self, ids: list[int]) -> str:
        """Token ids as text, with special tokens: a policy that says many of them is to be seen."""
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=False)
        return str(text)

    def until_end(self, ids: list[int]) -> tuple[list[int], bool]:
        """The tokens before the first end token, and whether there is one."""
        for place, token in enumerate(ids):
            if token in self.end_ids:
                return ids[:place], True
        return ids, False


def _first_prompts(pairs: Pairs, count: int) -> list[Pair]:
    """The first pairs of the test split that have different prompts."""
    found: dict[bytes, Pair] = {}
    for pair in data.held_out(pairs):
        found.setdefault(pair.prompt_ids.tobytes(), pair)
        if len(found) == count:
            break
    return list(found.values())


def _usual_ends(pairs: Sequence[Pair]) -> set[int]:
    """The token that more than half of the responses end with: the end of a turn in the model's template.

    Those that were cut off end with any token."""
    ends: Counter[int] = Counter()
    for pair in pairs:
        ends.update([int(pair.chosen_ids[-1]), int(pair.rejected_ids[-1])])
    return {token for token, count in ends.items() if count > len(pairs)}


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel,
    prompts: list[list[int]],
    max_tokens: int,
    end_ids: list[int],
    together: bool = False,
) -> list[list[int]]:
    """The new tokens of each prompt; behind an end token there is padding. See Sampler.greedy."""
    ids, mask = padded_left(prompts)
    text_config = model.config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    # Beyond its steady positions an answer would change its own beginning (schemas/rope.py).
    for limit in (positions, steady_positions_of(text_config)):
        if isinstance(limit, int) and limit:
            max_tokens = max(1, min(max_tokens, limit - ids.shape[1]))
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=end_ids,
        pad_token_id=min(end_ids),
        use_cache=True,
    )
    device = model.get_input_embeddings().weight.device
    with generating(model):
        generated: Any = model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            synced_gpus=together,
        )
    new_ids: list[list[int]] = generated[:, ids.shape[1] :].tolist()
    return new_ids


def lines_of(step: int, answers: Sequence[dict[str, str]]) -> str:
    """The lines of samples.jsonl for the answers of a step."""
    return "".join(json.dumps({"step": step, **answer}) + "\n" for answer in answers)


def read(folder: Store) -> list[dict[str, Any]]:
    """The whole lines of a train folder's samples.jsonl, in order; a kill can cut the last one off.

    Raises UserError for any other line that is damaged."""
    if not folder.exists(SAMPLES):
        return []
    texts = folder.read(SAMPLES).split(b"\n")
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts[:-1], 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            raise UserError(f"{folder.where(SAMPLES)}, line {number}: damaged: {_REMEDY}")
        lines.append(line)
    return lines


def drop_later(folder: Store, start: int) -> None:
    """Leave out the answers that are sampled again by a run that goes on from step `start`; 0: all."""
    if not folder.exists(SAMPLES):
        return
    kept: list[str] = []
    if start > 0:
        kept = [json.dumps(line) + "\n" for line in read(folder) if line["step"] <= start]
    if kept:
        folder.put(SAMPLES, "".join(kept).encode())
    else:
        folder.remove(SAMPLES)


def by_step(lines: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The answers of each step, as `Sampler.answers` returns them."""
    answers: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        answer = {name: value for name, value in line.items() if name != "step"}
        answers.setdefault(line["step"], []).append(answer)
    return answers
