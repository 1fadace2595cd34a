"""MLflow, at MLFLOW_TRACKING_URI; without one in the train folder's mlruns/.

- The run is found by a tag with the train folder's name, in the experiment MLFLOW_EXPERIMENT_NAME: one that
  goes on after a kill continues the same run, and is given the points that it does not have yet.
- All calls are made in a thread, one after another: a server that is slow or gone never holds up a step. At
  the end they have `_PATIENCE` seconds.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.tracking import Answer, Tracked, Values

_EXPERIMENT = "prefmill"
_TAG = "prefmill.train_folder"
_FOLDER = "mlruns"
_PATIENCE = 30.0  # seconds
_AT_ONCE = 500  # metrics of one call, at most; MLflow takes 1000
_PARAMS_AT_ONCE = 100
_LONGEST_PARAM = 500  # letters, as MLflow has it
# Where the user sets none: MLflow tries seven times, each two minutes, and calls home.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Mlflow:
    """Implements trainer.tracking.Tracker. A call raises what the thread has failed at before it."""

    def __init__(self, run: Tracked):
        self._failure: Exception | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._copy = _Copy(run)
        self._thread = threading.Thread(target=self._do_all, daemon=True, name="mlflow")
        self._thread.start()
        self._put(self._copy.open)

    def _do_all(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception as error:  # told to whoever calls next
                self._failure = error
                return

    def _put(self, work: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        self._work.put(work)

    def write(self, step: int, values: Values) -> None:
        self._put(lambda: self._copy.write([(step, values)]))

    def show(self, step: int, answers: Sequence[Answer]) -> None:
        self._put(lambda: self._copy.show(step, answers))

    def close(self, finished: bool) -> None:
        self._put(lambda: self._copy.end(finished))
        self._work.put(None)
        self._thread.join(_PATIENCE)
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            raise TimeoutError(f"not all was sent within {_PATIENCE:g} s")


class _Copy:
    """The run in MLflow; used by the thread alone."""

    def __init__(self, run: Tracked):
        self._run = run
        self._client: Any = None
        self._id = ""
        self._steps: dict[str, set[int]] = {}  # of each metric, those that MLflow has

    def open(self) -> None:
        """Find the run or make it, and give it what the record holds and it does not."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=address(self._run.folder.local_path()))
        experiment = self._experiment()
        tagged = f"tags.`{_TAG}` = '{self._run.name}'"
        found = self._client.search_runs([experiment], filter_string=tagged, max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            for name in found[0].data.metrics:
                history = self._client.get_metric_history(self._id, name)
                self._steps[name] = {point.step for point in history}
        else:
            self._make(experiment)
        self.write([(past.step, past.values) for past in self._run.past])
        for past in self._run.past:
            if past.answers:
                self.show(past.step, past.answers)

    def _experiment(self) -> str:
        """The id of the experiment, which is made if it is not there."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _make(self, experiment: str) -> None:
        from mlflow.entities import Param

        made = self._client.create_run(experiment, tags={_TAG: self._run.name}, run_name=self._run.name)
        self._id = made.info.run_id
        facts = {**self._run.facts, "steps": self._run.total}
        params = [Param(name, text[:_LONGEST_PARAM]) for name, text in _flat(facts)]
        for begin in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[begin : begin + _PARAMS_AT_ONCE])

    def write(self, rows: Sequence[tuple[int, Values]]) -> None:
        """Add the values of some steps that MLflow does not have."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics: list[Metric] = []
        for step, values in rows:
            for name, value in values.items():
                steps = self._steps.setdefault(name, set())
                if step not in steps:
                    steps.add(step)
                    metrics.append(Metric(name, value, now, step))
        for begin in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[begin : begin + _AT_ONCE])

    def show(self, step: int, answers: Sequence[Answer]) -> None:
        """Put the answers of a step into a file of the run, in place of one that is there."""
        lines = [json.dumps(dict(answer)) + "\n" for answer in answers]
        self._client.log_text(self._id, "".join(lines), f"eval_samples/step-{step}.jsonl")

    def end(self, finished: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def start(run: Tracked) -> Mlflow:
    """Begin to find or make the run, in a thread."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    folder = run.folder.local_path()
    where = address(folder)
    if where == _own_address(folder):
        # MLflow wants to be told that files are meant, where a data base could be.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        run.say(
            f"MLflow: {folder / _FOLDER}; look with `MLFLOW_ALLOW_FILE_STORE=true mlflow ui "
            f"--backend-store-uri {folder / _FOLDER}`, or set MLFLOW_TRACKING_URI"
        )
    else:
        run.say(f"MLflow: {where}")
    return Mlflow(run)


def address(folder: Path) -> str:
    """Where MLflow's runs are: MLFLOW_TRACKING_URI, else the train folder's own."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_address(folder)


def _own_address(folder: Path) -> str:
    return (folder.resolve() / _FOLDER).as_uri()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (train.beta, text)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
