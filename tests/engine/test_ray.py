"""On a Ray cluster a run has the bytes of a local one, whatever dies, and whatever joins."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.commands.precompute import precompute
from engine.executors import ray as executor
from engine.executors import ray_actor
from engine.executors.phases import phases
from engine.executors.ray_actor import Actor, Broken, Here, Said, Task, code_here
from engine.executors.ray_cluster import Needs, check_imported, needs_of
from engine.executors.worker import Failed, NextShard, NoMoreWork, ShardEnded
from engine.gaps import missing
from engine.opened import opened
from engine.plan import plan
from engine.scan import scan
from schemas import extensions
from schemas.errors import UserError
from schemas.recipe import Recipe
from tests.conftest import ROOT, tree
from tests.reliability.test_processes import sampling, wait_until

GPUS = {"CPU": 32.0, "GPU": 8.0}
CPUS = {"CPU": 16.0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, model_path) -> Recipe:
    """Six shards; long enough to be met in the middle."""
    return sampling(tmp_path_factory.mktemp("recipe"), model_path, prompts=150, max_tokens=120)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Of every model, however many workers there are: digits depend on it."""
    monkeypatch.setattr("engine.threads.cores", lambda: 1)


# Without a cluster.


@pytest.mark.parametrize(
    ("needs", "nodes", "want"),
    [
        (Needs(gpus=1, cpus=0), [GPUS, GPUS, CPUS], 16),
        (Needs(gpus=3, cpus=0), [GPUS, GPUS], 4),  # no engine spans two nodes
        (Needs(gpus=16, cpus=0), [GPUS, GPUS], 0),
        (Needs(gpus=0, cpus=5), [GPUS, CPUS], 9),
        (Needs(gpus=0, cpus=1), [], 0),
    ],
)
def test_a_worker_has_its_place_on_one_node(needs, nodes, want):
    assert needs.places(nodes) == want


def test_a_worker_takes_gpus_where_its_model_runs_on_them(tmp_path, recipe):
    def needs(device: str, nodes, threads: int = 4) -> Needs:
        run = plan(tmp_path, recipe.with_sections(model=replaced(recipe, device)))
        return needs_of(run, phases(run)[0], missing(run), threads, nodes)

    assert needs("auto", [CPUS, GPUS]) == Needs(1, 0)
    assert needs("auto", [CPUS]) == Needs(0, 4)
    assert needs("cpu", [GPUS]) == Needs(0, 4)
    assert needs("cuda", []) == Needs(1, 0)  # nodes may join
    assert needs("auto", [CPUS], threads=64) == Needs(0, 16)
    with pytest.raises(UserError, match=r"cuda:1 names a GPU of one machine"):
        needs("cuda:1", [GPUS])


def replaced(recipe: Recipe, device: str):
    return replace(recipe.section("model"), device=device)


def test_stages_without_a_model_take_no_gpu(tmp_path, recipe):
    run = plan(tmp_path, recipe)
    gaps = {0: [stage for stage in run.stages if stage.name not in run.models]}
    assert needs_of(run, phases(run)[0], gaps, 4, [GPUS]) == Needs(0, 1)


def test_a_node_without_this_code_is_said_to_lack_it():
    said = (
        "The actor died because of an error raised in its creation task\n"
        "RuntimeError: The actor with name Actor failed to import on the worker. This may be because\n"
        "ModuleNotFoundError: No module named 'engine'"
    )
    with pytest.raises(UserError, match=r"cannot import prefmill \(ModuleNotFoundError: No module .*install"):
        check_imported(RuntimeError(said))
    check_imported(RuntimeError("The actor died because its node has died"))


@contextmanager
def an_actor(run, code: str = "", jobs=None) -> Iterator[Actor]:
    """An actor in this process. `run`: a run that is set up."""
    before = logging.getLogger("prefmill").handlers[:]
    task = Task(run, 0, 0, 0, 1, run.store.names("job-*.json") if jobs is None else jobs)
    yield Actor(pickle.dumps(task), code or code_here(), extensions.packages(), os.getcwd())
    logging.getLogger("prefmill").handlers[:] = before


def news_until_the_end(actor: Actor, shards: list[int | None]) -> list[object]:
    """All that an actor tells, which is given shards as it asks for them."""
    told: list[object] = []
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for message in actor.listen():
            told.append(message)
            if isinstance(message, NextShard):
                actor.give(shards.pop(0))
            if isinstance(message, Failed | NoMoreWork | Broken):
                return told
    pytest.fail(f"no end: {told}")


