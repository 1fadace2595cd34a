"""The first round's halves side by side: the engine in a forked process, the trainer's libraries in this one.

Loading torch and transformers takes longer than reading ten thousand pairs. A thread would gain little, since
both are Python's own work, of which a process does one at a time; and two threads must not load one library.

- The engine's process ends before training begins, so the memory of its model and tables is free by then.
- It says by itself what went wrong; this process ends with its exit status.
- Told to end, this process tells it and waits. Where this one is killed, it is told by the kernel.
"""

import contextlib
import ctypes
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from schemas.devices import cores
from schemas.errors import Ended, UserError, exit_on_user_error
from schemas.signals import ended_by_signals

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_END = 12.0  # more than schemas/signals.py gives a process for a clean end


def pays() -> bool:
    """True where the system forks, a core is free, and no library with threads of its own is loaded yet."""
    return sys.platform == "linux" and cores() > 1 and not {"torch", "duckdb", "polars"} & set(sys.modules)


def beside(work: Callable[[], None], load: Callable[[], None], kept: str) -> None:
    """Do `work` in a forked process while this one loads. `kept`: what the user is told of an error there.

    Raises Ended where the work failed, which it has said; UserError where its process was killed."""
    # Not started as a copy of the program: it needs the recipe as it was read, perhaps from a pipe.
    process = mp.get_context("fork").Process(target=_work, args=(work, kept, os.getpid()))
    process.start()
    try:
        load()
        process.join()
    finally:
        _end(process)
    code = process.exitcode
    assert code is not None
    if code > 0:
        raise Ended(code)
    if code < 0:
        raise UserError(
            f"the process of precompute was ended by {signal.Signals(-code).name}; most often the machine "
            "was out of memory: more prompts.shards, or a smaller logprobs.batch_tokens; what is finished is "
            "kept: run the same command to go on"
        )


def _end(process: BaseProcess) -> None:
    """See that the process has ended; it is told to where it is still at work."""
    if process.exitcode is None:
        process.terminate()
        process.join(_SECONDS_TO_END)
    if process.exitcode is None:
        process.kill()
        process.join()


def _work(work: Callable[[], None], kept: str, parent: int) -> None:
    """The forked process."""
    # Ctrl-C is told to both; one of them ends the other.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    with exit_on_user_error(kept):
        try:
            with ended_by_signals():
                work()
        except KeyboardInterrupt:
            raise Ended(1) from None  # the parent says that it was stopped
