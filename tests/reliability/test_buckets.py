"""A run on object storage that is killed, or whose network fails, ends in the bytes of a run on a disk."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib

import pytest

from engine.views import views
from schemas.store import open_store
from tests.buckets import KEY, SECRET, Proxy, bucket, nothing_fails, proxy, s3  # noqa: F401 (fixtures)
from tests.conftest import ROOT, tree
from tests.faulty import Fault, FaultyStore, Killed, every_fault
from tests.reliability.runs import Small, plan_once
from tests.reliability.test_folders import imported, modelled  # noqa: F401 (fixtures)
from tests.reliability.training import Trained, flipped, trained  # noqa: F401 (a fixture)
from tests.trees import is_made
from trainer.train import train

pytestmark = pytest.mark.long  # tests/schemas/test_object_store.py has what is quick


def objects(store) -> dict[str, bytes]:
    """Every object's bytes by its path below the folder; the lock is not part of what was made."""
    found: dict[str, bytes] = {}
    for item in store.bucket.below(store.key):
        name = item.key.removeprefix(f"{store.key}/")
        if is_made(name):
            found[name] = store.bucket.get(item.key, item.size)
    return found


def is_same(store, want: dict[str, bytes]) -> None:
    """Nothing but the bytes of a run that nothing happened to."""
    found = objects(store)
    assert found.keys() == want.keys(), found.keys() ^ want.keys()
    different = [name for name in want if found[name] != want[name]]
    assert not different, different


def elsewhere(monkeypatch, tmp_path, number: int) -> None:
    """Go on as on another machine: with nothing in the local cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine-{number}"))


def try_kills(small: Small, address: str, trial, every: int) -> None:
    """Kill a run at its writes; the next one ends in the same bytes."""
    want = tree(small.path)
    count = Fault()
    small.again(FaultyStore(open_store(f"{address}/count"), count))
    is_same(open_store(f"{address}/count"), want)
    for fault in [*every_fault(len(count.writes))][::every]:
        with trial(f"{fault.way} {count.writes[fault.number - 1]}"):
            store = open_store(f"{address}/{fault.number}-{fault.way}")
            with pytest.raises(Killed):
                small.again(FaultyStore(store, fault))
            small.again(store)
            is_same(store, want)


def test_an_import_killed_at_its_writes(imported, bucket, trials, capsys, monkeypatch):  # noqa: F811
    plan_once(monkeypatch)
    with trials("an import on object storage killed at a write") as trial:
        try_kills(imported, bucket, trial, 4)


def test_a_run_with_a_model_killed_at_its_writes(modelled, bucket, trials, capsys, monkeypatch):  # noqa: F811
    plan_once(monkeypatch)
    with trials("a run with a model on object storage killed at a write") as trial:
        try_kills(modelled, bucket, trial, 11)


def breaking(seed: int, kinds: tuple[str | float, ...], of: int):
    """One request of so many fails, the same ones each time: which, and how, by its number."""

    def fault(number: int, method: str, path: str) -> str | float | None:
        drawn = zlib.crc32(f"{seed} {number}".encode())
        return kinds[drawn // of % len(kinds)] if drawn % of == 0 else None

    return fault


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("drop", "drop after", "503", "cut", 0.3), id="all"),
        pytest.param(("drop", "drop after"), id="drops"),
        pytest.param(("503",), id="503"),
        pytest.param(("cut",), id="cuts"),
        pytest.param((1.0,), id="waits"),
    ],
)
def test_a_network_that_fails(imported, bucket, proxy, trials, capsys, kinds):  # noqa: F811
    """One request of five fails, and the bytes are those of a run on a disk; it is read through the same."""
    with trials("a run through a network that drops, refuses, cuts off and waits") as trial:
        for seed in (1, 2):
            with trial(f"{kinds} {seed}"):
                store = open_store(f"{bucket}/{seed}")
                proxy.faults = breaking(seed, kinds, 5)
                try:
                    imported.again(store)
                    rows = views(store)["prompts"].to_table().num_rows
                    assert rows == 8
                finally:
                    proxy.faults = nothing_fails
                is_same(store, tree(imported.path))


def test_a_writer_killed_in_the_middle_of_an_object(bucket, proxy, trials):  # noqa: F811
    """Nothing of it is to be seen, and its lock is another's at once."""
    code = (
        "import sys; from schemas.store import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "with store.lock('writer'):\n"
        "    store.put_file('big', lambda path: path.write_bytes(bytes(int(sys.argv[2]))))\n"
    )
    with trials("a writer killed in the middle of an object") as trial:
        for size in (1 << 20, 40 << 20):
            with trial(f"{size:,} bytes"):
                _kill_while_it_writes(f"{bucket}/{size}", code, size, proxy)


