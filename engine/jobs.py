"""The commands at work on one run, and which of them makes a shard.

    job-<token>.json     a command at work: a lease (schemas/leases.py)
    claim-00007.json     the job that makes shard 7 now

Both lie in the run's folder as long as they hold, and are no part of what is made. A claim holds as long as
its job lives; so a job that dies costs the shards that it had in hand, and no other job waits longer for them
than it takes to see that it is dead. Two jobs never write a shard at once, unless one was taken for dead that
was only cut off for a minute: then the later one's files are those that count, and a marker that does not fit
them makes the shard anew at the next command.
"""

import contextlib
import json
from collections.abc import Iterator

from schemas.leases import Beats, Holder, Lease, Watch, holder_in, new_token
from schemas.manifest import shard_name
from schemas.store import Store

WHO = "engine precompute"
# Held for a time by one job of several.
SETTING_UP = "lease-setup.json"
SCANNING = "lease-scan.json"
ENDING = "lease-end.json"


class Job:
    """This command, as one of those at work on a run."""

    def __init__(self, run: Store):
        self._run = run
        self._token = new_token()
        self._lease = Lease(run, _job_name(self._token), WHO, self._token)
        self._beats = Beats(self._lease)
        self._watch = Watch()
        self._claimed: set[int] = set()

    def begin(self) -> None:
        """Be seen by the others."""
        holder = self._lease.take()
        assert holder is None, "two jobs have one token"
        self._beats.start()

    def end(self) -> None:
        """Give back all that is claimed, and be gone."""
        self._beats.stop(self._give_back)

    def _give_back(self) -> None:
        for shard in sorted(self._claimed):
            self.release(shard)
        self._lease.release()

    def check(self) -> None:
        """Raise UserError where another job has taken this one for dead."""
        self._beats.check()

    def others(self) -> list[Holder]:
        """The other jobs that are alive. What dead ones left is removed."""
        alive: list[Holder] = []
        for name in self._run.names("job-*.json"):
            if name == _job_name(self._token):
                continue
            holder = self._living(name)
            if holder is not None:
                alive.append(holder)
        return alive

    def _living(self, name: str) -> Holder | None:
        """The job of a file, if it is alive; else the file is gone afterwards."""
        try:
            seen = self._run.read(name)
        except FileNotFoundError:
            return None
        if not self._watch.is_dead(seen):
            return holder_in(seen)
        # Replaced first: a job that was only slow sees at its next beat that it counts as dead.
        if self._run.replace_if(name, seen, b"{}"):
            self._run.remove(name)
            return None
        return self._living(name)

    def claim(self, shard: int) -> bool:
        """True if this job makes the shard from now on, and no other does."""
        name = _claim_name(shard)
        own = json.dumps({"job": self._token}).encode()
        while not self._run.put_if_absent(name, own):
            try:
                seen = self._run.read(name)
            except FileNotFoundError:
                continue
            token = _job_of(seen)
            if token == self._token:
                break
            if token is not None and self._living(_job_name(token)) is not None:
                return False
            if self._run.replace_if(name, seen, own):
                break
        self._claimed.add(shard)
        return True

    def release(self, shard: int) -> None:
        """Leave the shard to whoever wants it next. A job that counts as dead has nothing to leave."""
        self._claimed.discard(shard)
        if self._beats.error is not None:
            return
        name = _claim_name(shard)
        with contextlib.suppress(FileNotFoundError):
            if _job_of(self._run.read(name)) == self._token:
                self._run.remove(name)

    def holder(self, shard: int) -> Holder | None:
        """The other job that makes a shard now; None where none does."""
        try:
            token = _job_of(self._run.read(_claim_name(shard)))
            return None if token is None else self._living(_job_name(token))
        except FileNotFoundError:
            return None

    def remove_what_the_dead_left(self) -> None:
        """Remove the claims and the leases of jobs that are dead; the caller holds SETTING_UP."""
        for name in (SCANNING, ENDING):
            with contextlib.suppress(FileNotFoundError):
                if self._watch.is_dead(self._run.read(name)):
                    self._run.remove(name)
        for name in self._run.names("claim-*.json"):
            shard = name.removeprefix("claim-").removesuffix(".json")
            if shard.isdigit() and self.claim(int(shard)):
                self.release(int(shard))


@contextlib.contextmanager
def at_work(job: Job) -> Iterator[None]:
    """End a job that has begun. Raises UserError where another one has taken it for dead."""
    try:
        yield
        job.check()
    finally:
        job.end()


def _job_name(token: str) -> str:
    return f"job-{token}.json"


def _claim_name(shard: int) -> str:
    return f"claim-{shard_name(shard)}.json"


def _job_of(claim: bytes) -> str | None:
    """The token of the job that a claim names; None where it names none."""
    try:
        token = json.loads(claim)["job"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return token if isinstance(token, str) and token.isalnum() else None
