"""Serve an ASGI application over HTTP in a thread, until it is stopped.

Starlette and uvicorn know HTTP; what is added here is a limit on the time that a client may take to send the head of a
request, which uvicorn does not have.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mltrain.errors import MachineError

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp

    from mltrain.service.access import BindAddress

# Above it a connection is answered with 503; a process may usually open 1,024 files.
MAX_CONNECTIONS: Final = 256
# Seconds for the head of a request, and for which an idle connection stays open.
HEAD_S: Final = 10.0
KEEP_ALIVE_S: Final = 65
# Bytes of a request's head.
MAX_HEAD_BYTES: Final = 16_384
_BACKLOG: Final = 512


class TimedProtocol(H11Protocol):
    """A connection that is closed if the head of a request does not arrive within HEAD_S."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._start_timer()
        else:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Await the next request, of which a part may be there already."""
        super().on_response_complete()
        if self.cycle.response_complete and self.conn.trailing_data[0]:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP; a request before them that is not answered yet gets no answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Else its answer would be an error in uvicorn, which expects the client to have sent HTTP.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            # The answer to the request before has begun.
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        # The time of a head that is arriving goes on.
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    """A server that says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class HttpServer:
    """A thread that serves an application.

    Args:
        app: The application.
        address: Where to listen.
        shutdown_s: Seconds that requests in progress have to end after `stop`; then they are cut off.
    """

    def __init__(self, app: ASGIApp, address: BindAddress, *, shutdown_s: int) -> None:
        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            # A library leaves logging alone; what matters is in the metrics.
            log_config=None,
            log_level="critical",
            access_log=False,
            # Else a client on this machine could claim any address.
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=shutdown_s,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        self._server = _Server(config)
        self._address = address
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mltrain-http", daemon=True)
        self._socket: socket.socket | None = None

    def start(self) -> BindAddress:
        """Listen, and return the address with the real port.

        Raises:
            MachineError: The address is taken, not this machine's, or not allowed.
        """
        address = self._address
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        # With the protocol named, asyncio sets TCP_NODELAY: else the body of an answer, which uvicorn writes after its
        # head, waits 40 ms for the client's delayed acknowledgement.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((address.host, address.port))
            self._socket.listen(_BACKLOG)
        except OSError as err:
            self._socket.close()
            raise MachineError(
                f"cannot listen on {address.host} port {address.port}: {err.strerror}",
                hint="choose another --bind; port 0 is any free one",
            ) from err
        self._thread.start()
        self._server.ready.wait()
        if self._failure is not None:
            raise RuntimeError("the HTTP server did not start") from self._failure
        return replace(address, port=self._socket.getsockname()[1])

    def stop(self) -> None:
        """Accept no more connections, let the requests in progress end, and end the thread."""
        self._server.should_exit = True
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether the thread serves."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket] if self._socket else None)
        except BaseException as err:  # noqa: BLE001 -- passed to the thread that started this one
            self._failure = err
        finally:
            self._server.ready.set()
