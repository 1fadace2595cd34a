"""What lies in a run folder and does not belong there: it is named or removed, and the named remedy works.

A marker too many, a file that has lost its seal, a folder in a file's place, a file in a folder's, a user's
file in a folder that is going to be removed, files shared with a snapshot.
"""

import errno
import fcntl
import gzip
import json
import os
import shutil

import pytest

from engine.commands.precompute import precompute
from engine.commands.sql import _answer, _Wanted
from engine.inputs import find
from engine.integrity import examine
from engine.looks import never_rows
from engine.raw import rows
from engine.table_files import unfinished
from schemas.errors import UserError
from schemas.plans import read_plan
from schemas.recipe import load
from schemas.records import Damaged
from schemas.sealed import seal
from schemas.store import open_store
from tests.conftest import preferences, tree
from tests.reliability.runs import plan_once, said_by
from tests.reliability.test_folders import IMPORT, imported, kinds  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def _plan_once(monkeypatch):
    plan_once(monkeypatch)


@pytest.fixture
def run(imported, tmp_path, capsys):  # noqa: F811
    return imported.copy(tmp_path / "run")


def test_a_marker_too_many_is_removed_and_the_run_can_be_read(imported, run, trials, capsys):  # noqa: F811
    contents = {
        "a copy": lambda folder: (folder / "00000.json").read_bytes(),
        "an empty object": lambda folder: b"{}",
        "none of JSON": lambda folder: b"mine",
        "one of that number": lambda folder: json.dumps(
            seal({"shard": 7, "files": [], "made_from": {}, "counts": {}})
        ).encode(),
    }
    want = said_by(imported.path)
    with trials("a marker too many") as trial:
        for number, (what, content) in enumerate(contents.items()):
            folder = next(run.glob(("prompts-*", "given-*")[number % 2]))
            with trial(f"{what} in {folder.name}"):
                (folder / "00007.json").write_bytes(content(folder))
                with pytest.raises(Damaged):
                    said_by(run)
                imported.again(run)
                assert "00007.json: the run has no such shard, it has 2: removed" in capsys.readouterr().out
                imported.is_whole(run)
                assert said_by(run) == want


def test_a_file_that_has_lost_its_seal_is_not_believed(imported, run, trials):  # noqa: F811
    want = said_by(imported.path)
    found = kinds(imported)
    with trials("a file of a run without its seal") as trial:
        for kind in ("marker", "manifest.json", "scanned.json", "plan.json"):
            with trial(kind):
                path = run / found[kind]
                value = json.loads(path.read_text())
                del value["sha256"]
                path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
                said = str(damage_of(run))
                assert path.name in said and "has lost its own sha256" in said
                imported.again(run)
                imported.is_whole(run)
                assert said_by(run) == want


def damage_of(run):
    try:
        read_plan(open_store(run))
    except UserError as error:
        return [str(error)]
    return list(examine(open_store(run)).damaged.values())


def test_a_scan_written_by_hand_makes_no_shard_empty(imported, run):  # noqa: F811
    folder = next(run.glob("prompts-*"))
    for marker in folder.glob("0*.json"):
        marker.unlink()
    (folder / "scanned.json").unlink()
    (folder / "scan").mkdir()
    done = {"wanted": [0, 1], "read": [0, 0], "digests": {}}
    (folder / "scan" / "done.json").write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
    imported.again(run)
    imported.is_whole(run)


def test_all_facts_that_are_gone_are_named_and_come_back(imported, run):  # noqa: F811
    for path in run.glob("*/facts.json"):
        path.unlink()
    damaged = examine(open_store(run)).damaged
    assert len(damaged) == 2 and all(why.endswith("facts.json is gone") for why in damaged.values())
    imported.again(run)
    imported.is_whole(run)


def test_an_error_of_the_disk_is_a_finding_and_the_rest_is_looked_at(run, monkeypatch):
    def fails(folder, name):
        raise OSError(errno.EIO, "Input/output error", folder.where(name))

    monkeypatch.setattr("engine.integrity.read_facts", lambda folder: fails(folder, "facts.json"))
    examined = examine(open_store(run))
    assert len(examined.damaged) == 2 and examined.whole == examined.files > 0


def move_away(path):
    """What a sentence says to do."""
    away = path.parent.parent / "away"
    path.rename(away)
    if away.is_dir():
        shutil.rmtree(away)
    else:
        away.unlink()


