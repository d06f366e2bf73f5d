"""Serve a folder of recorded candles on this machine in the exchange's REST format: real candles without internet.

    python -m tools.replay FOLDER        prints its address and serves until Ctrl-C

`FOLDER/<SYMBOL>.parquet` has one-minute candles with all ten columns, like a snapshot's files. The exchange's clock
stands at the close of the newest one. Supports klines, time and exchange info, but no request weights and no faults;
the simulated exchange in the package has those.
"""

from __future__ import annotations

import json
import sys
import threading
from bisect import bisect_left, bisect_right
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import polars as pl

from mltrain.times import MINUTE_MS

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_ASIDE: Final = ("open", "high", "low", "close", "volume")
_BEHIND: Final = ("taker_buy_base", "taker_buy_quote")


class Replay:
    """Recorded candles, served while the `with` block lasts.

    Args:
        folder: The folder with the files `<SYMBOL>.parquet`.
    """

    def __init__(self, folder: Path) -> None:
        self._pages = {path.stem: _Recorded(pl.read_parquet(path)) for path in sorted(folder.glob("*.parquet"))}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answer))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def base_url(self) -> str:
        """The address, as for MLTRAIN_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def clock_ms(self) -> int:
        """The exchange's time, in ms since 1970."""
        return max(recorded.last_ms for recorded in self._pages.values()) + MINUTE_MS

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/api/v3/time":
                return HTTPStatus.OK, {"serverTime": self.clock_ms}
            case "/api/v3/exchangeInfo":
                limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}
                symbols = [{"symbol": s, "status": "TRADING", "quoteAsset": "USDT"} for s in self._pages]
                return HTTPStatus.OK, {"serverTime": self.clock_ms, "rateLimits": [limit], "symbols": symbols}
            case "/api/v3/klines" if query.get("symbol") in self._pages and query.get("interval") == "1m":
                return HTTPStatus.OK, self._pages[query["symbol"]].page(
                    int(query.get("startTime", 0)), int(query.get("endTime", self.clock_ms)), int(query["limit"])
                )
        return HTTPStatus.BAD_REQUEST, {"code": -1121, "msg": "Invalid symbol."}


class _Recorded:
    """The candles of one symbol as kline rows."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._open_ms = frame["ts"].dt.timestamp("ms").to_list()
        columns = [frame[name].to_list() for name in (*_ASIDE, "quote_volume", "trades", *_BEHIND)]
        self._rows = list(zip(*columns, strict=True))
        self._first_ms = self._open_ms[0]
        self.last_ms = int(self._open_ms[-1])

    def page(self, start_ms: int, end_ms: int, limit: int) -> list[list[Any]]:
        """Return the rows that open from `start_ms` to `end_ms`, both included, at most `limit`."""
        first, end = bisect_left(self._open_ms, start_ms), bisect_right(self._open_ms, end_ms)
        return [_row(self._open_ms[i], self._rows[i]) for i in range(first, min(end, first + limit))]


def _row(open_ms: int, values: tuple[Any, ...]) -> list[Any]:
    """Return a candle as a kline row: prices and volumes as text that parses to the same number."""
    texts = [value if isinstance(value, int) else repr(value) for value in values]
    return [open_ms, *texts[:5], open_ms + MINUTE_MS - 1, *texts[5:], "0"]


def _handler(answer: Any) -> type[BaseHTTPRequestHandler]:  # noqa: ANN401 (a bound method)
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, value = answer(parts.path, {k: v[-1] for k, v in parse_qs(parts.query).items()})
            body = json.dumps(value, separators=(",", ":")).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing, to keep the output of the page clean."""

    return Handler


if __name__ == "__main__":
    with Replay(Path(sys.argv[1])) as replay:
        print(replay.base_url, flush=True)
        threading.Event().wait()
