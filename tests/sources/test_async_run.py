"""Laws of running a coroutine from synchronous code."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from mltrain.errors import SourceError
from mltrain.sources.async_run import run_async


def test_results_and_errors_are_passed_on():
    """The coroutine's result is returned and its error is raised, unchanged."""

    async def answer():
        await asyncio.sleep(0)
        return 7

    async def fail():
        await asyncio.sleep(0)
        raise SourceError("no answer")

    assert run_async(answer) == 7
    with pytest.raises(SourceError, match="no answer") as caught:
        run_async(fail)
    assert caught.value.__context__ is None


def test_it_runs_inside_a_running_loop():
    """With a running event loop, as in a notebook, it runs in another thread."""

    async def answer():
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    async def notebook():
        await asyncio.sleep(0)
        return run_async(answer)

    assert asyncio.run(notebook()) is False


def test_ctrl_c_cleans_up_and_is_a_keyboard_interrupt():
    """Also where Ctrl-C arrives in a callback of the event loop."""
    steps = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def question():
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            steps.append("cleaned up")

    try:
        with pytest.raises(KeyboardInterrupt):
            run_async(question)
    finally:
        signal.signal(signal.SIGINT, before)

    assert steps == ["cleaned up"]
