"""The scan by several processes, over parts of files; and the parts that it is laid in."""

import gzip
import json
import os
import signal
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine import ids, raw, scan, scan_parts, scanning
from engine.inputs import inputs
from engine.opened import opened
from engine.plan import plan
from engine.stage import Scanned
from schemas.errors import UserError
from schemas.extensions import included
from schemas.recipe import load
from schemas.records import Damaged
from schemas.sections import Prompts
from schemas.store import LocalStore
from tests.conftest import preferences
from tests.reliability.hostile_lines import hostile_lines


def lines_of(path, limit=1000, size=300):
    """The lines of a file, part by part."""
    parts = list(raw.parts_of("a", path, limit, size))
    texts = []
    for part in parts:
        for batch in raw.batches(part, limit):
            texts += [batch.row(place) for place in range(len(batch.lines))]
    return parts, [row.text for row in texts if row is not None]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"])
def test_parts_of_a_file_are_all_of_its_lines(tmp_path, monkeypatch, mark, end):
    monkeypatch.setattr("engine.raw._CHUNK", 50)
    path = tmp_path / "a.jsonl"
    rows = [json.dumps({"prompt": "x" * (number * 37 % 400)}) for number in range(30)]
    path.write_bytes(mark + end.join(row.encode() for row in rows))
    parts, texts = lines_of(path)
    assert texts == rows and len(parts) > 3
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert parts[0].begin == len(mark) and parts[-1].end == path.stat().st_size


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "a.csv"])
def test_other_files_are_one_part(tmp_path, name):
    rows = [{"prompt": "x" * 300} for _ in range(30)]
    text = json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows)
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data, 0) if name.endswith(".gz") else data)
    assert list(raw.parts_of("a", tmp_path / name, 1000, 300)) == [raw.Part("a", tmp_path / name)]


def scanned(folder, monkeypatch, workers):
    """The rows of a folder's files as so many processes read them, and what the user is told."""
    monkeypatch.setattr(scanning, "workers_for", lambda files, limit: workers)
    config = Prompts(source=(str(folder),), format="preference")
    found = inputs(config)
    told = scanning.Told()
    path = included("sql", "preference", ".sql")
    yield from scanning.scanned_files(found.files, config, path, found, told)
    yield set(told.left_out), told.guessed


@pytest.fixture
def folder(tmp_path):
    """Files of several parts and of one, with rows of every kind."""
    folder = tmp_path / "input"
    folder.mkdir()
    guessed = json.dumps({"chosen": "Seven is odd.", "rejected": "Seven is even.", "source": "x"}).encode()
    good = [json.dumps(row).encode() for row in preferences(1, 150)]
    (folder / "a.jsonl").write_bytes(b"\n".join([*good, *hostile_lines(1, 60), guessed, b"", *good[:20]]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(good[50:])))
    (folder / "c.jsonl").write_bytes(b"\n".join([*hostile_lines(2, 60), *good]))
    return folder


@pytest.mark.long
def test_several_processes_read_what_one_does(folder, monkeypatch):
    """The same rows in the same order, with the same lines; the same is told."""
    monkeypatch.setattr(scanning, "_PART", 9_000)
    *one, told_by_one = scanned(folder, monkeypatch, 1)
    for workers in (2, 3):
        *several, told = scanned(folder, monkeypatch, workers)
        assert pa.concat_tables(several).to_pylist() == pa.concat_tables(one).to_pylist()
        assert told == told_by_one and told[1] is not None
    assert len(several) > len(one)


@pytest.mark.long
def test_a_reading_process_that_is_killed_is_an_error(folder, monkeypatch):
    """And none of the others is left."""
    monkeypatch.setattr(scanning, "_PART", 2_000)
    killed = []
    tables = scanning.ScanWorkers.tables

    def kill(pool, parts, ended):
        rows = tables(pool, parts, ended)
        yield next(rows)
        os.kill(pool._processes[1].pid, signal.SIGKILL)
        killed.extend(pool._processes)
        yield from rows

    monkeypatch.setattr(scanning.ScanWorkers, "tables", kill)
    with pytest.raises(UserError, match=r"has ended before its time.*run the same command again"):
        list(scanned(folder, monkeypatch, 2))
    assert killed and not any(process.is_alive() for process in killed)


def test_an_interrupt_while_processes_start_leaves_none_and_they_do_not_hear_it(monkeypatch):
    """Else Python would wait for them at its end, and each would print a traceback of its imports."""
    started = []
    start = SpawnProcess.start

    def interrupted(process):
        start(process)
        started.append(process)
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():
            blocked = int(status.read_text().split("SigBlk:")[1].split()[0], 16)
            assert blocked >> (signal.SIGINT - 1) & 1
        if len(started) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt), scanning.ScanWorkers(None, 3):
        pass
    assert len(started) == 2 and not any(process.is_alive() for process in started)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize(("size", "workers"), [(10, 1), (45, 3), (900, 7)])
def test_no_more_processes_read_than_there_are_parts(tmp_path, monkeypatch, size, workers):
    monkeypatch.setattr(scanning, "_LARGE", 20)
    monkeypatch.setattr(scanning, "_PART", 20)
    monkeypatch.setattr(scanning, "cores", lambda: 7)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" * (size // 3))
    assert scanning.workers_for({"a.jsonl": path}, 1000) == workers
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 0))
    assert scanning.workers_for({"a.jsonl.gz": packed}, 1000) == 1


