"""Laws of running a coroutine from synchronous code."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from mltrain.errors import SourceError
from mltrain.sources.async_run import run_async


def test_the_answer_is_returned_and_an_error_leaves():
    """Both as the coroutine gave them."""

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
    """As in a notebook: in another thread."""

    async def answer():
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    async def notebook():
        await asyncio.sleep(0)
        return run_async(answer)

    assert asyncio.run(notebook()) is False


def test_ctrl_c_cleans_up_and_is_a_keyboard_interrupt():
    """In a callback of the loop, too: asyncio sees to it where Python's own handler is left in its place."""
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
