"""When refusals are no longer the rows' fault: an account that ends in the middle of a run refuses them all.

Many questions refused in a row, or all of a shard's, stop the run before the shard is written. For others at
the shard's end a tiny question decides: who refuses that refuses everything. A question that is too long is
its row's fault and counts for nothing here.
"""

import re

from engine.endpoint.spec import Endpoint
from schemas.errors import UserError

_IN_A_ROW = 20
_FEW = 3  # fewer may all be unlucky
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|too long|too many tokens|maximum.{0,30}tokens|longer than",
    re.IGNORECASE,
)


class Breaker:
    """Counts what one shard's questions come to."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self._answered = 0
        self._in_a_row = 0
        self._last = ""

    def answered(self) -> None:
        """A question was answered."""
        self._answered += 1
        self._in_a_row = 0

    def refused(self, detail: str) -> None:
        """A question was refused. Raises UserError where too many were, one after another."""
        if _TOO_LONG.search(detail):
            return
        self._in_a_row += 1
        self._last = detail
        if self._in_a_row >= _IN_A_ROW:
            raise self.error()

    def end(self) -> bool:
        """True if a tiny question is to tell whether the server still answers.

        Raises UserError where all of the shard's questions were refused."""
        if not self._answered and self._in_a_row >= _FEW:
            raise self.error()
        return self._in_a_row > 0

    def error(self) -> UserError:
        """What to tell the user."""
        section = self._endpoint.section
        return UserError(
            f"[{section}] questions refused in a row, none answered between: {self._in_a_row}; the last: "
            f"{self._last}. The shard is not written, finished shards are kept: when the server answers "
            "again, run the same command to go on. If the rows are at fault, take them out"
        )