def test_a_folder_in_the_place_of_a_file_is_named_and_stays(imported, run, trials, capsys):  # noqa: F811
    with trials("a folder in the place of a file") as trial:
        for kind, name in {**kinds(imported), "lock": ".lock"}.items():
            with trial(kind):
                path = run / name
                path.unlink(missing_ok=True)
                path.mkdir()
                (path / "mine").write_text("theirs")
                with pytest.raises(
                    UserError, match="is a folder where prefmill keeps a file: move it"
                ) as error:
                    imported.again(run)
                assert str(path) in str(error.value)
                assert (path / "mine").read_text() == "theirs"
                if kind != "lock" and kind != "recipe.toml":
                    assert any("is a folder where" in why for why in damage_of(run))
                move_away(path)
                imported.again(run)
                imported.is_whole(run)


def test_a_file_in_the_place_of_a_folder_is_named_and_stays(imported, run, trials, capsys):  # noqa: F811
    places = {
        "the first stage's": lambda run: next(run.glob("prompts-*")),
        "the other stage's": lambda run: next(run.glob("given-*")),
        "the scan's": lambda run: next(run.glob("prompts-*")) / "scan",
        "the run's": lambda run: run,
    }
    with trials("a file in the place of a folder") as trial:
        for what, place in places.items():
            with trial(what):
                path = place(run)
                if path.exists():
                    shutil.rmtree(path)
                path.write_text("theirs")
                with pytest.raises(
                    UserError, match="is a file where prefmill keeps a folder: move it"
                ) as error:
                    imported.again(run)
                assert str(path) in str(error.value) and path.read_text() == "theirs"
                move_away(path)
                imported.again(run)
                imported.is_whole(run)


def test_no_folder_can_be_made_of_a_device_or_a_link_to_nothing(imported, tmp_path, capsys):  # noqa: F811
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="/dev/null is no folder: name one"):
        imported.again("/dev/null")
    with pytest.raises(UserError, match="link is a link that leads to no folder: remove it"):
        imported.again(tmp_path / "link")
    (tmp_path / "link").unlink()
    imported.again(tmp_path / "link")
    imported.is_whole(tmp_path / "link")


def test_a_users_file_in_the_scan_is_not_deleted(imported, run):  # noqa: F811
    folder = next(run.glob("prompts-*"))
    mine = folder / "scan" / "notes.md"
    for has_gaps in (False, True):
        mine.parent.mkdir()
        mine.write_text("theirs")
        if has_gaps:
            (folder / "00000.json").unlink()
        with pytest.raises(UserError, match=r"scan/notes\.md is not prefmill's.*move it away"):
            imported.again(run)
        assert mine.read_text() == "theirs"
        mine.unlink()
        imported.again(run)
        imported.is_whole(run)


def snapshot(run, to):
    """As `cp -al` makes it."""
    shutil.copytree(run, to, copy_function=os.link)
    return to


def test_a_snapshot_by_hard_links_goes_on_by_itself(imported, run, tmp_path):  # noqa: F811
    (run / ".lock").write_text("as it was")
    copy = snapshot(run, tmp_path / "copy")
    before = tree(copy)
    next(run.glob("prompts-*/00000.json")).unlink()
    imported.again(run)
    imported.is_whole(run)
    assert tree(copy) == before and (copy / ".lock").read_text() == "as it was"
    assert (run / ".lock").stat().st_nlink == 1


