"""Batches of the tiny model's training: examples of one job as padded tensors, with labels for slips."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from pipelines.sandbox.jobs import Example, Job

IGNORED_TARGET = -100
UNKNOWN_SLIP = -1


@dataclass(frozen=True)
class Batch:
    """Examples of one job as int64 tensors of shape (B, T).

    - ids: token ids, padded with 0 on the right
    - targets: the ids of the assistant's words, -100 elsewhere
    - slips: from the first token of a response to be rated to the end of the prompt, 1 if the response has
      gone wrong by that token and 0 if not; -1 elsewhere
    """

    ids: torch.Tensor
    targets: torch.Tensor
    slips: torch.Tensor


def batches(
    tokenizer: PreTrainedTokenizerBase,
    job: Job,
    count: int,
    seed: int,
) -> Iterator[Batch]:
    """Batches of `count` examples of a job, without end."""
    draw = random.Random(seed)
    while True:
        examples = [job(draw) for _ in range(count)]
        yield _batch(tokenizer, examples)


def _batch(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> Batch:
    texts = _prompt_texts(tokenizer, examples)
    prompts = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    responses = _response_ids(tokenizer, examples)
    width = _padded_width(prompts.input_ids, responses)
    shape = (len(examples), width)
    ids = torch.full(shape, 0)
    targets = torch.full(shape, IGNORED_TARGET)
    slips = torch.full(shape, UNKNOWN_SLIP)
    for row, example in enumerate(examples):
        prompt = prompts.input_ids[row]
        response = responses[row]
        begin = len(prompt)
        end = begin + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        targets[row, begin:end] = torch.tensor(response)
        if example.rated_from is not None:
            prompt_start = texts[row].index(example.prompt)
            labels = _slip_labels(
                prompts.offset_mapping[row],
                prompt_start,
                example.rated_from,
                example.wrong_from,
            )
            slips[row, :begin] = torch.tensor(labels)
    return Batch(ids, targets, slips)


def _prompt_texts(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[str]:
    """The prompts in the chat template, up to where the assistant begins."""
    texts: list[str] = []
    for example in examples:
        messages = [{"role": "user", "content": example.prompt}]
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
        )
        texts.append(str(text))
    return texts


def _response_ids(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[list[int]]:
    """The responses' token ids, each with the end token."""
    texts = [example.response for example in examples]
    tokenised = tokenizer(texts, add_special_tokens=False)
    responses: list[list[int]] = []
    for ids in tokenised.input_ids:
        responses.append([*ids, tokenizer.eos_token_id])
    return responses


def _padded_width(prompts: list[list[int]], responses: list[list[int]]) -> int:
    """The longest prompt and response together, rounded up to a multiple of 32.

    Few distinct widths save time: oneDNN prepares its kernels anew for each.
    """
    longest = 0
    for prompt, response in zip(prompts, responses, strict=True):
        length = len(prompt) + len(response)
        longest = max(longest, length)
    return longest + -longest % 32


def _slip_labels(
    offsets: list[tuple[int, int]],
    prompt_start: int,
    rated_from: int,
    wrong_from: int | None,
) -> list[int]:
    """Batch.slips for a prompt's tokens.

    `offsets` are where each token begins and ends in the text with the chat template, and `prompt_start` is
    where `Example.prompt` begins in that text. `rated_from` and `wrong_from` are the example's. All count
    characters.
    """
    labels: list[int] = []
    for _, end_in_text in offsets:
        token_end = end_in_text - prompt_start
        if token_end <= rated_from:
            labels.append(UNKNOWN_SLIP)
        elif wrong_from is None:
            labels.append(0)
        else:
            labels.append(int(token_end > wrong_from))
    return labels
