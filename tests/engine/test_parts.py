"""Several commands on one run: each makes its part, no shard has two makers, and the last ends the run."""

import contextlib
import json
import shutil
import threading
from dataclasses import replace

import pytest

import engine.plan
from engine import gaps, jobs, make
from engine.commands.precompute import precompute
from engine.executors import claimed, passes
from engine.executors.claimed import ClaimedShards
from engine.gaps import Damage
from engine.jobs import Job, at_work
from engine.make import take_back
from engine.opened import OtherPlan, opened
from engine.part import Part
from schemas import leases
from schemas.errors import UserError
from schemas.manifest import MANIFEST, look, marker_name, write_manifest
from schemas.recipe import load
from schemas.records import Damaged
from schemas.store import open_store
from tests.conftest import RECIPE, preferences, settings, tree


@contextlib.contextmanager
def begun(store):
    """A job that is at work."""
    job = Job(store)
    job.begin()
    with at_work(job):
        yield job


@pytest.mark.parametrize("jobs_", [1, 2, 3, 7])
def test_the_parts_of_all_commands_are_the_shards(jobs_):
    parts = [Part.of(f"{number}::{jobs_}") for number in range(jobs_)]
    for count in (1, 5, 20):
        shards = [shard for part in parts for shard in part.shards(count)]
        assert sorted(shards) == list(range(count))


@pytest.mark.parametrize("text", ["1", "2::2", "0::0", "a::b", "-1::2", "0:4:2", "0::", "::2", "1::2::3"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UserError, match=r"--shards .*: (.*expected I::N|of [1-9]\d* commands)"):
        Part.of(text)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, model_path):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 20)))
    values = settings(prompts__source=path, model__name=model_path, prompts__shards=5)
    return load(RECIPE, [word for word in values if word != "--set"])


