"""A sign of life of every rank, so that one that was stopped does not block the others for long.

- A thread of each rank counts in the store of torch.distributed, once a second, and reads the others' counts.
  It runs while its rank computes, saves or waits: a slow rank gives signs, a stopped one does not.
- A rank that waits in a collective cannot be told anything. So where another has been silent for too long the
  thread says which one and ends its own process, with status 1.
- A rank that was itself away for a while (a machine that was suspended) starts listening anew: it cannot know
  what the others did meanwhile.
"""

import contextlib
import datetime
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from schemas.screen import say

_SECONDS_BETWEEN = 1.0
_LEFT = "left"  # instead of a count: this rank has ended by itself
_AWAY = 5  # beats: whoever listens as late as that was away


class Listener:
    """When each rank was last heard, by our own clock. `limit`: seconds of silence that are too many."""

    def __init__(self, world_size: int, limit: float, between: float, now: float):
        self._limit = limit
        self._away = _AWAY * between
        self._counts = [""] * world_size
        self._heard = [now] * world_size
        self._listened = now

    def hear(self, counts: Sequence[str], now: float) -> list[int]:
        """Take in the ranks' counts; returns the ranks that have been silent for too long."""
        was_away = now - self._listened > self._away
        self._listened = now
        silent: list[int] = []
        for rank, count in enumerate(counts):
            if was_away or count in (_LEFT, "") or count != self._counts[rank]:
                self._counts[rank] = count
                self._heard[rank] = now
            elif now - self._heard[rank] > self._limit:
                silent.append(rank)
        return silent


class Heartbeat:
    """A rank's thread that gives signs of life and listens to the others'.

    `store`: torch.distributed's own. Every rank makes a heartbeat, and all of them must have come to `start`
    before any of them goes on."""

    def __init__(self, store: Any, rank: int, world_size: int, limit: float):
        self._store = store.clone()  # a connection of its own
        self._store.set_timeout(datetime.timedelta(seconds=limit))
        self._rank = rank
        self._keys = [f"beat/{other}" for other in range(world_size)]
        self._limit = limit
        # torchrun holds the store in a process of its own; whether that one is stopped does not matter.
        held_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._is_held_by_first = not held_by_torchrun and rank > 0
        self._between = min(_SECONDS_BETWEEN, limit / 10)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Give the first sign, and begin to give more."""
        self._store.set(self._keys[self._rank], "0")
        self._thread.start()

    def stop(self) -> None:
        """Give no more signs; the others do not wait for any."""
        self._ended.set()
        self._thread.join(self._between)

    def _beat(self) -> None:
        listener = Listener(len(self._keys), self._limit, self._between, time.monotonic())
        count = 0
        while not self._ended.wait(self._between):
            count += 1
            try:
                self._store.set(self._keys[self._rank], str(count))
                counts = [value.decode() for value in self._store.multi_get(self._keys)]
            except RuntimeError as error:
                if "timeout" not in str(error):
                    return  # whoever held the store has ended, and so has this run
                counts = []
            silent = listener.hear(counts, time.monotonic())
            if not counts and self._is_held_by_first:
                silent = [0]
            if silent and not self._ended.is_set():
                self._give_up(silent)
        with contextlib.suppress(RuntimeError):
            self._store.set(self._keys[self._rank], _LEFT)

    def _give_up(self, silent: Sequence[int]) -> None:
        """Say which ranks are silent, and end this process from within the thread."""
        named = ", ".join(map(str, silent))
        speaker = min(set(range(len(self._keys))) - set(silent))
        if self._rank == speaker:
            say(
                f"rank {self._rank}: error: rank {named} has given no sign of life for {self._limit:g} s "
                "(train.timeout): its process was stopped, or its machine cannot be reached; end it, then "
                "run the same command: it goes on from the last checkpoint",
                err=True,
            )
        os._exit(1)
