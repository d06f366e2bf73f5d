"""Six real exchanges as a local server: their documented answers, page limits and order of candles.

`tests/data/ccxt` has an answer of each request, written by hand in the form of the public documentation that each file
names. `Candles` answers the request for candles from a frame, by the same documentation.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from mltrain.candles.frame import times_ms
from mltrain.times import MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[1] / "data" / "ccxt"

TIMES = {
    "kraken": ("/0/public/Time", lambda ms: {"error": [], "result": {"unixtime": ms // 1000, "rfc1123": ""}}),
    "okx": ("/api/v5/public/time", lambda ms: {"code": "0", "data": [{"ts": str(ms)}], "msg": ""}),
    "coinbase": ("/v2/time", lambda ms: {"data": {"epoch": ms // 1000, "iso": ""}}),
    "bybit": ("/v5/market/time", lambda ms: {"retCode": 0, "retMsg": "OK", "result": {}, "time": ms}),
    "bitget": ("/api/v2/public/time", lambda ms: {"code": "00000", "msg": "", "data": {"serverTime": str(ms)}}),
    "gate": ("/api/v4/spot/time", lambda ms: {"server_time": ms}),
}


@dataclass(frozen=True)
class Row:
    """One candle: open time in ms UTC, and its numbers."""

    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float


def kraken(rows, _path, query):
    """Return at most the 720 newest rows, ascending, of those after `since`, a time in seconds that is left out."""
    since_ms = int(query.get("since", 0)) * 1000
    kept = [r for r in rows[-720:] if r.ts > since_ms]
    raw = [[r.ts // 1000, *map(repr, (r.open, r.high, r.low, r.close, r.low, r.volume)), 3] for r in kept]
    return {"error": [], "result": {"XXBTZUSD": raw, "last": rows[-2].ts // 1000}}


def okx(rows, path, query):
    """Return the newest rows between `before` and `after`, both left out, newest first; few of the history."""
    limit = min(int(query["limit"]), 100 if "history" in path else 300)
    recent = rows if "history" in path else rows[-1440:]
    kept = [r for r in recent if int(query.get("before", 0)) < r.ts < int(query.get("after", 1 << 60))][-limit:]
    raw = [
        [str(r.ts), *map(repr, (r.open, r.high, r.low, r.close, r.volume, r.volume * 2, r.volume * 3)), "1"]
        for r in reversed(kept)
    ]
    return {"code": "0", "msg": "", "data": raw}


def coinbase(rows, _path, query):
    """Return the rows from `start` to `end`, both included, newest first; refuse more than 350."""
    start_ms, end_ms = int(query["start"]) * 1000, int(query["end"]) * 1000
    assert (end_ms - start_ms) // MINUTE_MS <= 350
    raw = [
        {"start": str(r.ts // 1000), "low": repr(r.low), "high": repr(r.high), "open": repr(r.open)}
        | {"close": repr(r.close), "volume": repr(r.volume)}
        for r in reversed(rows)
        if start_ms <= r.ts <= end_ms
    ]
    return {"candles": raw}


def bybit(rows, _path, query):
    """Return the first rows from `start` on, newest first."""
    kept = [r for r in rows if r.ts >= int(query["start"])][: min(int(query["limit"]), 1000)]
    raw = [[str(r.ts), *map(repr, (r.open, r.high, r.low, r.close, r.volume, r.volume * 2))] for r in reversed(kept)]
    return {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "symbol": "BTCUSDT", "list": raw}}


def bitget(rows, path, query):
    """Return the last rows before `endTime`, ascending; at most 200 of the history, which ignores `startTime`."""
    is_history = "history" in path
    start_ms = 0 if is_history else int(query.get("startTime", 0))
    kept = [r for r in rows if start_ms <= r.ts < int(query["endTime"])]
    kept = kept[-min(int(query["limit"]), 200 if is_history else 1000) :]
    raw = [
        [str(r.ts), *map(repr, (r.open, r.high, r.low, r.close, r.volume, r.volume * 2, r.volume * 2))] for r in kept
    ]
    return {"code": "00000", "msg": "success", "requestTime": 0, "data": raw}


def gate(rows, _path, query):
    """Return the rows from `from` to `to`, both included, ascending; refuse a limit, and old ones."""
    assert "limit" not in query
    first_ms, last_ms = int(query["from"]) * 1000, int(query["to"]) * 1000
    if first_ms < rows[-1].ts - 10_000 * MINUTE_MS:
        return {
            "label": "INVALID_PARAM_VALUE",
            "message": "Candlestick too long ago. Maximum 10000 points ago are allowed",
        }
    return [
        [str(r.ts // 1000), *map(repr, (r.volume * 2, r.close, r.high, r.low, r.open, r.volume)), "true"]
        for r in rows
        if first_ms <= r.ts <= last_ms
    ]


SELECT = {"kraken": kraken, "okx": okx, "coinbase": coinbase, "bybit": bybit, "bitget": bitget, "gate": gate}


@dataclass(frozen=True)
class Recorded:
    """The recorded answers of an exchange.

    Attributes:
        id: Its id in ccxt.
        symbol: The symbol of its candles.
        answers: Its answers by path, without the candles and the time.
        candle_path: Path of the candles.
        candles: The recorded answer with candles of five minutes from 2025-10-15T11:56:00Z, the last of them open.
    """

    id: str
    symbol: str
    answers: dict
    candle_path: str
    candles: object


def recorded(exchange):
    """Read the recorded answers of an exchange."""
    document = json.loads((FOLDER / f"{exchange}.json").read_text("utf-8"))
    return Recorded(exchange, document["symbol"], document["answers"], document["candle_path"], document["candles"])


def rows_of(frame):
    """Return the candles of a frame as rows."""
    columns = [frame[name].to_list() for name in ("open", "high", "low", "close", "volume")]
    return [Row(*values) for values in zip(times_ms(frame).tolist(), *columns, strict=True)]


@contextmanager
def serve(exchange, *, clock_ms, rows=None, answer=None):
    """Serve an exchange: the address of the server, and a list that receives the path and query of each request.

    The clock may be a function, and rows may be added while it serves. Without rows, each request for
    candles gets the answer given, a JSON value, or the recorded one.
    """
    held, requests = recorded(exchange), []
    candles = held.candles if answer is None else answer
    time_path, write_time = TIMES[exchange]
    select: Callable = SELECT[exchange]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            requests.append((parts.path, query))
            if parts.path == time_path:
                body = write_time(clock_ms() if callable(clock_ms) else clock_ms)
            elif parts.path == held.candle_path or "candles" in parts.path or "kline" in parts.path:
                body = candles if rows is None else select(rows, parts.path, query)
            else:
                body = held.answers.get(parts.path)
            data = json.dumps(body).encode()
            is_refused = isinstance(body, dict) and "label" in body
            self.send_response(404 if body is None else 400 if is_refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            # After an error, requests in flight are given up.
            with suppress(ConnectionError):
                self.wfile.write(data)

        def log_message(self, *_):
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