@pytest.fixture(scope="module")
def made(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("whole") / "run"
    precompute(path, recipe, 1)
    return path


@pytest.fixture(scope="module")
def whole(made):
    return tree(made)


@pytest.fixture
def copied(made, tmp_path):
    """A finished run to spoil."""
    return shutil.copytree(made, tmp_path / "copied")


def test_parts_one_after_another_are_the_whole(recipe, whole, tmp_path, capsys):
    run = tmp_path / "run"
    precompute(run, recipe, 1, part="1::2")
    said = capsys.readouterr().out
    assert "--shards 1::2: all there; 3 of 5 shards are for other commands to make" in said
    assert not list(run.glob("*/manifest.json"))
    assert sorted(path.name for path in run.glob("pairs-*/0*.json")) == ["00001.json", "00003.json"]
    precompute(run, recipe, 1, part="0::2")
    assert tree(run) == whole


def test_commands_at_once_share_a_run(recipe, whole, tmp_path, capsys):
    """Two parts, and one that wants all, in threads of one process: each shard has one maker at a time."""
    run = tmp_path / "run"
    errors: list[BaseException] = []

    def work(part: str) -> None:
        try:
            precompute(run, recipe, 1, part=part)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in ("0::2", "1::2", "0::1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert tree(run) == whole
    assert not list(run.glob("claim-*")) and not list(run.glob("job-*")) and not list(run.glob("lease-*"))


def test_a_command_beside_others_must_have_their_plan(recipe, tmp_path, capsys):
    run = tmp_path / "run"
    precompute(run, recipe, 1, part="0::2")
    other = recipe.with_sections(logprobs=replace(recipe.section("logprobs"), max_length=77))
    with (
        begun(open_store(run)),
        pytest.raises(UserError, match=r"`engine precompute` .* is at work in it by another recipe"),
    ):
        precompute(run, other, 1, part="1::2")


def test_a_claim_is_one_jobs_and_passes_on_when_it_is_dead(tmp_path):
    store = open_store(tmp_path)
    with begun(store) as one, begun(store) as other:
        assert one.claim(7) and one.claim(7) and not other.claim(7)
        assert other.holder(7) is not None and other.holder(8) is None
        one.release(7)
        assert other.claim(7) and not one.claim(7)
        assert len(one.others()) == len(other.others()) == 1
    assert store.names() == []
    killed = Job(store)
    killed.begin()
    killed.claim(3)
    killed._beats.stop(lambda: None)
    leases._held_here.clear()  # as if its process were gone
    with begun(store) as heir:
        assert heir.others() == []
        assert heir.claim(3)
        with pytest.raises(leases.Lost):
            killed._lease.renew()
    assert store.names() == []


def test_claims_of_the_dead_are_removed_at_the_beginning(recipe, whole, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "claim-00002.json").write_text('{"job": "0123456789abcdef"}')
    (run / "claim-00004.json").write_text("no claim")
    precompute(run, recipe, 1)
    assert tree(run) == whole


def test_who_has_nothing_left_waits_for_what_others_make(recipe, whole, tmp_path, capsys, monkeypatch):
    """A shard in another's hands is neither made twice nor left out."""
    monkeypatch.setattr(passes, "_LOOK", 0.02)
    run = tmp_path / "run"
    precompute(run, recipe, 1, part="1::2")
    with begun(open_store(run)) as other:
        assert other.claim(4)
        waits = threading.Event()
        wait = passes._wait

        def told(*args: object) -> None:
            waits.set()
            wait(*args)

        monkeypatch.setattr(passes, "_wait", told)
        thread = threading.Thread(target=lambda: precompute(run, recipe, 1, part="0::2"))
        thread.start()
        assert waits.wait(60)
        assert not list(run.glob("given-*/00004.json")) and list(run.glob("pairs-*/00002.json"))
        other.release(4)
        thread.join()
    assert tree(run) == whole
    assert jobs.WHO == "engine precompute"


def test_blocks_are_written_while_many_shards_are_made(tmp_path, monkeypatch):
    """Whoever looks at a run of many shards in the middle reads a few files, not one a shard."""
    monkeypatch.setattr(claimed, "SHARDS", 4)
    store = open_store(tmp_path)
    called: list[int] = []
    with begun(store) as job:
        shards = ClaimedShards(job, range(10), lambda: called.append(shards.left()))
        while (shard := shards.take()) is not None:
            shards.ended(shard)
    assert called == [6, 2]
    assert store.names() == []


def test_a_plan_made_before_another_command_began_is_made_once_more(recipe, tmp_path, monkeypatch):
    """Commands of unlike numbers of workers settle on one number of shards, that of the first."""
    run = tmp_path / "run"
    plan_of = engine.plan.plan
    planned = []

    def as_if_new(where, recipe, workers):
        made = plan_of(where, recipe if planned else other, workers)
        planned.append(made.shards)
        return made

    other = recipe.with_sections(prompts=replace(recipe.section("prompts"), shards=3))
    monkeypatch.setattr(engine.plan, "plan", as_if_new)
    with opened(plan_of(run, recipe), shares=True):
        precompute(run, recipe, 1, part="1::2")
    assert planned == [3, 5]
    monkeypatch.setattr(engine.plan, "plan", plan_of)
    assert len(list(run.glob("pairs-*/0000[13].json"))) == 2
    with opened(plan_of(run, recipe), shares=True), pytest.raises(OtherPlan, match=r"shards \(was 5, is 3\)"):
        precompute(run, other, 1)


def test_a_command_takes_back_what_is_damaged_in_its_part_alone(recipe, whole, copied, capsys):
    run = copied
    damaged = {}
    for shard in (0, 1):
        path = next(run.glob(f"pairs-*/0000{shard}.pairs.parquet"))
        damaged[path] = path.read_bytes()
        path.write_bytes(b"x" * len(damaged[path]))
    capsys.readouterr()
    precompute(run, recipe, 1, part="1::2")
    said = capsys.readouterr().out
    assert "00001.pairs.parquet" in said and "00000.pairs.parquet" not in said
    assert "1 of 5 shards are for other commands" in said
    assert list(run.glob("pairs-*/00000.json"))
    precompute(run, recipe, 1, part="0::2")
    assert tree(run) == whole


def test_what_looked_damaged_in_the_middle_of_anothers_work_is_left_alone(recipe, copied):
    run = copied
    planned = engine.plan.plan(run, recipe)
    before = tree(run)
    seen = [Damage(stage, 2, "seen") for stage in planned.stages]
    with begun(planned.store) as job, begun(planned.store) as other:
        assert take_back(planned, seen, job, print) == []
        other.claim(2)
        assert take_back(planned, seen, job, print) == seen
    assert tree(run) == before


def test_own_shards_that_are_damaged_at_the_end_are_said(recipe, copied, monkeypatch):
    run = copied
    looks = []
    missing = gaps.missing

    def damaged_later(run, damaged=lambda damage: None):
        looks.append(run)
        return missing(run, damaged) if len(looks) == 1 else {3: list(run.stages)}

    monkeypatch.setattr(gaps, "missing", damaged_later)
    with pytest.raises(UserError, match=r"1 of the shards that this command was to make .* first is 3: run"):
        precompute(run, recipe, 1, part="1::2")


def test_no_manifest_stays_that_a_marker_taken_back_meanwhile_belies(recipe, copied, monkeypatch):
    run = copied
    planned = engine.plan.plan(run, recipe)
    folder = planned.folder(planned.stages[-1])
    found = look(folder)
    folder.remove(MANIFEST)
    taken_back = folder.read(marker_name(2))
    folder.remove(marker_name(2))
    with pytest.raises(Damaged, match="shard 2"):
        write_manifest(folder, planned.planned["pairs"].facts, found.shards)
    assert not folder.exists(MANIFEST)
    write = make.write_manifest

    def made_again_meanwhile(*args):
        if folder.exists(marker_name(2)) and not missed:
            missed.append(folder.remove(marker_name(2)))
            try:
                return write(*args)
            finally:
                folder.put(marker_name(2), taken_back)
        return write(*args)

    missed = []
    monkeypatch.setattr(make, "write_manifest", made_again_meanwhile)
    folder.put(marker_name(2), taken_back)
    precompute(run, recipe, 1)
    assert missed and look(folder).manifest is not None


def test_leases_of_the_dead_are_removed_though_nobody_wants_them(recipe, whole, tmp_path, capsys):
    """A command that was killed while it read the input, and another that finds all there."""
    run = tmp_path / "run"
    precompute(run, recipe, 1)
    dead = replace(leases.this_process(jobs.WHO, leases.new_token()), pid=2**22 + 1).as_bytes()
    for name in (jobs.SCANNING, jobs.ENDING):
        (run / name).write_bytes(dead)
    precompute(run, recipe, 1)
    assert tree(run) == whole
