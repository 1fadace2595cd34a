"""A server that does not end its answer costs neither memory without bound nor a night."""

import asyncio
import contextlib
import dataclasses
import gzip
import json
import socket
import threading
import time

import pytest

from engine.endpoint import bounds
from engine.endpoint.client import Client, RowRefusedError
from engine.endpoint.spec import endpoint_of
from schemas.errors import UserError
from schemas.sections import Judge
from tests.serving import completion

pytest.importorskip("openai")
BODY = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
GOOD = json.dumps(completion("yes")).encode()
START = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
PIECE = b" " * (1 << 18)


@contextlib.contextmanager
def server(send):
    """A server at a socket that sends what `send` yields. Gives its address and the bytes of each answer."""
    listening = socket.create_server(("127.0.0.1", 0))
    sent = []
    stopping = threading.Event()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                count = 0
                with connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    for piece in send(stopping):
                        connection.sendall(piece)
                        count += len(piece)
                sent.append(count)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", sent
    finally:
        stopping.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def asked(url, timeout=30.0, retries=0):
    endpoint = endpoint_of(Judge(base_url=url, model="there"))
    endpoint = dataclasses.replace(endpoint, timeout=timeout, retries=retries)

    async def ask():
        async with Client(endpoint) as client:
            return await client.send(BODY)

    return asyncio.run(ask())


def blanks(stopping):
    yield START + b"\r\n"
    while not stopping.is_set():
        yield PIECE


def bomb(stopping):
    packed = gzip.compress(b" " * (64 << 20))
    yield START + b"content-encoding: gzip\r\n\r\n"
    for _ in range(50):
        yield packed


def packed_twice(stopping):
    yield START + b"content-encoding: gzip, gzip\r\n\r\n" + gzip.compress(gzip.compress(GOOD))


def error_without_end(stopping):
    yield START.replace(b"200 OK", b"404 Not Found") + b"\r\n"
    while not stopping.is_set():
        yield PIECE


def packed(stopping):
    yield START + b"content-encoding: gzip\r\n\r\n" + gzip.compress(GOOD)


def drip(stopping):
    yield START + b"\r\n"
    while not stopping.wait(0.02):
        yield b" "


def drip_of_headers(stopping):
    yield START
    while not stopping.wait(0.02):
        yield b"x: y\r\n"


@pytest.mark.parametrize("send", [blanks, bomb, packed_twice, error_without_end])
def test_an_answer_without_end_is_no_answer(send, trials, monkeypatch):
    """It is left after what an answer may have, and its row is refused."""
    monkeypatch.setattr(bounds, "MOST", 2 << 20)
    with (
        trials("a server's answer without end") as trial,
        trial(send.__name__),
        server(send) as (url, sent),
        pytest.raises(RowRefusedError, match=r"made no sense.*(longer than 2 MiB|packed as 'gzip, gzip')"),
    ):
        asked(url)
    assert sum(sent) < 32 << 20


def test_an_answer_packed_as_asked_for_is_read():
    with server(packed) as (url, _sent):
        assert asked(url).text == "yes"


@pytest.mark.parametrize(
    ("send", "said"),
    [
        (drip, "began to answer, and its answer had not ended within 0.3 seconds, tried up to 2 times"),
        (drip_of_headers, "did not answer within 0.3 seconds, tried up to 2 times"),
    ],
)
def test_a_server_that_drips_has_the_time_of_a_try_and_no_more(send, said, trials):
    with trials("a server that drips") as trial, trial(send.__name__), server(send) as (url, sent):
        begun = time.monotonic()
        with pytest.raises(UserError, match=said):
            asked(url, timeout=0.3, retries=1)
        assert time.monotonic() - begun < 5
    assert len(sent) == 2, "each try was ended by us"
