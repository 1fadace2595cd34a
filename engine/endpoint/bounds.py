"""How much of a server's answer is taken, and for how long: HTTP itself bounds neither.

A server may send blanks for ever, a little text that unpacks to very much, or a byte now and then.
"""

import asyncio
import importlib
from typing import Any

from engine.endpoint.replies import GarbageError

# Bytes of an answer, unpacked. 8,000 tokens with the log-probs of 20 others each are some 12 MB.
MOST = 32 << 20
# What is asked for; a piece of these unpacks to a thousand times its size at most.
_PACKED = "gzip, deflate"
_KNOWN_PACKED = ("", "identity", "gzip", "x-gzip", "deflate")
DRIPPED = "began to answer, and its answer had not ended"
_BEGAN = "prefmill_began"


def bounded_client(kind: Any, timeout: float, unmask: Any) -> Any:
    """An HTTP client of `kind`, which is openai's. `timeout`: seconds of a whole try; `unmask`: told each
    answer, which is read."""
    # Whose client it is: httpx's, or httpx2's in later versions of openai.
    library = importlib.import_module(kind.__mro__[1].__module__.partition(".")[0])

    class Bounded(kind):
        async def send(self, request: Any, **more: Any) -> Any:
            try:
                async with asyncio.timeout(timeout):
                    return await super().send(request, **more)
            except TimeoutError:
                what = DRIPPED if request.extensions.get(_BEGAN) else "no answer"
                raise library.ReadTimeout(what, request=request) from None

    async def take(response: Any) -> None:
        response.request.extensions[_BEGAN] = True
        await read(response)
        await unmask(response)

    return Bounded(event_hooks={"response": [take]}, headers={"accept-encoding": _PACKED})


async def read(response: Any) -> None:
    """Read an answer whole. Raises GarbageError where it is too much, or packed as nobody asked for."""
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed not in _KNOWN_PACKED:
        raise GarbageError(f"it is packed as {packed!r}, and {_PACKED} was asked for")
    pieces = response.aiter_bytes

    async def few(*arguments: Any) -> Any:
        size = 0
        async for piece in pieces(*arguments):
            size += len(piece)
            if size > MOST:
                raise GarbageError(f"it is longer than {MOST >> 20} MiB")
            yield piece

    response.aiter_bytes = few  # what `aread` reads by
    await response.aread()
    del response.aiter_bytes
