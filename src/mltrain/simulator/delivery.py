"""Send the bytes of an answer: all at once, or cut, late or too many if a fault says so."""

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
    """The transfer of one answer.

    Args:
        writer: The connection.
        answer: The answer.
        fault: The fault to act out; None for none.

    Attributes:
        status: HTTP status of the answer; 0 if none will be sent.
        planned_bytes: Size of its body; 0 if none will be sent.
        sent_bytes: Bytes of the body written to the connection so far.
        keeps_open: Whether the connection can be used for another request.
    """

    def __init__(self, writer: asyncio.StreamWriter, answer: Answer, fault: Fault | None) -> None:
        self.writer = writer
        self.answer = answer
        self._fault = fault
        is_silent = fault is not None and (fault.kind == "hang" or (fault.kind == "reset" and not fault.amount))
        self.status = 0 if is_silent else answer.status
        self.planned_bytes = 0 if is_silent else len(answer.body)
        self.sent_bytes = 0
        self.keeps_open = True

    async def send(self) -> None:
        """Send the answer as its fault says.

        Raises:
            ConnectionError: The client closed the connection.
        """
        if self._fault is None or self._fault.kind not in _SENDERS:
            await self.send_whole()
        else:
            await _SENDERS[self._fault.kind](self, self._fault)

    def format_head(self, *more: str) -> bytes:
        """Return the status line and headers of the answer, and more header lines such as "Connection: close"."""
        answer = self.answer
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}",
            f"Content-Type: {answer.content_type}",
            *(f"{name}: {value}" for name, value in answer.headers),
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def format_full_head(self, *more: str) -> bytes:
        """Return the head, with more header lines, that announces the length of the whole body."""
        return self.format_head(*more, f"Content-Length: {len(self.answer.body)}")

    async def send_whole(self) -> None:
        """Send head and body in one write."""
        self.writer.write(self.format_full_head() + self.answer.body)
        self.sent_bytes = len(self.answer.body)
        await self.writer.drain()

    async def send_part(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.writer.write(data)
        self.sent_bytes += len(data)
        await self.writer.drain()

    async def send_cut(self, head: bytes, size_bytes: int) -> None:
        """Send the head and the first `size_bytes` of the body (0: half of it), then have the connection closed."""
        self.keeps_open = False
        self.writer.write(head)
        await self.send_part(self.answer.body[: size_bytes or len(self.answer.body) // 2])


async def _cut_chunk(delivery: Delivery, fault: Fault) -> None:
    """Close the connection after `fault.amount` bytes (0: half) of a chunk that announced the whole body."""
    head = delivery.format_head("Transfer-Encoding: chunked")
    await delivery.send_cut(head + b"%x\r\n" % len(delivery.answer.body), fault.amount)


async def _reset(delivery: Delivery, fault: Fault) -> None:
    """Reset the connection after `fault.amount` bytes of the body; 0: before any answer."""
    delivery.keeps_open = False
    if fault.amount:
        await delivery.send_cut(delivery.format_full_head(), fault.amount)
    connection = delivery.writer.get_extra_info("socket")
    # With a linger time of 0, closing sends RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    delivery.writer.transport.abort()


async def _hang(delivery: Delivery, fault: Fault) -> None:
    """Send nothing for `fault.duration_s`, then have the connection closed."""
    delivery.keeps_open = False
    await asyncio.sleep(fault.duration_s)


async def _slow(delivery: Delivery, fault: Fault) -> None:
    """Send the answer after `fault.duration_s`."""
    await asyncio.sleep(fault.duration_s)
    await delivery.send_whole()


async def _drip_header(delivery: Delivery, fault: Fault) -> None:
    """Send the head one byte every `fault.duration_s`, then the body."""
    for byte in delivery.format_full_head():
        delivery.writer.write(bytes([byte]))
        await delivery.writer.drain()
        await asyncio.sleep(fault.duration_s)
    await delivery.send_part(delivery.answer.body)


async def _drip_body(delivery: Delivery, fault: Fault) -> None:
    """Send the head, then the body one byte every `fault.duration_s`."""
    delivery.writer.write(delivery.format_full_head())
    for byte in delivery.answer.body:
        await delivery.send_part(bytes([byte]))
        await asyncio.sleep(fault.duration_s)


async def _big_header(delivery: Delivery, fault: Fault) -> None:
    """Send the answer with one more header, of `fault.amount` bytes."""
    delivery.writer.write(delivery.format_full_head(f"X-Padding: {'x' * fault.amount}"))
    await delivery.send_part(delivery.answer.body)


async def _gzip_bomb(delivery: Delivery, fault: Fault) -> None:
    """Send a small gzip body that unpacks to `fault.amount` MB of blanks."""
    data = _gzip_blanks(fault.amount)
    delivery.writer.write(delivery.format_head("Content-Encoding: gzip", f"Content-Length: {len(data)}"))
    await delivery.send_part(data)


async def _big_body(delivery: Delivery, fault: Fault) -> None:
    """Send `fault.amount` MB of blanks in chunks of one MB."""
    delivery.writer.write(delivery.format_head("Transfer-Encoding: chunked") + b"1\r\n[\r\n")
    for _ in range(fault.amount):
        await delivery.send_part(b"%x\r\n%s\r\n" % (_MB, b" " * _MB))
    await delivery.send_part(b"1\r\n]\r\n0\r\n\r\n")


_SENDERS: Final[Mapping[str, Callable[[Delivery, Fault], Awaitable[None]]]] = {
    "short": lambda delivery, fault: delivery.send_cut(delivery.format_full_head(), fault.amount),
    "cut_chunk": _cut_chunk,
    "no_length_cut": lambda delivery, fault: delivery.send_cut(delivery.format_head("Connection: close"), fault.amount),
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
def _gzip_blanks(megabytes: int) -> bytes:
    """Return the gzip of an empty JSON array that holds `megabytes` MB of blanks."""
    packer = zlib.compressobj(level=9, wbits=31)
    blanks = b" " * _MB
    parts = [packer.compress(b"["), *(packer.compress(blanks) for _ in range(megabytes)), packer.compress(b"]")]
    return b"".join([*parts, packer.flush()])
