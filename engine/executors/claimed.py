"""The shards of a phase that this command makes: those that no other command has in hand.

What another one has in hand is passed over, and looked at again when all else is done.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

from engine.jobs import Job
from schemas.blocks import SHARDS


class ClaimedShards:
    """Implements Shards and Countable of `engine.executors.deal`. Several threads may take."""

    def __init__(self, job: Job, shards: Iterable[int], many_made: Callable[[], None]):
        """`many_made` is called whenever so many shards have ended as a block has."""
        self._job = job
        self._many_made = many_made
        self._made = 0
        self._waiting = deque(shards)
        self._lock = threading.Lock()
        self.with_others: list[int] = []

    def take(self) -> int | None:
        """The next shard, claimed. Raises UserError where this command was taken for dead."""
        with self._lock:
            self._job.check()
            while self._waiting:
                shard = self._waiting.popleft()
                if self._job.claim(shard):
                    return shard
                self.with_others.append(shard)
            return None

    def ended(self, shard: int) -> None:
        with self._lock:
            self._job.release(shard)
            self._made += 1
            is_block = self._made % SHARDS == 0
        if is_block:
            self._many_made()

    def stop(self) -> None:
        """Nobody waits in `take`."""

    def left(self) -> int:
        return len(self._waiting)
