"""A process that is told to end, ends; one that does something else after the command is let be."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOLD = """
import os, signal, sys, time
from schemas import signals
signals._GRACE = 0.2
try:
    with signals.ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
except signals.Stopped:
    {then}
print("goes on")
"""


@pytest.mark.parametrize(
    ("then", "status", "said"),
    [
        ("time.sleep(0.6)", 0, "goes on"),
        # A command that does not come to its end is ended.
        ("import threading; threading.Thread(target=time.sleep, args=(60,)).start(); sys.exit(3)", 143, ""),
    ],
    ids=["goes on", "hangs at its end"],
)
def test_the_time_of_grace_is_for_the_command(then, status, said):
    words = [sys.executable, "-c", TOLD.format(then=then)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (status, said), done.stderr