def test_an_actor_makes_what_it_is_given_and_says_so(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(ray_actor, "BEAT", 0.01)
    run = plan(tmp_path / "run", recipe.with_sections(generate=shorter(recipe)))
    with opened(run):
        scan(run, {1, 4}, lambda rows: None, lambda line: None)
        with an_actor(run) as actor:
            told = news_until_the_end(actor, [4, 1, None])
        assert isinstance(told[0], Here) and set(told[0].libraries) == {"prompts", "given", "generate"}
        assert [message.shard for message in told if isinstance(message, ShardEnded)] == [4, 1]
        assert isinstance(told[-1], NoMoreWork) and not any(isinstance(one, Said) for one in told)
    assert sorted(path.name for path in (tmp_path / "run").glob("generate-*/0*.json")) == [
        "00001.json",
        "00004.json",
    ]


def shorter(recipe: Recipe):
    return replace(recipe.section("generate"), n=1, max_tokens=2)


def test_a_node_with_other_code_or_without_the_folder_makes_nothing(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(ray_actor, "BEAT", 0.01)
    run = plan(tmp_path / "run", recipe)
    with opened(run):
        with an_actor(run, code="other") as actor:
            (said,) = news_until_the_end(actor, [])
            assert isinstance(said, Failed) and "has another version of prefmill" in str(said.error)
        with an_actor(run, jobs=["job-0123456789abcdef.json"]) as actor:
            (said,) = news_until_the_end(actor, [])
            assert isinstance(said, Failed) and f"does not see {run.store}" in str(said.error)


# With one.


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run by this process."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.threads.cores", lambda: 1)
        precompute(path, recipe, 1)
    return tree(path)


@pytest.fixture(scope="module")
def cluster():
    """A head with room for one worker, on this machine. Tests add nodes, and take them away."""
    from ray.cluster_utils import Cluster

    # A node that is gone is seen after about a second.
    health = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 300,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 1, "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Cluster(initialize_head=True, head_node_args=head | {"_system_config": health})
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()
    signal.signal(signal.SIGTERM, handler)


def add_node(cluster):
    return cluster.add_node(num_cpus=1)


def actors_of(node) -> list[int]:
    """The process ids of the actors on a node."""
    raylet = node.all_processes["raylet"][0].process.pid
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == raylet and b"Actor" in title:
            found.append(int(folder.name))
    return found


@contextmanager
def meanwhile(run: Path, act: Callable[[], None]) -> Iterator[None]:
    """Do something as soon as there is a first shard."""
    errors: list[BaseException] = []

    def wait_and_act() -> None:
        try:
            wait_until(lambda: list(run.glob("given-*/0*.json")), "a first shard")
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()
    assert errors == []


@pytest.mark.long
def test_on_two_nodes_a_killed_actor_and_a_killed_node_change_no_byte(
    cluster, recipe, whole, tmp_path, caplog, capsys
):
    second = add_node(cluster)
    killed: list[int] = []

    def kill_an_actor() -> None:
        killed.extend(actors_of(cluster.head_node))
        os.kill(killed[0], signal.SIGKILL)

    with meanwhile(tmp_path / "actor", kill_an_actor):
        precompute(tmp_path / "actor", recipe, 0, executor="ray")
    assert killed and "its work is dealt again" in caplog.text
    assert tree(tmp_path / "actor") == whole
    caplog.clear()
    with meanwhile(tmp_path / "node", lambda: cluster.remove_node(second, allow_graceful=False)):
        precompute(tmp_path / "node", recipe, 2, executor="ray")
    assert "its work is dealt again" in caplog.text
    assert tree(tmp_path / "node") == whole


@pytest.mark.long
def test_a_node_that_joins_late_is_used(cluster, recipe, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(executor, "_LOOK", 0.5)
    made_by: list[int] = []
    take = executor._Driver._take

    def seen(self, number: int, message: object) -> None:
        if isinstance(message, ShardEnded):
            made_by.append(number)
        take(self, number, message)

    monkeypatch.setattr(executor._Driver, "_take", seen)
    long = recipe.with_sections(generate=longer(recipe))
    run = tmp_path / "run"
    # A node wants the main thread: it listens to signals.
    thread = threading.Thread(target=lambda: precompute(run, long, 0, executor="ray"))
    thread.start()
    wait_until(lambda: list(run.glob("given-*/0*.json")), "a first shard")
    late = add_node(cluster)
    thread.join()
    cluster.remove_node(late, allow_graceful=False)
    assert list(run.glob("generate-*/manifest.json"))
    assert set(made_by) == {0, 1} and len(made_by) == 6


def longer(recipe: Recipe):
    return replace(recipe.section("generate"), n=8, max_tokens=240)


@pytest.mark.long
def test_beside_local_commands_it_shares_a_run(cluster, recipe, whole, tmp_path, capsys):
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            precompute(tmp_path / "run", recipe, 1, executor=name, part="0::1")
        except BaseException as error:
            errors.append(error)

    other = threading.Thread(target=work, args=("local",))
    other.start()
    work("ray")
    other.join()
    assert errors == []
    assert tree(tmp_path / "run") == whole


@pytest.mark.long
def test_an_error_of_the_disk_in_an_actor_has_its_place(cluster, recipe, tmp_path, capsys):
    run = plan(tmp_path / "run", recipe)
    file = tmp_path / "run" / run.planned["generate"].folder / "00002.responses.parquet"
    file.mkdir(parents=True)
    (file / "mine").touch()
    with pytest.raises(UserError, match=r"00002\.responses\.parquet") as caught:
        precompute(tmp_path / "run", recipe, 1, executor="ray")
    assert "is a folder where" in str(caught.value)


@pytest.mark.long
def test_started_here_it_leaves_nothing_behind(recipe, whole, tmp_path):
    """Told to end in the middle, and to the end: no process is left."""
    marker = uuid.uuid4().hex
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "MARKER": marker}
    code = (
        "import pickle, sys; from schemas.errors import exit_on_user_error\n"
        "from engine import threads; threads.cores = lambda: 1\n"
        "from engine.commands.precompute import precompute\n"
        "with exit_on_user_error('kept'):\n"
        f"    precompute({str(tmp_path / 'run')!r}, pickle.load(sys.stdin.buffer), 2, 'ray')"
    )

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, stdin=subprocess.PIPE
        )
        pickle.dump(recipe, process.stdin)
        process.stdin.close()
        return process

    def are_gone() -> bool:
        return not [pid for pid in Path("/proc").glob("[0-9]*") if marker in environment_of(pid)]

    process = start()
    wait_until(lambda: list((tmp_path / "run").glob("given-*/0*.json")), "a first shard")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    wait_until(are_gone, "Ray's processes to end")
    assert start().wait(300) == 0
    wait_until(are_gone, "Ray's processes to end")
    assert tree(tmp_path / "run") == whole


def environment_of(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:
        return ""
