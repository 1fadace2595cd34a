"""Which worker makes which shard next: what executors share that have several workers.

- A worker without a shard gets one at once. Another one on top, whose requests fill the engine while the last
  long answers of the first finish, it gets only once every worker has one, and not of the last shards: those
  are for whoever is through first.
- The shards of a worker that died are given out again, before all others, each to a worker that has no other
  beside it: so that one of them which kills workers takes no innocent one along. One that was in the hands of
  three that died is taken for the cause.
- Nobody is told that there is no more before all that was given out is finished.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

DEATHS = 3  # of workers with the same shard in their hands before it is taken for the cause


@dataclass(frozen=True)
class Room:
    """What an executor has to work on: how many workers there is room for, and on how many machines."""

    workers: int
    machines: int = 1


class Shards(Protocol):
    """Shards to be made, one after another. Several threads may ask."""

    def take(self) -> int | None:
        """The next one; None where there are no more."""
        ...

    def ended(self, shard: int) -> None:
        """A shard that was taken is made."""
        ...

    def stop(self) -> None:
        """Nothing more is wanted: who waits in `take` is told at once that there is no more."""
        ...


class Countable(Protocol):
    """Shards of which it is known how many there still are: `take` and `ended` are those of Shards."""

    def take(self) -> int | None: ...

    def ended(self, shard: int) -> None: ...

    def left(self) -> int:
        """How many may still come."""
        ...


@dataclass
class _Hand:
    """What a worker has: shards, and places for more."""

    shards: list[int] = field(default_factory=list)
    asks: bool = False


Worker = TypeVar("Worker", bound=Hashable)


class Deal(Generic[Worker]):
    """Deals shards to workers that ask for them. Processes and messages are the executor's business."""

    def __init__(self, shards: Countable):
        self._shards = shards
        self._again: list[int] = []  # of workers that died
        self._deaths: dict[int, int] = {}  # shards that are not made yet -> workers that died with them
        self._hands: dict[Worker, _Hand] = {}

    def join(self, worker: Worker) -> None:
        """A worker is there, or will be soon."""
        self._hands[worker] = _Hand()

    def ask(self, worker: Worker) -> None:
        """The worker has room for a shard."""
        self._hands[worker].asks = True

    def ended(self, worker: Worker, shard: int) -> None:
        """The worker has made a shard."""
        self._hands[worker].shards.remove(shard)
        self._deaths.pop(shard, None)
        self._shards.ended(shard)

    def leave(self, worker: Worker) -> list[int]:
        """The worker is gone, and its shards are to be given out again; which these are."""
        hand = self._hands.pop(worker)
        for shard in hand.shards:
            self._deaths[shard] = self._deaths.get(shard, 0) + 1
        self._again += hand.shards
        return hand.shards

    def held(self, worker: Worker) -> list[int]:
        """The shards that the worker has in hand."""
        return list(self._hands[worker].shards)

    def unfinished(self) -> int:
        """How many shards are not made yet: in hand, to be dealt again, and those that may still come."""
        in_hand = sum(len(hand.shards) for hand in self._hands.values())
        return in_hand + len(self._again) + self._shards.left()

    def cause_of_deaths(self) -> int | None:
        """A shard with which too many workers have died."""
        for shard, deaths in self._deaths.items():
            if deaths >= DEATHS:
                return shard
        return None

    def next(self) -> tuple[Worker, int | None] | None:
        """Whom to give what: a shard, or None for the end. None where nobody is to be given anything now."""
        asking = [worker for worker, hand in self._hands.items() if hand.asks]
        for worker in sorted(asking, key=lambda one: len(self._hands[one].shards)):
            hand = self._hands[worker]
            if hand.shards and not self._may_have_a_second(hand):
                continue
            shard = self._again.pop(0) if self._again else self._shards.take()
            if shard is not None:
                hand.asks = False
                hand.shards.append(shard)
                return worker, shard
            if not any(hand.shards for hand in self._hands.values()):
                hand.asks = False
                return worker, None
        return None

    def _may_have_a_second(self, hand: _Hand) -> bool:
        """True if a worker may have a shard beside those in its hand."""
        if self._again or any(shard in self._deaths for shard in hand.shards):
            return False  # what workers have died with is given, and left, alone
        everyone_has_one = all(hand.shards for hand in self._hands.values())
        return everyone_has_one and self._shards.left() >= len(self._hands)
