"""An engine's process, its pipe and its last words."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import Pipe
from typing import Any, cast

from engine.listening import TICK, Ended, Inbox, Ticks
from engine.models.vllm import shared_memory
from engine.models.vllm.messages import SLICE, Message, Request

_COMMAND = "import sys; from engine.models.vllm.server import serve; serve(*map(int, sys.argv[1:]))"
_NOTED = 2.0  # seconds between two looks at the shared memory of an engine that lives
_LOG_BYTES = 20_000  # of the end of the log, where last words are looked for


class EngineProcess:
    """An engine in a process group of its own. `ready`: takes requests; its listener sets it."""

    def __init__(self, arguments: dict[str, Any], environment: dict[str, str]):
        """`arguments`: of vLLM's `LLM`."""
        self.ready = False
        self._there_before = shared_memory.names()
        self._segments: set[str] = set()
        self._noted = time.monotonic()
        self._unsent: Exception | None = None  # why what waited could not be sent to an engine that lives
        self._pipe, theirs = Pipe()
        # Open as long as the engine is an object, for its last words.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        handle = str(theirs.fileno())
        worker = str(os.getpid())
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, handle, worker],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        theirs.close()
        self._inbox = Inbox()
        self._inbox.listen(self._pipe)
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # Sent by a thread of its own: a full pipe to a dead engine must block nobody who could notice it.
        threading.Thread(target=self._post, daemon=True).start()
        self._outbox.put(arguments)

    def send(self, requests: list[Request]) -> None:
        """Hand over requests; does not wait. They are pickled a few at a time, as the engine takes them."""
        for begin in range(0, len(requests), SLICE):
            self._outbox.put(requests[begin : begin + SLICE])

    def _post(self) -> None:
        """Send what is in the outbox until its end, which is None.

        An engine that can be sent no more counts as dead: nobody would be told that its requests wait."""
        try:
            while (item := self._outbox.get()) is not None:
                self._pipe.send(item)
        except OSError:
            return  # the engine is dead, as its pipe's end says
        except Exception as error:
            self._unsent = error
            self._hang_up()

    def _hang_up(self) -> None:
        """End the pipe in both directions: closing it would not wake the thread that reads it."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._pipe.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def receive(self, seconds: float) -> Message | None:
        """The engine's next message; None if it stays silent for so long.

        Raises EOFError if it is dead."""
        ticks = Ticks()
        silent = 0.0
        while silent < seconds:
            if time.monotonic() - self._noted > _NOTED:
                self.note_segments()
            heard = self._inbox.next(min(TICK, seconds))
            if heard is not None:
                _, message = heard
                if isinstance(message, Ended):
                    raise EOFError
                return cast(Message, message)
            silent += ticks.seconds()
        return None

    def end(self) -> None:
        """End the process and all that it started; nothing is left of it."""
        self._outbox.put(None)
        self.note_segments()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shared_memory.release(self._segments, self.process.pid)

    def note_segments(self) -> None:
        """Remember which shared memory is the engine's: once it is dead, nothing says so any more.

        So it is done again and again as long as it lives, while it loads too (`receive`)."""
        self._noted = time.monotonic()
        self._segments |= shared_memory.mapped_by(self.process.pid) - self._there_before

    def was_killed(self) -> bool:
        """True if a signal ended it."""
        return (self.process.poll() or 0) < 0

    def cause(self) -> str:
        """How it ended, for a message; waits up to 5 s for the end."""
        if self._unsent:
            return f"could not be sent what it was to have: {type(self._unsent).__name__}: {self._unsent}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.poll()
        if code and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def last_words(self) -> str:
        """The last errors in its log, or none."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        errors: list[str] = []
        log = self._log.read().decode(errors="replace")
        for line in log.splitlines():
            if "Error" in line and "Traceback" not in line:
                errors.append(line.strip())
        return " | ".join(errors[-3:])[-600:] or "none"
