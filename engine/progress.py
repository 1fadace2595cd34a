"""How far a run is: what stages tell of their work, and what a person is told of it.

- A stage that asks a model says first how many responses it wants, then how many are done, with their tokens:
  those sampled, or those scored together with their prompts.
- How much there is in all is known once every shard of a stage has begun. Before, it is estimated from those
  that have, since shards are alike, and marked with ~.
- A stage's speed is over the time in which it waits for its model, without the model's start: the time until
  its first response is not counted, nor that response.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.clocks import Spent
from schemas.amounts import duration, rounded
from schemas.manifest import Marker


@dataclass(frozen=True)
class Work:
    """What a stage adds to its account: shards begun, responses wanted, responses done, their tokens."""

    stage: str
    shards: int = 0
    wanted: int = 0
    responses: int = 0
    tokens: int = 0


class Progress(Protocol):
    """Is told what is done. Several threads may call it."""

    def shard_done(self, stage: str, marker: Marker) -> None:
        """A shard of a stage is written."""
        ...

    def work(self, work: Work) -> None:
        """A stage has begun, wants, or has done so much more."""
        ...


class StageProgress:
    """What one stage tells of one shard; without a `progress` nobody is told."""

    def __init__(self, stage: str = "", progress: Progress | None = None):
        self._stage = stage
        self._progress = progress

    def begin(self) -> None:
        """The stage begins the shard."""
        self._tell(Work(self._stage, shards=1))

    def want(self, responses: int) -> None:
        """So many more responses are wanted."""
        self._tell(Work(self._stage, wanted=responses))

    def done(self, responses: int, tokens: int) -> None:
        """So many more are done; `tokens` are theirs."""
        self._tell(Work(self._stage, responses=responses, tokens=tokens))

    def _tell(self, work: Work) -> None:
        if self._progress is not None:
            self._progress.work(work)


NO_PROGRESS = StageProgress()


@dataclass
class _Account:
    """A stage's work so far. `shards`: to be made; `seconds`: of waiting for its model."""

    shards: int
    begun: int = 0
    shards_done: int = 0
    wanted: int = 0
    responses: int = 0
    tokens: int = 0
    seconds: float = 0.0
    seconds_to_first: float = 0.0
    first: tuple[int, int] = (0, 0)  # the responses and tokens that came first
    waits_since: float | None = None

    @property
    def all_responses(self) -> int:
        """How many responses all shards want, by those that have begun."""
        return max(self.wanted, round(self.wanted * self.shards / max(self.begun, 1)))

    @property
    def is_known(self) -> bool:
        """True once every shard has said how many responses it wants."""
        return self.begun >= self.shards

    def speed(self) -> tuple[float, float]:
        """Responses and tokens a second; 0 where none is done yet."""
        first_responses, first_tokens = self.first
        if self.responses > first_responses and self.seconds > 0:
            responses = self.responses - first_responses
            tokens = self.tokens - first_tokens
            return responses / self.seconds, tokens / self.seconds
        seconds = self.seconds_to_first + self.seconds
        if self.responses and seconds > 0:
            return self.responses / seconds, self.tokens / seconds
        return 0.0, 0.0

    def all_seconds(self) -> float:
        """The time that all shards take, those done included; 0 where nothing is known."""
        responses_a_second, _ = self.speed()
        return self.all_responses / responses_a_second if responses_a_second else 0.0

    def seconds_spent(self) -> float:
        """The part of `all_seconds` that the responses done stand for."""
        responses_a_second, _ = self.speed()
        return self.responses / responses_a_second if responses_a_second else 0.0

    def units(self) -> float:
        """Shards done, and the parts of those under way."""
        if not self.wanted:
            return self.shards_done
        return max(self.shards_done, self.begun * min(1.0, self.responses / self.wanted))


@dataclass(frozen=True)
class StageRow:
    """A stage under way: `done` of `total` responses, or shards where it asks no model.

    `is_known`: `total` is no estimate; `share`: of all its shards, from 0 to 1; speeds are 0 and the time
    left is None where nothing is known."""

    stage: str
    unit: str
    done: int
    total: int
    is_known: bool
    share: float
    tokens_a_second: float
    seconds_left: float | None


