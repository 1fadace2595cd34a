"""Processes that read parts of the input side by side, and the rows of all parts in the order of the input.

- Each process has every so-manieth part. It reads ahead as far as a queue of tables has room, so memory does
  not grow with the input.
- A process that ends before its time is an error, never a wait. One whose parent is gone ends itself. Ctrl-C
  and SIGTERM are the parent's business, which ends them, also while they are still being started: else Python
  would wait for them at its own end, for ever.
"""

import contextlib
import importlib
import itertools
import multiprocessing as mp
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_pipes
from multiprocessing.process import BaseProcess
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from engine import raw
from engine.raw import Part
from engine.row_reader import RowWork
from schemas import extensions
from schemas.errors import UserError

_PARTS_AHEAD = 2  # that a process is given beside the one it reads
_TABLES_AHEAD = 32  # of a process, about a megabyte each: more than a part has, else processes would wait
MOST = 16  # processes: their tables ahead are half a gigabyte then
_LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Ended = Callable[[Mapping[str, None], str | None], None]


@dataclass(frozen=True)
class _Table:
    """Some rows, as an Arrow stream."""

    stream: bytes


@dataclass(frozen=True)
class _PartEnded:
    """A part is read: how many lines it has, and what the reader has left out and guessed so far."""

    lines: int
    left_out: dict[str, None]
    guessed: str | None


@dataclass(frozen=True)
class _Failed:
    """The error that the user is to read."""

    error: UserError


@dataclass(frozen=True)
class _OurMistake:
    """What failed that should not."""

    trace: str


class ScanWorkers:
    """Some processes that read as `work` says. A context manager: at its end they are ended."""

    def __init__(self, work: RowWork, count: int) -> None:
        self._work = work
        self._count = count
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> "ScanWorkers":
        try:
            with _left_to_parent():
                for _ in range(self._count):
                    self._start()
        except BaseException:
            self._end()
            raise
        return self

    def _start(self) -> None:
        """Start one process, which then is among those that `_end` ends, whatever comes."""
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._work, extensions.packages())
        process = context.Process(target=_serve, args=arguments, daemon=True)
        self._pipes.append(ours)
        self._processes.append(process)
        process.start()
        theirs.close()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            if process.pid is not None:  # it was started
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()

    def tables(self, parts: Iterator[Part], ended: Ended) -> Iterator[pa.Table]:
        """The rows of the parts, in order; `ended(left_out, guessed)` after each part.

        Raises UserError where a part is damaged, or a process has ended."""
        count = len(self._pipes)
        waiting = list(itertools.islice(parts, count * (1 + _PARTS_AHEAD)))
        for number, part in enumerate(waiting):
            self._give(number % count, part)
        number = 0
        line = 0  # before the part, in its file
        while waiting:
            part = waiting.pop(0)
            if part.is_first:
                line = 0
            message = self._next(number % count, part)
            while isinstance(message, _Table):
                yield _with_lines(message.stream, line)
                message = self._next(number % count, part)
            line += message.lines
            ended(message.left_out, message.guessed)
            for more in itertools.islice(parts, 1):
                self._give((number + count * (1 + _PARTS_AHEAD)) % count, more)
                waiting.append(more)
            number += 1

    def _give(self, worker: int, part: Part) -> None:
        with contextlib.suppress(OSError):  # `_next` says that it is gone
            self._pipes[worker].send(part)

    def _next(self, worker: int, part: Part) -> _Table | _PartEnded:
        """What a process says next. Raises UserError where that is an error, or nothing any more."""
        pipe = self._pipes[worker]
        wait_for_pipes([pipe, self._processes[worker].sentinel])
        try:
            message = pipe.recv() if pipe.poll() else None
        except (EOFError, OSError):
            message = None
        if isinstance(message, _Failed):
            raise message.error
        assert not isinstance(message, _OurMistake), message.trace
        if not isinstance(message, _Table | _PartEnded):
            raise UserError(
                f"a process that read {part.path} has ended before its time, perhaps for want of memory: "
                "nothing was made from it; run the same command again"
            )
        return message


@contextlib.contextmanager
def _left_to_parent() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C, not even while they import; here it comes at the
    end."""
    resource_tracker.ensure_running()  # when it starts, which it does with a first process, it lets Ctrl-C in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _with_lines(stream: bytes, before: int) -> pa.Table:
    """The rows of a stream, their lines counted from the beginning of the file."""
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        rows = reader.read_all()
    if not before:
        return rows
    place = rows.schema.get_field_index("line")
    return rows.set_column(place, rows.schema.field(place), pc.add(rows["line"], before))


def _serve(pipe: Connection, work: RowWork, packages: Sequence[str]) -> None:
    """Read the parts that come, until the parent ends this process."""
    for number in _LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for package in packages:
        importlib.import_module(package)
    said: queue.Queue[object] = queue.Queue(_TABLES_AHEAD)
    threading.Thread(target=_send_all, args=(pipe, said), daemon=True).start()
    try:
        _read(pipe, work, said.put)
    except UserError as error:
        said.put(_Failed(error))
    except Exception:
        said.put(_OurMistake(traceback.format_exc()))
    threading.Event().wait()  # until the parent has heard it


def _read(pipe: Connection, work: RowWork, say: Callable[[object], None]) -> None:
    reader = work.reader()
    while True:
        part: Part = pipe.recv()
        lines = 0
        for batch in raw.batches(part, work.config.max_row_bytes):
            say(_Table(_stream(reader.table(batch))))
            lines += len(batch.lines)
        say(_PartEnded(lines, dict(reader.left_out), reader.guessed))


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue().to_pybytes()


def _send_all(pipe: Connection, said: "queue.Queue[object]") -> None:
    with contextlib.suppress(OSError):  # the parent has closed it: it is about to end this process
        while True:
            pipe.send(said.get())


def _end_with_parent() -> None:
    """End this process when its parent is gone."""
    parent = mp.parent_process()
    assert parent is not None
    wait_for_pipes([parent.sentinel])
    os._exit(1)
