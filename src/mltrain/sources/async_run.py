"""Run coroutines from synchronous code, and several tasks concurrently."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

T = TypeVar("T")

_FEW: Final = 6


def run_async(question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(lambda: asyncio.run(question())).result()
    return asyncio.run(question())


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Give a group for tasks; where one fails, the others are ended first, and then its error goes on by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


async def run_in_threads(calls: Sequence[Callable[[], T]]) -> tuple[T, ...]:
    """Run functions off the event loop and return what they return, in their order.

    A few run two at once, for two cores. Of many each runs alone: what threads have freed is not soon given back, and
    the memory must not grow with their number.
    """
    turns = asyncio.Semaphore(2 if len(calls) <= _FEW else 1)

    async def run(call: Callable[[], T]) -> T:
        async with turns:
            return await asyncio.to_thread(call)

    async with task_group() as group:
        tasks = [group.create_task(run(call)) for call in calls]
    return tuple(task.result() for task in tasks)