@dataclass
class Meter:
    """Adds up what stages tell. `shards`: stage -> how many of its shards are to be made."""

    shards: Mapping[str, int]
    clock: Callable[[], float] = time.monotonic
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _last: str | None = None  # the stage that told last of responses
    _busy_seconds: float = 0.0  # in which any stage waits for a model that has begun to answer
    _busy_since: float | None = None

    def __post_init__(self) -> None:
        for stage, count in self.shards.items():
            self._accounts[stage] = _Account(count)

    def shard_done(self, stage: str) -> None:
        """A shard of a stage is written."""
        self._accounts[stage].shards_done += 1

    def add(self, work: Work) -> None:
        """Add what a stage tells."""
        now = self.clock()
        self._pass_time(now)
        account = self._accounts[work.stage]
        is_first = work.responses > 0 and account.responses == 0
        account.begun += work.shards
        account.wanted += work.wanted
        account.responses += work.responses
        account.tokens += work.tokens
        if is_first:
            account.first = (work.responses, work.tokens)
            account.seconds_to_first = account.seconds
            account.seconds = 0.0
        if work.wanted or work.responses:
            self._last = work.stage
        account.waits_since = now if account.responses < account.wanted else None
        self._busy_since = now if self._is_busy() else None

    def _is_busy(self) -> bool:
        """True if a stage waits for a model that has begun to answer."""
        return any(one.waits_since is not None and one.responses for one in self._accounts.values())

    def _pass_time(self, now: float) -> None:
        """Count the time since the last call for whoever has been waiting."""
        for account in self._accounts.values():
            if account.waits_since is not None:
                account.seconds += now - account.waits_since
                account.waits_since = now
        if self._busy_since is not None:
            self._busy_seconds += now - self._busy_since
            self._busy_since = now

    def fraction(self) -> float:
        """How much of all shards of all stages is done, from 0 to 1."""
        units = sum(account.units() for account in self._accounts.values())
        return min(1.0, units / max(1, sum(self.shards.values())))

    def shards_text(self) -> str:
        """Shards done, of all."""
        done = sum(account.shards_done for account in self._accounts.values())
        return f"{done:,} of {sum(self.shards.values()):,} shards"

    def seconds_left(self) -> float | None:
        """How long the stages that have begun will still take; None where nothing is known of it."""
        self._pass_time(self.clock())
        spent = sum(account.seconds_spent() for account in self._accounts.values())
        whole = sum(account.all_seconds() for account in self._accounts.values())
        if not spent or whole < spent:
            return None
        # Stages of several workers overlap, so what they spend is more than what passes.
        in_all = sum(account.seconds for account in self._accounts.values() if account.responses)
        share_that_passes = self._busy_seconds / in_all if in_all > 0 else 1.0
        return share_that_passes * (whole - spent)

    def under_way(self) -> list[StageRow]:
        """The stages of which a shard has begun and not every one is done, in the order of the recipe."""
        self._pass_time(self.clock())
        rows: list[StageRow] = []
        for stage, account in self._accounts.items():
            if account.begun and account.shards_done < account.shards:
                rows.append(_row_of(stage, account))
        return rows

    def text(self) -> str:
        """Where the stage is that told last: responses of the total, speed, time left, tokens of the total.

        What matters most comes first: a narrow terminal cuts the rest off."""
        if self._last is None:
            return ""
        left = self.seconds_left()
        account = self._accounts[self._last]
        about = "" if account.is_known else "~"
        said = [f"{self._last} {account.responses:,} of {about}{account.all_responses:,} responses"]
        if account.tokens:
            said.append(f"{rounded(account.speed()[1])} tokens/s")
        if left is not None and left > 0:
            said.append(f"{duration(left)} left")
        if account.tokens:
            tokens = account.tokens * account.all_responses / account.responses
            is_complete = account.is_known and account.responses == account.wanted
            of_all = "" if is_complete else f" of ~{rounded(tokens)}"
            said.append(f"{account.tokens:,}{of_all} tokens")
        return ", ".join(said)

    def spent(self) -> dict[str, Spent]:
        """What each stage has done so far."""
        self._pass_time(self.clock())
        found: dict[str, Spent] = {}
        for stage, account in self._accounts.items():
            seconds = account.seconds + account.seconds_to_first
            found[stage] = Spent(account.shards_done, account.responses, account.tokens, round(seconds, 3))
        return found

    def summary(self) -> list[str]:
        """A line for each stage that has asked a model."""
        self._pass_time(self.clock())
        lines: list[str] = []
        for stage, account in self._accounts.items():
            if not account.responses:
                continue
            said = [f"{account.responses:,} responses"]
            if account.tokens:
                said.append(f"{account.tokens:,} tokens")
                said.append(f"{rounded(account.speed()[1])} tokens/s")
            seconds = account.seconds + account.seconds_to_first
            line = f"{stage}: {', '.join(said)} in {duration(seconds)}"
            lines.append(line)
        return lines


def _row_of(stage: str, account: _Account) -> StageRow:
    share = min(1.0, account.units() / max(1, account.shards))
    if not account.wanted:
        return StageRow(stage, "shards", account.shards_done, account.shards, True, share, 0.0, None)
    left = account.all_seconds() - account.seconds_spent()
    return StageRow(
        stage=stage,
        unit="responses",
        done=account.responses,
        total=account.all_responses,
        is_known=account.is_known,
        share=share,
        tokens_a_second=account.speed()[1],
        seconds_left=left if left > 0 else None,
    )
