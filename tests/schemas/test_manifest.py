"""A folder says what it was made from, and its files are what their markers say, however many there are."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest

from schemas import blocks, seen
from schemas.blocks import block_name, remove_blocks, write_blocks
from schemas.contents import Allowance, check_files
from schemas.differences import difference
from schemas.digest import sha256_file
from schemas.errors import UserError
from schemas.listing import Entry
from schemas.local_store import LocalStore
from schemas.manifest import (
    FACTS,
    File,
    Finished,
    Marker,
    confirmed,
    folder_name,
    look,
    marker_name,
    read_marker,
    read_markers,
    refuse,
    verify,
    write_manifest,
    write_marker,
)
from schemas.records import Damaged, compact_bytes, compact_value
from schemas.shard_columns import columns_from, columns_of, joined
from schemas.store import open_store

FACTS_HERE = {"stage": "given", "version": 1}


class Counting(LocalStore):
    """A store that says what is read of it."""

    read_names: ClassVar[list[str]] = []

    def read(self, name: str) -> bytes:
        self.read_names.append(name)
        return super().read(name)


def markers_of(numbers) -> list[Marker]:
    """Markers that differ in their files, counts and what they were made from."""
    markers = []
    for shard in numbers:
        files = []
        for table in ("responses", "scores", "rejects")[: shard % 4]:
            digest = f"{shard:064x}"
            files.append(
                File(f"{shard:05d}.{table}.parquet", table, shard + 1, digest, None if shard == 2 else 9)
            )
        made_from = {"prompts": f"{shard:012x}"} if shard != 5 else {}
        counts = {"rows_in": shard} | ({"rejects": 0} if shard % 3 == 1 else {})
        markers.append(Marker(shard, tuple(files), made_from, counts))
    return markers


@pytest.fixture
def folder(tmp_path) -> Counting:
    store = Counting(tmp_path / folder_name("given", FACTS_HERE))
    Counting.read_names = []
    store.put(FACTS, json.dumps(FACTS_HERE).encode())
    return store


def test_a_difference_names_the_fact_and_both_values():
    then = {"model": {"weights": "aaa", "dtype": "float32"}, "max_length": 512}
    now = {"model": {"weights": "bbb", "dtype": "float32"}, "max_length": 512}
    assert difference(then, now) == ["model.weights (was aaa, is bbb)"]


def test_a_damaged_or_missing_shard_is_refused_by_name(tmp_path):
    path = tmp_path / "00003.pairs.parquet"
    path.write_bytes(b"x" * 50)
    file = File(path.name, "pairs", 1, sha256_file(path))
    assert verify(open_store(tmp_path), file) == path
    path.write_bytes(b"x" * 49 + b"y")
    with pytest.raises(
        UserError, match=r"00003\.pairs\.parquet: damaged.*run the same `engine precompute` again"
    ):
        verify(open_store(tmp_path), file)
    path.unlink()
    with pytest.raises(UserError, match="it is gone"):
        verify(open_store(tmp_path), file)


def test_columns_hold_markers_and_give_them_back():
    markers = markers_of([7, 0, 2, 5, 1, 12])
    columns = columns_of((marker, marker.shard) for marker in markers)
    ordered = sorted(markers, key=lambda marker: marker.shard)
    assert list(columns) == ordered == columns[:] and columns[-1] == ordered[-1]
    assert columns.digests == [marker.digest for marker in ordered]
    again = columns_from(json.loads(json.dumps(columns.as_json())))
    assert again == columns
    assert columns.totals() == {"rows_in": 27, "rejects": 0}
    assert columns.rows_by_table()["responses"] == 2 + 3 + 6 + 8
    halves = [
        columns_of((marker, marker.shard) for marker in ordered[a:b]) for a, b in ((0, 1), (1, 4), (4, 6))
    ]
    assert list(joined(halves)) == ordered and joined(halves).digests == columns.digests
    assert list(columns.without({0, 5})) == [marker for marker in ordered if marker.shard not in (0, 5)]


def test_what_was_sealed_in_one_line_is_read_only_to_the_last_byte():
    data = compact_bytes({"a": [1, 2], "b": "ü"})
    assert compact_value(data, "x") == {"a": [1, 2], "b": "ü"}
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 4
        with pytest.raises(Damaged):
            compact_value(bytes(changed), "x")
    for cut in (data[:-1], data + b" ", b"", data[1:]):
        with pytest.raises(Damaged):
            compact_value(cut, "x")


def test_a_finished_folder_is_told_by_its_listing_and_its_manifest_alone(folder):
    markers = markers_of(range(9))
    for marker in markers:
        write_marker(folder, marker)
    written = write_manifest(folder, FACTS_HERE, markers)
    Counting.read_names = []
    finished = look(folder)
    assert Counting.read_names == ["manifest.json"]
    assert finished.manifest == written and list(finished.shards) == markers


@pytest.mark.parametrize("what", ["gone", "too many", "longer"])
def test_a_manifest_that_the_listing_does_not_agree_with_is_refused(folder, what):
    markers = markers_of(range(4))
    for marker in markers:
        write_marker(folder, marker)
    write_manifest(folder, FACTS_HERE, markers)
    if what == "gone":
        folder.remove(marker_name(3))
    elif what == "too many":
        write_marker(folder, markers_of([7])[0])
    else:
        write_marker(folder, replace(markers[3], counts={"rows_in": 1000}))
    with pytest.raises(
        Damaged, match=r"manifest\.json.*shard [37] is not what 0000[37]\.json beside it says"
    ):
        read_markers(folder)


def test_a_marker_that_kept_its_size_is_seen_by_whoever_looks_into_it(folder):
    """The manifest still tells what was made; `engine precompute` and `verify` see the marker."""
    markers = markers_of(range(4))
    for marker in markers:
        write_marker(folder, marker)
    write_manifest(folder, FACTS_HERE, markers)
    write_marker(folder, replace(markers[3], counts={"rows_in": 9}))
    finished = look(folder)
    assert list(finished.shards) == markers
    found = confirmed(finished, refuse)
    assert found.manifest is None and found.shards[3].counts == {"rows_in": 9}
    assert confirmed(finished, refuse, most=3) is finished, "more than 3 would have to be read"


def test_blocks_stand_for_markers_until_one_is_written_again(folder, monkeypatch):
    monkeypatch.setattr(blocks, "SHARDS", 4)
    markers = markers_of(range(10))
    for marker in markers[:9]:
        write_marker(folder, marker)
    write_blocks(folder, 10)
    assert folder.names("block-*") == [block_name(0), block_name(1)], "the last one is not full"
    Counting.read_names = []
    assert list(read_markers(folder)) == markers[:9]
    assert Counting.read_names == [block_name(0), block_name(1), "00008.json"]
    other = replace(markers[5], made_from={"prompts": "f" * 12})  # of the same size
    folder.remove(marker_name(5))
    write_marker(folder, other)
    assert read_markers(folder)[5] == read_marker(folder, 5) == other
    write_marker(folder, markers[9])
    (folder.root / block_name(0)).write_bytes(b"{}")
    assert len(read_markers(folder)) == 10, "nothing depends on a block"
    write_blocks(folder, 10)
    Counting.read_names = []
    assert read_markers(folder)[5] == other and len(Counting.read_names) == 3
    folder.remove(marker_name(0))
    assert [marker.shard for marker in read_markers(folder)] == list(range(1, 10))
    remove_blocks(folder, folder.names())
    assert not folder.names("block-*") and len(read_markers(folder)) == 9


def test_few_shards_and_a_finished_folder_have_no_blocks(folder, monkeypatch):
    for marker in markers_of(range(8)):
        write_marker(folder, marker)
    write_blocks(folder, 8)
    assert not folder.names("block-*")
    monkeypatch.setattr(blocks, "SHARDS", 4)
    write_manifest(folder, FACTS_HERE, markers_of(range(8)))
    write_blocks(folder, 8)
    assert not folder.names("block-*")


@pytest.fixture
def settled(monkeypatch):
    """Every file counts as written some time ago."""
    monkeypatch.setattr("schemas.digest._RACY_NANOSECONDS", -(10**18))


def files_in(folder, count: int) -> list[File]:
    files = []
    for shard in range(count):
        name = f"{shard:05d}.scores.parquet"
        folder.put(name, b"%05d" % shard)
        files.append(File(name, "scores", 1, sha256_file(folder.root / name), 5))
    return files


def test_files_are_read_once_and_again_when_they_were_written(folder, settled, monkeypatch):
    hashed: list[str] = []
    monkeypatch.setattr(seen, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    files = files_in(folder, 5)

    def check(allowance=None):
        hashed.clear()
        seen._seen.cache_clear()  # as in another process
        markers = [Marker(shard, (file,), {}) for shard, file in enumerate(files)]
        entries = {entry.name: entry for entry in folder.entries()}
        return check_files(
            Finished(folder, entries, columns_of((marker, 1) for marker in markers)), allowance=allowance
        )

    assert not check() and len(hashed) == 5
    assert not check() and not hashed
    folder.put(files[3].name, b"other")
    assert "its sha256 is not" in str(check()[3]) and hashed == [files[3].name]
    folder.put(files[3].name, b"longer than before")
    folder.remove(files[1].name)
    found = check()
    assert "it has 18 bytes and its marker says 5" in str(found[3]) and not hashed
    assert "it is gone" in str(found[1])
    files = files_in(folder, 5)
    allowance = Allowance(files=2, bytes=100)
    assert not check(allowance) and allowance.left_out == 5 - 2 == 5 - len(hashed)


def test_a_memory_that_is_damaged_or_others_write_is_not_believed(tmp_path, monkeypatch, settled):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "run"
    place.mkdir()

    def known(number: int):
        seen._seen.cache_clear()
        return seen.seen_in(place).known(Entry(f"f{number}", 3, "1 2 3"))

    for number in range(3 * seen._LINES):
        memory = seen.seen_in(place)
        memory.note(Entry(f"f{number}", 3, "1 2 3"), f"digest {number}")
        memory.write()
    (file,) = (tmp_path / "cache" / "prefmill" / "seen").iterdir()
    assert (
        known(0) == "digest 0"
        and known(3 * seen._LINES - 1)
        and len(file.read_bytes().splitlines()) <= seen._LINES
    )
    assert seen.seen_in(place).known(Entry("f0", 3, "1 2 4")) is None
    data = file.read_bytes()
    file.write_bytes(data.replace(b"digest 0", b"digest 9"))
    assert known(0) is None
    file.write_bytes(data)
    assert known(0)
    file.parent.chmod(0o777)
    assert known(0) is None
