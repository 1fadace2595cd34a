"""Prompts and SQL come from who hands them over: an installed package, or the one that starts the program."""

import subprocess
import sys

import pytest

from schemas import extensions
from schemas.errors import UserError
from tests.conftest import ROOT

# Nothing is installed: no package announces itself.
UNINSTALLED = """
import importlib.metadata, sys
importlib.metadata.entry_points = lambda group: []
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", UNINSTALLED + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_an_installed_package_announces_itself():
    assert "pipelines" in extensions.packages()
    assert extensions.included("sql", "given", ".sql").is_file()


def test_a_bare_name_is_a_file_that_ships_and_any_other_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given").write_text("mine")
    assert extensions.ships("sql", "given", ".sql")
    assert extensions.included("sql", "given", ".sql").name == "given.sql"
    (tmp_path / "mine.sql").write_text("select 1")
    assert extensions.included("sql", "mine.sql", ".sql").read_text() == "select 1"
    with pytest.raises(UserError, match=r"no 'givn' in pipelines/sql .*did you mean 'given'"):
        extensions.included("sql", "givn", ".sql")


def test_without_an_installation_the_program_that_starts_hands_over():
    start = "import pipelines.__main__ as start; start.main(sys.argv[1:])"
    done = run(start, "engine", "sql", "--list")
    assert "judge_bias" in done.stdout, done.stderr
    assert "usage: python -m pipelines engine|trainer" in run(start, "motor").stderr


def test_where_nobody_hands_over_the_way_out_is_named():
    done = run("from schemas.extensions import included; included('sql', 'given', '.sql')")
    assert "no installed package hands over prompts and SQL; install prefmill again" in done.stderr
