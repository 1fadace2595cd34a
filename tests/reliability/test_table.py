"""The table counts what is lost, and a test with a lost trial fails."""

import pytest

from tests.reliability.table import Row, lines_of


def test_a_lost_trial_is_counted_and_fails_its_row():
    row = Row("flips")
    for bit in range(3):
        with row.trial(bit):
            assert bit != 1, "another policy"
    assert row.tried == 3 and len(row.lost) == 1
    with pytest.raises(
        pytest.fail.Exception, match=r"lost 1 of 3, such as\n1: AssertionError: another policy"
    ):
        row.check()


def test_a_row_in_which_nothing_is_tried_fails():
    with pytest.raises(AssertionError, match="nothing was tried"):
        Row("flips").check()


def test_the_table_adds_up_what_several_tests_tried():
    class Report:
        def __init__(self, *rows):
            self.user_properties = [("trials", row) for row in rows]

    lines = lines_of([Report(["flips", 20, 0]), Report(["flips", 5, 1], ["kills", 3, 0])])
    assert [line.split() for line in lines] == [
        ["row", "tried", "held", "lost"],
        ["flips", "25", "24", "1"],
        ["kills", "3", "3", "0"],
        ["all", "28", "27", "1"],
    ]
    assert lines_of([Report()]) == []
