"""The training loop, from top to bottom.

Everything in it is a function of the recipe, the pairs and the step: the pairs by (seed, step), no dropout,
no other randomness. So a run that was killed ends in the same bytes as one that was not, on the same number
of ranks, and on another number of ranks in the same numbers up to rounding.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from schemas.errors import UserError
from schemas.identity import weights_digest
from schemas.manifest import METRICS
from schemas.recipe import Recipe
from schemas.screen import say
from schemas.store import Store, open_store
from trainer import checkpoint, data, disk, dist, metrics
from trainer.dist import Ranks
from trainer.fitting import fit
from trainer.job import Job, on_every_rank, plan, precision_gap
from trainer.opening import open_policy
from trainer.optimizers import make_optimizer
from trainer.pairs import Pair
from trainer.resume import begin, write_manifest
from trainer.schedules import make_schedule
from trainer.state import TrainState, dtype_of, restore
from trainer.step import (
    Stepper,
    check_cache_matches_policy,
    check_gradient,
    evaluate,
    measure_agreement,
)

_AGAIN = "run the same command: it goes on from the last checkpoint, if there is one"


def train(where: str | Path | Store, recipe: Recipe, resume: bool = True) -> Path:
    """Train the recipe's model on a run's pairs; returns the last checkpoint. See `trainer run --help`.

    Raises UserError for what cannot work, before the model is loaded where that can be seen."""
    job = plan(open_store(where), recipe)
    ranks = dist.start(recipe.section("model").device, job.config.timeout, _AGAIN)
    try:
        with contextlib.ExitStack() as held, disk.at(job.folder.where()):
            start = ranks.from_first(lambda: begin(job, resume, held))
            if start is not None:
                _train(job, start, ranks)
            elif ranks.first:
                say(
                    f"{job.folder}: finished already, {job.steps} steps; another setting makes another "
                    "folder, --no-resume starts this one again"
                )
    finally:
        dist.stop()
    return job.last


def _train(job: Job, start: int, ranks: Ranks) -> None:
    """Every step after `start`, which is 0 or a checkpoint's."""
    job, budget, about_memory = fit(job, ranks)
    config = job.config
    state = _load_state(job, start, ranks)
    stepper = Stepper(state.parallel, job.objective, config, ranks, budget)
    log = metrics.Log(job.folder, start, job.steps, config.tensorboard) if ranks.first else None
    _say(log, _first_line(job, start))
    for line in about_memory:
        _say(log, line)
    batches = data.global_batches(
        job.pairs,
        batch_size=config.batch_size,
        seed=job.recipe.seed,
        start=start,
        look_ahead=config.look_ahead,
    )
    started_at = time.monotonic()
    try:
        for step in range(start + 1, job.steps + 1):
            epoch, batch = next(batches)
            if step == 1:
                _check_start(job, stepper, batch, log)
                _evaluate(job, stepper, 0, log)
            values, tokens = _update(state, stepper, step, batch)
            if log:
                progress = {"epoch": epoch + _share_of_epoch(job, step)}
                log.step(step, progress | values, tokens)
            if _is_due(step, config.eval_every, job.steps):
                _evaluate(job, stepper, step, log)
            if _is_due(step, config.save_every, job.steps):
                _save(job, state, step, ranks)
        ranks.from_first(lambda: write_manifest(job, weights_digest(job.last)))
        seconds = time.monotonic() - started_at
        curves = job.folder.where(METRICS)
        _say(log, f"{job.steps - start} steps in {seconds:.0f} s; policy: {job.last}; curves: {curves}")
    finally:
        batches.close()
        if log:
            log.close()


def _check_start(job: Job, stepper: Stepper, batch: Sequence[Pair], log: metrics.Log | None) -> None:
    """Raise UserError where cache and policy do not agree on the first batch."""
    with on_every_rank():
        agreement = measure_agreement(stepper, batch)
        _say(log, str(agreement))
        reason = precision_gap(job.config, job.pairs)
        if reason:
            _say(log, agreement.noise(reason))
        check_cache_matches_policy(agreement, job.config, job.pairs, job.run, stepper.ranks.device)


