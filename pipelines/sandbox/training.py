"""The training loop of the sandbox's tiny model.

- Each step trains all four jobs at once, on next tokens of the assistant's words.
- Finding a slip in another's response is the hardest job: one mark for a whole response taught the model
  nothing in a hundred thousand examples.
- So the later parts also say for every token whether a slip has happened by then. Linear heads on the upper
  layers learn that; they are thrown away at the end of their part.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipelines.sandbox.batches import IGNORED_TARGET, UNKNOWN_SLIP, Batch, batches
from pipelines.sandbox.schedule import Part
from schemas.screen import say

_FIRST_WATCHED_LAYER = 2  # counted from 0: the loss ignores the slip heads of the layers below
_WARM_UP_STEPS = 100


def train(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    part: Part,
    seed: int,
) -> None:
    """Train the model in place through one part; print the losses every 50 steps and at the end."""
    model.set_attn_implementation("eager")  # at these lengths faster than SDPA's backward on a CPU
    slip_heads = _new_slip_heads(model, part)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *slip_heads.parameters()],
        lr=part.peak_rate,
        betas=(0.9, 0.98),
        weight_decay=0.05,
    )
    streams: list[Iterator[Batch]] = []
    for number, share in enumerate(part.jobs):
        stream = batches(
            tokenizer,
            share.job,
            share.count,
            seed + number,
        )
        streams.append(stream)

    for step in range(part.steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(part, step)
        losses: list[float] = []
        for share, stream in zip(part.jobs, streams, strict=True):
            token_loss, slip_loss = _losses(model, slip_heads, next(stream))
            loss = share.weight * token_loss + slip_loss
            loss.backward()
            losses.append(token_loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        is_last = step == part.steps - 1
        if step % 50 == 0 or is_last:
            _print_losses(part, step, losses)


def _new_slip_heads(model: PreTrainedModel, part: Part) -> torch.nn.ModuleList:
    """A linear head for every layer; none if the part does not show slips."""
    heads = torch.nn.ModuleList()
    if part.slips_shown:
        for _ in range(model.config.num_hidden_layers):
            head = torch.nn.Linear(model.config.hidden_size, 1)
            heads.append(head)
    return heads


def _learning_rate(part: Part, step: int) -> float:
    """Linear warm-up, then constant, then a linear fall to the final rate."""
    progress = step / part.steps
    fallen_share = 0.0
    if part.constant_share < 1:
        past_constant = max(0.0, progress - part.constant_share)
        fallen_share = past_constant / (1 - part.constant_share)
    change = part.final_rate - part.peak_rate
    rate = part.peak_rate + fallen_share * change
    warm_up = min(1, (step + 1) / _WARM_UP_STEPS)
    return warm_up * rate


def _losses(
    model: PreTrainedModel,
    slip_heads: torch.nn.ModuleList,
    batch: Batch,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token loss and the slip loss of a batch, as scalars.

    The token loss is the mean cross-entropy of the responses' tokens. The slip loss is the mean binary
    cross-entropy of the labelled tokens, summed over the upper layers' heads; 0 without heads or labels.
    """
    guesses: list[torch.Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        output = model.base_model(
            batch.ids,
            output_hidden_states=len(slip_heads) > 0,
        )
        vocabulary_head = model.get_output_embeddings()
        logits = vocabulary_head(output.last_hidden_state)
        if slip_heads:
            layer_outputs = output.hidden_states[1:]  # the first hidden state is the embeddings
            for head, hidden in zip(slip_heads, layer_outputs, strict=True):
                guess = head(hidden)[..., 0]
                guesses.append(guess)

    next_logits = logits[:, :-1].float()
    next_ids = batch.targets[:, 1:]
    token_loss = F.cross_entropy(
        next_logits.flatten(0, 1),
        next_ids.flatten(),
        ignore_index=IGNORED_TARGET,
    )
    slip_loss = torch.zeros(())
    labelled = batch.slips != UNKNOWN_SLIP
    if labelled.any():
        labels = batch.slips[labelled].float()
        for guess in guesses[_FIRST_WATCHED_LAYER:]:
            guessed = guess.float()[labelled]
            layer_loss = F.binary_cross_entropy_with_logits(guessed, labels)
            slip_loss = slip_loss + layer_loss
    return token_loss, slip_loss


def _print_losses(
    part: Part,
    step: int,
    losses: list[float],
) -> None:
    named: list[str] = []
    for share, loss in zip(part.jobs, losses, strict=True):
        named.append(f"{share.job.__name__} {loss:.3f}")
    say(f"step {step + 1} of {part.steps}: {', '.join(named)}")
