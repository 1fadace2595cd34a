"""Stand-ins for engines on GPUs: they take a set time for each prompt, in which the CPU has nothing to do.

`install` puts them in the place of the models that a run opens, in this process and in its workers, which
import this module as a package that brings prompts and SQL. Each engine serves one call at a time and writes
down when it was busy.
"""

import os
import threading
import time
from pathlib import Path

import numpy as np

LOG = "PREFMILL_STANDIN_LOG"
SECONDS_A_ROW = "PREFMILL_STANDIN_SECONDS"
ENGINES = "PREFMILL_STANDIN_ENGINES"


class StandIn:
    """Implements `engine.models.Model`: texts that the sandbox's world can read, log-probs of -1."""

    def __init__(self, resolved, place: str):
        self.text = resolved.open_text()
        self._place = place
        self._seconds = float(os.environ[SECONDS_A_ROW])
        self._engine = threading.Lock()

    def generate(self, prompts, seeds, sampling, progress=None):
        """`sampling.n` short texts for each prompt, which tell their seed."""
        from engine.models import Sample

        self._work(len(prompts))
        samples = []
        for own in seeds:
            group = []
            for seed in own[: sampling.n]:
                ids = self.text.tokenizer.encode(f"{seed % 1000}", add_special_tokens=False)
                ids = [*ids, min(self.text.stop_ids)]
                group.append(Sample(ids, np.full(len(ids), -1, np.float32), "stop"))
            samples.append(group)
        return samples

    def logprobs(self, prompts, responses, progress=None):
        """Log-probs in no time: what is measured is generation."""
        found: list[list[np.ndarray]] = []
        for group in responses:
            found.append([np.full(len(response), -1, np.float32) for response in group])
        return found

    def close(self) -> None:
        pass

    def _work(self, rows: int) -> None:
        with self._engine:
            begun = time.time()
            time.sleep(rows * self._seconds)
            with open(os.environ[LOG], "a") as log:
                log.write(f"{self._place} {begun} {time.time()}\n")


def install() -> None:
    """Let every model that is opened from now on be a stand-in."""
    from engine.executors import local, phases
    from schemas.extensions import hand_over

    hand_over(__name__, Path(__file__).parent)
    phases.open_model = lambda model, place, threads, planned=None: StandIn(model, place)
    local.places = lambda spec: [f"cuda:{number}" for number in range(int(os.environ[ENGINES]))]


def said(log: Path) -> dict[str, object]:
    """The share of time in which engines worked, and how many calls each had.

    Between an engine's first call and its last only the CPU stages can starve it. `share` counts from the
    first call of all to the last answer of all, with starts and the tail."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text().splitlines():
        place, begun, ended = line.split()
        spans.setdefault(place, []).append((float(begun), float(ended)))
    every = [span for of_engine in spans.values() for span in of_engine]
    first = min(begun for begun, _ in every)
    last = max(ended for _, ended in every)
    worked = sum(ended - begun for begun, ended in every)
    started = max(min(begun for begun, _ in of_engine) for of_engine in spans.values())
    after_start = sum(max(0.0, ended - max(begun, started)) for begun, ended in every)
    own_times = 0.0
    for of_engine in spans.values():
        own_times += max(ended for _, ended in of_engine) - min(begun for begun, _ in of_engine)
    return {
        "share_between_first_and_last_call": worked / own_times,
        "share": worked / (len(spans) * (last - first)),
        "share_once_all_have_started": after_start / (len(spans) * (last - started)),
        "shards": {place: len(of_engine) for place, of_engine in sorted(spans.items())},
        "seconds": last - first,
    }


if os.environ.get(LOG) and os.environ.get(ENGINES):
    install()  # in a worker
