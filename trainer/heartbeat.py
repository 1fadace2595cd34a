"""A sign of life of every rank, so that one that was stopped does not block the others for long.

- A thread of each rank counts in the store of torch.distributed, once a second, and reads the others' counts.
  It runs while its rank computes, saves or waits: a slow rank gives signs, a stopped one does not.
- A rank that waits in a collective cannot be told anything. So where another has been silent for too long the
  thread says which one and ends its own process, with status 1.
- The store is on one machine. A rank on another one ends as well where the store has not answered for as
  long: a call to it may wait much longer than its limit once the network is gone, so that is seen by a second
  thread.
- Before that, each rank waits until all have come, and no longer than it was told.
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

from schemas.errors import UserError
from trainer.launcher import end

_SECONDS_BETWEEN = 1.0
_SECONDS_BETWEEN_LOOKS = 0.1  # while the ranks come together
# Where the store is gone its holder has ended. A run that is over ends within this by itself.
_GRACE = 10.0
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

    `store`: torch.distributed's own. Every rank makes a heartbeat. `again`: what the user can do once it has
    ended the process."""

    def __init__(self, store: Any, rank: int, world_size: int, limit: float, again: str):
        self._store = store.clone()  # a connection of its own
        self._store.set_timeout(datetime.timedelta(seconds=limit))
        self._rank = rank
        self._keys = [f"beat/{other}" for other in range(world_size)]
        self._limit = limit
        self._again = again
        # torchrun holds the store in a process of its own; whether that one is stopped does not matter.
        self._is_held_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._is_held_by_first = not self._is_held_by_torchrun and rank > 0
        self._holder = "torchrun" if self._is_held_by_torchrun else "rank 0"
        machine = os.environ.get("GROUP_RANK", "0")  # torchrun's on machine 0 holds it
        self._is_held_elsewhere = self._is_held_by_first or (self._is_held_by_torchrun and machine != "0")
        self._answered = time.monotonic()  # when the store did, last
        self._between = min(_SECONDS_BETWEEN, limit / 10)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._watch = threading.Thread(target=self._watch_store, name="heartbeat store", daemon=True)

    def start(self, within: float) -> None:
        """Give the first sign, wait until every rank has given one, and begin to give more.

        Raises UserError, which names the ranks that have not come `within` so many seconds."""
        self._store.set(self._keys[self._rank], "0")
        until = time.monotonic() + within
        missing = list(range(len(self._keys)))
        while missing:
            missing = [rank for rank in missing if not self._store.check([self._keys[rank]])]
            if missing and time.monotonic() > until:
                named = ", ".join(map(str, missing))
                raise UserError(
                    f"rank {named} has not come after {within:g} s: its process has ended, was stopped or is "
                    f"slow to start; end it (or raise train.timeout), then {self._again}"
                )
            if missing:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        self._answered = time.monotonic()
        self._thread.start()
        if self._is_held_elsewhere:
            self._watch.start()

    def stop(self) -> None:
        """Give no more signs; the others do not wait for any.

        Waits for a call that is under way: a thread in the store when Python ends makes that an abort."""
        self._ended.set()
        self._thread.join(min(_GRACE, self._limit))

    def _beat(self) -> None:
        listener = Listener(len(self._keys), self._limit, self._between, time.monotonic())
        count = 0
        while not self._ended.wait(self._between):
            count += 1
            try:
                self._store.set(self._keys[self._rank], str(count))
                counts = [value.decode() for value in self._store.multi_get(self._keys)]
                self._answered = time.monotonic()
            except RuntimeError as error:
                if "timeout" not in str(error):
                    self._end_without_store()
                    return
                counts = []
            silent = listener.hear(counts, time.monotonic())
            if silent and not self._ended.is_set():
                self._give_up(silent)
        with contextlib.suppress(RuntimeError):
            self._store.set(self._keys[self._rank], _LEFT)

    def _watch_store(self) -> None:
        """End this process where a store on another machine has not answered for too long."""
        looked = time.monotonic()
        while not self._ended.wait(self._between):
            now = time.monotonic()
            if now - looked > _AWAY * self._between:
                self._answered = now  # we were away ourselves
            looked = now
            if now - self._answered > self._limit and not self._ended.is_set():
                self._give_up_store()

    def _give_up_store(self) -> None:
        """Say that the store cannot be reached, on one rank of this machine, and end this process."""
        # Rank 1 where the first rank of its machine is the one that is lost.
        speaks = os.environ.get("LOCAL_RANK", "0") == "0" or self._rank == 1
        if not speaks:
            time.sleep(2 * self._between)
            os._exit(1)
        address = os.environ.get("MASTER_ADDR", "another machine")
        end(
            f"{self._holder} on {address}, which holds the ranks' common store, has not answered for "
            f"{self._limit:g} s (train.timeout): it was stopped, or its machine cannot be reached; end what "
            f"is left there, then {self._again}"
        )

    def _end_without_store(self) -> None:
        """End this process where whoever held the store has ended, unless the run is over as well."""
        if not self._ended.wait(_GRACE):
            end(f"{self._holder} has ended, and this rank ends with it; {self._again}")

    def _give_up(self, silent: Sequence[int]) -> None:
        """Say which ranks are silent, and end this process from within the thread."""
        named = ", ".join(map(str, silent))
        speaker = min(set(range(len(self._keys))) - set(silent))
        if self._rank != speaker:
            # Where one rank ends torchrun ends the others: the one that speaks comes first.
            time.sleep(2 * self._between)
            os._exit(1)
        end(
            f"rank {named} has given no sign of life for {self._limit:g} s (train.timeout): its process was "
            f"stopped, or its machine cannot be reached; end it, then {self._again}"
        )
