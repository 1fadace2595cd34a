"""No process can make another wait for ever, and none that ends early changes what is made.

Workers that are stopped or killed, signals, two jobs at once, kills at random moments.
"""

import multiprocessing as mp
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.commands.precompute import precompute
from engine.executors import local, phases
from engine.listening import Ended, Inbox, Ticks
from engine.opened import opened
from engine.plan import plan
from schemas.errors import UserError
from schemas.recipe import Recipe, load
from schemas.store import open_store
from tests.conftest import RECIPE, ROOT, settings, tree

WAIT = 120  # seconds after which a test gives up


@pytest.fixture(scope="module")
def words(precompute_words):
    """The settings of a small precompute in five shards."""
    return [word for word in precompute_words[3:] if word != "--set"]


@pytest.fixture(scope="module")
def recipe(words) -> Recipe:
    return load(RECIPE, words)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    """A run by one worker that nothing happened to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    precompute(path, recipe, 1)
    return path


def wait_until(condition, what: str) -> None:
    for _ in range(10 * WAIT):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited {WAIT} s for {what}")


# Workers.


def with_a_worker_sent(number: int, run: Path, recipe: Recipe) -> int:
    """Precompute by two workers, one of which gets a signal as soon as there is a shard; its process id."""
    hit: list[int] = []

    def hit_one() -> None:
        wait_until(lambda: mp.active_children() and list(run.glob("given-*/0*.json")), "a first shard")
        process = mp.active_children()[0]
        assert process.pid is not None
        hit.append(process.pid)
        os.kill(process.pid, number)

    thread = threading.Thread(target=hit_one)
    thread.start()
    precompute(run, recipe, 2)
    thread.join()
    assert not Path(f"/proc/{hit[0]}").exists() and not mp.active_children(), "a worker is left"
    return hit[0]


def sampling(folder: Path, model: Path, prompts: int, max_tokens: int) -> Recipe:
    """Pairs that are given, and samples beside them, in six shards."""
    rows = folder / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(prompts):
            file.write(f'{{"prompt": "{number}", "chosen": "yes {number}", "rejected": "no {number}"}}\n')
    text = f"[model]\n[prompts]\nshards = 6\n[given]\n[generate]\nn = 4\nmax_tokens = {max_tokens}\n"
    (folder / "recipe.toml").write_text(text)
    values = settings(prompts__source=rows, model__name=model)
    return load(folder / "recipe.toml", [word for word in values if word != "--set"])


@pytest.fixture
def slow(tmp_path, model_path) -> Recipe:
    """A run whose model works long enough to be met in the middle."""
    return sampling(tmp_path, model_path, prompts=300, max_tokens=160)


@pytest.mark.long
def test_another_worker_takes_the_place_of_a_stopped_one(trials, slow, tmp_path, monkeypatch, capsys, caplog):
    """Nobody waits for a process that is stopped, and its shards are made by others."""
    monkeypatch.setattr(local, "SILENCE", 6.0)
    with trials("a worker that is stopped") as trial, trial("SIGSTOP"):
        pid = with_a_worker_sent(signal.SIGSTOP, tmp_path / "run", slow)
        assert f"worker {pid} ended" in caplog.text and "gave no sign of life for 6 s" in caplog.text
        assert list((tmp_path / "run").glob("generate-*/manifest.json"))


@pytest.mark.long
def test_a_killed_worker_costs_its_shards_and_changes_no_byte(trials, slow, tmp_path, capsys, caplog):
    precompute(tmp_path / "whole", slow, 2)
    want = tree(tmp_path / "whole")
    with trials("a worker that is killed") as trial:
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            with trial(number.name):
                run = tmp_path / number.name
                pid = with_a_worker_sent(number, run, slow)
                assert f"worker {pid} ended" in caplog.text and number.name in caplog.text
                assert tree(run) == want


@pytest.mark.long
def test_a_shard_that_kills_every_worker_ends_the_run_with_a_sentence(slow, tmp_path, monkeypatch, capsys):
    """As a machine without memory does: three workers, then an error that says what to try."""
    stop = threading.Event()
    run = tmp_path / "run"

    def kill_all() -> None:
        while not stop.is_set():
            for process in mp.active_children() if list(run.glob("given-*/0*.json")) else []:
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.05)

    thread = threading.Thread(target=kill_all)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"worker \d+ ended.*SIGKILL.*3 (workers|did)") as caught:
            precompute(run, slow, 2)
    finally:
        stop.set()
        thread.join()
    assert "finished shards are kept" in str(caught.value) and not mp.active_children()


def test_an_error_of_the_disk_in_a_worker_has_its_place(trials, recipe, whole, tmp_path, capsys):
    """Not that a worker ended: what went wrong, and where."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for marker in run.glob("logprobs-*/0*.json"):
        marker.unlink()
    file = next(run.glob("logprobs-*/00001.logprobs.parquet"))
    file.unlink()
    file.mkdir()
    (file / "mine").touch()
    with trials("an error of the disk in a worker") as trial, trial("a folder in a file's place"):
        with pytest.raises(UserError, match=r"00001\.logprobs\.parquet") as caught:
            precompute(run, recipe, 2)
        assert "is a folder where" in str(caught.value) and "ended" not in str(caught.value)
        shutil.rmtree(file)
        precompute(run, recipe, 1)
        assert tree(run).keys() == tree(whole).keys()


