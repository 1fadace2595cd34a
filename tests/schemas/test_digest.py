"""Content is known by its digest, facts by their fingerprint; what is remembered is never another file's."""

import os
import shutil
import time
from dataclasses import replace

import pytest

from schemas import digest
from schemas.digest import cache_folder, content_digest, fingerprint, is_remembered, sha256_file


@pytest.fixture
def settled(monkeypatch, tmp_path):
    """A memory of one's own, in which no file is too young to be remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "_RACY_NANOSECONDS", -(10**18))


@pytest.fixture
def weights(settled, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)
    assert content_digest(path) == sha256_file(path)
    assert is_remembered(path)
    return path


def entry():
    (found,) = entry_folder().iterdir()
    return found


def test_a_digest_is_of_the_content_and_remembered_until_it_changes(weights):
    past = time.time() - 100
    os.utime(weights, (past, past))
    assert content_digest(weights) == sha256_file(weights) == content_digest(weights)
    weights.write_bytes(b"b" * 100)  # same size, another time
    assert content_digest(weights) == sha256_file(weights)


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)
    os.utime(path, (1, 1))  # an old time that it was given just now
    content_digest(path)
    assert not is_remembered(path)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(settled, tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)

    def read_and_change(file):
        found = sha256_file(file)
        file.write_bytes(b"b" * 100)
        return found

    monkeypatch.setattr(digest, "sha256_file", read_and_change)
    content_digest(path)
    assert not is_remembered(path)


def test_an_entry_of_another_file_says_nothing(weights, tmp_path):
    """As it would be after a copy within the memory, or where two files share one inode."""
    other = tmp_path / "other"
    os.link(weights, other)
    content_digest(weights)
    own = entry().read_bytes()
    content_digest(other)
    for file in entry_folder().iterdir():
        file.write_bytes(own)
    assert is_remembered(weights) and not is_remembered(other)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_memory_that_others_may_write_is_not_believed(weights, mode):
    entry().parent.chmod(mode)
    assert not is_remembered(weights)
    content_digest(weights)
    entry().parent.chmod(0o700)
    assert is_remembered(weights)


def test_a_memory_behind_a_link_is_not_believed(weights, tmp_path):
    folder = entry().parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert not is_remembered(weights)


def test_a_link_in_the_place_of_an_entry_is_replaced_and_not_followed(weights, tmp_path):
    place = entry()
    mine = tmp_path / "mine"
    mine.write_text("kept")
    place.unlink()
    place.symlink_to(mine)
    assert content_digest(weights) == sha256_file(weights)
    assert mine.read_text() == "kept" and not place.is_symlink()


def test_a_home_that_cannot_be_written_stops_nothing(settled, tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"a")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert content_digest(path) == sha256_file(path)


def test_two_machines_that_share_a_home_do_not_forget_for_each_other(weights, monkeypatch):
    """They know a disk of the network by other numbers."""
    state_of = digest._state_of

    def elsewhere(path):
        state = state_of(path)
        return replace(state, device=state.device + 1)

    with monkeypatch.context() as patch:
        patch.setattr(digest, "_state_of", elsewhere)
        assert not is_remembered(weights)
        content_digest(weights)
        assert is_remembered(weights)
    assert is_remembered(weights)


def test_nothing_temporary_is_left_in_the_memory(weights):
    shutil.copy2(weights, weights.with_name("second"))
    content_digest(weights.with_name("second"))
    names = [file.name for file in entry_folder().iterdir()]
    assert all(len(name) == 64 for name in names) and len(names) == 2


def entry_folder():
    return cache_folder() / "digests"


def test_facts_in_another_order_have_the_same_fingerprint():
    assert (
        fingerprint({"a": 1, "b": [1, 2]})
        == fingerprint({"b": [1, 2], "a": 1})
        != fingerprint({"a": 1, "b": [2, 1]})
    )
