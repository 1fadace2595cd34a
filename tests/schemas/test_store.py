"""What is put into a store is there whole or not at all; what a killed writer left is removed."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas import disk
from schemas.disk import temporary_name
from schemas.errors import UserError
from schemas.store import LocalStore, open_store, write_output
from tests.conftest import ROOT


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "run")


def files(store) -> list[str]:
    """Everything in the folder, temporary files and hidden ones included."""
    return sorted(os.listdir(store.local_path()))


def fail(path):
    path.write_bytes(b"half")
    raise RuntimeError


def test_a_location_is_a_local_folder_and_a_store_is_itself(tmp_path):
    assert open_store(str(tmp_path)) == open_store(tmp_path) == LocalStore(tmp_path)
    store = LocalStore(tmp_path)
    assert open_store(store) is store


def test_what_is_put_is_read(store):
    assert not store.exists() and store.names() == []
    store.put("a.json", b"1")
    store.child("sub").put("b", b"2")
    assert store.read("a.json") == b"1" and store.child("sub").read("b") == b"2"
    assert store.names() == ["a.json", "sub"] and store.names("*.json") == ["a.json"]
    assert store.child("sub").name == "sub" and str(store.child("sub")) == f"{store}/sub"
    assert store.local_path("a.json").read_bytes() == b"1"
    store.put("a.json", b"3")
    assert store.read("a.json") == b"3"
    with pytest.raises(FileNotFoundError):
        store.read("none")


def test_put_if_absent_keeps_what_is_there(store):
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    assert store.read("a") == b"1" and files(store) == ["a"]


def test_put_if_absent_works_without_hard_links(store, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    assert store.read("a") == b"1" and files(store) == ["a"]


def test_put_file_gives_the_digest_of_what_it_wrote(store):
    from schemas.digest import sha256_file

    digest = store.put_file("a", lambda path: path.write_bytes(b"x" * 1000))
    assert digest == sha256_file(store.local_path("a"))


def test_a_write_that_fails_leaves_the_old_file_and_is_swept(store):
    store.put("f", b"old")
    with pytest.raises(RuntimeError):
        store.put_file("f", fail)
    assert store.read("f") == b"old" and store.names() == ["f"]
    assert files(store) == ["f"]
    users = ("backup.20261125.tmp", "mine.1234.tmp", "x.tmp", ".prefmill-1.tmp")
    for name in users:
        store.local_path(name).touch()
    store.local_path(temporary_name()).mkdir()
    store.local_path(temporary_name()).touch()
    store.sweep()
    assert files(store) == sorted(["f", *users]), "only names of our own making are removed"


def test_a_folder_appears_whole_and_replaces_the_old_one(store):
    def fill(path):
        (path / "a").write_text("1")
        assert not store.exists("whole")

    store.put_folder("whole", fill)
    assert store.child("whole").read("a") == b"1"
    store.put_folder("whole", lambda path: (path / "b").write_text("2"))
    assert store.child("whole").names() == ["b"] and files(store) == ["whole"]
    store.remove_folder("whole")
    store.remove_folder("whole")
    assert files(store) == []


def test_lines_are_appended(store):
    for line in ("a\n", "b\n"):
        with store.append("lines") as file:
            file.write(line)
    assert store.read("lines") == b"a\nb\n"


def test_a_lock_is_exclusive_and_gone_with_its_process(store):
    held = r"another `that`.*is at work"
    with store.lock("this"), pytest.raises(UserError, match=held), store.lock("that"):
        pass
    code = (
        "import os, sys; from schemas.store import open_store\n"
        "open_store(sys.argv[1]).lock('other').__enter__(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], cwd=ROOT)
    assert done.returncode == 9
    with store.lock("this"):
        pass


def test_an_output_is_written_whole(tmp_path):
    path = tmp_path / "out.csv"
    write_output(path, lambda to: to.write_text("old"))
    with pytest.raises(RuntimeError):
        write_output(path, fail)
    assert path.read_text() == "old"


def test_a_listing_shows_files_with_their_sizes_and_what_changes_with_them(tmp_path):
    store = LocalStore(tmp_path)
    assert store.child("not there").entries() == []
    store.put("b.json", b"12")
    store.put("a.json", b"1")
    store.put("c.txt", b"")
    (tmp_path / ".hidden.json").write_bytes(b"1")
    (tmp_path / "folder.json").mkdir()
    before = store.entries("*.json")
    assert [(entry.name, entry.size) for entry in before] == [("a.json", 1), ("b.json", 2)]
    store.put("b.json", b"34")
    after = store.entries("*.json")
    assert after[0] == before[0]
    assert after[1].stamp != before[1].stamp


def test_a_part_of_a_file_is_read(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a", b"0123456789")
    assert store.read_range("a", 3, 4) == b"3456"
    assert store.read_range("a", 8, 4) == b"89"
    with pytest.raises(FileNotFoundError):
        store.read_range("b", 0, 1)


def test_a_file_is_replaced_only_where_it_holds_what_was_read(tmp_path):
    store = LocalStore(tmp_path)
    assert not store.replace_if("a", b"", b"new")
    store.put("a", b"old")
    assert not store.replace_if("a", b"other", b"new")
    assert store.read("a") == b"old"
    assert store.replace_if("a", b"old", b"new")
    assert store.read("a") == b"new"


def test_of_many_that_replace_a_file_at_once_each_counts(tmp_path):
    store = LocalStore(tmp_path)
    store.put("count", b"0")

    def add(_: int) -> None:
        while True:
            old = store.read("count")
            if store.replace_if("count", old, str(int(old) + 1).encode()):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert store.read("count") == b"40"


def test_a_write_goes_on_while_another_command_sweeps(tmp_path):
    """Of commands that begin at once, one sweeps the folder while the others write their leases."""
    store = LocalStore(tmp_path)

    def sweep() -> None:
        for _ in range(20):
            store.sweep()
            time.sleep(0.005)

    def write(number: int) -> None:
        for turn in range(10):
            name = f"{number}-{turn}"
            assert store.put_if_absent(name, b"1")
            assert store.replace_if(name, b"1", b"2")
            store.remove(name)
            assert not store.replace_if(name, b"2", b"3")

    with ThreadPoolExecutor(4) as pool:
        sweeping = pool.submit(sweep)
        list(pool.map(write, range(3)))
        sweeping.result()
    assert store.names() == []


def test_a_write_whose_temporary_file_is_swept_is_made_again(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    for call, moved in (
        (lambda: store.put_if_absent("a", b"1"), "link"),
        (lambda: store.put("a", b"2"), "replace"),
    ):
        real = getattr(os, moved)
        swept: list[str] = []

        def sweep_first(*paths: object, real=real, swept=swept) -> None:
            if not swept:
                swept.append("once")
                store.sweep()
            real(*paths)

        monkeypatch.setattr(os, moved, sweep_first)
        assert call() in (True, None) and swept
        monkeypatch.setattr(os, moved, real)
    assert store.read("a") == b"2" and files(store) == ["a"]


def test_a_file_that_goes_while_it_is_replaced_is_not_replaced(tmp_path, monkeypatch):
    """Two that remove it at once are one; and whoever compares finds it gone."""
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    path = store.local_path("a")
    read, state_of = disk.read, disk.state_of

    def gone(*_: object) -> bytes:
        path.unlink()
        return read(path)

    monkeypatch.setattr(disk, "read", gone)
    assert not store.replace_if("a", b"1", b"2") and store.names() == []
    monkeypatch.setattr(disk, "read", read)
    store.put("a", b"1")
    before = state_of(path)
    path.unlink()
    monkeypatch.setattr(disk, "state_of", lambda found: before if found == path else state_of(found))
    store.remove("a")


def test_many_files_are_read_in_the_order_of_their_names(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    store.put("b", b"2")
    assert store.read_many(["b", "a", "b"]) == [b"2", b"1", b"2"]
    assert store.read_many([]) == []
    with pytest.raises(FileNotFoundError):
        store.read_many(["a", "none"])
