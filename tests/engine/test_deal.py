"""Every worker gets one shard before any gets a second, the tail is shared, and no shard is lost."""

import random

import pytest

from engine.executors.deal import DEATHS, Deal


class Queue:
    """Shards 0 to count - 1."""

    def __init__(self, count: int):
        self.waiting = list(range(count))
        self.made: list[int] = []

    def take(self) -> int | None:
        return self.waiting.pop(0) if self.waiting else None

    def left(self) -> int:
        return len(self.waiting)

    def ended(self, shard: int) -> None:
        self.made.append(shard)


def dealt_at_once(shards: int, workers: int, places: int) -> list[int]:
    """How many shards each worker has if all ask for so many at once and none is through."""
    deal = Deal(Queue(shards))
    for worker in range(workers):
        deal.join(worker)
    for _ in range(places):
        for worker in range(workers):
            deal.ask(worker)
        while deal.next() is not None:
            pass
    return [len(deal.held(worker)) for worker in range(workers)]


@pytest.mark.parametrize(
    ("shards", "workers", "want"),
    [
        (8, 8, [1] * 8),
        (12, 8, [1] * 8),
        (16, 8, [2] + [1] * 7),
        (64, 8, [3] * 8),
        (3, 8, [1, 1, 1] + [0] * 5),
    ],
)
def test_no_worker_is_idle_while_another_has_several(shards, workers, want):
    assert dealt_at_once(shards, workers, places=3) == want


def simulated(shards: int, workers: int, draw: random.Random, deaths: int) -> tuple[Queue, int]:
    """Workers with three places each that make shards, and some that die; how many shards were made twice."""
    queue = Queue(shards)
    deal = Deal(queue)
    alive = set(range(workers))
    for worker in alive:
        deal.join(worker)
    number = workers
    while alive:
        worker = draw.choice(sorted(alive))
        if deaths and draw.random() < 0.05 and len(deal.held(worker)) < 2:
            deaths -= 1
            deal.leave(worker)
            alive.remove(worker)
            alive.add(number)
            deal.join(number)
            number += 1
            continue
        if len(deal.held(worker)) < 3:
            deal.ask(worker)
        if deal.held(worker) and draw.random() < 0.5:
            deal.ended(worker, deal.held(worker)[0])
        while (gift := deal.next()) is not None:
            who, shard = gift
            if shard is None:
                deal.leave(who)
                alive.remove(who)
    return queue, len(queue.made) - shards


@pytest.mark.parametrize("seed", range(20))
def test_every_shard_is_made_once_whoever_dies(seed):
    draw = random.Random(seed)
    shards = draw.randrange(1, 40)
    queue, twice = simulated(shards, draw.randrange(1, 9), draw, deaths=2)
    assert sorted(queue.made) == list(range(shards)) and twice == 0


def test_a_shard_with_which_workers_die_is_named():
    deal = Deal(Queue(3))
    for death in range(DEATHS):
        assert deal.cause_of_deaths() is None
        deal.join(death)
        deal.ask(death)
        assert deal.next() == (death, 0), "it is dealt again before all others"
        assert deal.leave(death) == [0]
    assert deal.cause_of_deaths() == 0


def test_nobody_is_sent_away_while_a_shard_may_come_back():
    deal = Deal(Queue(1))
    deal.join("a")
    deal.join("b")
    deal.ask("a")
    deal.ask("b")
    assert deal.next() == ("a", 0)
    assert deal.next() is None
    deal.leave("a")
    assert deal.next() == ("b", 0)
    deal.ended("b", 0)
    deal.ask("b")
    assert deal.next() == ("b", None)


def test_innocent_shards_are_not_taken_for_the_cause():
    """Two shards in one hand at a death: each is dealt again alone, so that only the guilty one kills."""
    guilty, innocent = 0, 1
    queue = Queue(8)
    deal = Deal(queue)
    for death in range(DEATHS):
        deal.join(death)
        deal.ask(death)
        while (gift := deal.next()) is not None:
            worker, shard = gift
            assert shard is not None
            deal.ask(worker)
            if death and guilty not in deal.held(worker):
                deal.ended(worker, shard)
        assert (innocent in deal.held(death)) == (not death), "alone, once a worker has died"
        assert deal.cause_of_deaths() is None
        deal.leave(death)
    assert deal.cause_of_deaths() == guilty


def test_a_shard_that_was_made_has_no_deaths_any_more():
    deal = Deal(Queue(4))
    for worker in range(DEATHS - 1):
        deal.join(worker)
        deal.ask(worker)
        assert deal.next() == (worker, 0)
        deal.leave(worker)
    deal.join("last")
    deal.ask("last")
    assert deal.next() == ("last", 0)
    deal.ended("last", 0)
    assert not deal._deaths and deal.unfinished() == 3
