"""One step on a global batch: backward pass, agreement of cache and policy, losses of the held-out pairs.

Every number here is a sum over the global batch, taken over all ranks: it does not depend on how the batch is
cut.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from schemas.devices import batch_tokens
from schemas.errors import UserError
from schemas.forward.logps import Head, decoder_and_head
from schemas.sections import Train
from schemas.store import Store
from schemas.tolerance import mean_gap
from trainer import data, metrics, model
from trainer.dist import Ranks
from trainer.losses import Objective
from trainer.losses.side import Side
from trainer.pairs import Pair, Pairs

_SHOWN_IDS = 20  # pairs named in an error


@dataclass(frozen=True)
class Stepper:
    """What every forward pass of a run shares. `policy` is the module whose parameters are trained."""

    policy: nn.Module
    decoder: nn.Module
    head: Head
    objective: Objective
    config: Train
    ranks: Ranks

    @classmethod
    def of(cls, policy: PreTrainedModel, objective: Objective, config: Train, ranks: Ranks) -> "Stepper":
        """A stepper for a whole model."""
        decoder, head = decoder_and_head(policy)
        return cls(
            policy=policy,
            decoder=decoder,
            head=head,
            objective=objective,
            config=config,
            ranks=ranks,
        )

    def micro_batches(self, batch: Sequence[Pair]) -> list[list[Pair]]:
        """This rank's part of a global batch, in pieces that fit the token budget."""
        part = data.deal(batch, self.ranks.rank, self.ranks.world_size)
        budget = batch_tokens(self.config.micro_batch_tokens, self.ranks.device.type)
        return data.micro_batches(part, budget)

    def sides(self, pairs: Sequence[Pair]) -> tuple[Side, Side]:
        """Chosen and rejected of some pairs, each (B, T)."""
        with self.autocast():
            batch = model.micro_batch(pairs, self.ranks.device)
            return model.sides(self.decoder, self.head, batch)

    def autocast(self) -> torch.autocast:
        """bfloat16 arithmetic over float32 weights, where [train] asks for it."""
        lowered = self.config.dtype == "bfloat16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=lowered)

    def backward(self, batch: Sequence[Pair]) -> tuple[torch.Tensor, int]:
        """Put the gradient of the global batch's mean loss on every rank.

        Returns the metrics' sums and the number of tokens, of all ranks. Raises UserError, on every rank
        alike, where a loss is not finite."""
        totals = metrics.zero_sums(self.ranks.device)
        finite: list[bool] = []
        pair_ids: list[str] = []

        def observe(losses: torch.Tensor, chosen: Side, rejected: Side) -> None:
            columns = metrics.columns(losses, chosen, rejected, self.objective.beta)
            totals.add_(columns.sum(1))
            finite.extend(columns.isfinite().all(0).tolist())

        for pairs in self.micro_batches(batch):
            with self.autocast():
                model.backward(
                    self.decoder,
                    self.head,
                    model.micro_batch(pairs, self.ranks.device),
                    loss=self.objective,
                    scale=1 / len(batch),
                    observe=observe,
                )
            pair_ids += [pair.pair_id for pair in pairs]
        self.ranks.sum(totals)
        # Every rank sees the same sum, so all of them stop here or none does.
        if not totals.isfinite().all():
            bad = [pair_id for pair_id, fine in zip(pair_ids, finite, strict=True) if not fine]
            raise UserError(_not_finite_message(self.ranks.gather(bad)))
        self.ranks.sum_gradients(self.policy.parameters())
        return totals, sum(pair.tokens for pair in batch)


def _not_finite_message(bad: Sequence[str]) -> str:
    """The error that names the pairs, by their ids, whose loss is not finite."""
    shown = ", ".join(sorted(bad)[:_SHOWN_IDS]) or "unknown"
    return (
        f"the loss, or a log-prob, of these pairs is not finite: {shown}; look at them with "
        "`engine sql RUN \"select * from pairs where pair_id = '…'\"`; a lower train.learning_rate may help"
    )


def check_gradient(norm: torch.Tensor, step: int, batch: Sequence[Pair]) -> None:
    """Raise UserError where the norm of the summed gradients, the same on every rank, is not finite."""
    if norm.isfinite():
        return
    pair_ids = sorted(pair.pair_id for pair in batch)
    shown = ", ".join(pair_ids[:_SHOWN_IDS])
    more = " …" if len(pair_ids) > _SHOWN_IDS else ""
    raise UserError(f"the gradient of step {step} is not finite; its pairs: {shown}{more}")


@dataclass(frozen=True)
class Agreement:
    """How well cache and policy agree at step 0."""

    loss: float  # as measured
    law: float  # the loss if the policy were exactly the reference (log 2 for DPO)
    mean_gap: float  # of the per-token log-probs, nat
    largest_gap: float

    def __str__(self) -> str:
        """The line that is printed at step 0."""
        return (
            f"step 0: loss {self.loss:.6f} (law: {self.law:.6f}); gap between cache and policy, nat a token: "
            f"mean {self.mean_gap:.2g}, largest {self.largest_gap:.2g}"
        )


