"""Edit masks mark what a least-distance edit touches, and nothing of what both sides share."""

import functools

import numpy as np
import pytest

from engine.edits import common_prefix, masks


def distance(a, b) -> int:
    """Levenshtein's distance by its recursion: nothing shared with the library."""

    @functools.cache
    def d(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_not_marked_is_shared_and_as_much_as_can_be(seed):
    draw = np.random.default_rng(seed)
    a, b = (draw.integers(0, 4, draw.integers(1, 12)).tolist() for _ in range(2))
    left, right = masks(a, b)
    shared_of_a = [token for token, is_edited in zip(a, left, strict=True) if not is_edited]
    shared_of_b = [token for token, is_edited in zip(b, right, strict=True) if not is_edited]
    assert shared_of_a == shared_of_b
    # A least edit touches on both sides at least as many tokens as its operations, and at most twice as many.
    assert max(left.sum(), right.sum()) <= distance(a, b) <= left.sum() + right.sum()


def test_by_hand():
    chosen = [5, 6, 7, 8, 9]
    rejected = [5, 1, 7, 9, 2]
    left, right = masks(chosen, rejected)
    assert left.tolist() == [False, True, False, True, False]
    assert right.tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("diff", ["levenshtein", "difflib"])
def test_equal_responses_have_no_edits_and_strangers_nothing_else(diff):
    assert not any(mask.any() for mask in masks([1, 2, 3], [1, 2, 3], diff))
    assert all(mask.all() for mask in masks([1, 2, 3], [4, 5], diff))


def test_difflib_is_another_diff():
    """The longest block first: not of least distance, so another mask than Levenshtein's."""
    a = [1, 2, 3, 4, 9, 9]
    b = [9, 9, 1, 2, 8, 4, 7]
    of_difflib = [mask.tolist() for mask in masks(a, b, "difflib")]
    of_levenshtein = [mask.tolist() for mask in masks(a, b)]
    assert of_difflib != of_levenshtein


def test_a_common_prefix_ends_at_the_first_difference_or_with_the_shorter():
    assert common_prefix([1, 2, 3], [1, 2, 4, 3]) == 2
    assert common_prefix("abc", "abcd") == 3
    assert common_prefix([], [1]) == 0
