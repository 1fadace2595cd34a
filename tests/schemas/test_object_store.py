"""A store in a bucket keeps what a store on a disk keeps, also while the network and the server fail."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from engine.make import _commit
from engine.stage import Made
from schemas import bucket as buckets
from schemas import leases, object_cache, seen
from schemas.contents import check_files
from schemas.digest import sha256_file
from schemas.errors import UserError
from schemas.manifest import Finished, read_marker
from schemas.object_store import ObjectStore
from schemas.shard_columns import columns_of
from schemas.store import open_store
from schemas.tables import TABLES
from tests.buckets import FAULTS, KEY, SECRET, bucket, proxy, s3  # noqa: F401 (fixtures)


@pytest.fixture
def store(bucket):  # noqa: F811
    return open_store(f"{bucket}/a/run")


def keys(store) -> list[str]:
    """All objects below the store, by their keys in it."""
    return [found.key.removeprefix(f"{store.key}/") for found in store.bucket.below(store.key)]


def test_what_is_put_is_read(store):
    assert not store.exists() and store.names() == [] and store.listing() is None
    store.put("a.json", b"1")
    store.child("sub").put("b", b"22")
    store.put(".hidden", b"")
    assert store.exists() and store.exists("a.json") and store.exists("sub") and not store.exists("none")
    assert store.read("a.json") == b"1" and store.child("sub").read("b") == b"22"
    assert store.names() == ["a.json", "sub"] and store.names("*.json") == ["a.json"]
    assert store.listing() == [".hidden", "a.json", "sub"]
    assert store.child("sub").name == "sub" and str(store.child("sub")) == f"{store}/sub"
    assert store.size("a.json") == 1 and store.read_many(["a.json", "a.json"]) == [b"1", b"1"]
    store.put("a.json", b"0123456789")
    assert store.read_range("a.json", 3, 4) == b"3456" and store.read_range("a.json", 8, 4) == b"89"
    assert store.read_range("a.json", 20, 4) == b""
    store.remove("a.json")
    store.remove("a.json")
    assert store.names() == ["sub"]
    for call in (store.read, store.size, lambda name: store.read_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError, match=re.escape(store.where("a.json"))):
            call("a.json")
    for call in (store.read, store.size, store.remove):
        with pytest.raises(UserError, match="is a folder where"):
            call("sub")


def test_an_address_is_taken_as_text_and_as_a_path(store):
    from pathlib import Path

    assert open_store(str(store)) == open_store(Path(str(store))) == open_store(f"{store}/") == store
    assert open_store(store) is store and isinstance(store, ObjectStore)
    with pytest.raises(UserError, match=r"s3://bucket/run"):
        open_store("https://example.org/run")


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../x", "a\nb", "\x01", "\udc80"])
def test_a_name_that_leads_elsewhere_is_refused(store, name):
    for call in (store.read, store.size, store.remove, lambda name: store.put(name, b"1"), store.child):
        with pytest.raises(UserError):
            call(name)
    assert keys(store) == []
    if name != "a/b":
        with pytest.raises(UserError):
            open_store(f"{store}/{name}/x")


def test_one_listing_shows_a_folder(store, proxy):  # noqa: F811
    for number in range(20):
        store.put(f"{number:05d}.json", b"x" * number)
    store.put("b.txt", b"")
    store.child("c.json").put("inner", b"")
    before = store.entries("*.json")
    assert [(entry.name, entry.size) for entry in before] == [(f"{n:05d}.json", n) for n in range(20)]
    store.put("00003.json", b"yyy")
    asked = len(proxy.requests)
    after = store.entries("*.json")
    assert len(proxy.requests) == asked + 1
    assert [n for n in range(20) if before[n].stamp != after[n].stamp] == [3]


def test_of_many_that_write_a_file_first_one_succeeds(store):
    start = threading.Barrier(8)

    def write(number: int) -> bool:
        start.wait()
        return store.put_if_absent("claim", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(8)))
    assert sum(written) == 1
    assert store.read("claim") == str(written.index(True)).encode()


def test_of_many_that_replace_a_file_at_once_each_counts(store):
    store.put("count", b"0")
    assert not store.replace_if("none", b"", b"1")
    assert not store.replace_if("count", b"other", b"1")

    def add(_: int) -> None:
        while True:
            old = store.read("count")
            if store.replace_if("count", old, str(int(old) + 1).encode()):
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert store.read("count") == b"12"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_fails_is_made_again(store, proxy, fault):  # noqa: F811
    """Every third request fails. What was written although its answer was lost is not written twice."""
    data = bytes(range(256)) * 300
    proxy.faults = lambda number, method, path: fault if number % 3 == 1 else None
    store.put("a", data)
    assert store.read("a") == data
    assert store.read_range("a", 100, 50) == data[100:150]
    digest = store.put_file("b", lambda path: path.write_bytes(data))
    assert store.put_if_absent("c", b"1") and not store.put_if_absent("c", b"2")
    assert store.replace_if("c", b"1", b"3") and not store.replace_if("c", b"1", b"4")
    store.put_folder("d", lambda path: (path / "e").write_bytes(data))
    assert sha256_file(store.local_file("b", digest, afresh=True)) == digest
    assert keys(store) == ["a", "b", "c", "d/e"] and store.names() == ["a", "b", "c", "d"]
    store.remove("a")
    store.remove_folder("d")
    assert store.read_many(["b", "c", "b"]) == [data, b"3", data] and keys(store) == ["b", "c"]


@pytest.mark.parametrize("before", ["drop", "503"])
def test_an_answer_that_breaks_off_is_asked_for_again_whatever_failed_before(store, proxy, before):  # noqa: F811
    """The library tries again what was dropped or refused, and then not what breaks off."""
    data = bytes(range(256)) * 300
    store.put("a", data)
    faults = iter([before, "cut"])
    proxy.faults = lambda number, method, path: next(faults, None)
    assert store.read("a") == data
    assert next(faults, "none is left") == "none is left"


@pytest.mark.parametrize("fault", ["drop after", "drop", "503"])
def test_a_conditional_write_is_known_again_when_its_answer_is_lost(store, proxy, fault):  # noqa: F811
    """It was written or not, once; and the next one who comes is told that it is there."""
    for call in (lambda: store.put_if_absent("a", b"1"), lambda: store.replace_if("a", b"1", b"2")):
        broken: list[str] = []

        def first_put(number: int, method: str, path: str, broken: list[str] = broken) -> str | None:
            if method != "PUT" or broken:
                return None
            broken.append(path)
            return fault

        proxy.faults = first_put
        assert call() and broken
        assert not call()
    assert store.read("a") == b"2"


def test_a_folder_is_real_by_its_last_file(store, proxy):  # noqa: F811
    def fill(path):
        (path / "inner").mkdir()
        for name in ("done.json", "00000.arrows", "inner/x"):
            (path / name).write_text(name)

    store.put_folder("scan", fill)
    before = len(proxy.requests)
    store.put_folder("scan", fill)
    changes = [path for method, path in proxy.requests[before:] if method != "GET"]
    assert changes[-1].endswith("scan/done.json")
    assert keys(store) == ["scan/00000.arrows", "scan/done.json", "scan/inner/x"]
    store.remove_folder("scan")
    assert not store.exists("scan")


def test_a_file_is_cached_by_its_digest_and_a_flipped_byte_is_noticed(store, proxy, tmp_path, monkeypatch):  # noqa: F811
    data = b"parquet" * 5000
    digest = store.put_file("x.parquet", lambda path: path.write_bytes(data))
    assert store.digest_of("x.parquet") == digest
    for _ in range(3):
        assert store.local_file("x.parquet", digest).read_bytes() == data
    assert proxy.gets("x.parquet") == 0, "what was written here was kept"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    for _ in range(3):
        path = store.local_file("x.parquet", digest)
        assert path.read_bytes() == data
    assert path == object_cache.path_of(digest) and proxy.gets("x.parquet") == 1
    flipped = bytearray(data)
    flipped[17] ^= 4
    path.write_bytes(flipped)
    assert store.local_file("x.parquet", digest).read_bytes() == data
    assert proxy.gets("x.parquet") == 2
    store.put("x.parquet", bytes(flipped))
    assert store.digest_of("x.parquet") != digest
    assert sha256_file(store.local_file("x.parquet", digest, afresh=True)) != digest


def test_an_object_that_names_another_digest_than_its_own_is_refused(store, tmp_path):
    """Such as a copy that a tool has made wrongly, with what the object said of itself."""
    digest = store.put_file("x.parquet", lambda path: path.write_bytes(b"what was written"))
    assert [path.read_bytes() for path in store.local_files(["x.parquet"], [digest])] == [b"what was written"]
    path = tmp_path / "other"
    path.write_bytes(b"something else")
    store.bucket.put_path(f"{store.key}/x.parquet", path, "0" * 64)
    assert store.digest_of("x.parquet") == "0" * 64
    with pytest.raises(UserError, match=r"x\.parquet: its bytes do not have the sha256"):
        store.local_files(["x.parquet"], ["0" * 64])


def test_lines_are_added(store):
    for line in ("a\n", "é\n"):
        with store.append("lines") as file:
            file.write(line)
    assert store.read("lines") == "a\né\n".encode()


def test_a_folder_is_worked_on_in_a_copy_which_the_bucket_rules(store, tmp_path, monkeypatch):
    """Two machines take turns. What one had not put is gone when it comes again, and the other's is there."""
    machines = [str(tmp_path / "one"), str(tmp_path / "other")]
    monkeypatch.setenv("XDG_CACHE_HOME", machines[0])
    here = store.child("train").on_disk()
    with here.lock("train"):
        here.put("facts.json", b"1")
        here.put_folder("checkpoint-1", lambda path: (path / "state.json").write_bytes(b"one"))
        assert keys(store) == ["train/.lock", "train/checkpoint-1/state.json", "train/facts.json"]
        lines = here.append("metrics.jsonl")
        lines.write("a\n")
        lines.flush()
        assert here.read("metrics.jsonl") == b"a\n" and not store.child("train").exists("metrics.jsonl")
        lines.close()
        assert store.child("train").read("metrics.jsonl") == b"a\n"
        (here.local_path() / "by-path").write_bytes(b"of a tracker")
    assert store.child("train").read("by-path") == b"of a tracker"
    (here.local_path() / "facts.json").write_bytes(b"was not put")
    (here.local_path() / "stray").write_bytes(b"was not put")
    monkeypatch.setenv("XDG_CACHE_HOME", machines[1])
    there = store.child("train").on_disk()
    with there.lock("train"):
        assert there.names() == ["by-path", "checkpoint-1", "facts.json", "metrics.jsonl"]
        assert (there.local_path("checkpoint-1") / "state.json").read_bytes() == b"one"
        there.remove_folder("checkpoint-1")
        there.put_folder("checkpoint-2", lambda path: (path / "state.json").write_bytes(b"two"))
        (there.local_path() / "by-path").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", machines[0])
    with here.lock("train"):
        assert here.names() == ["checkpoint-2", "facts.json", "metrics.jsonl"]
        assert here.read("facts.json") == b"1" and here.child("checkpoint-2").read("state.json") == b"two"
        assert not (here.local_path() / "stray").exists()
        assert not (here.local_path() / "checkpoint-1").exists()
    assert keys(store.child("train")) == ["checkpoint-2/state.json", "facts.json", "metrics.jsonl"]


