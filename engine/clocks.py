"""How long commands worked on a run: clock.<token>.json in its folder, one for each that was not killed.

Shards, markers and manifests hold no time, so that the same inputs give the same bytes. These files are no
part of what was made: nothing depends on them, and a run without them is a whole run.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from schemas.errors import UserError
from schemas.leases import new_token
from schemas.store import Store

_FILES = "clock.*.json"


@dataclass
class Spent:
    """What a stage did with its model: shards made, responses, their tokens, seconds of waiting."""

    shards: int = 0
    responses: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, other: Mapping[str, float]) -> None:
        """Add what one command wrote. Raises KeyError, TypeError or ValueError where it is none of ours."""
        self.shards += int(other["shards"])
        self.responses += int(other["responses"])
        self.tokens += int(other["tokens"])
        self.seconds += float(other["seconds"])


@dataclass
class Worked:
    """What all commands say together. `seconds`: of the clock, those of commands side by side added up."""

    commands: int = 0
    seconds: float = 0.0
    began: str = ""  # the first one's date
    stages: dict[str, Spent] = field(default_factory=dict)


@contextlib.contextmanager
def clocked(run: Store, spent: Callable[[], Mapping[str, Spent]]) -> Iterator[None]:
    """Write down how long the block took, also where it is ended, and what each stage did meanwhile.

    Where the block fails, its error is the one to be told of, not that this cannot be written."""
    began = datetime.now(UTC)
    start = time.monotonic()

    def write() -> None:
        value = {
            "began": began.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - start, 3),
            "stages": {stage: vars(done) for stage, done in spent().items()},
        }
        run.put(f"clock.{new_token()}.json", (json.dumps(value, indent=1) + "\n").encode())

    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, UserError):
            write()
        raise
    write()


def read(run: Store) -> Worked:
    """What the commands wrote down; a file that is damaged is left out."""
    worked = Worked()
    for name in run.names(_FILES):
        try:
            _add(worked, json.loads(run.read(name)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FileNotFoundError):
            continue
    return worked


def _add(worked: Worked, one: Mapping[str, object]) -> None:
    seconds, began, stages = one["seconds"], one["began"], one["stages"]
    if not isinstance(seconds, float | int) or not isinstance(began, str) or not isinstance(stages, dict):
        raise ValueError("none of ours")
    for stage, spent in stages.items():
        worked.stages.setdefault(stage, Spent()).add(spent)
    worked.commands += 1
    worked.seconds += seconds
    worked.began = min(filter(None, (worked.began, began)))