def _update(
    state: TrainState, stepper: Stepper, step: int, batch: Sequence[Pair]
) -> tuple[dict[str, float], int]:
    """Update the weights by a global batch. Returns what the record holds of it, and its tokens."""
    with on_every_rank():
        totals, tokens = stepper.backward(batch)
        limit = stepper.config.max_grad_norm or float("inf")
        norm = state.parallel.clip(limit)
        check_gradient(norm, step, batch)
    values = {
        **metrics.means(totals),
        "grad_norm": norm.item(),
        "learning_rate": float(state.scheduler.get_last_lr()[0]),
    }
    torch.manual_seed(step)  # for an optimizer that rounds at random
    state.optimizer.step()
    state.scheduler.step()
    state.optimizer.zero_grad(set_to_none=True)
    return values, tokens


def _save(job: Job, state: TrainState, step: int, ranks: Ranks) -> None:
    """Write the checkpoint of a step."""
    checkpoint.save(
        job.folder,
        step,
        state,
        source=job.source,
        keep=job.config.keep,
        ranks=ranks,
    )


def _is_due(step: int, every: int, last: int) -> bool:
    """True at every `every`-th step (never for 0) and at the last one."""
    return step == last or (every > 0 and step % every == 0)


def _share_of_epoch(job: Job, step: int) -> float:
    """How much of its epoch is done after a step."""
    each = data.steps_per_epoch(job.pairs, job.config.batch_size)
    return (1 + (step - 1) % each) / each


def _say(log: metrics.Log | None, text: str) -> None:
    """Print a line, on the rank that has the log."""
    if log:
        log.say(text)


def _first_line(job: Job, start: int) -> str:
    """What is trained on how much, printed before the first step."""
    pairs = job.pairs
    resumed = f", from step {start} on" if start else ""
    return (
        f"{job.folder.name}: {job.config.loss} on {pairs.folder.name}, "
        f"{pairs.count('train'):,} pairs to train on, {pairs.count('test'):,} held out; "
        f"{job.steps} steps of {job.config.batch_size} pairs{resumed}"
    )


def _load_state(job: Job, start: int, ranks: Ranks) -> TrainState:
    """Model, optimizer and schedule, from the beginning or from the checkpoint of step `start`."""
    config = job.config
    source = job.source
    if start:
        source = job.folder.local_path(checkpoint.name_of(start))
    try:
        parallel = open_policy(source, config, ranks)
    except UserError as error:
        if not start:
            raise
        # Only one without digests comes as far.
        raise UserError(f"{error}; delete {source} to go on from the checkpoint before it") from None
    optimizer = make_optimizer(parallel.policy, config)
    warmup_steps = config.warmup_steps or round(config.warmup_ratio * job.steps)
    scheduler = make_schedule(optimizer, config.schedule, warmup_steps, job.steps)
    save_dtype = config.save_dtype
    if save_dtype == "auto":
        save_dtype = dtype_of(job.source)
    state = TrainState(parallel, optimizer, scheduler, save_dtype)
    if start:
        restore(job.folder.child(checkpoint.name_of(start)), state)
    return state


def _evaluate(job: Job, stepper: Stepper, step: int, log: metrics.Log | None) -> None:
    """Write the metrics over the test split, if there is one, as eval_*."""
    if not job.pairs.count("test"):
        return
    with on_every_rank():
        values = evaluate(stepper, job.pairs)
    if not log:
        return
    log.write(step, {f"eval_{name}": value for name, value in values.items()})
    log.say(
        f"test at step {step}: loss {values['loss']:.4f}  accuracy {values['rewards/accuracies']:.3f}  "
        f"margin {values['rewards/margins']:.4f}  "
        f"logps chosen {values['logps/chosen']:.1f} rejected {values['logps/rejected']:.1f}"
    )
