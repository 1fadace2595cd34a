"""One step on a global batch: backward pass, agreement of cache and policy, losses of the held-out pairs.

Every number here is a sum over the global batch, taken over all ranks: it does not depend on how the batch is
cut.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from schemas import tolerance
from schemas.devices import batch_tokens
from schemas.errors import UserError
from schemas.sections import Train
from schemas.store import Store
from trainer import data, metrics, model
from trainer.dist import Ranks
from trainer.losses import Objective
from trainer.losses.side import Side
from trainer.micro_parts import MicroPart, Pieces
from trainer.out_of_memory import Budget
from trainer.pairs import Pair, Pairs
from trainer.parallel import Parallel

_SHOWN_IDS = 20  # pairs named in an error


@dataclass(frozen=True)
class Stepper:
    """What every pass of a run shares. `limit`: of the tokens of a pass, where it is not the config's."""

    parallel: Parallel
    objective: Objective
    config: Train
    ranks: Ranks
    limit: Budget | None = None

    @cached_property
    def pieces(self) -> Pieces:
        """How this rank cuts its part of each batch."""
        limit = self.limit
        if limit is None:
            limit = Budget(batch_tokens(self.config.micro_batch_tokens, self.ranks.device.type))
        return Pieces(self.parallel, self.ranks, limit)

    def sides(self, pairs: Sequence[Pair]) -> tuple[Side, Side]:
        """Chosen and rejected of some pairs, each (B, T), without gradient."""
        batch = model.micro_batch(pairs, self.ranks.device)
        quality = self.quality(batch)
        return self.parallel.look(lambda policy: model.sides(policy, batch, quality))

    def quality(self, batch: model.MicroBatch) -> Sequence[torch.Tensor]:
        """The policy's log-probs under the quality prompt: a pass of its own, where the loss asks for it."""
        if batch.quality is None:
            return ()
        return self.parallel.look(lambda policy: model.quality_logps(policy, batch))

    def backward(self, batch: Sequence[Pair]) -> tuple[torch.Tensor, int]:
        """Put the gradient of the global batch's mean loss on every rank.

        Returns the metrics' sums and the number of tokens, of all ranks. Raises UserError, on every rank
        alike, where a loss is not finite. Where memory runs out, the whole is repeated in smaller pieces."""
        return self.pieces.repeated(batch, lambda parts: self._backward(batch, parts))

    def _backward(self, batch: Sequence[Pair], parts: Sequence[MicroPart]) -> tuple[torch.Tensor, int]:
        """`backward`, in these pieces."""
        totals = metrics.zero_sums(self.ranks.device)
        finite: list[torch.Tensor] = []  # of each chunk's pairs; looked at only where a sum is not finite
        pair_ids: list[str] = []

        def observe(losses: torch.Tensor, chosen: Side, rejected: Side) -> None:
            columns = metrics.columns(losses, chosen, rejected, self.objective.beta)
            totals.add_(columns.sum(1))
            finite.append(columns.isfinite().all(0))

        for number, part in enumerate(parts, 1):
            self._backward_part(part, len(batch), observe, last=number == len(parts))
            if part.counts:
                pair_ids += [pair.pair_id for pair in part.pairs]
        self.ranks.sum(totals)
        # Every rank sees the same sum, so all of them stop here or none does.
        if not totals.isfinite().all():
            are_fine = torch.cat(finite).tolist() if finite else []
            bad = [pair_id for pair_id, fine in zip(pair_ids, are_fine, strict=True) if not fine]
            raise UserError(_not_finite_message(self.ranks.gather(bad)), shared=True)
        return totals, sum(pair.tokens for pair in batch)

    def _backward_part(self, part: MicroPart, pairs: int, observe: model.Observer, *, last: bool) -> None:
        """Add the gradient of a part's share in the mean loss over `pairs` pairs."""
        batch = model.micro_batch(part.pairs, self.ranks.device)
        quality = self.quality(batch)
        # The ranks' gradients are averaged.
        scale = self.ranks.world_size / pairs if part.counts else 0.0

        def work(policy: PreTrainedModel) -> torch.Tensor:
            return model.training_loss(
                policy,
                batch,
                quality,
                loss=self.objective,
                scale=scale,
                observe=observe if part.counts else _observe_nothing,
            )

        loss = self.parallel.training_pass(work, last=last)
        self.parallel.backward(loss, last=last)


def _observe_nothing(losses: torch.Tensor, chosen: Side, rejected: Side) -> None:
    """Of pairs that do not count."""


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
    raise UserError(f"the gradient of step {step} is not finite; its pairs: {shown}{more}", shared=True)


@dataclass(frozen=True)
class Agreement:
    """How well cache and policy agree at step 0."""

    loss: float  # as measured
    law: float  # the loss if the policy were exactly the reference (log 2 for DPO)
    mean_gap: float  # of the per-token log-probs, nat
    largest_gap: float
    pair_gap: float = 0.0  # mean |logratio of chosen − logratio of rejected| of a pair, nat; by law 0

    def __str__(self) -> str:
        """The line that is printed at step 0."""
        return (
            f"step 0: loss {self.loss:.6f} (law: {self.law:.6f}); gap between cache and policy, nat a token: "
            f"mean {self.mean_gap:.2g}, largest {self.largest_gap:.2g}"
        )

    def noise(self, reason: str) -> str:
        """The line about a cache of another arithmetic, which the recipe accepts for this `reason`."""
        return (
            f"{reason}: each pair's logratio begins {self.pair_gap:.2g} nat wrong on average "
            "(train.accept_other_dtype)"
        )