def test_half_a_message_blocks_nobody():
    """A process that is stopped in the middle of a message: others are heard, and time goes on."""
    stopped, other = mp.Pipe(), mp.Pipe()
    inbox = Inbox()
    for ours, _ in (stopped, other):
        inbox.listen(ours)
    os.write(stopped[1].fileno(), b"\x00\x00\x10\x00half")  # the length of a message, and a part of it
    assert inbox.next(0.2) is None
    other[1].send("here")
    assert inbox.next(5) == (other[0], "here")
    stopped[1].close()
    pipe, message = inbox.next(5)
    assert pipe is stopped[0] and isinstance(message, Ended)


def test_time_in_which_we_were_stopped_ourselves_is_nobodys_silence(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("engine.listening.time.monotonic", lambda: now[0])
    ticks = Ticks()
    now[0] += 0.5
    assert ticks.seconds() == 0.5
    now[0] += 3600
    assert ticks.seconds() <= 2


# Threads.


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))


def test_a_run_that_goes_on_has_the_threads_that_it_was_begun_with(
    trials, whole, recipe, tmp_path, monkeypatch, four_cores, capsys
):
    """Its numbers depend on them: however few shards are left, and however many workers there are now."""
    used: list[int] = []
    open_model = phases.open_model

    def counted(model, place, threads, planned=None):
        used.append(threads)
        return open_model(model, place, threads, planned)

    monkeypatch.setattr("engine.executors.phases.open_model", counted)
    begun = tmp_path / "begun"
    with opened(plan(begun, recipe), lambda run: 2):
        pass  # as --workers 2 on four cores begins it
    shutil.copytree(
        whole, begun, dirs_exist_ok=True, ignore=shutil.ignore_patterns("plan.json", ".lock", ".swap")
    )
    with trials("a run that goes on with other workers") as trial:
        for workers in (0, 1, 2):
            with trial(f"--workers {workers}"):
                run = tmp_path / str(workers)
                shutil.copytree(begun, run)
                for marker in run.glob("logprobs-*/00003.json"):
                    marker.unlink()
                used.clear()
                precompute(run, recipe, workers)
                assert used == [2]
                assert {name: data for name, data in tree(run).items() if name.endswith("parquet")} == {
                    name: data for name, data in tree(whole).items() if name.endswith("parquet")
                }


def test_a_run_without_rows_of_a_model_takes_the_threads_of_its_workers(recipe, tmp_path, four_cores):
    from engine.threads import threads_of

    run = plan(tmp_path, recipe)
    assert [threads_of(run, workers) for workers in (0, 1, 2, 3, 64)] == [4, 4, 2, 1, 1]


