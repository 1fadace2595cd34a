"""Model, optimizer and schedule as training begins with them, or goes on with them from a checkpoint."""

from dataclasses import replace
from pathlib import Path

from torch.optim.lr_scheduler import LRScheduler

from trainer import checkpoint
from trainer.dist import Ranks
from trainer.job import Job
from trainer.lora import adapter_of
from trainer.opening import open_policy
from trainer.optimizers import make_optimizer
from trainer.parallel import Parallel
from trainer.schedules import make_schedule
from trainer.state import TrainState, dtype_of, restore


def load_state(job: Job, start: int, ranks: Ranks) -> TrainState:
    """The state of the beginning, or of the checkpoint of step `start`; every rank calls it.

    Raises UserError where the model or the checkpoint does not load."""
    config = job.config
    parallel = _open(job, start, ranks)
    optimizer = make_optimizer(parallel.policy, config)
    warmup_steps = config.warmup_steps or round(config.warmup_ratio * job.steps)
    scheduler: LRScheduler = make_schedule(optimizer, config.schedule, warmup_steps, job.steps)
    state = TrainState(parallel, optimizer, scheduler, _save_dtype(job, parallel))
    if start:
        restore(job.folder.child(checkpoint.name_of(start)), state)
    return state


def _open(job: Job, start: int, ranks: Ranks) -> Parallel:
    """The policy as it was after step `start`."""
    model = job.recipe.section("model")
    adapter = adapter_of(job.config, model, job.recipe.seed)
    source: Path = job.source
    if start:
        saved = job.folder.local_path(checkpoint.name_of(start))
        if adapter:
            adapter = replace(adapter, folder=saved)
        else:
            source = saved
    return open_policy(source, job.config, ranks, adapter, model.quantization)


def _save_dtype(job: Job, parallel: Parallel) -> str:
    """The dtype of checkpoints: the model's own where [train] leaves it open; an adapter is kept whole."""
    config = job.config
    if config.save_dtype != "auto":
        return config.save_dtype
    if parallel.policy.adapter is not None:
        return config.weights
    return dtype_of(job.source)
