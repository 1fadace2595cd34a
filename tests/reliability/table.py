"""Trials of one kind, counted: what was tried, what held, what was lost. They are printed as a table.

    with trials("a scan file with one bit flipped") as trial:
        for bit in bits:
            with trial(f"bit {bit}"):
                assert ...

An error within a trial is counted as lost, and the other trials go on; a row with one that is lost fails its
test. `tests/reliability/run` tries all and ends with the table, and with its sum in the lines of the page on
trust.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

_PROPERTY = "trials"
# The lines of the page on trust, and the test files that each of them sums up.
GROUPS = {
    "a run of the engine killed, refused or out of space at a write": ("test_disk",),
    "a training killed, stopped, refused, or fed with bad numbers; 1 and 2 ranks": (
        "test_training",
        "test_ranks",
        "test_stopped_rank",
        "test_halted_ranks",
        "test_network",
        "test_lost_ranks",
    ),
    "processes killed, stopped, told to end; two jobs at once; readers meanwhile": (
        "test_processes",
        "test_many_workers",
    ),
    "a run on object storage killed, through a network that fails, gone on with elsewhere": ("test_buckets",),
    "a run folder damaged or faked": ("test_folders", "test_out_of_place"),
    "a checkpoint or a train folder damaged or faked": ("test_checkpoints",),
    "a setting, a file, a module or a version changed": ("test_staleness",),
    "somebody else's run folder, recipe or server": (
        "test_trust",
        "test_foreign_runs",
        "test_endless_replies",
    ),
    "hostile lines, keys, texts and input files": ("test_rows", "test_damaged_inputs", "test_typed_tokens"),
    "hostile models, templates and instructions": (
        "test_hostile_models",
        "test_hostile_templates",
        "test_foreign_files",
    ),
    "SQL that reaches or takes too much; commands and keys on the screen": (
        "test_queries",
        "test_screen",
        "test_secrets",
        "test_said",
    ),
}
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
            counted = [request.node.path.stem, name, row.tried, len(row.lost)]
            request.node.user_properties.append((_PROPERTY, counted))
        row.check()

    return row_of


@dataclass
class Count:
    """How many trials, and how many of them were lost."""

    tried: int = 0
    lost: int = 0

    def add(self, tried: int, lost: int) -> None:
        self.tried += tried
        self.lost += lost


def lines_of(reports: list[pytest.TestReport]) -> list[str]:
    """The table of the rows that the reports bring, and the one of the page; empty where there are none."""
    rows: dict[str, Count] = {}
    groups = {group: Count() for group in GROUPS}
    of_file: dict[str, Count] = {}
    for group, files in GROUPS.items():
        of_file |= dict.fromkeys(files, groups[group])
    everything = Count()
    for report in reports:
        for name, value in report.user_properties:
            if name == _PROPERTY:
                file, row, tried, lost = value
                for count in (rows.setdefault(row, Count()), of_file.get(file, Count()), everything):
                    count.add(tried, lost)
    if not rows:
        return []
    return [
        *_as_lines("row", dict(sorted(rows.items())) | {"all": everything}),
        "",
        *_as_lines("in ten lines", groups),
    ]


def _as_lines(title: str, counts: dict[str, Count]) -> list[str]:
    width = max(map(len, [title, *counts]))
    lines = [f"{title:<{width}}  {'tried':>6}  {'held':>6}  {'lost':>6}"]
    for name, count in counts.items():
        held = count.tried - count.lost
        lines.append(f"{name:<{width}}  {count.tried:>6,}  {held:>6,}  {count.lost:>6,}")
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
