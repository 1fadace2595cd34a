"""What a run holds at this moment, and what of it is not what the recipe asks for (`engine status`)."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from engine import made_with
from engine.gaps import Damage, Looked, survey
from engine.make import read_file
from engine.plan import Run, what_changed
from engine.table_files import files_of, looks
from schemas.contents import Allowance
from schemas.loading import no_garbage
from schemas.manifest import Planned, tried
from schemas.plans import read_plan
from schemas.records import Damaged, what_of
from schemas.store import Store

# Files and bytes that are read to see damage in them, of those that are not known from before.
_MOST_READ = (256, 64 << 20)


@dataclass(frozen=True)
class StageHeld:
    """A stage's folder: how many of its shards are there, with how many rows of each table.

    `damage`: why they cannot be counted, empty where they can."""

    stage: str
    folder: str
    shards: int
    rows: dict[str, int]
    damage: str = ""


@dataclass(frozen=True)
class Rejects:
    """The rows that stages refused, by stage and reason; `unread`: more, in files that were not read.

    `damage`: why they cannot be counted, empty where they can."""

    counts: dict[tuple[str, str], int]
    unread: int = 0
    damage: str = ""


@dataclass
class Condition:
    """All of it; `remarks`: sentences on what is damaged, left out of the look, or of other settings."""

    run: Store
    shards: int
    stages: list[StageHeld]
    remarks: list[str] = field(default_factory=list)
    rejects: Rejects = field(default_factory=lambda: Rejects({}))
    at: float = field(default_factory=time.time)  # when it was looked at

    def add(self, remark: str, say: Callable[[str], None]) -> None:
        """Add a remark, and say it."""
        self.remarks.append(remark)
        say(remark)

    @property
    def is_complete(self) -> bool:
        """True if every shard of every stage is there."""
        return all(stage.shards >= self.shards for stage in self.stages)

    def document(self) -> dict[str, object]:
        """For JSON."""
        stages: list[dict[str, object]] = []
        for stage in self.stages:
            held = {"stage": stage.stage, "folder": stage.folder, "shards": stage.shards, "rows": stage.rows}
            stages.append(held)
        rejects: list[dict[str, object]] = []
        for (name, reason), count in sorted(self.rejects.counts.items()):
            rejects.append({"stage": name, "reason": reason, "rows": count})
        return {
            "run": str(self.run),
            "complete": self.is_complete,
            "shards": self.shards,
            "stages": stages,
            "rejects": rejects,
            "rejects_not_read": self.rejects.unread,
            "remarks": self.remarks,
        }


def look(run: Store, planned: Sequence[Planned], shards: int) -> tuple[Condition, Looked]:
    """What is there, by one listing of each folder; and the listings, for a closer look."""
    looked = looks(run, planned)
    stages: list[StageHeld] = []
    for stage in planned:
        found = looked[stage.folder]
        if isinstance(found, Damaged):
            why = f"{what_of(found)}, so its folder is not counted: `engine precompute` makes it again"
            stages.append(StageHeld(stage.stage, stage.folder, 0, {}, why))
        else:
            rows = dict(sorted(found.shards.rows_by_table().items()))
            stages.append(StageHeld(stage.stage, stage.folder, len(found.shards), rows))
    return Condition(run, shards, stages), looked


def differences(run: Run, looked: Looked) -> Iterator[str]:
    """Which folders and shards are not what the recipe asks for, and why; what the shards were made with."""
    damages: list[Damage] = []
    allowance = Allowance(*_MOST_READ)
    with no_garbage():
        stale = survey(run, damages.append, allowance, looked).stale
    for damage in damages:
        yield f"{damage.what}: `engine precompute` makes it again"
    if allowance.left_out:
        yield (
            f"what {allowance.left_out:,} files hold was not looked at, since it would take long: "
            f"`engine verify {run.store}` reads all"
        )
    if stale:
        yield (
            f"{stale} shards were made from shards that are not there any more: "
            "`engine precompute` makes them again"
        )
    for stage in run.stages:
        for other, changes in what_changed(run, stage):
            yield f"{other} is not what the recipe asks for: {'; '.join(changes)}"
    yield from made_with.shown(run)


def refused(store: Store, looked: Looked) -> Rejects:
    """How many rows each stage refused, by reason; of very many files the first ones are read."""
    reasons: Counter[tuple[str, str]] = Counter()
    left = _MOST_READ[0]
    unread = 0
    try:
        for planned in read_plan(store)[0]:
            found = looked.get(planned.folder) or tried(store.child(planned.folder))
            if isinstance(found, Damaged):
                raise found
            files = files_of(found, ["rejects"])
            unread += sum(file.rows for file in files[left:])
            for file in files[:left]:
                rows = read_file(found.folder, file)
                reasons.update(zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True))
            left -= len(files[:left])
    except Damaged as error:
        return Rejects({}, damage=str(error))
    return Rejects(dict(reasons), unread)
