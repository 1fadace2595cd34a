"""The shards of a phase that this command makes: those that no other command has in hand.

What another one has in hand is passed over, and looked at again when all else is done.
"""

import threading
from collections import deque
from collections.abc import Iterable

from engine.jobs import Job


class ClaimedShards:
    """Implements `engine.executors.deal.Countable`. Several threads may take."""

    def __init__(self, job: Job, shards: Iterable[int]):
        self._job = job
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

    def left(self) -> int:
        return len(self._waiting)
