"""Which prompts of a call begin alike, so that what they share is run once.

- A judge's questions about one prompt share all that stands before the response.
- Sharing has one level: a group has one beginning and each of its prompts a rest. A prompt may share much
  with few others or little with many; the groups are those that save most tokens.
- The sorted prompts form a tree whose branches are common beginnings. From its leaves upwards each branch
  decides which groups give up what they share and join in one that shares the branch's beginning.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.edits import common_prefix
from engine.models import Ids


@dataclass(frozen=True)
class Shared:
    """Prompts, by their indices, whose first `length` tokens are the same."""

    length: int
    members: list[int]

    @property
    def saved(self) -> int:
        """Tokens that need not be run again."""
        return (len(self.members) - 1) * self.length


@dataclass
class _Branch:
    """Prompts that have their first `depth` tokens in common, in the best groups that were found so far."""

    depth: int
    groups: list[Shared] = field(default_factory=list)

    def regroup(self) -> list[Shared]:
        """The groups, of which some may join in one that shares this beginning, where that saves more."""
        kept: list[Shared] = []
        joining: list[Shared] = []
        for group in self.groups:
            saves_more_here = len(group.members) * self.depth > group.saved
            (joining if saves_more_here else kept).append(group)
        joined = Shared(self.depth, [])
        for group in joining:
            joined.members.extend(group.members)
        if joined.saved > sum(group.saved for group in joining):
            return [*kept, joined]
        return self.groups


def share(prompts: Sequence[Ids]) -> list[Shared]:
    """Groups that hold each prompt once; what shares nothing is a group of its own, of its whole length."""
    if not prompts:
        return []
    order = sorted(range(len(prompts)), key=lambda number: list(prompts[number]))
    open_branches = [_Branch(0)]
    latest = [_alone(order[0], prompts)]
    for number, following in itertools.pairwise(order):
        depth = common_prefix(prompts[number], prompts[following])
        while open_branches[-1].depth > depth:
            latest = _closed(open_branches.pop(), latest)
        if open_branches[-1].depth < depth:
            open_branches.append(_Branch(depth))
        open_branches[-1].groups.extend(latest)
        latest = [_alone(following, prompts)]
    while open_branches:
        latest = _closed(open_branches.pop(), latest)
    return latest


def _alone(number: int, prompts: Sequence[Ids]) -> Shared:
    """A prompt that shares nothing yet."""
    return Shared(len(prompts[number]), [number])


def _closed(branch: _Branch, last: list[Shared]) -> list[Shared]:
    """A branch's groups, once the last of them are known."""
    branch.groups.extend(last)
    return branch.regroup()
