"""What a model answered, for a log of all answers such as `mltrain.monitoring.ledger`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mltrain.candles.frame import times_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

#: The code of an answer that an exception prevented.
ERROR: Final = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a model, given or refused.

    Attributes:
        ts_ms: Open time of the candle, ms UTC; None: there was no candle.
        symbol: The symbol; None: features were scored, not candles.
        version: Name of the version that answered; empty: the model was not published.
        ops_sha256: Hash of the source of the user ops that the version reads; None: it reads none.
        p: Calibrated probability of up, in [0, 1]; None where refused.
        raw: Score before calibration, in [0, 1]; None where refused.
        refused: The code of the reason why there is no probability; None: there is one.
        permit: "reduce": the answer may only be used to make positions smaller; None: for everything.
        prices: High, low and close of the candle; None: not known.
        source_ms: Time of the source's clock when the candle was read, ms UTC; None: not known.
        latency_ms: From the moment when the candles were there to the answer; None: not measured.
        missed: How many candles of this symbol before this one were not answered since the log's last row of it.
    """

    ts_ms: int | None
    symbol: str | None
    version: str
    ops_sha256: str | None
    p: float | None = None
    raw: float | None = None
    refused: str | None = None
    permit: str | None = None
    prices: tuple[float | None, float | None, float | None] = (None, None, None)
    source_ms: int | None = None
    latency_ms: float | None = None
    missed: int = 0


class AnswerLog(Protocol):
    """Records answers before they are given: an error means that they must not be."""

    def record(self, answers: Sequence[Answer]) -> None:
        """Record answers, in order."""


def find_prices(candles: pl.DataFrame, ts_ms: int | None) -> tuple[float | None, float | None, float | None]:
    """Return high, low and close of the candle that opens at `ts_ms`, ms UTC; None where there is no finite one.

    The candles are sorted by time; they need not have been checked.
    """
    if ts_ms is None or not {"ts", "high", "low", "close"} <= set(candles.columns):
        return None, None, None
    times = times_ms(candles)
    at = int(times.searchsorted(ts_ms))
    if at == times.size or times[at] != ts_ms:
        return None, None, None
    high, low, close = (candles[name][at] for name in ("high", "low", "close"))
    return _as_finite(high), _as_finite(low), _as_finite(close)


def _as_finite(price: float | None) -> float | None:
    return float(price) if isinstance(price, float | int) and math.isfinite(price) else None
