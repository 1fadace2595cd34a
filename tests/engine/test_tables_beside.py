"""Tables of one's own beside a run's: asked together with them, shown in the report, no part of the run."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from engine import tables_beside
from engine.cli import main
from engine.table_files import RunFiles
from schemas.errors import UserError
from schemas.store import open_store

VOTES = pa.table({"voter": ["a", "b", "a"], "vote": [1, 0, 1], "words": ["<b>x</b>", None, "\u202eevil"]})


@pytest.fixture
def run(made_run, tmp_path):
    """A run of one's own, to put tables beside."""
    folder = tmp_path / "run"
    shutil.copytree(made_run, folder)
    return open_store(folder)


def sql(run, *words):
    return CliRunner().invoke(main, ["sql", str(run), *words])


def test_they_are_asked_together_with_the_runs(run):
    tables_beside.write_beside(run, "votes", VOTES)
    assert tables_beside.names_beside(run) == ["votes"]
    assert tables_beside.read_beside(run, "votes").equals(VOTES)
    answer = sql(run, "select voter, sum(vote) as n from votes group by 1 order by 1", "--format", "csv")
    assert answer.output.split() == ["voter,n", "a,2", "b,0"]
    both = "select (select count(*) from prompts) as prompts, count(*) as votes from votes"
    assert sql(run, both, "--format", "csv").output.splitlines()[1].endswith(",3")
    assert "vote" in sql(run, "describe votes").output


def test_they_are_no_part_of_the_run(run):
    before = RunFiles(run).of_tables()
    tables_beside.write_beside(run, "votes", VOTES)
    assert RunFiles(run).of_tables() == before
    tables_beside.write_beside(run, "votes", VOTES.slice(0, 1))
    assert len(tables_beside.read_beside(run, "votes")) == 1


@pytest.mark.parametrize("name", ["pairs", "pairs_text", "metrics", "Votes", "my-votes", "../votes", "1"])
def test_names_that_no_table_can_have(run, name):
    with pytest.raises(UserError, match="table"):
        tables_beside.write_beside(run, name, VOTES)


def test_a_name_of_ours_is_refused_where_it_is_read(run):
    folder = run.local_path("tables")
    folder.mkdir()
    pq.write_table(VOTES, folder / "scores.parquet")
    answer = sql(run, "select 1")
    assert answer.exit_code != 0 and "scores.parquet" in answer.output and "another name" in answer.output


@pytest.mark.parametrize("damage", [b"", b"no table", None])
def test_a_damaged_one_is_named(run, damage):
    tables_beside.write_beside(run, "votes", VOTES)
    path = run.child("tables").local_path("votes.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    answer = sql(run, "select * from votes")
    assert answer.exit_code != 0 and "votes.parquet" in answer.output and "remove it" in answer.output


def test_the_report_shows_their_first_rows(run, tmp_path):
    tables_beside.write_beside(run, "votes", VOTES)
    tables_beside.write_beside(run, "many", pa.table({"number": list(range(1000))}))
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", str(run), "-o", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "Beside the run" in text and "the first 40 of 1,000 rows" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text and "<b>x</b>" not in text
