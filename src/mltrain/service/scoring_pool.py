"""A bounded pool of threads with a bounded queue: a call that finds the queue full fails at once instead of waiting.

Calls are made from one event loop. A call that has begun cannot be stopped: after its time limit the caller goes on,
and the call keeps its thread until it ends, so that slow ones never become more than there are threads.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class OverloadedError(Exception):
    """All threads are at work, and the queue is full."""


class ScoringPool:
    """Runs functions in threads.

    Args:
        threads: How many run at the same time, 1 or more.
        queue: How many may wait besides, 0 or more.
    """

    def __init__(self, *, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="mltrain-serve")
        self._capacity = threads + queue
        self._running = 0
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Calls that run or wait now."""
        return self._running

    async def run(self, function: Callable[[], T], *, timeout_s: float) -> T:
        """Return what a function returns, called in a thread.

        Raises:
            OverloadedError: All threads are at work, and the queue is full.
            TimeoutError: There was no result within `timeout_s` seconds.
        """
        with self._lock:
            if self._running >= self._capacity:
                raise OverloadedError
            self._running += 1
        future = self._executor.submit(function)
        # Also called for a call that was cancelled while it waited, and after the time limit: by then it has ended.
        future.add_done_callback(self._end_call)
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(future)

    def _end_call(self, _: object) -> None:
        with self._lock:
            self._running -= 1

    def close(self) -> None:
        """Take no more calls, and wait for those that run."""
        self._executor.shutdown(cancel_futures=True)