@torch.no_grad()
def measure_agreement(stepper: Stepper, batch: Sequence[Pair]) -> Agreement:
    """Compare the policy's log-probs of a batch with the cached ones, over all ranks."""
    device = stepper.ranks.device
    zero = torch.zeros((), dtype=torch.float64, device=device)
    loss = zero
    law = zero
    gap_sum = zero
    pairs_seen = 0
    tokens = 0
    largest = 0.0
    for pairs in stepper.micro_batches(batch):
        chosen, rejected = stepper.sides(pairs)
        gaps = _token_gaps(chosen, rejected)
        loss = loss + stepper.objective(chosen, rejected).sum().double()
        law = law + stepper.objective(chosen.at_start(), rejected.at_start()).sum().double()
        gap_sum = gap_sum + gaps.sum().double()
        pairs_seen += len(pairs)
        tokens += len(gaps)
        largest = max(largest, gaps.max().item())
    counts = torch.tensor([pairs_seen, tokens], dtype=torch.float64, device=device)
    totals = stepper.ranks.sum(torch.cat([torch.stack([loss, law, gap_sum]), counts]))
    loss_sum, law_sum, gaps_sum, all_pairs, all_tokens = totals.tolist()
    return Agreement(
        loss=loss_sum / all_pairs,
        law=law_sum / all_pairs,
        mean_gap=gaps_sum / all_tokens,
        largest_gap=max(stepper.ranks.gather([largest])),
    )


def _token_gaps(chosen: Side, rejected: Side) -> torch.Tensor:
    """|log π − log ref| of every token of every response."""
    gaps: list[torch.Tensor] = []
    for side in (*chosen.parts(), *rejected.parts()):
        gaps.append(side.token_logratios[side.mask.bool()])
    return torch.cat(gaps).abs()


def check_cache_matches_policy(agreement: Agreement, config: Train, pairs: Pairs, run: Store) -> None:
    """Raise UserError where cache and policy do not agree: before the first update they are one model."""
    cache_dtype = pairs.facts["reference"]["dtype"]
    tolerance = mean_gap(config.tolerance, config.dtype, cache_dtype)
    # Not `mean_gap > tolerance`: NaN must not pass.
    if agreement.mean_gap <= tolerance:
        return
    if not math.isfinite(agreement.mean_gap):
        # The cached ones were looked at when they were read (trainer/pairs.py).
        raise UserError(
            f"{agreement}: the policy's log-probs are not finite on the first batch, so nothing can be "
            f"learnt; its weights hold NaN or infinity, or its numbers overflow in {config.dtype}: get the "
            "model again, or train in float32 (train.dtype)"
        )
    raise UserError(
        f"{agreement}, more than {tolerance:g}: cache and policy do not agree. They have the same weights, "
        f"so the arithmetic differs (dtype of the cache {cache_dtype}, of training {config.dtype}; another "
        f"torch or device?) or the shards in {pairs.folder} were changed; `engine verify {run}` tells which; "
        "run `engine precompute` again in this dtype, or raise train.tolerance"
    )


class HeldOut(NamedTuple):
    """Some held-out pairs, what the policy makes of them, and (len(NAMES) + 1, B) their metrics."""

    pairs: list[Pair]
    chosen: Side
    rejected: Side
    columns: torch.Tensor


@torch.no_grad()
def held_out(stepper: Stepper, pairs: Pairs) -> Iterator[HeldOut]:
    """This rank's part of the test split, a micro-batch at a time, without gradient.

    Raises UserError at the end, on every rank, where a metric of a pair is not finite."""
    size = stepper.config.batch_size * stepper.ranks.world_size
    bad: list[str] = []
    for batch in data.in_batches(data.held_out(pairs), size):
        for part in stepper.micro_batches(batch):
            chosen, rejected = stepper.sides(part)
            losses = stepper.objective(chosen, rejected)
            columns = metrics.columns(losses, chosen, rejected, stepper.objective.beta)
            finite = columns.isfinite().all(0).tolist()
            bad += [pair.pair_id for pair, fine in zip(part, finite, strict=True) if not fine]
            yield HeldOut(part, chosen, rejected, columns)
    bad = sorted(stepper.ranks.gather(bad))
    if bad:
        raise UserError(
            f"the policy's numbers on {len(bad)} held-out pairs are not finite: "
            f"{', '.join(bad[:_SHOWN_IDS])}; its weights are too large, or its numbers overflow in "
            f"{stepper.config.dtype}: train with a lower train.learning_rate, or in float32 (train.dtype)"
        )


def evaluate(stepper: Stepper, pairs: Pairs) -> dict[str, float]:
    """The metrics over the test split, by their names; empty where no pair is held out.

    Raises UserError, on every rank, where one of them is not finite."""
    totals = metrics.zero_sums(stepper.ranks.device)
    for part in held_out(stepper, pairs):
        totals += part.columns.sum(1)
    return metrics.means(stepper.ranks.sum(totals))
