"""The table counts what is lost, and a test with a lost trial fails."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reliability.table import GROUPS, Row, lines_of


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

    folders = Report(["test_folders", "flips", 20, 0])
    both = Report(["test_checkpoints", "flips", 5, 1], ["test_disk", "kills", 3, 0])
    rows, sums = "\n".join(lines_of([folders, both])).split("\n\n")
    assert [line.split() for line in rows.splitlines()] == [
        ["row", "tried", "held", "lost"],
        ["flips", "25", "24", "1"],
        ["kills", "3", "3", "0"],
        ["all", "28", "27", "1"],
    ]
    counts = {line[:-24].strip(): line[-24:].split() for line in sums.splitlines()[1:]}
    assert list(counts) == list(GROUPS)
    assert counts["a run folder damaged or faked"] == ["20", "20", "0"]
    assert counts["a checkpoint or a train folder damaged or faked"] == ["5", "4", "1"]
    assert lines_of([Report()]) == []


def test_the_page_has_the_lines_of_the_table_and_every_file_is_in_one():
    page = (ROOT / "pipelines" / "docs" / "trust.md").read_text()
    files = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))
    grouped: list[str] = ["test_table"]
    for group, of_group in GROUPS.items():
        assert f"| {group} |" in page
        grouped += of_group
    assert sorted(grouped) == files