def test_who_has_lost_a_folder_changes_nothing_of_it(store):
    """A trainer that was taken for dead comes to the end: its successor's checkpoints stay."""
    train = store.child("train")
    train.put("old", b"")
    here = train.on_disk()
    lock = here.lock("train")
    lock.__enter__()
    here.put_folder("checkpoint-1", lambda path: (path / "state.json").write_bytes(b"1"))
    train.put(".lock", json.dumps(json.loads(train.read(".lock")) | {"token": "b", "machine": "x"}).encode())
    train.remove("old")
    train.child("checkpoint-2").put("state.json", b"2")
    for call in (
        here.push,
        lambda: here.put_folder("checkpoint-1", lambda path: (path / "state.json").write_bytes(b"3")),
        lambda: here.remove("old"),
        lambda: here.remove_folder("checkpoint-2"),
        lambda: lock.__exit__(None, None, None),
    ):
        with pytest.raises(leases.Lost, match="another one has taken over"):
            call()
    assert keys(train) == [".lock", "checkpoint-1/state.json", "checkpoint-2/state.json"]
    assert train.child("checkpoint-1").read("state.json") == b"1"


def test_what_comes_from_elsewhere_while_a_folder_is_held_stays(store):
    here = store.child("train").on_disk()
    with here.lock("train"):
        here.put("a", b"1")
        here.put("b", b"1")
        store.child("train").put("theirs", b"1")
        (here.local_path() / "a").unlink()
    assert keys(store.child("train")) == ["b", "theirs"]