def _kill_while_it_writes(address: str, code: str, size: int, proxy: Proxy) -> None:  # noqa: F811
    """Let a process begin to write an object of so many bytes, and kill it before it is whole."""
    store = open_store(address)
    reached: list[str] = []

    def hang(number: int, method: str, path: str) -> float | None:
        is_last = "partNumber=3" in path or ("partNumber" not in path and method == "PUT")
        if "/big" in path and is_last:
            reached.append(path)
            return 3.0
        return None

    proxy.faults = hang
    process = subprocess.Popen([sys.executable, "-c", code, address, str(size)], cwd=ROOT, env=os.environ)
    until = time.monotonic() + 60
    while not reached and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    proxy.faults = nothing_fails
    assert reached and store.names() == [] and not store.exists("big")
    with store.lock("another"):
        store.put("big", b"whole")
    assert store.read("big") == b"whole" and store.listing() == ["big"]


def put_cache(trained: Trained, address: str) -> None:  # noqa: F811
    """The run without its training, as `aws s3 sync` would copy it: no object bears a digest."""
    bucket_of_it = open_store(address).bucket
    prefix = open_store(address).key
    for name, data in tree(trained.cache).items():
        bucket_of_it.put(f"{prefix}/{name}", data)


def checkpoints_after(writes: list[str]) -> set[int]:
    """The steps of the checkpoints that are there after these writes."""
    there: set[int] = set()
    for write in writes:
        what, _, step = write.rpartition("checkpoint-")
        if what.startswith("put folder"):
            there.add(int(step))
        elif what.startswith("remove folder"):
            there.discard(int(step))
    return there


def checkpoints_in(folder) -> set[int]:
    """The steps of the checkpoints in a bucket that are whole."""
    names = folder.names("checkpoint-*")
    return {int(name.partition("-")[2]) for name in names if folder.child(name).exists("state.json")}


def test_a_training_killed_at_its_writes_goes_on_elsewhere(
    trained,  # noqa: F811
    bucket,  # noqa: F811
    tmp_path,
    trials,
    capsys,
    monkeypatch,
):
    """On a machine that has nothing of it, in the bytes of a training on a disk."""
    with trials("a training on object storage killed at a write, gone on with on another machine") as trial:
        for fault in [*every_fault(len(trained.writes))][3::7]:
            with trial(f"{fault.way} {trained.writes[fault.number - 1]}"):
                address = f"{bucket}/{fault.number}-{fault.way}"
                put_cache(trained, address)
                elsewhere(monkeypatch, tmp_path, 0)
                with pytest.raises(Killed):
                    train(FaultyStore(open_store(address), fault), trained.recipe)
                saved = checkpoints_after(trained.writes[: fault.number - (fault.way == "half")])
                assert saved == checkpoints_in(open_store(address).child(trained.name))
                elsewhere(monkeypatch, tmp_path, fault.number)
                capsys.readouterr()
                train(address, trained.recipe)
                if saved and max(saved) < 3:
                    assert f"from step {max(saved)} on" in capsys.readouterr().out
                is_same(open_store(address), trained.want)


def test_a_training_through_a_network_that_fails(trained, bucket, proxy, trials, capsys):  # noqa: F811
    with trials("a training through a network that drops, refuses, cuts off and waits") as trial:
        address = f"{bucket}/run"
        put_cache(trained, address)
        with trial("one request of six"):
            proxy.faults = breaking(3, ("drop", "drop after", "503", "cut"), 6)
            try:
                train(address, trained.recipe)
            finally:
                proxy.faults = nothing_fails
            is_same(open_store(address), trained.want)


def test_a_policy_in_a_bucket_is_measured_and_compared_in_place(
    trained,  # noqa: F811
    bucket,  # noqa: F811
    tmp_path,
    trials,
    capsys,
):
    from pathlib import Path

    from schemas.trainings import read as trainings
    from trainer.evaluate import evaluate, folder_of, recipe_of

    address = f"{bucket}/run"
    put_cache(trained, address)
    for name, data in tree(trained.path / trained.name).items():
        store = open_store(address)
        store.bucket.put(f"{store.key}/{trained.name}/{name}", data)
    local = trained.path / trained.name
    with trials("a policy on object storage, used in place") as trial:
        for last in ("", "/checkpoint-3"):
            with trial(f"eval {last}"):
                policy = Path(f"{address}/{trained.name}{last}")
                recipe = recipe_of(open_store(address), policy, [])
                values = evaluate(open_store(address), recipe, folder_of(policy))
                assert values == evaluate(open_store(trained.path), trained.recipe, folder_of(local))
        with trial("compare"):
            (there,) = trainings.read([Path(address)])
            (here,) = trainings.read([trained.path])
            assert there.last == here.last and there.finished
            assert json.dumps(there.facts, default=str) == json.dumps(here.facts, default=str)


