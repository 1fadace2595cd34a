"""A real S3 server in a process of its own, and a proxy in front of it that breaks what it is told to.

    SERVER ← Proxy ← what is tested

`bucket` gives a test an empty bucket whose server answers as it should; `Proxy.faults` is asked for each
request.
"""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CODES = {"503": "SlowDown", "403": "AccessDenied"}
FAULTS = ("drop", "drop after", "503", "cut")
_names = iter(range(10**6))

# A request's number from 1, its method and path -> one of FAULTS, seconds to wait, or nothing.
Faults = Callable[[int, str, str], str | float | None]


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 server, a process that ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < until, "the S3 server does not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def nothing_fails(number: int, method: str, path: str) -> None:
    """The faults of a proxy that passes all on."""


@dataclass
class Proxy:
    """Passes requests on to a server, and breaks those that `faults` names."""

    upstream: int
    faults: Faults = nothing_fails
    requests: list[tuple[str, str]] = field(default_factory=list)
    _count: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        """The port that it listens at."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                proxy.pass_on(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on

            def log_message(self, *words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()

    def gets(self, ending: str = "") -> int:
        """How many requests for objects whose key ends so were made."""
        return sum(method == "GET" and path.split("?")[0].endswith(ending) for method, path in self.requests)

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request as the server does, or break it."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._count:
            self.requests.append((handler.command, handler.path))
            number = len(self.requests)
        fault = self.faults(number, handler.command, handler.path)
        if isinstance(fault, float):
            time.sleep(fault)
        if fault in CODES:
            _answer(handler, int(fault), {}, f"<Error><Code>{CODES[fault]}</Code></Error>".encode())
        elif fault == "drop":
            _hang_up(handler)
        else:
            try:
                status, headers, data = self._ask(handler, body)
            except (OSError, http.client.HTTPException):  # the server has ended
                _hang_up(handler)
                return
            if fault == "drop after":
                _hang_up(handler)
            else:
                _answer(handler, status, headers, data, cut=fault == "cut")

    def _ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream)
        upstream.request(handler.command, handler.path, body, dict(handler.headers))
        answer = upstream.getresponse()
        data = answer.read()
        headers = dict(answer.getheaders())
        upstream.close()
        return answer.status, headers, data


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):  # who asked may be gone
        handler.connection.shutdown(socket.SHUT_RDWR)


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, cut: bool = False
) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in ("connection", "transfer-encoding", "content-length"):
            handler.send_header(name, value)
    length = next((value for name, value in headers.items() if name.lower() == "content-length"), None)
    handler.send_header("Content-Length", length if handler.command == "HEAD" and length else str(len(data)))
    handler.end_headers()
    if handler.command == "HEAD":
        return
    handler.wfile.write(data[: len(data) // 2] if cut else data)
    if cut and data:
        handler.wfile.flush()
        _hang_up(handler)


@pytest.fixture(scope="session")
def s3() -> Iterator[int]:
    """The port of the S3 server of this session."""
    with s3_server() as port:
        yield port


def environment(port: int) -> dict[str, str]:
    """What has to be set to reach a server at this port."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def proxy(s3, monkeypatch, tmp_path) -> Iterator[Proxy]:
    """A proxy in front of the server, which the environment names; the local cache is the test's own."""
    proxy = Proxy(s3)
    with proxy.listening() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield proxy


@pytest.fixture
def bucket(proxy) -> str:
    """The address of an empty bucket of the test's own."""
    return new_bucket(proxy.upstream)


def new_bucket(port: int) -> str:
    """Make a bucket; its address."""
    name = f"bucket-{os.getpid()}-{next(_names)}"
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        assert answer.status == 200
    return f"s3://{name}"
