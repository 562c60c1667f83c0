"""One request at a time through the model, in threads that always end before the next begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from chiasm.serving.faults import SERVER, RequestFaultError

ResultT = TypeVar("ResultT")


class Turns:
    """A queue of bounded length in front of the model.

    Args:
        waiting: How many may wait.
    """

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._inside = 0
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, *, admitted: bool = False) -> AsyncIterator[None]:
        """Wait for the model, and have it alone inside the context.

        Args:
            admitted: The request had a turn before, so it may wait however long the queue is.

        Raises:
            RequestFaultError: Too many wait already.
        """
        if self._inside > self._waiting and not admitted:
            raise RequestFaultError(
                f"{self._waiting} requests are waiting already; try again in a moment",
                "overloaded",
                503,
                kind=SERVER,
            )
        self._inside += 1
        try:
            async with self._lock:
                yield
        finally:
            self._inside -= 1


async def to_its_end(function: Callable[[], ResultT]) -> ResultT:
    """Run a function in a thread; when cancelled, wait for the thread before giving way.

    A thread cannot be stopped from outside, and the model must not be given to the next request
    while it runs.
    """
    task = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await settle(task)
        raise


async def settle(task: asyncio.Future[ResultT]) -> None:
    """Wait until a task has ended, however it ends."""
    await asyncio.wait({task})
    if not task.cancelled():
        # Looked at, so that the loop does not report it as lost.
        task.exception()
