"""Where the curves go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow (`train.report_to`).

metrics.jsonl is the record; a tracker is a copy of it for people. So:

- a tracker that fails (no network, no login, a full disk) never ends a run nor holds it up for long: it is
  said once, and training goes on without it;
- one that is not installed is refused before anything is loaded, with the name of the extra;
- where a run goes on after a kill, a tracker is given what the record holds up to there, and brings its own
  copy to that: no point is lost and none is there twice;
- none asks a question on the terminal, and only rank 0 has trackers.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from schemas.errors import UserError
from schemas.manifest import Facts
from schemas.sections import Train
from schemas.store import Store

# The package of each, which is also the name of its extra; its module is trainer/trackers/<name>.py.
NAMES = ("tensorboard", "wandb", "mlflow")
_LONGEST_REASON = 300  # letters

Say = Callable[[str], None]
Values = Mapping[str, float]
# A sampled answer, as a line of samples.jsonl without its step: pair_id, prompt, answer, chosen, rejected.
Answer = Mapping[str, Any]


class Past(NamedTuple):
    """What the record holds of one step."""

    step: int
    values: Values
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Tracked:
    """The run that a tracker shows.

    `folder`: its train folder; `start`: the step it goes on from; `total`: its last step; `past`: what the
    record holds up to `start`, in order; `say` prints a line."""

    folder: Store
    start: int
    total: int
    facts: Facts
    past: Sequence[Past]
    say: Say

    @property
    def name(self) -> str:
        """train-<fingerprint>."""
        return self.folder.name


class Tracker(Protocol):
    """One place that curves go to. Any of its methods may raise whatever its library does."""

    def write(self, step: int, values: Values) -> None:
        """Add values of a step; steps come in order, and a step may come more than once."""
        ...

    def show(self, step: int, answers: Sequence[Answer]) -> None:
        """Add the answers that were sampled at a step."""
        ...

    def close(self, finished: bool) -> None:
        """Write out what is still in memory. `finished`: the run has come to its last step."""
        ...


def names_of(config: Train) -> list[str]:
    """The trackers that [train] asks for, in the order of NAMES."""
    wanted = set(config.report_to)
    if config.tensorboard:
        wanted.add("tensorboard")
    return [name for name in NAMES if name in wanted]


def check(config: Train) -> None:
    """Raise UserError where a tracker that is asked for is not installed."""
    for name in names_of(config):
        if not _is_installed(name):
            key = f'train.report_to = ["{name}"]'
            if name not in config.report_to:
                key = "train.tensorboard = true"
            install = f'pip install "prefmill[{name}]"'
            raise UserError(f"{key} needs {name}, which is not installed: {install}")


def _is_installed(package: str) -> bool:
    """True if a package can be imported. A folder of that name with logs in it is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


class Trackers:
    """Those of a run; none of them can end it."""

    def __init__(self, names: Sequence[str], run: Tracked):
        self._say = run.say
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, partial(self._start, name, run))

    def _start(self, name: str, run: Tracked) -> None:
        module = importlib.import_module(f"trainer.trackers.{name}")
        self._open[name] = module.start(run)

    def write(self, step: int, values: Values) -> None:
        """Add values of a step everywhere."""
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.write, step, values))

    def show(self, step: int, answers: Sequence[Answer]) -> None:
        """Add sampled answers everywhere."""
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.show, step, answers))

    def close(self, finished: bool) -> None:
        """Close all of them."""
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.close, finished))
        self._open.clear()

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """Do some work with a tracker; say why and give the tracker up where it fails."""
        try:
            work()
        except Exception as error:  # each library fails in its own ways
            self._open.pop(name, None)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._say(
                f"{name} does not work ({type(error).__name__}: {lines[0][:_LONGEST_REASON]}): training goes "
                "on without it; metrics.jsonl has everything"
            )
