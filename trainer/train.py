"""The training loop, from top to bottom.

Everything in it is a function of the recipe, the pairs and the step: the pairs by (seed, step), no dropout
but an adapter's, by (seed, step, rank), no rounding at random but that of weights in bfloat16, by (seed,
step, part of the weights). So a run that was killed ends in the same bytes as one that was not, on the same
number of ranks. On another number of them, or with other micro-batches, it ends in the same numbers up to
rounding, with two exceptions: an adapter's dropout is then another; and weights in bfloat16 are rounded by
other numbers under FSDP, along gradients that were added up in bfloat16 in another order, so they differ as
those of two seeds do.
"""

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.forward.deterministic import use_deterministic
from schemas.manifest import METRICS
from schemas.recipe import Recipe
from schemas.screen import say, warn
from schemas.sections import Train
from schemas.store import Store, open_store
from trainer import (
    best,
    checkpoint,
    data,
    disk,
    dist,
    losses,
    metrics,
    parallel,
    preempt,
    shared_storage,
    tracking,
)
from trainer.dist import Ranks
from trainer.finish import finish
from trainer.fitting import fit
from trainer.job import Job, as_of_autocast, plan, precision_gap
from trainer.optimizers import draw_rounding_by
from trainer.pairs import Pair
from trainer.resume import begin, is_finished_with_autocast
from trainer.samples import Sampler
from trainer.starting import load_state
from trainer.state import TrainState
from trainer.step import (
    Stepper,
    check_cache_matches_policy,
    check_gradient,
    evaluate,
    measure_agreement,
)

_AGAIN = "run the same command: it goes on from the last checkpoint, if there is one"
_AGAIN_FROM_IT = "run the same command to go on from it"


def train(where: str | Path | Store, recipe: Recipe, resume: bool = True) -> Path:
    """Train the recipe's model on a run's pairs; returns the last checkpoint. See `trainer run --help`.

    Raises UserError for what cannot work, before the model is loaded where that can be seen."""
    config: Train = recipe.section("train")
    use_deterministic(config.deterministic)  # before anything runs on a GPU
    ranks = dist.start(recipe.section("model").device, config.timeout, _AGAIN)
    try:
        parallel.shard_size(config, ranks)  # before anything is read
        job = shared_storage.on_all(ranks, lambda: plan(open_store(where), recipe))
        if resume and ranks.from_first(lambda: is_finished_with_autocast(job)):
            job = as_of_autocast(job) or job
        with contextlib.ExitStack() as held, disk.at(job.folder.where()):
            start = ranks.from_first(lambda: begin(job, resume, held))
            if start is not None:
                shared_storage.wait_for_checkpoint(job, start, ranks)
                with dist.connected(ranks):
                    _train(job, start, ranks)
            elif ranks.first:
                say(
                    f"{job.folder}: finished already, {job.steps} steps; a setting that changes what is "
                    "learnt makes another folder, --no-resume starts this one again"
                )
    finally:
        dist.stop()
    return job.last


@dataclass(frozen=True)
class _Watch:
    """What looks at a run. `log`: on rank 0 alone; `best`: so far, where one is asked for."""

    log: metrics.Log | None
    sampler: Sampler | None
    best: best.Best | None