def test_two_workers_on_a_network_that_fails(imported, bucket, proxy, trials, capsys):  # noqa: F811
    """Processes of their own share a bucket whose network fails; the bytes are those of a run on a disk."""
    from engine.commands.precompute import precompute

    with trials("two processes that make a run on object storage") as trial, trial("one of nine fails"):
        store = open_store(f"{bucket}/run")
        proxy.faults = breaking(5, ("drop", "503", "cut"), 9)
        try:
            precompute(store, imported.recipe, 2)
        finally:
            proxy.faults = nothing_fails
        store.remove("plan.json")  # says how many threads a model has beside so many workers
        want = tree(imported.path)
        del want["plan.json"]
        is_same(store, want)


def test_a_command_says_what_is_wrong_without_a_traceback(bucket, proxy, tmp_path, trials):  # noqa: F811
    """In a process as a user starts it."""
    said = {
        "s3://no-such-bucket/run": ("there is no bucket s3://no-such-bucket", {}),
        f"{bucket}/nothing": ("plan.json", {}),
        f"{bucket}/a/../b": ("'..' is not the name", {}),
        "http://127.0.0.1/x": ("s3://bucket/run", {}),
        "az://container/run": ("AZURE_STORAGE_ACCOUNT_NAME", {}),
        f"{bucket}/tls": ("AWS_ALLOW_HTTP=true", {"AWS_ALLOW_HTTP": "false"}),
        f"{bucket}/gone": ("cannot be reached", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
    }
    with trials("a command on object storage that cannot work") as trial:
        for address, (words, more) in said.items():
            with trial(address):
                command = [sys.executable, "-m", "engine.cli", "status", address]
                done = subprocess.run(
                    command, cwd=ROOT, env=os.environ | more, capture_output=True, text=True
                )
                assert done.returncode == 1 and words in done.stderr, done.stderr
                assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
                assert KEY not in done.stderr and SECRET not in done.stderr


def test_shards_are_fetched_once(imported, bucket, proxy, tmp_path, trials, capsys, monkeypatch):  # noqa: F811
    """Those that were made here never; elsewhere each once, and once more where its copy was changed."""
    address = f"{bucket}/run"
    imported.again(address)
    want = {name: table.to_table() for name, table in views(open_store(imported.path)).items()}
    shards = [name for name in objects(open_store(address)) if name.endswith(".parquet")]

    def fetched() -> int:
        before = proxy.gets(".parquet")
        found = views(open_store(address))
        assert all(found[name].to_table() == want[name] for name in want)
        return proxy.gets(".parquet") - before

    with trials("shards read from object storage through the local cache") as trial:
        with trial("made here"):
            assert fetched() == 0
        elsewhere(monkeypatch, tmp_path, 1)
        with trial("elsewhere"):
            assert fetched() == len(shards) > 2
        with trial("again"):
            assert fetched() == 0
        with trial("a byte of a copy is flipped"):
            copy = max((tmp_path / "machine-1").rglob("objects/??/*"), key=lambda path: path.stat().st_size)
            flipped(copy, 40, 3)
            assert fetched() == 1
        with trial("nothing is missing, and what was refused alone is fetched to print it"):
            elsewhere(monkeypatch, tmp_path, 2)
            before = proxy.gets(".parquet")
            of_rejects = proxy.gets(".rejects.parquet")
            capsys.readouterr()
            imported.again(address)
            assert "nothing to do" in capsys.readouterr().out
            assert proxy.gets(".parquet") - before == proxy.gets(".rejects.parquet") - of_rejects


def test_rounds_in_a_bucket_hand_on_the_same_policies(model_path, bucket, proxy, tmp_path, trials, capsys):  # noqa: F811
    """Also a merged adapter; and on another machine all of it is found finished."""
    from pipelines.run import rounds
    from schemas.recipe import load
    from tests.conftest import preferences
    from tests.pipelines.test_run import GIVEN

    rows = "".join(json.dumps(row) + "\n" for row in preferences(4, 6))
    (tmp_path / "p.jsonl").write_text(rows)
    (tmp_path / "r.toml").write_text(GIVEN)
    recipe = load(tmp_path / "r.toml", (f"prompts.source={tmp_path / 'p.jsonl'}", f"model.name={model_path}"))
    with trials("rounds on object storage") as trial:
        with trial("the same policies"):
            rounds(str(tmp_path / "run"), recipe)
            rounds(f"{bucket}/run", recipe)
            store = open_store(f"{bucket}/run")
            assert store.read("rounds.json") == (tmp_path / "run" / "rounds.json").read_bytes()
        with trial("found again"):
            before = objects(store)
            rounds(f"{bucket}/run", recipe)
            is_same(store, before)
