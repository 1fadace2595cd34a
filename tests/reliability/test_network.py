"""Two machines, played by two network namespaces with a cable between them: training, and the cable cut."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from schemas.recipe import dump
from tests.conftest import ROOT
from tests.reliability.training import Trained, recipe_of

_TIMEOUT = 8  # train.timeout here
_NAMES = (f"prefmill-{os.getpid()}-a", f"prefmill-{os.getpid()}-b")
_STEPS = 400


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def machines():
    """Two namespaces, 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None or ip("netns", "add", _NAMES[0]).returncode:
        pytest.skip("network namespaces are not allowed here")
    try:
        ip("netns", "add", _NAMES[1])
        ip("link", "add", "cable0", "netns", _NAMES[0], "type", "veth", "peer", "cable1", "netns", _NAMES[1])
        for number, name in enumerate(_NAMES):
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"cable{number}")
            ip("-n", name, "link", "set", f"cable{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield _NAMES
    finally:
        for name in _NAMES:
            ip("netns", "del", name)


def torchrun(machine, words):
    """torchrun on one of the machines; it runs on, and its output is one text."""
    launch = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={machine}"]
    launch += ["--master-addr=10.77.0.1", "--master-port=29400"]
    return subprocess.Popen(
        [
            *("ip", "netns", "exec", _NAMES[machine]),
            *(sys.executable, "-m", "torch.distributed.run", *launch, "-m", *map(str, words)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"cable{machine}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(run, processes):
    until = time.monotonic() + 100
    while time.monotonic() < until and all(process.poll() is None for process in processes):
        if list(run.glob("train-*/checkpoint-*[0-9]")):
            return
        time.sleep(0.02)
    pytest.fail("it made no step")


@pytest.mark.long
def test_the_network_between_two_machines_goes_down(machines, tmp_path_factory, model_path, trials, tmp_path):
    """Both sides end soon and say what is wrong; once it is up again the same commands go on."""
    recipe = recipe_of(tmp_path_factory, model_path, model__device="cpu")
    run = Trained(tmp_path_factory.mktemp("net"), recipe).cache
    given = tmp_path / "given.toml"
    given.write_bytes(dump(recipe))
    words = ["trainer.cli", "run", given, "-o", run, "--set", f"train.timeout={_TIMEOUT}"]
    words += ["--set", f"train.max_steps={_STEPS}", "--set", "train.eval_every=0"]
    with trials("the network between two machines cut") as trial, trial("two ranks"):
        processes = [torchrun(machine, words) for machine in range(2)]
        try:
            wait_for_checkpoint(run, processes)
            ip("-n", machines[0], "link", "set", "cable0", "down")
            begun = time.monotonic()
            said = [process.communicate(timeout=90)[0] for process in processes]
            seconds = time.monotonic() - begun
        finally:
            for process in processes:
                process.kill()
        assert seconds < _TIMEOUT + 30, (seconds, said)
        assert f"rank 1 has given no sign of life for {_TIMEOUT} s" in said[0]
        assert "torchrun on 10.77.0.1, which holds the ranks' common store, has not answered" in said[1]
        ip("-n", machines[0], "link", "set", "cable0", "up")
        processes = [torchrun(machine, words) for machine in range(2)]
        said = [process.communicate(timeout=150)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
        assert re.search(f"{_STEPS} steps of 4 pairs, from step [0-9]+ on", said[0]), said
