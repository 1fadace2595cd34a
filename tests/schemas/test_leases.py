"""A lease has one holder at a time, and passes on as soon as its holder is known to be dead."""

import multiprocessing as mp
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from schemas import leases, processes
from schemas.errors import UserError
from schemas.leases import Beats, Lease, Lost, Watch, awaited, held, holder_in, new_token, this_process
from schemas.store import Store, open_store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def elsewhere(**more):
    """A holder on another machine."""
    return replace(this_process("engine precompute", new_token()), machine="another", host="node7", **more)


def test_one_of_many_takes_a_lease(store):
    tried = [Lease(store, "a.json", "this") for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        holders = list(pool.map(Lease.take, tried))
    (holder,) = [lease for lease, other in zip(tried, holders, strict=True) if other is None]
    assert {other.token for other in holders if other} == {holder._record.token}
    holder.release()
    assert store.names() == []


def test_a_lease_that_is_held_is_refused_and_awaited(store):
    with held(store, "a.json", "engine precompute"):
        with pytest.raises(UserError, match=r"another `engine precompute` \(process \d+ on .*\) is at work"):
            held(store, "a.json", "that").__enter__()
        told = []
        got = threading.Event()

        def wait() -> None:
            with awaited(store, "a.json", "that", told.append):
                got.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.2)
    assert got.wait(10)
    thread.join()
    assert [holder.pid for holder in told] == [os.getpid()]


def _take_and_die(folder):
    assert Lease(open_store(folder), "a.json", "this").take() is None
    os._exit(9)


def test_a_holder_whose_process_is_gone_is_dead_at_once(store, tmp_path):
    process = mp.get_context("fork").Process(target=_take_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9 and store.exists("a.json")
    with held(store, "a.json", "that"):
        pass


def test_another_process_of_the_same_number_is_not_the_holder(store):
    store.put("a.json", replace(this_process("this", new_token()), pid=1, born="7").as_bytes())
    with held(store, "a.json", "that"):
        pass


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"pid": "x"}', b"\xff"])
def test_what_names_no_holder_is_nobodys(store, data):
    store.put("a.json", data)
    with held(store, "a.json", "that"):
        assert holder_in(store.read("a.json")).who == "that"


