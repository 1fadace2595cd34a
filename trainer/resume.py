"""Where a training run goes on from, and its folder made ready for that.

Rank 0 does it alone, under the folder's lock. It goes on from the newest checkpoint that is whole. A damaged
one is named and removed: the steps that are trained again make it again, with the same bytes.
"""

import contextlib
import errno

from schemas.manifest import FACTS, MANIFEST, RECIPE, json_bytes
from schemas.recipe import dump
from schemas.screen import say
from schemas.trainings import record
from trainer import best, checkpoint
from trainer.disk import at
from trainer.fitting import RECORD
from trainer.job import Job, as_of_autocast, check_watched, note_versions, version_remarks

# How a disk says that it may not be written.
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def begin(job: Job, resume: bool, held: contextlib.ExitStack) -> int | None:
    """The step to go on from, 0 for the start; None where the run is finished.

    `held` holds the folder's lock until it is closed. Raises UserError where another process holds it, or
    where the record of a finished run is damaged."""
    folder = job.folder
    with at(folder.where()):
        try:
            held.enter_context(folder.lock("trainer run"))
        except OSError as error:
            # A finished run is told from a disk that may only be read, too.
            if error.errno in _READ_ONLY and resume and _is_finished(job):
                return None
            raise
        if not (resume and _is_finished(job)):
            check_watched(job)
        folder.sweep()
        if not resume:
            _start_again(job)
        for name in checkpoint.strangers(folder, job.steps):
            say(f"{folder.where(name)} is no checkpoint of this run; what is in it stays")
        if _is_finished(job):
            kept = best.choose_whole(folder, job.config, job.steps, job.source, finished=True)
            checkpoint.prune(folder, job.config.keep, job.steps, job.source, kept)
            return None
        if folder.exists(MANIFEST) and record.manifest(folder) is None:
            say(f"{folder.where(MANIFEST)} is not as it was written; written again")
        start = _newest_whole(job)
        if start < job.steps:
            folder.remove(MANIFEST)  # of a run that was finished, and is not any more
        # A run that was killed between its last checkpoint and this left one too many.
        kept = best.choose_whole(folder, job.config, start, job.source, finished=False)
        checkpoint.prune(folder, job.config.keep, job.steps, job.source, kept)
        for line in version_remarks(job):
            say(line)
        folder.put(FACTS, json_bytes(job.facts))
        folder.put(RECIPE, dump(job.recipe))
        note_versions(job, goes_on=start > 0)
    return start


def is_finished_with_autocast(job: Job) -> bool:
    """True if the run was finished when a pass in half precision was autocast: such a run stays finished.

    One that is not is begun anew, in a folder of its own. Raises UserError as `begin` does."""
    earlier = as_of_autocast(job)
    return earlier is not None and earlier.folder.exists() and _is_finished(earlier)


def _start_again(job: Job) -> None:
    """Remove what the run was, the manifest first: without it nothing is taken for finished."""
    job.folder.remove(MANIFEST)
    job.folder.remove(RECORD)
    for step in checkpoint.steps(job.folder, job.steps):
        checkpoint.remove(job.folder, step, job.source)


def _is_finished(job: Job) -> bool:
    """True if all is there and as it was written. Digests of files that did not change are remembered."""
    folder = job.folder
    manifest = record.manifest(folder)
    if manifest is None or job.steps not in checkpoint.steps(folder, job.steps):
        return False
    record.check(folder, manifest)
    damaged = checkpoint.damage(folder, job.steps, record.weights(folder, job.steps), afresh=False)
    facts_are_whole = folder.exists(FACTS) and folder.read(FACTS) == json_bytes(job.facts)
    return facts_are_whole and damaged is None


def _newest_whole(job: Job) -> int:
    """The step of the newest whole checkpoint, or 0; those after it are named and removed."""
    folder = job.folder
    start = 0
    damaged: list[str] = []
    for step in reversed(checkpoint.steps(folder, job.steps)):
        found = checkpoint.damage(folder, step, record.weights(folder, step), afresh=True)
        if found is None:
            start = step
            break
        damaged.append(f"{folder.where(checkpoint.name_of(step))} is damaged: {found}")
    again = f"trained again from step {start} on" if start else "trained again from the start"
    for sentence in damaged:
        say(f"{sentence}; {again}")
    for step in checkpoint.steps(folder, job.steps):
        if step > start:
            checkpoint.remove(folder, step, job.source)
    return start
