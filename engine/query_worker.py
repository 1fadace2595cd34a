"""The process that runs a user's SQL. `engine/query_process.py` starts it, asks it and ends it.

- It is given the files of the tables on its standard input, then one query after another, a line of JSON
  each. Before that it may be asked which tables a query names.
- It answers with frames on its standard output: a byte for the kind, eight for the length, what follows.
- It can do little: it has no environment to speak of, can write no file, and its memory is capped, because
  DuckDB's own limit does not see every allocation (repeat('x', 1e9) passed a limit of 200 MB).
- It ends when whoever started it is gone: the kernel tells it so, and its standard input ends.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HEADER = struct.Struct("!cQ")  # kind, length
READY, NAMES, ARROW, ERROR, DONE = b"R", b"N", b"A", b"E", b"D"
_PIECE = 1 << 20  # bytes of an answer in one frame
_PR_SET_PDEATHSIG = 1
_RESERVE = 2 << 30  # of address space, beside twice the memory that a query may have: threads and libraries


class _Frames:
    """A file to Arrow that writes frames; it counts what it writes, and refuses more than `limit` bytes."""

    closed = False

    def __init__(self, pipe: IO[bytes], limit: int):
        self._pipe = pipe
        self._left = limit
        self._limit = limit

    def write(self, data: Any) -> int:
        """Send a piece of an answer."""
        from engine.query_limits import too_large
        from schemas.errors import UserError

        view = memoryview(data).cast("B")
        self._left -= len(view)
        if self._left < 0:
            raise UserError(too_large(f"its answer is larger than {self._limit >> 20:,} MB"))
        for start in range(0, len(view), _PIECE):
            send(self._pipe, ARROW, view[start : start + _PIECE])
        return len(view)

    def flush(self) -> None:
        self._pipe.flush()

    def close(self) -> None:
        """Nothing: the pipe outlives an answer."""


def send(pipe: IO[bytes], kind: bytes, data: Any = b"") -> None:
    """Write one frame."""
    pipe.write(HEADER.pack(kind, len(data)))
    pipe.write(data)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _requests() -> Iterator[dict[str, Any]]:
    """What is asked, one after another. The process ends with its standard input, also amid a query."""
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            asked.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(asked.get())


def _cap(memory: int) -> None:
    """Cap this process: its memory, and that it writes no file, a core dump least of all."""
    with contextlib.suppress(OSError):
        # Where the machine has less memory than it may take, the kernel ends this process and no other.
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + (2 * memory << 20) + _RESERVE
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(parent: int) -> None:
    """Answer what is asked on standard input until it ends."""
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # no library can write between the frames

    from engine import sql
    from engine.views import add_readable, views_of

    requests = _requests()
    opening = next(requests)
    memory = opening["memory"]
    _cap(memory)
    if "names" in opening:
        names = sql.tables_named(opening["names"], memory)
        send(pipe, NAMES, json.dumps(names).encode())
        pipe.flush()
        opening = next(requests)
    con = sql.closed(views_of(opening["tables"]), memory)
    add_readable(con, opening["tables"])
    send(pipe, READY)
    pipe.flush()
    for asked in requests:
        _answer(con, asked, pipe, memory << 20)


def _answer(con: Any, asked: dict[str, Any], pipe: IO[bytes], limit: int) -> None:
    import pyarrow as pa

    from engine import sql
    from schemas.errors import UserError

    try:
        with sql.answered(con, asked["query"], asked["seconds"]) as batches:
            frames = pa.PythonFile(_Frames(pipe, limit), "w")
            with pa.ipc.new_stream(frames, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
    except UserError as error:
        send(pipe, ERROR, str(error).encode(errors="backslashreplace"))
    else:
        send(pipe, DONE)
    pipe.flush()