def test_a_holder_elsewhere_is_dead_once_its_beat_stands_still(store, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    holder = elsewhere()
    watch = Watch()
    assert not watch.is_dead(holder.as_bytes())
    now[0] += leases.SILENCE - 1
    assert not watch.is_dead(holder.as_bytes())
    assert not watch.is_dead(replace(holder, beat=1).as_bytes()), "it has beaten since"
    now[0] += leases.SILENCE - 1
    assert not watch.is_dead(replace(holder, beat=1).as_bytes())
    now[0] += 1
    assert watch.is_dead(replace(holder, beat=1).as_bytes())


def test_who_was_taken_for_dead_learns_of_it(store, monkeypatch):
    """The lease of a holder elsewhere passes on, and its next sign of life fails."""
    monkeypatch.setattr(leases, "SILENCE", 0.3)
    monkeypatch.setattr(leases, "_LOOK", 0.05)
    slow = Lease(store, "a.json", "slow")
    slow._record = elsewhere()
    assert slow.take() is None
    leases._held_here.clear()
    with held(store, "a.json", "that"):
        with pytest.raises(Lost, match="another one has taken over"):
            slow.renew()
        slow.release()
        assert store.exists("a.json"), "what is not ours is not given back"


def test_beats_keep_a_lease_and_tell_of_its_loss(store, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.02)
    lease = Lease(store, "a.json", "this")
    assert lease.take() is None
    beats = Beats(lease)
    beats.start()
    deadline = time.monotonic() + 60
    while holder_in(store.read("a.json")).beat < 3:
        assert time.monotonic() < deadline
    beats.check()
    while beats.error is None:
        # Again, since a beat that has just looked may still write over it: this is no compare and swap.
        store.put("a.json", elsewhere().as_bytes())
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(Lost):
        beats.check()
    beats.stop(lease.release)
    assert store.exists("a.json"), "it is another's"


def test_a_renewal_whose_answer_was_lost_is_ones_own(store):
    """It was done, and said to have failed: nobody has taken over."""
    lease = Lease(store, "a.json", "this")
    assert lease.take() is None
    before = lease._record
    lease.renew()
    lease._record = before
    lease.renew()
    assert holder_in(store.read("a.json")).beat == 2
    lease._record = before
    lease.release()
    assert store.names() == []


@dataclass(frozen=True)
class Failing:
    """A store of which replacing a file fails."""

    store: Store
    error: Callable[[], Exception | None]

    def replace_if(self, *what):
        error = self.error()
        if error:
            raise error
        return self.store.replace_if(*what)

    def __getattr__(self, name):
        return getattr(self.store, name)


def test_whatever_keeps_a_lease_from_its_beats_is_told_once_it_may_be_lost(store, monkeypatch):
    """Refused for a moment is nothing; for as long as others wait, it is what ends the command."""
    monkeypatch.setattr(leases, "BEAT", 0.01)
    fails: list[Exception | None] = [UserError("access is refused")] * 2 + [None]
    lease = Lease(Failing(store, lambda: fails.pop(0) if fails else None), "a.json", "this")
    assert lease.take() is None
    beats = Beats(lease)
    beats.start()
    deadline = time.monotonic() + 60
    while holder_in(store.read("a.json")).beat < 2:
        assert time.monotonic() < deadline
    beats.check()
    monkeypatch.setattr(leases, "SILENCE", 0.05)
    fails.extend([UserError("access is refused")] * 10_000)
    while beats.error is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(UserError, match="access is refused"):
        beats.check()
    fails.clear()
    beats.stop(lease.release)
    assert store.names() == []


def test_silence_is_time_however_long_a_try_takes(store, monkeypatch):
    """One try that takes minutes is many beats missed."""
    monkeypatch.setattr(leases, "BEAT", 0.01)
    now = [0.0]
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tries = []

    def slow() -> Exception:
        tries.append(1)
        now[0] += leases.SILENCE
        return OSError("no answer")

    beats = Beats(Lease(Failing(store, slow), "a.json", "this"))
    beats._run()
    assert tries == [1] and isinstance(beats.error, OSError)


def test_a_storage_that_does_not_answer_does_not_hold_up_the_end(store, monkeypatch):
    monkeypatch.setattr(leases, "_PATIENCE", 0.05)
    answers = threading.Event()
    lease = Lease(Failing(store, lambda: None if answers.wait(60) else OSError()), "a.json", "this")
    assert lease.take() is None
    beats = Beats(lease)
    beats.start()
    begun = time.monotonic()
    beats.stop(lease.release)
    assert time.monotonic() - begun < 30 and store.exists("a.json")
    answers.set()


def test_without_proc_a_holder_is_dead_with_its_process(store, tmp_path, monkeypatch):
    """As on macOS: the kernel says whether there is such a process, and its beat whether it is the one."""
    monkeypatch.setattr(processes, "_PROC", tmp_path / "none")
    now = [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    parent = replace(this_process("this", new_token()), pid=os.getppid())
    assert parent.born == ""
    gone = mp.get_context("fork").Process(target=os.getpid)
    gone.start()
    gone.join()
    watch = Watch()
    assert watch.is_dead(replace(parent, pid=gone.pid).as_bytes())
    assert watch.is_dead(replace(parent, pid=2**70).as_bytes())
    assert not watch.is_dead(parent.as_bytes())
    now[0] += leases.SILENCE
    assert watch.is_dead(parent.as_bytes()), "another process has its number"


def test_who_waits_is_told_for_whom(store, monkeypatch, caplog):
    caplog.set_level("INFO", "prefmill")
    monkeypatch.setattr(leases, "_LOOK", 0.01)
    first = Lease(store, "a.json", "first")
    assert first.take() is None
    thread = threading.Thread(target=lambda: awaited(store, "a.json", "that").__enter__())
    thread.start()
    deadline = time.monotonic() + 60
    while "waiting for `first` (process" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.release()
    thread.join()
    monkeypatch.setattr(leases, "SILENCE", 0.1)
    store.put("b.json", elsewhere().as_bytes())
    with held(store, "b.json", "that"):
        assert "`engine precompute` (process" in caplog.text and "for up to 0.1 s" in caplog.text
