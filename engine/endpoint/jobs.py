"""A shard's questions to a server, many under way at once.

All of it runs in one event loop, so that Ctrl-C and the first error end what is under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from engine.endpoint.breaker import Breaker
from engine.endpoint.client import Client, RowRefusedError, Send
from engine.endpoint.spec import Endpoint, check_ready
from engine.progress import NO_PROGRESS, StageProgress

T = TypeVar("T")
# A row's work: it sends requests, one after another, and gives what came of them.
Job = Callable[[Send], Awaitable[T]]
# What a row's work comes to where the server refuses it, by its place.
Refuse = Callable[[int, RowRefusedError], T]

_LOOK = 0.5  # seconds after which the loop looks up, so that Ctrl-C is seen


def run_jobs(
    endpoint: Endpoint,
    jobs: Sequence[Job[T]],
    progress: StageProgress = NO_PROGRESS,
    refuse: Refuse[T] | None = None,
) -> list[T]:
    """What the jobs give, in their order; at most `endpoint.concurrency` of them are under way.

    Raises UserError where the server cannot be used, or refuses all of a shard's rows or many in a row."""
    if not jobs:
        return []
    check_ready(endpoint)
    progress.want(len(jobs))
    return asyncio.run(_run(endpoint, jobs, progress, refuse))


async def _run(
    endpoint: Endpoint, jobs: Sequence[Job[T]], progress: StageProgress, refuse: Refuse[T] | None
) -> list[T]:
    results: dict[int, T] = {}
    waiting = iter(enumerate(jobs))
    breaker = Breaker(endpoint)

    async def work(client: "Client") -> None:
        for number, job in waiting:
            try:
                results[number] = await job(client.send)
                breaker.answered()
            except RowRefusedError as refused:
                if refuse is None:
                    raise
                breaker.refused(refused.detail)
                results[number] = refuse(number, refused)
            progress.done(1, client.take_tokens())

    async with Client(endpoint) as client:
        workers = [asyncio.create_task(work(client)) for _ in range(min(endpoint.concurrency, len(jobs)))]
        try:
            await _first_error(workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if breaker.end() and not await client.answers():
            raise breaker.error()
    return [results[number] for number in range(len(jobs))]


async def _first_error(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all of them; raise what the first one to fail raises.

    With a time-out: polars installs its own handler of Ctrl-C, under which a wait without one is not
    interrupted."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, timeout=_LOOK, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
