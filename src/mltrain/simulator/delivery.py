"""How the bytes of an answer travel: all at once, or lost, late or too many where a fault says so."""

from __future__ import annotations

import asyncio
import http
import socket
import struct
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mltrain.simulator.exchange import Answer
    from mltrain.simulator.faults import Fault

_MB: Final = 1_000_000
_REASONS: Final[Mapping[int, str]] = {status.value: status.phrase for status in http.HTTPStatus}


class Delivery:
    """One answer on its way.

    Args:
        writer: The connection.
        answer: What to send.
        fault: What goes wrong; None: nothing.

    Attributes:
        status: Of the answer; 0 where none will be sent.
        planned_bytes: How long its body is.
        sent_bytes: Bytes of the body handed to the connection so far.
        keeps_open: Whether the connection can take another request afterwards.
    """

    def __init__(self, writer: asyncio.StreamWriter, answer: Answer, fault: Fault | None) -> None:
        self.writer = writer
        self.answer = answer
        self._fault = fault
        silent = fault is not None and (fault.kind == "hang" or (fault.kind == "reset" and not fault.amount))
        self.status = 0 if silent else answer.status
        self.planned_bytes = 0 if silent else len(answer.body)
        self.sent_bytes = 0
        self.keeps_open = True

    async def send(self) -> None:
        """Send it.

        Raises:
            ConnectionError: The other side has left.
        """
        if self._fault is None or self._fault.kind not in _WAYS:
            await self.whole()
        else:
            await _WAYS[self._fault.kind](self, self._fault)

    def head(self, *more: str) -> bytes:
        """Return the head, with further lines."""
        answer = self.answer
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}",
            f"Content-Type: {answer.content_type}",
            *(f"{name}: {value}" for name, value in answer.headers),
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def promised(self, *more: str) -> bytes:
        """Return the head that promises the whole body."""
        return self.head(*more, f"Content-Length: {len(self.answer.body)}")

    async def whole(self) -> None:
        """Send head and body in one piece."""
        self.writer.write(self.promised() + self.answer.body)
        self.sent_bytes = len(self.answer.body)
        await self.writer.drain()

    async def part(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.writer.write(data)
        self.sent_bytes += len(data)
        await self.writer.drain()

    async def cut(self, head: bytes, size: int) -> None:
        """Send the head and `size` bytes of the body (0: half of it), and nothing more on this connection."""
        self.keeps_open = False
        self.writer.write(head)
        await self.part(self.answer.body[: size or len(self.answer.body) // 2])


async def _short(delivery: Delivery, fault: Fault) -> None:
    await delivery.cut(delivery.promised(), fault.amount)


async def _cut_chunk(delivery: Delivery, fault: Fault) -> None:
    head = delivery.head("Transfer-Encoding: chunked")
    await delivery.cut(head + b"%x\r\n" % len(delivery.answer.body), fault.amount)


async def _no_length_cut(delivery: Delivery, fault: Fault) -> None:
    await delivery.cut(delivery.head("Connection: close"), fault.amount)


async def _reset(delivery: Delivery, fault: Fault) -> None:
    delivery.keeps_open = False
    if fault.amount:
        await delivery.cut(delivery.promised(), fault.amount)
    connection = delivery.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing then sends RST
    delivery.writer.transport.abort()


async def _hang(delivery: Delivery, fault: Fault) -> None:
    delivery.keeps_open = False
    await asyncio.sleep(fault.duration_s)


async def _slow(delivery: Delivery, fault: Fault) -> None:
    await asyncio.sleep(fault.duration_s)
    await delivery.whole()


async def _drip_header(delivery: Delivery, fault: Fault) -> None:
    for byte in delivery.promised():
        delivery.writer.write(bytes([byte]))
        await delivery.writer.drain()
        await asyncio.sleep(fault.duration_s)
    await delivery.part(delivery.answer.body)


async def _drip_body(delivery: Delivery, fault: Fault) -> None:
    delivery.writer.write(delivery.promised())
    for byte in delivery.answer.body:
        await delivery.part(bytes([byte]))
        await asyncio.sleep(fault.duration_s)


async def _big_header(delivery: Delivery, fault: Fault) -> None:
    delivery.writer.write(delivery.promised(f"X-Padding: {'x' * fault.amount}"))
    await delivery.part(delivery.answer.body)


async def _gzip_bomb(delivery: Delivery, fault: Fault) -> None:
    data = blank_gzip(fault.amount)
    delivery.writer.write(delivery.head("Content-Encoding: gzip", f"Content-Length: {len(data)}"))
    await delivery.part(data)


async def _big_body(delivery: Delivery, fault: Fault) -> None:
    delivery.writer.write(delivery.head("Transfer-Encoding: chunked") + b"1\r\n[\r\n")
    for _ in range(fault.amount):
        await delivery.part(b"%x\r\n%s\r\n" % (_MB, b" " * _MB))
    await delivery.part(b"1\r\n]\r\n0\r\n\r\n")


_WAYS: Final[Mapping[str, Callable[[Delivery, Fault], Awaitable[None]]]] = {
    "short": _short,
    "cut_chunk": _cut_chunk,
    "no_length_cut": _no_length_cut,
    "reset": _reset,
    "hang": _hang,
    "slow": _slow,
    "drip_header": _drip_header,
    "drip_body": _drip_body,
    "big_header": _big_header,
    "gzip_bomb": _gzip_bomb,
    "big_body": _big_body,
}


@lru_cache(maxsize=4)
def blank_gzip(megabytes: int) -> bytes:
    """Return a gzip of an empty JSON array that many megabytes of blanks long."""
    packer = zlib.compressobj(level=9, wbits=31)
    blank = b" " * _MB
    parts = [packer.compress(b"["), *(packer.compress(blank) for _ in range(megabytes)), packer.compress(b"]")]
    return b"".join([*parts, packer.flush()])
