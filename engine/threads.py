"""How many threads a model on the CPU has: as many in a run that goes on as in the one that began it.

Sums are in another order with another number of threads, and log-probs differ in their last digits. So the
plan keeps the number: however many shards are left, and however many workers make them, the bytes are those
of a run that was never killed.
"""

import logging

from engine.plan import Run
from schemas.devices import cores
from schemas.manifest import marker_names
from schemas.plans import planned_threads

_log = logging.getLogger("prefmill")


def threads_of(run: Run, workers: int) -> int:
    """Threads of a model in each of so many workers (0: one) that share this machine's cores.

    Those of the plan, as long as rows that a model made are there and the machine has so many cores."""
    side_by_side = max(1, min(workers, run.shards))
    threads = max(1, cores() // side_by_side)
    before = planned_threads(run.store)
    if before is None or before == threads or not _has_rows_of_a_model(run):
        return threads
    if before > cores():
        _log.warning(
            "the run was begun with %d threads, and this machine has %d cores: log-probs of what is made now "
            "may differ in their last digits from those that it would have had",
            before,
            cores(),
        )
        return threads
    return before


def _has_rows_of_a_model(run: Run) -> bool:
    """True if a shard of a stage that opens a model is finished."""
    with_models = [stage for stage in run.stages if stage.name in run.models]
    return any(marker_names(run.folder(stage)) for stage in with_models)
