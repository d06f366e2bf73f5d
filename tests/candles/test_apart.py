"""Laws of running a coroutine from outside: whatever happens, a signal is not lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from mltrain.candles.apart import run_apart
from mltrain.errors import SourceError, Stopped

SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


@pytest.fixture(autouse=True)
def raising():
    """Have the signals raise, as the command line does; the handlers from before come back."""
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == dict.fromkeys(SIGNALS, stop)
    for number, handler in before.items():
        signal.signal(number, handler)


def stop(signum, _):
    raise Stopped(signum)


def send(signum):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("where", ["callback", "task", "main", "other thread"])
def test_a_signal_is_heard_wherever_the_loop_is(signum, where):
    """In a callback, in a task, between two of them: what is under way is cleaned up, and then the handler raises."""
    steps = []

    async def send_in_task():
        send(signum)
        await asyncio.sleep(60)

    async def question():
        others = []
        try:
            match where:
                case "callback":
                    asyncio.get_running_loop().call_soon(send, signum)
                case "task":
                    others.append(asyncio.create_task(send_in_task()))
                case "main":
                    send(signum)
                case "other thread":
                    threading.Timer(0.05, send, [signum]).start()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    with pytest.raises(Stopped) as caught:
        run_apart(question)
    assert caught.value.exit_code == 128 + signum
    assert steps == ["cleaned up"]


def test_a_second_signal_does_not_tear_the_cleaning_up():
    """The first one counts."""
    steps = []

    async def question():
        try:
            send(signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            send(signal.SIGHUP)
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    with pytest.raises(Stopped) as caught:
        run_apart(question)
    assert caught.value.exit_code == 143
    assert steps == ["cleaned up"]


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_signal_at_the_very_end_is_heard(ends):
    """Whether the answer or an error was there already."""

    async def question():
        send(signal.SIGTERM)
        if ends == "badly":
            raise SourceError("no answer")
        return 7

    with pytest.raises(Stopped):
        run_apart(question)


def test_without_a_signal_the_answer_is_returned_and_an_error_leaves():
    """The handlers are as they were."""

    async def answer():
        await asyncio.sleep(0)
        return 7

    async def fail():
        await asyncio.sleep(0)
        raise SourceError("no answer")

    assert run_apart(answer) == 7
    with pytest.raises(SourceError, match="no answer"):
        run_apart(fail)


def test_it_runs_inside_a_running_loop():
    """As in a notebook: in a thread of its own, which sets no handler."""

    async def answer():
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    async def notebook():
        await asyncio.sleep(0)
        return run_apart(answer)

    assert asyncio.run(notebook()) is False


def test_ctrl_c_is_heard_in_a_callback():
    """By asyncio itself, where Python's own handler is left in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def question():
        asyncio.get_running_loop().call_soon(send, signal.SIGINT)
        await asyncio.sleep(60)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_apart(question)
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_more_ctrl_c_ends_a_clean_up_that_takes_long():
    """As it does under asyncio's own handler."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    steps = []

    async def question():
        try:
            await asyncio.sleep(60)
        finally:
            steps.append("clean-up")
            threading.Timer(0.05, send, [signal.SIGINT]).start()
            await asyncio.sleep(60)
            steps.append("its end")

    threading.Timer(0.05, send, [signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_apart(question)
    finally:
        signal.signal(signal.SIGINT, before)

    assert steps == ["clean-up"]