def _train(job: Job, start: int, ranks: Ranks) -> None:
    """Every step after `start`, which is 0 or a checkpoint's."""
    job, budget, about_memory = fit(job, ranks)
    config = job.config
    sampler = ranks.machine_first(lambda: Sampler.of(config, job.pairs, job.source))
    state = load_state(job, start, ranks)
    stepper = Stepper(state.parallel, job.objective, config, ranks, budget)
    batches = _batches(job, start)
    started_at = time.monotonic()
    log = _open_log(job, start) if ranks.first else None
    try:
        # The record's lines after `start` are gone by now.
        so_far = ranks.from_first(lambda: best.so_far(job.folder, config))
        watch = _Watch(log, sampler, so_far)
        _say(log, parallel.unsplit_remark(config, ranks))
        _say(log, _first_line(job, start, ranks))
        for line in about_memory:
            _say(log, line)
        with preempt.noticed(ranks, config.save_on_signal) as notice:
            if start:
                _catch_up(job, state, stepper, start, watch)
            for step in range(start + 1, job.steps + 1):
                epoch, batch = next(batches)
                if step == 1:
                    _check_start(job, stepper, batch, log)
                    _evaluate(job, stepper, 0, watch)
                if log:
                    log.begin_step()
                values, tokens = _update(job, state, stepper, step, batch)
                if log:
                    progress = {"epoch": epoch + _share_of_epoch(job, step)}
                    log.step(step, progress | values, tokens)
                _look_and_save(job, state, stepper, step, watch, notice)
            ranks.from_first(lambda: finish(job))
        seconds = time.monotonic() - started_at
        curves = job.folder.where(METRICS)
        _say(log, best.sentence(job.folder) if log else None)
        policy = job.folder.where(checkpoint.name_of(job.steps))
        _say(log, f"{job.steps - start} steps in {seconds:.0f} s; policy: {policy}; curves: {curves}")
    finally:
        batches.close()
        if log:
            log.close()


def _batches(job: Job, start: int) -> Generator[tuple[int, list[Pair]]]:
    """(epoch, pairs) of each global batch after step `start`."""
    return data.global_batches(
        job.pairs,
        batch_size=job.config.batch_size,
        seed=job.recipe.seed,
        start=start,
        look_ahead=job.config.look_ahead,
    )


def _open_log(job: Job, start: int) -> metrics.Log:
    """The record of the run, and the trackers that [train] asks for."""
    return metrics.Log(job.folder, start, job.steps, tracking.names_of(job.config), job.facts)


def _check_start(job: Job, stepper: Stepper, batch: Sequence[Pair], log: metrics.Log | None) -> None:
    """Raise UserError where cache and policy do not agree on the first batch."""
    agreement = measure_agreement(stepper, batch)
    _say(log, str(agreement))
    reason = precision_gap(job.config, job.pairs)
    if reason and log:
        warn(agreement.noise(reason))
    check_cache_matches_policy(agreement, job.config, job.pairs, job.run, stepper.ranks.device)


def _update(
    job: Job, state: TrainState, stepper: Stepper, step: int, batch: Sequence[Pair]
) -> tuple[dict[str, float], int]:
    """Update the weights by a global batch. Returns what the record holds of it, and its tokens."""
    state.policy.draw_dropout_by(step, stepper.ranks.rank)
    totals, tokens = stepper.backward(batch)
    limit = stepper.config.max_grad_norm or float("inf")
    norm = state.parallel.clip(limit)
    check_gradient(norm, step, batch)
    values = {
        **metrics.means(totals),
        "grad_norm": norm.item(),
        "learning_rate": float(state.scheduler.get_last_lr()[0]),
    }
    draw_rounding_by(job.recipe.seed, step, state.parallel.shard)
    state.optimizer.step()
    state.scheduler.step()
    state.optimizer.zero_grad(set_to_none=True)
    return values, tokens


def _look_and_save(
    job: Job, state: TrainState, stepper: Stepper, step: int, watch: _Watch, notice: preempt.Notice
) -> None:
    """Evaluate and save after a step, where that is due. Told to end, save the step in any case and end."""
    config = job.config
    is_best = False
    if _is_due(step, config.eval_every, job.steps) and not notice.came():
        is_best = _evaluate(job, stepper, step, watch)
    is_due = is_best or _is_due(step, config.save_every, job.steps)
    is_told = notice.came()
    if is_due or is_told:
        _save(job, state, step, stepper.ranks, is_extra=not is_due)
    if is_told:
        saved = f"SIGTERM: {checkpoint.name_of(step)} of {job.steps} steps is saved"
        _say(watch.log, f"{saved}; {_AGAIN_FROM_IT}")
        preempt.end()


