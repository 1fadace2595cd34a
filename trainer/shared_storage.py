"""Ranks on several machines, and the run folder on storage that they share (NFS and the like).

Rank 0 alone locks and writes. The other ranks read: the plan, the pairs, the model, and the checkpoint that
the run goes on from. A machine may show for a while what a folder held before, so a rank waits until it sees
that checkpoint as rank 0 does.
"""

import socket
import time
from collections.abc import Callable

from schemas.checkpoints import STATE
from schemas.digest import sha256_file
from schemas.errors import UserError
from trainer import checkpoint
from trainer.dist import Ranks
from trainer.job import Job

# NFS asks again within 60 s whether a folder has changed (acdirmax).
_SECONDS = 90.0
_SECONDS_BETWEEN_LOOKS = 0.5


def on_all(ranks: Ranks, plan: Callable[[], Job]) -> Job:
    """The run as every rank plans it from what it reads. Weights are read by one rank of each machine.

    Raises UserError where the ranks plan different runs."""
    job = ranks.machine_first(plan)
    names = ranks.gather([job.folder.name])
    for rank, name in enumerate(names):
        if name != names[0]:
            raise UserError(
                f"rank 0 is to train {names[0]} and rank {rank} {name}: give all of them the same command, "
                "and a run folder and a model that are the same on all machines",
                shared=True,
            )
    return job


def wait_for_checkpoint(job: Job, start: int, ranks: Ranks) -> None:
    """Wait until every rank sees the checkpoint that rank 0 goes on from; nothing is waited for at step 0.

    Raises UserError, on all ranks, where one of them does not see it."""
    if not start or ranks.world_size == 1:
        return
    state = job.folder.local_path(checkpoint.name_of(start)) / STATE
    wanted = ranks.from_first(lambda: sha256_file(state))
    until = time.monotonic() + _SECONDS
    blind: list[str] = []
    while _digest_of(job, start) != wanted:
        if time.monotonic() > until:
            blind.append(f"rank {ranks.rank} on {socket.gethostname()}")
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    blind = ranks.gather(blind)
    if blind:
        raise UserError(
            f"{blind[0]} does not see {state.parent} as rank 0 does: put the run folder on storage that all "
            "machines share",
            shared=True,
        )


def _digest_of(job: Job, start: int) -> str | None:
    """The sha256 of a checkpoint's state.json as this rank sees it; None where it sees none."""
    try:
        return sha256_file(job.folder.local_path(checkpoint.name_of(start)) / STATE)
    except OSError:
        return None
