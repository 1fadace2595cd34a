"""A global batch in pieces that fit memory, and in smaller ones where they did not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trainer import data, out_of_memory
from trainer.dist import Ranks
from trainer.losses.side import Side
from trainer.out_of_memory import Budget
from trainer.pairs import Pair
from trainer.parallel import Parallel

T = TypeVar("T")


@dataclass(frozen=True)
class MicroPart:
    """Some pairs that go through one pass. `counts`: False where another rank has more passes than this one,
    and this one takes part with pairs of no weight."""

    pairs: list[Pair]
    counts: bool

    @property
    def tokens(self) -> int:
        """Of its longest pass."""
        return sum(pair.most_tokens for pair in self.pairs)


@dataclass(frozen=True)
class Pieces:
    """How this rank cuts its part of each batch."""

    parallel: Parallel
    ranks: Ranks
    budget: Budget

    def of(self, batch: Sequence[Pair]) -> list[MicroPart]:
        """This rank's part of a global batch, in pieces that fit the token budget.

        Every rank gets the same number of them, whatever its share of the batch."""
        dealt = data.deal(batch, self.ranks.world_size)
        of_ranks = [data.micro_batches(part, self.budget.tokens) for part in dealt]
        parts = [MicroPart(pairs, counts=True) for pairs in of_ranks[self.ranks.rank]]
        shortest = min(batch, key=data.most_tokens)
        missing = max(map(len, of_ranks)) - len(parts)
        return parts + [MicroPart([shortest], counts=False)] * missing

    def repeated(self, batch: Sequence[Pair], work: Callable[[list[MicroPart]], T]) -> T:
        """What `work` makes of the batch's pieces; again, of smaller ones, where memory runs out.

        Raises UserError where one pair alone does not fit (trainer/out_of_memory.py)."""
        while True:
            parts = self.of(batch)
            made = self._attempt(parts, lambda parts=parts: [work(parts)])  # type: ignore[misc]
            if made:
                return made[0]

    def looks(
        self, batch: Sequence[Pair], look: Callable[[list[Pair]], tuple[Side, Side]]
    ) -> Iterator[tuple[MicroPart, Side, Side]]:
        """Each piece with its sides, without gradient; what does not fit is cut."""
        waiting = self.of(batch)
        while waiting:
            part = waiting.pop(0)
            fits = len(part.pairs) == 1 or part.tokens <= self.budget.tokens
            made: list[tuple[Side, Side]] = []
            if fits:
                made = self._attempt([part], lambda part=part: [look(part.pairs)])  # type: ignore[misc]
            if made:
                yield part, *made[0]
                continue
            smaller = data.micro_batches(part.pairs, self.budget.tokens)
            waiting = [MicroPart(pairs, part.counts) for pairs in smaller] + waiting

    def _attempt(self, parts: Sequence[MicroPart], work: Callable[[], list[T]]) -> list[T]:
        """What `work` returns; an empty list where it ran out of memory in these parts."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory.ran_out(error):
                raise
        # Only here the exception is gone, and with it the tensors that its frames held.
        self.parallel.forget_step()
        out_of_memory.free(self.ranks.device)
        most_pairs = max(len(part.pairs) for part in parts)
        most_tokens = max(part.tokens for part in parts)
        self.budget.lower(most_tokens, most_pairs, self.ranks.world_size)
        return []
