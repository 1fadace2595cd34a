"""Content is known by its digest, facts by their fingerprint."""

import os
import time

from schemas.digest import content_digest, fingerprint, sha256_file


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
