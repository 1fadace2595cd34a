"""A run that is killed, or that the system refuses something, ends in the same bytes at the next try.

An error of the system is told with the file or folder that it is about.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest

from schemas.store import LocalStore
from tests.conftest import ROOT
from tests.faulty import Fault, FaultyStore, Killed, SystemFault, every_fault
from tests.reliability.runs import Small, plan_once
from tests.reliability.test_folders import imported, modelled  # noqa: F401 (fixtures)

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE, errno.EDQUOT)


@pytest.fixture(autouse=True)
def _plan_once(monkeypatch):
    plan_once(monkeypatch)


def kill_at(small: Small, run, fault: Fault) -> None:
    """Killed at a write; the next run ends in the bytes of a run that was not killed."""
    shutil.rmtree(run, ignore_errors=True)
    with pytest.raises(Killed):
        small.again(FaultyStore(LocalStore(run), fault))
    small.again(run)
    small.is_whole(run)


def writes_of(small: Small, run) -> list[str]:
    fault = Fault()
    small.again(FaultyStore(LocalStore(run), fault))
    return fault.writes


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.long)])
def test_an_import_killed_at_its_writes(imported, tmp_path, trials, capsys, every):  # noqa: F811
    writes = writes_of(imported, tmp_path / "count")
    with trials("an import killed at a write, half of it done or all") as trial:
        for fault in [*every_fault(len(writes))][::every]:
            with trial(f"{fault.way} {writes[fault.number - 1]}"):
                kill_at(imported, tmp_path / "run", fault)


@pytest.mark.long
def test_a_run_with_a_model_killed_at_any_write(modelled, tmp_path, trials, capsys):  # noqa: F811
    writes = writes_of(modelled, tmp_path / "count")
    with trials("a run with a model killed at a write, half of it done or all") as trial:
        for fault in every_fault(len(writes)):
            with trial(f"{fault.way} {writes[fault.number - 1]}"):
                kill_at(modelled, tmp_path / "run", fault)


def refused_at(small: Small, run, fault: SystemFault) -> None:
    """The system refuses a call: an error with a path, or no harm; then the same command again."""
    shutil.rmtree(run, ignore_errors=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault.install(monkeypatch)
        try:
            small.again(run)
        except OSError as error:
            assert error.errno == fault.error
            assert str(error.filename).startswith(str(run)), error
            assert ".prefmill-" not in str(error.filename), "a name that says nothing"
    assert len(fault.calls) >= fault.number
    small.again(run)
    small.is_whole(run)


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.long)])
def test_an_import_refused_a_call_to_the_system(imported, tmp_path, trials, capsys, every):  # noqa: F811
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        counting = SystemFault(run)
        counting.install(monkeypatch)
        imported.again(run)
    assert len(counting.calls) > 80
    with trials("an import that the system refuses a call (full disk, I/O error, no permission …)") as trial:
        for number in range(1, len(counting.calls) + 1, every):
            error = ERRORS[number // every % len(ERRORS)]
            with trial(f"{errno.errorcode[error]} at {counting.calls[number - 1]}"):
                refused_at(imported, run, SystemFault(run, number, error))


@pytest.mark.parametrize("sizes", [(200, 3000), pytest.param(range(50, 7200, 300), marks=pytest.mark.long)])
def test_a_disk_that_is_full_in_the_middle_of_a_file(imported, tmp_path, trials, capsys, sizes):  # noqa: F811
    """By the limit of a file's size, which stops pyarrow's own writes as well."""
    run = tmp_path / "run"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with trials("an import whose files end at a limit, as on a full disk") as trial:
        for size in sizes:
            with trial(f"{size} bytes"):
                shutil.rmtree(run, ignore_errors=True)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
                try:
                    with pytest.raises(OSError) as error:
                        imported.again(run)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, old)
                assert str(error.value.filename).startswith(str(run)), error.value
                imported.again(run)
                imported.is_whole(run)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_real_import_by_strace(imported, tmp_path, trials, capsys):  # noqa: F811
    """The command line says it in a sentence with the path and exits with 1."""
    source = imported.path.parent / "rows.jsonl"
    faults = [("fsync", "EIO", 3), ("fsync", "ENOSPC", 20), ("rename", "EACCES", 4), ("rename", "EROFS", 9)]
    faults += [("mkdir", "ENOSPC", 2), ("link,linkat", "EIO", 1)]
    with trials("an import by the command line under strace, refused a call") as trial:
        for call, error, when in faults:
            run = tmp_path / "run"
            shutil.rmtree(run, ignore_errors=True)
            with trial(f"{call} {error} {when}"):
                recipe = imported.path.parent / "recipe.toml"
                words = ["engine.cli", "precompute", recipe, "-o", run, "--set", f"prompts.source={source}"]
                inject = f"inject={call}:error={error}:when={when}"
                trace = ["strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", f"trace={call}", "-e", inject]
                command = list(map(str, [*trace, sys.executable, "-m", *words]))
                done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
                assert done.returncode in (0, 1), done.stderr
                if done.returncode:
                    assert "Traceback" not in done.stderr and "error: " in done.stderr
                    assert str(run) in done.stderr.splitlines()[-1], done.stderr
                imported.again(run)
                imported.is_whole(run)