def _catch_up(job: Job, state: TrainState, stepper: Stepper, step: int, watch: _Watch) -> None:
    """Evaluate after the step that a run goes on from, where that was due and was left out at SIGTERM."""
    ranks = stepper.ranks
    is_due = _is_due(step, job.config.eval_every, job.steps)
    if not is_due or ranks.from_first(lambda: preempt.is_evaluated(job.folder, step)):
        return
    if _evaluate(job, stepper, step, watch):
        # Its checkpoint was one too many until now.
        ranks.from_first(lambda: checkpoint.remove(job.folder, step, job.source))
        _save(job, state, step, ranks)


def _save(job: Job, state: TrainState, step: int, ranks: Ranks, *, is_extra: bool = False) -> None:
    """Write the checkpoint of a step. `is_extra`: it was not due."""
    checkpoint.save(
        job.folder,
        step,
        state,
        source=job.source,
        keep=job.config.keep,
        ranks=ranks,
        is_extra=is_extra,
        best=lambda: best.choose(job.folder, job.config, step),
    )


def _is_due(step: int, every: int, last: int) -> bool:
    """True at every `every`-th step (never for 0) and at the last one."""
    return step == last or (every > 0 and step % every == 0)


def _share_of_epoch(job: Job, step: int) -> float:
    """How much of its epoch is done after a step."""
    each = data.steps_per_epoch(job.pairs, job.config.batch_size)
    return (1 + (step - 1) % each) / each


def _say(log: metrics.Log | None, text: str | None) -> None:
    """Print a line, if there is one, on the rank that has the log."""
    if log and text:
        log.say(text)


def _first_line(job: Job, start: int, ranks: Ranks) -> str:
    """What is trained on how much, printed before the first step."""
    pairs = job.pairs
    resumed = f", from step {start} on" if start else ""
    how = f"{job.config.optimizer}, forward in {job.config.dtype}"
    if ranks.world_size > 1:
        how += f", {job.config.parallel} on {ranks.world_size} ranks"
    if losses.lora_of(job.config):
        how += ", an adapter ([train.lora])"
    return (
        f"{job.folder.name}: {job.config.loss} on {pairs.folder.name}, "
        f"{pairs.count('train'):,} pairs to train on, {pairs.count('test'):,} held out; "
        f"{job.steps} steps of {job.config.batch_size} pairs{resumed}; {how}"
    )


def _evaluate(job: Job, stepper: Stepper, step: int, watch: _Watch) -> bool:
    """Write the metrics over the test split, if there is one, as eval_*, and sampled answers.

    Returns True, on every rank, where the policy is the best so far by train.metric_for_best_model."""
    if not job.pairs.count("test"):
        return False
    values = evaluate(stepper, job.pairs)
    named = {f"eval_{name}": value for name, value in values.items()}
    answers: list[dict[str, str]] = []
    # Only where a pass takes all ranks do the others generate too.
    if watch.sampler and (stepper.ranks.first or stepper.parallel.shards):
        generate = watch.sampler.greedy(stepper.parallel.look, stepper.parallel.shards)
        answers = watch.sampler.answers(generate)
    if watch.log:
        _write_evaluation(watch.log, step, named, answers)
    return step > 0 and watch.best is not None and watch.best.take(step, named)


def _write_evaluation(
    log: metrics.Log, step: int, values: dict[str, float], answers: list[dict[str, str]]
) -> None:
    """Put an evaluation on record, and a line of it on the screen."""
    log.write(step, values)
    if answers:
        log.show(step, answers)
    log.say(
        f"test at step {step}: loss {values['eval_loss']:.4f}  "
        f"accuracy {values['eval_rewards/accuracies']:.3f}  margin {values['eval_rewards/margins']:.4f}  "
        f"logps chosen {values['eval_logps/chosen']:.1f} rejected {values['eval_logps/rejected']:.1f}"
    )