@torch.no_grad()
def measure_agreement(stepper: Stepper, batch: Sequence[Pair]) -> Agreement:
    """Compare the policy's log-probs of a batch with the cached ones, over all ranks."""
    device = stepper.ranks.device
    zero = torch.zeros((), dtype=torch.float64, device=device)
    loss = zero
    law = zero
    gap_sum = zero
    pair_gap_sum = zero
    pairs_seen = 0
    tokens = 0
    largest = 0.0
    for part, chosen, rejected in stepper.pieces.looks(batch, stepper.sides):
        if not part.counts:
            continue
        gaps = _token_gaps(chosen, rejected)
        loss = loss + stepper.objective(chosen, rejected).sum().double()
        law = law + stepper.objective(chosen.at_start(), rejected.at_start()).sum().double()
        gap_sum = gap_sum + gaps.sum().double()
        pair_gap_sum = pair_gap_sum + (chosen.logratios - rejected.logratios).abs().sum().double()
        pairs_seen += len(part.pairs)
        tokens += len(gaps)
        largest = max(largest, gaps.max().item())
    counts = torch.tensor([pairs_seen, tokens], dtype=torch.float64, device=device)
    totals = stepper.ranks.sum(torch.cat([torch.stack([loss, law, gap_sum, pair_gap_sum]), counts]))
    loss_sum, law_sum, gaps_sum, pair_gaps_sum, all_pairs, all_tokens = totals.tolist()
    return Agreement(
        loss=loss_sum / all_pairs,
        law=law_sum / all_pairs,
        mean_gap=gaps_sum / all_tokens,
        largest_gap=max(stepper.ranks.gather([largest])),
        pair_gap=pair_gaps_sum / all_pairs,
    )


def _token_gaps(chosen: Side, rejected: Side) -> torch.Tensor:
    """|log π − log ref| of every token of every response."""
    gaps: list[torch.Tensor] = []
    for side in (*chosen.parts(), *rejected.parts()):
        gaps.append(side.token_logratios[side.mask.bool()])
    return torch.cat(gaps).abs()


def _tolerance(config: Train, pairs: Pairs, device: torch.device) -> float:
    """The largest mean gap that is normal between this cache and this training, in nat a token."""
    reference = pairs.facts["reference"]
    return tolerance.mean_gap(reference["dtype"], reference.get("backend", "hf"), config.dtype, device.type)


def check_cache_matches_policy(
    agreement: Agreement, config: Train, pairs: Pairs, run: Store, device: torch.device
) -> None:
    """Raise UserError where cache and policy do not agree: before the first update they are one model."""
    cache_dtype = pairs.facts["reference"]["dtype"]
    most = config.tolerance or _tolerance(config, pairs, device)
    # Not `mean_gap > tolerance`: NaN must not pass.
    if agreement.mean_gap <= most:
        return
    if not math.isfinite(agreement.mean_gap):
        # The cached ones were looked at when they were read (trainer/pairs.py).
        raise UserError(
            f"{agreement}: the policy's log-probs are not finite on the first batch, so nothing can be "
            f"learnt; its weights hold NaN or infinity, or its numbers overflow in {config.dtype}: get the "
            "model again, or train in float32 (train.dtype)",
            shared=True,
        )
    raise UserError(
        f"{agreement}, more than {most:g}: cache and policy do not agree. They have the same weights, "
        f"so the arithmetic differs (dtype of the cache {cache_dtype}, of training {config.dtype}; another "
        f"torch or device?) or the shards in {pairs.folder} were changed; `engine verify {run}` tells which; "
        "run `engine precompute` again in this dtype, or raise train.tolerance",
        shared=True,
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
        for part, chosen, rejected in stepper.pieces.looks(batch, stepper.sides):
            if not part.counts:
                continue
            losses = stepper.objective(chosen, rejected)
            columns = metrics.columns(losses, chosen, rejected, stepper.objective.beta)
            finite = columns.isfinite().all(0).tolist()
            bad += [pair.pair_id for pair, fine in zip(part.pairs, finite, strict=True) if not fine]
            yield HeldOut(part.pairs, chosen, rejected, columns)
    bad = sorted(stepper.ranks.gather(bad))
    if bad:
        raise UserError(
            f"the policy's numbers on {len(bad)} held-out pairs are not finite: "
            f"{', '.join(bad[:_SHOWN_IDS])}; its weights are too large, or its numbers overflow in "
            f"{stepper.config.dtype}: train with a lower train.learning_rate, or in float32 (train.dtype)",
            shared=True,
        )


def evaluate(stepper: Stepper, pairs: Pairs) -> dict[str, float]:
    """The metrics over the test split, by their names; empty where no pair is held out.

    Raises UserError, on every rank, where one of them is not finite."""
    totals = metrics.zero_sums(stepper.ranks.device)
    for part in held_out(stepper, pairs):
        totals += part.columns.sum(1)
    return metrics.means(stepper.ranks.sum(totals))