def test_more_threads_than_cores_are_said(whole, recipe, tmp_path, monkeypatch, caplog):
    from engine.threads import threads_of

    run_path = tmp_path / "run"
    shutil.copytree(whole, run_path)
    run = plan(run_path, recipe)
    monkeypatch.setattr("engine.threads.planned_threads", lambda store: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with caplog.at_level("WARNING", "prefmill"):
        assert threads_of(run, 1) == 2
    assert "begun with 64 threads, and this machine has 2 cores" in caplog.text


# Signals.


def start(words, run: Path, *more: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "engine.cli", "precompute", RECIPE]
    command += [word for setting in words for word in ("--set", setting)]
    return subprocess.Popen(
        [*map(str, command), "-o", str(run), *map(str, more)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def signalled(number: int, words, run: Path, *more: object) -> None:
    """A run that is told to end in its middle does so with a sentence, and leaves no process."""
    process = start(words, run, *more)
    wait_until(lambda: list(run.glob("given-*/0*.json")) or process.poll() is not None, "a first shard")
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=WAIT)
    # Python itself ends by SIGINT where it came while text was executed: the same to a shell.
    statuses = (128 + number, -number) if number == signal.SIGINT else (128 + number,)
    assert process.returncode in statuses, said
    assert "stopped; what is finished is kept" in said and "Traceback" not in said, said
    wait_until(lambda: not is_alive(process.pid), "the end of its processes")


def test_a_scheduler_that_ends_a_run_leaves_what_is_finished(trials, words, whole, recipe, tmp_path, capsys):
    with trials("SIGTERM, SIGHUP, Ctrl-C") as trial, trial("SIGTERM"):
        signalled(signal.SIGTERM, words, tmp_path / "run")
        precompute(tmp_path / "run", recipe, 1)
        assert tree(tmp_path / "run") == tree(whole)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_any_signal_ends_a_run_cleanly_and_the_same_command_goes_on(
    workers, trials, words, recipe, tmp_path, capsys
):
    precompute(tmp_path / "whole", recipe, workers)
    with trials("SIGTERM, SIGHUP, Ctrl-C") as trial:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with trial(f"{number.name}, {workers} workers"):
                run = tmp_path / number.name
                signalled(number, words, run, "--workers", workers)
                precompute(run, recipe, workers)
                assert tree(run) == tree(tmp_path / "whole")


BLOCKED = """
import ctypes, sys
from schemas import errors, signals
signals._GRACE = 0.5
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
with errors.exit_on_user_error("all is kept"):
    libc.pthread_mutex_lock(mutex)
    print("blocked", flush=True)
    libc.pthread_mutex_lock(mutex)
"""


def test_a_process_that_waits_in_c_ends_all_the_same():
    process = subprocess.Popen([sys.executable, "-c", BLOCKED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "blocked\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()


def test_under_nohup_a_closed_terminal_ends_nothing():
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from schemas import errors\n"
        "with errors.exit_on_user_error('kept'):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "goes on\n" and done.returncode == 0


# Two jobs at once, and kills.


@pytest.mark.long
def test_of_two_jobs_that_do_not_share_a_folder_one_is_refused_and_the_other_ends(
    trials, words, whole, tmp_path
):
    with trials("two jobs in one folder") as trial:
        for number in range(3):
            with trial(number):
                run = tmp_path / str(number)
                both = [start(words, run), start(words, run)]
                said = [process.communicate(timeout=WAIT)[1] for process in both]
                assert sorted(process.returncode for process in both) == [0, 1], said
                refused = said[0] if both[0].returncode else said[1]
                assert "another `engine precompute`" in refused and "is at work in it" in refused
                assert tree(run) == tree(whole)


def test_readers_see_only_what_is_whole(trials, recipe, tmp_path, whole, capsys):
    """Whoever asks while a run is being made gets whole shards, more and more of them."""
    from engine.views import views

    run = tmp_path / "run"
    seen: list[int] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                if (run / "plan.json").exists():
                    tables = views(open_store(run))
                    seen.append(sum(rows.count_rows() for rows in tables.values()))
            except BaseException as error:
                errors.append(error)
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    precompute(run, recipe, 1)
    done.set()
    thread.join()
    with trials("readers while a run is made") as trial:
        for number, rows in enumerate(seen):
            with trial(number):
                assert rows >= max(seen[:number], default=0)
        for error in errors:
            with trial("an error"):
                raise error
    assert tree(run) == tree(whole)


def precompute_quietly(run: Path, recipe: Recipe) -> None:
    """In a process of its own."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    precompute(run, recipe, 1)


@pytest.mark.long
def test_killed_at_random_moments_it_ends_in_the_same_bytes(trials, tmp_path, model_path):
    """Fifty kills in all, each run killed until it gets through."""
    recipe = sampling(tmp_path, model_path, prompts=24, max_tokens=8)
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch", "transformers", "engine.models.hf", "duckdb"])
    draw = random.Random(14)

    def run_for(run: Path, seconds: float | None) -> bool:
        """True if it got through."""
        process = context.Process(target=precompute_quietly, args=(run, recipe))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            return False
        assert process.exitcode == 0
        return True

    started = time.monotonic()
    assert run_for(tmp_path / "whole", None)
    seconds = time.monotonic() - started
    want = tree(tmp_path / "whole")
    kills = 0
    with trials("kills at random moments, with a model") as trial:
        while kills < 50:
            run = tmp_path / f"killed {kills}"
            of_this_run = 0
            while not run_for(run, draw.uniform(0, 1.2 * seconds)):
                of_this_run += 1
            is_same = tree(run) == want
            for number in range(of_this_run):
                with trial(f"kill {kills + number}"):
                    assert is_same, "other bytes"
            kills += of_this_run
