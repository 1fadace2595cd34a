"""What is committed is whole, and known by its content."""

import os
import time

import pytest

from schemas.commit import (
    commit_bytes,
    commit_folder,
    committed,
    content_digest,
    fingerprint,
    sha256_file,
    sweep,
)
from schemas.errors import UserError
from schemas.manifest import File, difference, verify


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    commit_bytes(path, b"old")
    with pytest.raises(RuntimeError), committed(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    (tmp_path / "mine.tmp").mkdir()
    (tmp_path / "notes.tmp").touch()
    sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f", "mine.tmp", "notes.tmp"]


def test_a_folder_appears_whole(tmp_path):
    def fill(path):
        (path / "a").write_text("1")
        assert not (tmp_path / "whole").exists()

    commit_folder(tmp_path / "whole", fill)
    assert (tmp_path / "whole" / "a").read_text() == "1"


def test_a_digest_is_of_the_content_and_remembered_until_it_changes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)
    past = time.time() - 100
    os.utime(path, (past, past))
    assert content_digest(path) == sha256_file(path) == content_digest(path)
    path.write_bytes(b"b" * 100)  # same size, another time
    assert content_digest(path) == sha256_file(path)


def test_facts_in_another_order_have_the_same_fingerprint():
    assert (
        fingerprint({"a": 1, "b": [1, 2]})
        == fingerprint({"b": [1, 2], "a": 1})
        != fingerprint({"a": 1, "b": [2, 1]})
    )


def test_a_difference_names_the_fact_and_both_values():
    then = {"model": {"weights": "aaa", "dtype": "float32"}, "max_length": 512}
    now = {"model": {"weights": "bbb", "dtype": "float32"}, "max_length": 512}
    assert difference(then, now) == ["model.weights (was aaa, is bbb)"]


def test_a_damaged_or_missing_shard_is_refused_by_name(tmp_path):
    path = tmp_path / "00003.pairs.parquet"
    path.write_bytes(b"x" * 50)
    file = File(path.name, "pairs", 1, sha256_file(path))
    assert verify(tmp_path, file) == path
    path.write_bytes(b"x" * 49 + b"y")
    with pytest.raises(UserError, match="damaged.*00003.json"):
        verify(tmp_path, file)
    path.unlink()
    with pytest.raises(UserError, match="it is gone"):
        verify(tmp_path, file)
