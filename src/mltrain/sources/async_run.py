"""Run coroutines from synchronous code, and several tasks or threads concurrently."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

T = TypeVar("T")

# On two threads, for two cores. More calls run on one: memory that threads have freed is given back late, and must not
# grow with the number of calls.
_MAX_CONCURRENT_CALLS: Final = 6


def run_async(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Call `start` and run its coroutine to the end, even if an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        has_loop = False
    else:
        has_loop = True
    # Outside the handler, whose RuntimeError would be the context of every error of the coroutine.
    if not has_loop:
        return asyncio.run(start())
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(lambda: asyncio.run(start())).result()


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a TaskGroup that raises the first error of its tasks itself, not as an ExceptionGroup."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


def run_in_threads(calls: Sequence[Callable[[], T]]) -> tuple[T, ...]:
    """Run functions in one or two threads and return their results in order; the first error cancels the rest."""
    with ThreadPoolExecutor(2 if len(calls) <= _MAX_CONCURRENT_CALLS else 1) as threads:
        futures = [threads.submit(call) for call in calls]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
