"""A run has made its last step: its card, and the manifest by which it counts as finished."""

from schemas.digest import sha256_file
from schemas.identity import weights_digest
from schemas.manifest import MANIFEST, METRICS, Facts, json_bytes
from schemas.sealed import seal
from schemas.trainings import record
from trainer import adapter_files, card
from trainer.disk import at
from trainer.job import Job


def finish(job: Job) -> None:
    """Write the card, then the manifest. Raises UserError where the disk refuses one."""
    card.write(job)
    write_manifest(job, _digest_of_last(job))


def write_manifest(job: Job, weights: str) -> None:
    """Say that the run is finished, and what came of it. Raises UserError for a record that is damaged."""
    folder = job.folder
    metrics: dict[str, float] = {}
    for line in record.read(folder):
        metrics |= line
    manifest: Facts = {
        "facts": job.facts,
        "steps": job.steps,
        "checkpoint": job.last.name,
        "weights": weights,
        "metrics": metrics,
        record.DIGEST: sha256_file(folder.local_path(METRICS)),
    }
    with at(folder.where(MANIFEST)):
        folder.put(MANIFEST, json_bytes(seal(manifest)))


def _digest_of_last(job: Job) -> str:
    """The digest of the weights that the run ends with."""
    if adapter_files.is_checkpoint(job.last):
        return adapter_files.weights_digest(job.last, job.facts["policy"]["weights"])
    return weights_digest(job.last)