def test_a_download_is_of_one_version(store, proxy, tmp_path, monkeypatch):  # noqa: F811
    """An object that is replaced between two parts is read anew."""
    monkeypatch.setattr(buckets, "_PART", 1000)
    store.put("a", b"1" * 2500)
    reads: list[str] = []

    def replaced(number: int, method: str, path: str) -> None:
        if method == "GET":
            reads.append(path)
            if len(reads) == 2:
                store.put("a", b"2" * 2300)

    proxy.faults = replaced
    found = store.bucket.download(store._key("a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"2" * 2300
    assert found.size == 2300 and len(reads) == 5


def test_a_lock_is_exclusive_and_a_dead_holder_loses_it(store, monkeypatch):
    with (
        store.lock("this"),
        pytest.raises(UserError, match=r"another `this`.*is at work"),
        store.lock("that"),
    ):
        pass
    assert keys(store) == []
    with store.lock("this"):
        holder = json.loads(store.read(".lock"))
    dead_here = holder | {"born": "1", "token": "a"}  # a process of this number that is gone
    silent_elsewhere = holder | {"machine": "another", "token": "b"}
    monkeypatch.setattr(leases, "SILENCE", 0.3)
    monkeypatch.setattr(leases, "_LOOK", 0.1)
    for dead in (dead_here, silent_elsewhere):
        store.put(".lock", json.dumps(dead).encode())
        with store.lock("that"):
            assert json.loads(store.read(".lock"))["who"] == "that"
    assert keys(store) == []


def test_errors_name_the_address_and_what_to_do_and_no_key(bucket, proxy, monkeypatch):  # noqa: F811
    nowhere = open_store("s3://no-such-bucket-here/run")
    for call in (lambda: nowhere.put("a", b""), lambda: nowhere.read("a"), nowhere.names):
        with pytest.raises(UserError, match=r"s3://no-such-bucket-here.*no bucket.*make it"):
            call()
    store = open_store(f"{bucket}/run")
    proxy.faults = lambda number, method, path: "403"
    with pytest.raises(UserError, match=r"access is refused.*AWS_ACCESS_KEY_ID") as caught:
        store.put("a", b"")
    assert KEY not in str(caught.value) and SECRET not in str(caught.value)


def test_a_shard_takes_few_requests(store, proxy, tmp_path, monkeypatch):  # noqa: F811
    """Thousands of shards are written and looked into; each request costs a tenth of a second far away."""
    prompts = TABLES["prompts"].empty_table()
    row = {field.name: "a" for field in prompts.schema if pa.types.is_string(field.type)}
    rows = pa.Table.from_pylist([row], schema=prompts.schema)

    def asked(call) -> tuple[object, list[str]]:
        proxy.requests.clear()
        answer = call()
        return answer, [method for method, _ in proxy.requests]

    marker, requests = asked(lambda: _commit(store, 3, Made({"prompts": rows}), {}))
    assert requests == ["PUT", "PUT"], "the file and its marker"
    assert marker.files[0].size == store.size(marker.files[0].name)
    assert asked(lambda: read_marker(store, 3)) == (marker, ["GET"])
    seen._seen.cache_clear()
    entries = {entry.name: entry for entry in store.entries()}
    finished = Finished(store, entries, columns_of([(marker, 1)]))
    assert asked(lambda: check_files(finished)) == ({}, ["HEAD"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing is remembered"))
    store.remove(marker.files[0].name)
    assert "it is gone" in str(check_files(finished)[0])
