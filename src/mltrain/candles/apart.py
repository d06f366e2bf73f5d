"""Coroutines run to their end from code that is none, and tasks side by side within one.

A signal that asks to end must neither be lost in a callback of the event loop nor leave a task under way.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from types import FrameType

T = TypeVar("T")

_FEW: Final = 6


def run_apart(question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    if not _is_running():
        return _run_alone(question)
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(lambda: asyncio.run(question())).result()


def _run_alone(question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end; a signal cancels it first and is handled then.

    A handler that raises would be run wherever the loop is just then, and in a callback asyncio logs whatever is
    raised, but for KeyboardInterrupt, and goes on: the signal would be lost.
    """
    heard: list[int] = []

    async def run() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def cancel(signum: int, frame: FrameType | None) -> None:
            if heard and signum == signal.SIGINT:
                handlers[signum](signum, frame)  # who presses Ctrl-C again does not want to wait for the end of it
            if not heard and task is not None:
                task.cancel()
                loop.call_soon_threadsafe(lambda: None)  # wakes it
            heard.append(signum)

        for signum in handlers:
            signal.signal(signum, cancel)
        return await question()

    handlers = _raising_handlers()
    try:
        return asyncio.run(run())
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for signum in heard[:1]:
            handlers[signum](signum, None)


def _raising_handlers() -> dict[int, Callable[[int, FrameType | None], object]]:
    """Return the Python handlers of signals that ask to end; asyncio itself sees to Python's own of Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    return {n: handler for n, handler in found.items() if callable(handler) and handler != signal.default_int_handler}


def _is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@asynccontextmanager
async def side_by_side() -> AsyncIterator[asyncio.TaskGroup]:
    """Give a group for tasks; where one fails, the others are ended first, and then its error goes on by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


async def in_threads(calls: Sequence[Callable[[], T]]) -> tuple[T, ...]:
    """Run functions off the event loop and return what they return, in their order.

    A few run two at once, for two cores. Of many each runs alone: what threads have freed is not soon given back, and
    the memory must not grow with their number.
    """
    turns = asyncio.Semaphore(2 if len(calls) <= _FEW else 1)

    async def run(call: Callable[[], T]) -> T:
        async with turns:
            return await asyncio.to_thread(call)

    async with side_by_side() as group:
        tasks = [group.create_task(run(call)) for call in calls]
    return tuple(task.result() for task in tasks)
