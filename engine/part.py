"""Which shards one of several commands on a run makes: `--shards i::n`."""

import re
from dataclasses import dataclass

from schemas.errors import UserError

_PART = re.compile(r"(\d{1,9})::(\d{1,9})")


@dataclass(frozen=True)
class Part:
    """Shard `first` and every `jobs`-th after it. `is_part`: whether --shards was given."""

    first: int = 0
    jobs: int = 1
    is_part: bool = False

    def __str__(self) -> str:
        return f"--shards {self.first}::{self.jobs}"

    @classmethod
    def of(cls, text: str) -> "Part":
        """The part that a text such as 3::8 names; all where it is empty. Raises UserError."""
        if not text:
            return cls()
        found = _PART.fullmatch(text)
        if not found:
            raise UserError(f"--shards {text}: expected I::N, such as 0::8 for the first of eight commands")
        first, jobs = int(found[1]), int(found[2])
        if not jobs:
            raise UserError(
                f"--shards {text}: there is no part of 0 commands; expected I::N, such as 0::8 for the first "
                "of eight commands"
            )
        if first >= jobs:
            raise UserError(
                f"--shards {text}: of {jobs} commands the first is 0::{jobs} and the last {jobs - 1}::{jobs}"
            )
        return cls(first, jobs, is_part=True)

    def shards(self, count: int) -> range:
        """The shards of this part, of so many in all."""
        return range(self.first, count, self.jobs)
