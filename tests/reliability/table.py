"""Trials of one kind, counted: what was tried, what held, what was lost. They are printed as a table.

    with trials("a scan file with one bit flipped") as trial:
        for bit in bits:
            with trial(f"bit {bit}"):
                assert ...

An error within a trial is counted as lost, and the other trials go on; a row with one that is lost fails its
test. `tests/reliability/run` tries all and ends with the table.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

_PROPERTY = "trials"
_SHOWN = 5  # of the trials that were lost
_Trial = Callable[[object], AbstractContextManager[None]]
Trials = Callable[[str], AbstractContextManager[_Trial]]


@dataclass
class Row:
    """A row of the table. `lost`: which trials were lost, and what became of them."""

    name: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def trial(self, what: object) -> Iterator[None]:
        """One trial; an error in it is kept, and does not leave it."""
        self.tried += 1
        try:
            yield
        except (Exception, pytest.fail.Exception, SystemExit) as error:
            self.lost.append(f"{what}: {type(error).__name__}: {error}")

    def check(self) -> None:
        """Fail if nothing was tried, or if something was lost."""
        assert self.tried, f"{self.name}: nothing was tried"
        if self.lost:
            shown = "\n\n".join(self.lost[:_SHOWN])
            pytest.fail(
                f"{self.name}: lost {len(self.lost)} of {self.tried}, such as\n{shown}", pytrace=False
            )


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    """Opens a row of the table by its name."""

    @contextlib.contextmanager
    def row_of(name: str) -> Iterator[_Trial]:
        row = Row(name)
        try:
            yield row.trial
        finally:
            # A list, since it goes from a worker of xdist to the process that prints.
            request.node.user_properties.append((_PROPERTY, [name, row.tried, len(row.lost)]))
        row.check()

    return row_of


def lines_of(reports: list[pytest.TestReport]) -> list[str]:
    """The table, of the rows that the reports bring; empty where there are none."""
    tried: dict[str, int] = {}
    lost: dict[str, int] = {}
    for report in reports:
        for name, value in report.user_properties:
            if name == _PROPERTY:
                row, of_row, lost_of_row = value
                tried[row] = tried.get(row, 0) + of_row
                lost[row] = lost.get(row, 0) + lost_of_row
    if not tried:
        return []
    width = max(map(len, tried))
    lines = [f"{'row':<{width}}  {'tried':>6}  {'held':>6}  {'lost':>6}"]
    for row in sorted(tried):
        held = tried[row] - lost[row]
        lines.append(f"{row:<{width}}  {tried[row]:>6,}  {held:>6,}  {lost[row]:>6,}")
    held_of_all = sum(tried.values()) - sum(lost.values())
    lines.append(f"{'all':<{width}}  {sum(tried.values()):>6,}  {held_of_all:>6,}  {sum(lost.values()):>6,}")
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of all that was tried."""
    reports: list[pytest.TestReport] = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call":
                reports.append(report)
    lines = lines_of(reports)
    if lines:
        terminalreporter.section("what was tried, what held, what was lost")
        terminalreporter.write_line("\n".join(lines))
