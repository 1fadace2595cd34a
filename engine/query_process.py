"""A user's SQL runs in a process that can be ended.

DuckDB looks at an interrupt between two pieces of work, and a query can make one piece as long as it likes:
`md5(repeat('x', 2e9))`, a bind of 20,000 UNIONs. So this process never runs foreign SQL. It asks another one
(engine/query_worker.py), waits as long as the query may take, and ends that one if there is no answer then.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING

from engine.query_limits import too_slow
from engine.query_worker import ARROW, DONE, ERROR, HEADER, NAMES, READY
from schemas.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.table_files import TableFiles

_GRACE = 1.0  # seconds that DuckDB has to end a query by itself when its time is over
_TIME_TO_START = 60.0  # seconds for the process until it can be asked, on a machine that has much to do
_PIECE = 1 << 20
_START = "import sys; from engine.query_worker import main; main(int(sys.argv[1]))"
# What a process of Python needs of the environment. A query could not read it; it has nothing to find there.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "VIRTUAL_ENV")


class _Ended(Exception):
    """The other process closed its pipe: it is gone."""


class _TooSlow(Exception):
    """The time is over."""


class QueryProcess:
    """The tables of a run in a process of their own.

    It is started at once, so that it imports what it needs while the caller does other things; then `open` it
    with the tables' files, and `ask`. When a query ended it, the next `ask` starts another. Close it at the
    end: it is a context manager."""

    def __init__(self, memory_mb: int):
        self._memory = memory_mb
        self._files: TableFiles = {}
        self._process = _started()
        self._is_ready = False

    def __enter__(self) -> "QueryProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The other process."""
        return self._process.pid

    def open(self, files: "TableFiles") -> None:
        """Hand over the files of the tables. The caller has checked their digests."""
        for table, paths in files.items():
            self._files[table] = [os.path.abspath(path) for path in paths]
        with contextlib.suppress(BrokenPipeError):  # `ask` says why it is gone
            self._tell({"tables": self._files, "memory": self._memory})

    def named(self, text: str, seconds: float) -> list[str] | None:
        """The tables that a statement names, so that no others need be opened; None where nobody can tell.

        Asked before `open`, if at all."""
        try:
            self._tell({"names": text, "memory": self._memory})
            kind, data = _Frames(self._pipe(), time.monotonic() + seconds + _TIME_TO_START).next()
        except (_Ended, _TooSlow, BrokenPipeError):
            self._end()  # `ask` starts another, and says what is wrong with the query
            return None
        assert kind == NAMES, kind
        names: list[str] | None = json.loads(data)
        return names

    def ask(self, text: str, seconds: float) -> "pa.Table":
        """The answer to one statement. Raises UserError where there is none in that time and memory."""
        finished = False
        try:
            self._make_ready()
            self._tell({"query": text, "seconds": seconds})
            answer = _Answer(self._pipe(), time.monotonic() + seconds + _GRACE, self._memory << 20)
            table = answer.table()
            finished = True
        except _TooSlow:
            raise UserError(too_slow(seconds)) from None
        except (_Ended, BrokenPipeError):
            raise UserError(self._why_ended()) from None
        except UserError:
            finished = True  # the other process said what is wrong, and is as good as before
            raise
        except AssertionError:
            raise
        except Exception as error:  # what Arrow says of an answer that it cannot take, or not for its size
            raise UserError(f"the answer cannot be read here: {type(error).__name__}: {error}") from None
        finally:
            if not finished:
                self._end()
        return table

    def _make_ready(self) -> None:
        """Wait until the tables are open, in a new process where the last one was ended."""
        if self._process.poll() is not None or self._process.stdin is None or self._process.stdin.closed:
            self._process = _started()
            self._is_ready = False
            self.open(self._files)
        if not self._is_ready:
            kind, _ = _Frames(self._pipe(), None).next()
            assert kind == READY, kind
            self._is_ready = True

    def _pipe(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _tell(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def _why_ended(self) -> str:
        """What is said of a process that ended by itself: of memory in nearly all cases."""
        self._process.kill()
        status = self._process.wait()
        if not self._is_ready:
            return f"the process for queries did not start (it ended with {status}); try again"
        return (
            f"the query ended its process ({_named(status)}): it needs more memory than it may have, or is "
            "nested too deeply; give it more with --memory, or ask for less"
        )

    def _end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _started() -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _START, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what a library says when it is ended for its memory
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal reaches this process alone
        cwd="/",
    )


def _named(status: int) -> str:
    """An exit status in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"


class _Frames:
    """The frames that come through a pipe, until a deadline (None: however long it takes)."""

    def __init__(self, pipe: IO[bytes], deadline: float | None):
        self._handle = pipe.fileno()
        self._deadline = deadline

    def next(self) -> tuple[bytes, bytes]:
        """The kind and the content of the next one."""
        kind, length = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(length)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            readable, _, _ = select.select([self._handle], [], [], left)
            if not readable:
                raise _TooSlow
            piece = os.read(self._handle, min(size - len(data), _PIECE))
            if not piece:
                raise _Ended
            data += piece
        return bytes(data)


class _Answer:
    """An answer as a file that Arrow reads, while it comes."""

    closed = False

    def __init__(self, pipe: IO[bytes], deadline: float, limit: int):
        self._frames = _Frames(pipe, deadline)
        self._left = limit
        self._buffered = memoryview(b"")
        self._is_done = False

    def table(self) -> "pa.Table":
        """All of it."""
        import pyarrow as pa

        with pa.ipc.open_stream(pa.PythonFile(self, "r")) as reader:
            table = reader.read_all()
        while self._more():
            pass
        return table

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer only at the end."""
        data = bytearray()
        while (size < 0 or len(data) < size) and (self._buffered or self._more()):
            taken = len(self._buffered) if size < 0 else min(size - len(data), len(self._buffered))
            data += self._buffered[:taken]
            self._buffered = self._buffered[taken:]
        return bytes(data)

    def _more(self) -> bool:
        """Take the next frame; False after the last. Raises UserError with what went wrong over there."""
        if self._is_done:
            return False
        kind, data = self._frames.next()
        if kind == ERROR:
            raise UserError(data.decode())
        if kind == DONE:
            self._is_done = True
            return False
        assert kind == ARROW, kind
        self._left -= len(data)
        assert self._left >= 0, "the answer is larger than was agreed"
        self._buffered = memoryview(data)
        return True

    def close(self) -> None:
        """Nothing: the pipe outlives an answer."""