@pytest.mark.long
def test_a_damaged_file_is_said_by_the_process_that_reads_it(folder, monkeypatch):
    path = folder / "b.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"b\.jsonl\.gz breaks off or is damaged"):
        list(scanned(folder, monkeypatch, 2))


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_parts_of_the_scan_hold_each_shards_rows_in_order(tmp_path, monkeypatch, kept):
    """Shards that are not wanted, or have no rows, are not there; what was changed is noticed."""
    shards = 5
    wanted = np.array([True, True, False, True, True])
    batches = []
    for batch in range(3):
        names = [ids.content_id(batch, number) for number in range(40 + batch)]
        numbers = [ids.shard_of(name, shards - 1) for name in names]
        batches.append(Scanned(pa.table({"name": names, "batch": [[batch]] * len(names)}), numbers))
    digests = [
        scan_parts.lay(tmp_path, 0, batches[:2], wanted),
        scan_parts.lay(tmp_path, 1, batches[2:], wanted),
    ]
    store = LocalStore(tmp_path)
    monkeypatch.setattr(scan_parts, "_kept", {})
    monkeypatch.setattr(scan_parts, "_KEPT_BYTES", kept)

    def check(part, digest, whole=True):
        size = store.size(scan_parts.rows_name(part))
        scan_parts.check(store, part, digest, size, "again", whole=whole)

    for part, of_part in enumerate((batches[:2], batches[2:])):
        for shard in range(shards):
            expected = []
            for scanned in of_part:
                for name, number in zip(scanned.rows["name"].to_pylist(), scanned.shards, strict=True):
                    if number == shard and wanted[shard]:
                        expected.append(name)
            rows = scan_parts.rows_of(store, part, digests[part], shard, "again")
            assert (rows["name"].to_pylist() if rows is not None else []) == expected
        check(part, digests[part])
    path = tmp_path / scan_parts.rows_name(1)
    data = path.read_bytes()
    path.write_bytes(data[:60] + b"?" + data[61:])
    with pytest.raises(Damaged, match=r"00001\.arrows: damaged, the sha256 of the rows of shard 0.*again"):
        check(1, digests[1])
    with pytest.raises(Damaged, match="its sha256 is not the one that the scan wrote down"):
        check(0, digests[1], whole=False)
    path.write_bytes(data + b"?")
    with pytest.raises(Damaged, match=r"it has [\d,]+ bytes and its rows [\d,]+: again"):
        check(1, digests[1], whole=False)


@pytest.fixture
def laid(tmp_path):
    """A run of two shards that is scanned for one of them."""
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(20)))
    text = f'[prompts]\nsource = "{source}"\nformat = "prompts"\nshards = 2\n'
    (tmp_path / "recipe.toml").write_text(text)
    run = plan(tmp_path / "run", load(tmp_path / "recipe.toml"))
    with opened(run):
        scan.scan(run, {1}, lambda rows: None)
    return run, run.folder(run.stages[0])


def test_a_scan_that_is_laid_again_keeps_the_shards_that_others_read(laid):
    run, folder = laid
    before = scan.scanned_rows(folder, 1).to_pylist()
    scan.scan(run, {0}, lambda rows: None)
    assert scan.scanned_rows(folder, 1).to_pylist() == before
    assert len(scan.scanned_rows(folder, 0)) == 20 - len(before)


@pytest.mark.parametrize("spoil", ["removed", "for another shard", "flipped"])
def test_a_scan_that_went_while_it_was_read_is_laid_again(laid, spoil, caplog):
    """Another command ended the run, or laid the scan anew; or a disk spoiled it."""
    run, folder = laid
    before = scan.scanned_rows(folder, 1)
    if spoil == "removed":
        scan.remove_scan(run)
    elif spoil == "for another shard":
        scan.remove_scan(run)
        scan.scan(run, {0}, lambda rows: None)
    else:
        path = folder.local_path() / "scan" / scan_parts.rows_name(0)
        data = path.read_bytes()
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        scan.scan(run, {1}, lambda rows: None)  # a command that begins does not read all of it
    with pytest.raises(Damaged):
        scan.scanned_rows(folder, 1)
    assert scan.laid_rows(run, 1).equals(before)
    assert ("the input is read again" in caplog.text) == (spoil == "flipped")
    assert not run.store.names("lease-*")


def counted(asked, name, call):
    """A store's method that notes that it was called."""

    def noted(store, *arguments):
        asked.append(name)
        return call(store, *arguments)

    return noted


def test_a_shard_costs_a_request_a_part_beside_what_the_scan_says(laid, monkeypatch):
    """Each is one over the network: indexes are read once, and what is there is not asked before."""
    _, folder = laid
    asked = []
    for name in ("exists", "size", "read", "read_range", "entries", "names"):
        monkeypatch.setattr(LocalStore, name, counted(asked, name, getattr(LocalStore, name)))
    scan.scanned_rows(folder, 1)
    asked.clear()
    scan.scanned_rows(folder, 1)
    made = [name for name in asked if name != "size"]  # of a file that is read, by the local store itself
    assert made == ["read", "read_range"]
