"""Some steps of training, with what each of them did: run alone or by every rank of a pool."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.sections import Train
from trainer import data, dist, losses
from trainer.opening import open_policy
from trainer.optimizers import make_optimizer
from trainer.pairs import open_pairs
from trainer.step import Stepper


@dataclass(frozen=True)
class Step:
    """What a step did: the metrics' sums, the norm of the gradients before they were clipped, and these."""

    pairs: int  # of the global batch
    totals: torch.Tensor
    norm: float
    gradients: dict[str, torch.Tensor]  # whole, by the weight's name
    passes: int  # of this rank, those of no weight included
    own: int  # those that count


def take(run: Path, model: Path, steps: int, settings: dict[str, Any]) -> list[Step]:
    """Train `model` on a run's pairs for some steps. `settings`: keys of [train]."""
    torch.manual_seed(0)
    config = Train(**{"dtype": "float32", "batch_size": 16, "learning_rate": 1e-3} | settings)
    ranks = dist.start("cpu", 60.0)
    try:
        objective = losses.choose(config)
        pairs = open_pairs(run, objective.needs)
        parallel = open_policy(model, config, ranks)
        optimizer = make_optimizer(parallel.policy, config)
        stepper = Stepper(parallel, objective, config, ranks)
        batches = data.global_batches(pairs, config.batch_size, seed=2)
        taken: list[Step] = []
        for _ in range(steps):
            _, batch = next(batches)
            parts = stepper.pieces.of(batch)
            totals, _ = stepper.backward(batch)
            norm = parallel.clip(config.max_grad_norm)
            gradients: dict[str, torch.Tensor] = {}
            for name, parameter in parallel.policy.model.named_parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients[name] = parallel.whole(gradient).detach().clone()
            own = sum(part.counts for part in parts)
            taken.append(Step(len(batch), totals.clone(), norm.item(), gradients, len(parts), own))
            optimizer.step()
            optimizer.zero_grad()
        batches.close()
        return taken
    finally:
        dist.stop()


def check_same(taken: list[Step], wanted: list[Step], atol: float = 1e-5) -> None:
    """Assert that each step had the same mean metrics within 1e-5, and every gradient within `atol`."""
    for ours, theirs in zip(taken, wanted, strict=True):
        assert ours.pairs == theirs.pairs
        torch.testing.assert_close(ours.totals / ours.pairs, theirs.totals / ours.pairs, atol=1e-5, rtol=1e-6)
        assert ours.gradients.keys() == theirs.gradients.keys()
        for name, gradient in ours.gradients.items():
            torch.testing.assert_close(gradient, theirs.gradients[name], atol=atol, rtol=0)