def test_a_lock_that_is_shared_is_held_once_and_then_apart(run, tmp_path):
    copy = snapshot(run, tmp_path / "copy")
    store = open_store(run)
    with open(copy / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is at work in it"), store.lock("this"):
            pass
    with store.lock("this"):
        with pytest.raises(UserError, match="is at work in it"), store.lock("that"):
            pass
        with open_store(copy).lock("another"):
            pass  # a folder of its own again
    with store.lock("this"):
        pass


def test_a_lock_that_was_replaced_meanwhile_is_not_taken_for_the_one_there(run, monkeypatch):
    """Opened, and replaced by another process before it was locked: the new one is locked."""
    import schemas.locks

    path = run / ".lock"
    real = fcntl.flock
    replaced = []

    def flock(file, how):
        if not replaced:
            replaced.append(path.stat().st_ino)
            (run / "new").touch()
            os.replace(run / "new", path)
        real(file, how)

    monkeypatch.setattr(schemas.locks.fcntl, "flock", flock)
    store = open_store(run)
    with store.lock("this"):
        monkeypatch.setattr(schemas.locks.fcntl, "flock", real)
        assert path.read_text() == str(os.getpid())
        with pytest.raises(UserError, match="is at work in it"), store.lock("that"):
            pass


def test_lines_are_added_to_the_runs_own_file(tmp_path):
    (tmp_path / "theirs").write_text("1\n")
    os.link(tmp_path / "theirs", tmp_path / "metrics.jsonl")
    with open_store(tmp_path).append("metrics.jsonl") as lines:
        lines.write("2\n")
    assert (tmp_path / "metrics.jsonl").read_text() == "1\n2\n"
    assert (tmp_path / "theirs").read_text() == "1\n"


# The input.


class Failing:
    """A file opened whose bytes the disk does not give; the system names no file then."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def fileno(self):
        return -1

    def read(self, *_):
        raise OSError(self.number, os.strerror(self.number))


def test_the_first_bytes_that_the_disk_does_not_give_name_the_file(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    monkeypatch.setattr("builtins.open", lambda *_, **__: Failing(errno.EIO))
    with pytest.raises(UserError, match=rf"{path} cannot be read: Input/output error \(EIO\)"):
        never_rows(path)


def test_a_library_that_keeps_the_reason_for_itself_is_asked_for_it(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")

    def of_library(*_, **__):
        raise OSError("error stat()ing file descriptor")

    monkeypatch.setattr("engine.raw.pa.input_stream", of_library)
    with pytest.raises(UserError, match="breaks off or is damaged"):
        list(rows({"f": path}, 100))
    real = os.fstat

    def fstat(handle):
        if os.readlink(f"/proc/self/fd/{handle}") == str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(handle)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(UserError, match=rf"{path} cannot be read: {os.strerror(errno.ESTALE)} \(ESTALE\)"):
        list(rows({"f": path}, 100))


def test_a_source_that_the_system_does_not_show_is_not_taken_for_nothing(tmp_path, monkeypatch):
    real = os.stat

    def stat(path, *args, **kwargs):
        if str(path).endswith("rows.jsonl"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(UserError, match=r"rows\.jsonl cannot be read: Stale file handle \(ESTALE\)"):
        find([str(tmp_path / "rows.jsonl")])


def test_a_run_folder_that_is_the_folder_of_the_input_is_refused(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 4)))
    (tmp_path / "recipe.toml").write_text(IMPORT)
    recipe = load(str(tmp_path / "recipe.toml"), [f"prompts.source={data}"])
    (tmp_path / "link").symlink_to(data)
    for where in (data, tmp_path / "link"):
        with pytest.raises(UserError, match="is the folder of the input") as error:
            precompute(where, recipe, 1)
        assert os.listdir(data) == ["rows.jsonl"]
    remedy = str(error.value).rpartition(" ")[2]
    for _ in range(2):
        precompute(remedy, recipe, 1)
    assert "nothing to do" in capsys.readouterr().out


def test_a_file_whose_name_is_not_utf8_is_to_be_renamed(tmp_path):
    path = tmp_path / os.fsdecode(b"rows\xff.jsonl")
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"the name is not UTF-8.*rename it") as error:
        find([str(tmp_path)])
    str(error.value).encode()
    path.rename(tmp_path / "rows.jsonl")
    assert find([str(tmp_path)])


def test_a_query_on_a_part_of_the_shards_says_so(run, capsys):
    assert unfinished(open_store(run)) == []
    capsys.readouterr()
    next(run.glob("given-*/00001.json")).unlink()
    next(run.glob("given-*/manifest.json")).unlink()
    assert unfinished(open_store(run)) == ["given: 1 of 2 shards"]
    _answer(str(run), "select count(*) from prompts", _Wanted("csv", None, False, False), 60, 4096)
    said = capsys.readouterr()
    assert said.err.strip() == "not all is made: given: 1 of 2 shards" and "given" not in said.out


def test_zeros_behind_gzip_data_are_padding_and_other_bytes_are_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    lines = gzip.compress(b'{"n": 1}\n' * 5) + gzip.compress(b'{"n": 1}\n' * 4)
    for behind in (b"", bytes(9), bytes(10240), gzip.compress(b"")):
        path.write_bytes(lines + behind)
        assert len(list(rows({"f": path}, 100))) == 9
    for behind in (b"garbage!", b"x", bytes(3), bytes(600) + b"x"):
        path.write_bytes(lines + behind)
        with pytest.raises(UserError, match=rf"{path} .*bytes behind the end of the gzip data"):
            list(rows({"f": path}, 100))
    for cut in (1, 8, 20):
        path.write_bytes(lines[:-cut])
        with pytest.raises(UserError, match="breaks off or is damaged") as error:
            list(rows({"f": path}, 100))
        assert "bytes behind" not in str(error.value)
