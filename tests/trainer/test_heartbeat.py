"""A rank that gives no signs is told from one that does, and from our own absence."""

from trainer.heartbeat import Listener


def listened(counts_at, limit=10.0):
    """What a listener says at each second, given the ranks' counts then."""
    listener = Listener(2, limit, 1.0, 0.0)
    return [listener.hear(counts, now) for now, counts in counts_at]


def test_a_silent_rank_is_given_up_after_the_limit_and_not_before():
    said = listened([(second, [str(second), "7"]) for second in range(1, 14)])
    assert said[:10] == [[]] * 10 and said[11:] == [[1], [1]]


def test_a_slow_rank_that_gives_signs_is_not_given_up():
    assert not any(listened([(second, [str(second), str(second // 9)]) for second in range(1, 100)]))


def test_a_rank_that_has_left_by_itself_is_not_waited_for():
    assert not any(listened([(second, [str(second), "left"]) for second in range(1, 100)]))


def test_after_an_absence_of_our_own_the_others_are_listened_to_anew():
    before = [(second, [str(second), str(second)]) for second in range(1, 5)]
    after = [(1000 + second, [str(second), "4"]) for second in range(10)]
    assert not any(listened(before + after))
