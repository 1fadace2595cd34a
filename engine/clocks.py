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

    def add(self, other: "Spent") -> None:
        """Add what another command did."""
        self.shards += other.shards
        self.responses += other.responses
        self.tokens += other.tokens
        self.seconds += other.seconds


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
        one = _read_one(run, name)
        if one is None:
            continue
        worked.commands += 1
        worked.seconds += one.seconds
        worked.began = min(filter(None, (worked.began, one.began)))
        for stage, spent in one.stages.items():
            worked.stages.setdefault(stage, Spent()).add(spent)
    return worked


def _read_one(run: Store, name: str) -> Worked | None:
    """What one command wrote down; None where it is not as it was written."""
    try:
        value = json.loads(run.read(name))
        began = datetime.fromisoformat(value["began"]).isoformat(timespec="seconds")
        stages = {str(stage): _spent(spent) for stage, spent in value["stages"].items()}
        return Worked(1, _number(value["seconds"]), began, stages)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ArithmeticError, OSError):
        return None


def _spent(value: Mapping[str, float]) -> Spent:
    return Spent(
        shards=int(_number(value["shards"])),
        responses=int(_number(value["responses"])),
        tokens=int(_number(value["tokens"])),
        seconds=_number(value["seconds"]),
    )


def _number(value: object) -> float:
    """A number that is finite and not negative. Raises ValueError for any other."""
    number = float(value)  # type: ignore[arg-type]
    if not 0 <= number < 1e18:
        raise ValueError(f"{number} is none of ours")
    return number
