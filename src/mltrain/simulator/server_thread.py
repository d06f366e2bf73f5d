"""The thread that serves the connections of the simulated exchange."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOST: Final = "127.0.0.1"

# Iterations of the event loop after which the task of a new connection has started; it takes three or four.
_TURNS_TO_START: Final = 10
_MAX_HEAD_BYTES: Final = 65_536


class ServerThread:
    """A thread that serves connections until it is stopped.

    Args:
        serve: Serves one connection; may raise ConnectionError when the peer leaves.
    """

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._serve = serve
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), name="mltrain-sim", daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    def start(self, port: int) -> int:
        """Start to listen on a port, 0 for any free one; return its number.

        Raises:
            MachineError: The port is taken or not allowed.
        """
        self._port = port
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise MachineError(
                f"cannot listen on {HOST} port {port}: {self._failure.strerror}", hint="choose another --port, or 0"
            ) from self._failure
        return self._port

    def stop(self) -> None:
        """Close every connection and end the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _listen(self) -> None:
        """Accept connections until `stop`, then end every open one; runs in the thread."""
        try:
            server = await asyncio.start_server(self._handle, HOST, self._port, limit=_MAX_HEAD_BYTES, backlog=1024)
        except OSError as err:
            self._failure = err
            self._ready.set()
            return
        self._port = server.sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._stop.wait()
        # A connection accepted just now needs the server until its task has started, which can then be cancelled.
        for listener in server.sockets:
            self._loop.remove_reader(listener.fileno())
        for _ in range(_TURNS_TO_START):
            await asyncio.sleep(0)
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends or `stop` cancels it, and close it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- for the type checker: streams run their callback in a task
        self._open.add(task)
        try:
            # The peer may leave at any time; `stop` cancels the task.
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._open.discard(task)
