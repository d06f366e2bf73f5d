"""What a model answered, and its recording in a log of all answers such as `mltrain.monitoring.ledger`."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from mltrain.candles.frame import times_ms
from mltrain.errors import RefusedError, UsageError
from mltrain.killswitch.gate import LONG_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import polars as pl

    from mltrain.killswitch.gate import Permit
    from mltrain.serving.loaded_model import LoadedModel

#: High, low and close of a candle; None: not known.
Prices: TypeAlias = tuple[float | None, float | None, float | None]

NO_PRICES: Final[Prices] = (None, None, None)
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
    prices: Prices = NO_PRICES
    source_ms: int | None = None
    latency_ms: float | None = None
    missed: int = 0


class AnswerLog(Protocol):
    """Records answers before they are given: an error means that they must not be."""

    def record(self, answers: Sequence[Answer]) -> None:
        """Record answers, in order."""


class Scored(NamedTuple):
    """The scores of one row of features.

    Attributes:
        loaded: The model that scored it.
        raw: Score before calibration.
        p: Calibrated probability of up.
    """

    loaded: LoadedModel
    raw: float
    p: float


class Recorder:
    """Records the answers of a model in a log, before the caller gets them, and the errors that it gets instead.

    An error of the arguments (UsageError) is no answer. An answer that had to wait for the log is computed and recorded
    again.

    Args:
        log: The log.
        current: Returns the model to use now.
        permit: Returns how an answer for a symbol (None: for any) may be used now; raises RefusedError if not at all.
    """

    def __init__(
        self, log: AnswerLog, current: Callable[[], LoadedModel], permit: Callable[[str | None], Permit]
    ) -> None:
        self._log = log
        self._current = current
        self._permit = permit

    def answer(
        self,
        score: Callable[[], Scored],
        symbol: str | None = None,
        candle: Callable[[], tuple[int | None, Prices]] = lambda: (None, NO_PRICES),
    ) -> float:
        """Return the probability of up that `score` gives.

        Args:
            score: Scores one row of features.
            symbol: Its symbol; None: not known.
            candle: Returns open time, ms UTC, and prices of its candle, also after an error.
        """
        p, was_late = self._answer(score, symbol, candle)
        return self._answer(score, symbol, candle)[0] if was_late else p

    def _answer(
        self, score: Callable[[], Scored], symbol: str | None, candle: Callable[[], tuple[int | None, Prices]]
    ) -> tuple[float, bool]:
        """Score and record one row; return the probability of up, and whether recording it took long."""
        began_s = time.perf_counter()
        try:
            scored = score()
            permit = self._permit(symbol)
        except UsageError:
            raise
        except Exception as err:
            facts = self._facts(self._current(), began_s)
            ts_ms, prices = candle()
            self._log.record([Answer(ts_ms=ts_ms, symbol=symbol, prices=prices, refused=_read_reason(err), **facts)])
            raise
        facts = self._facts(scored.loaded, began_s)
        ts_ms, prices = candle()
        answer = Answer(ts_ms=ts_ms, symbol=symbol, prices=prices, p=scored.p, raw=scored.raw, permit=permit, **facts)
        return scored.p, self._record([answer])

    def table(
        self, score: Callable[[], tuple[LoadedModel, pl.DataFrame]], candles: Mapping[str, pl.DataFrame]
    ) -> pl.DataFrame:
        """Return the table of answers that `score` gives for the newest candles.

        Args:
            score: Returns the model that scored, and a table with ts, symbol, p, raw, refused, permit.
            candles: Candles by symbol, leaders included.
        """
        rows, was_late = self._table(score, candles)
        return self._table(score, candles)[0] if was_late else rows

    def _table(
        self, score: Callable[[], tuple[LoadedModel, pl.DataFrame]], candles: Mapping[str, pl.DataFrame]
    ) -> tuple[pl.DataFrame, bool]:
        """Score and record the newest candles; return the table, and whether recording it took long."""
        began_s = time.perf_counter()
        try:
            loaded, rows = score()
        except UsageError:
            raise
        except Exception as err:
            loaded = self._current()
            facts = self._facts(loaded, began_s)
            refused = _read_reason(err)
            leaders = set(loaded.bundle.feature_set.leaders) - set(loaded.bundle.symbols)
            self._log.record(
                [Answer(ts_ms=None, symbol=s, refused=refused, **facts) for s in candles if s not in leaders]
            )
            raise
        facts = self._facts(loaded, began_s)
        answers = []
        for ts_ms, row in zip(rows["ts"].to_physical(), rows.drop("ts").iter_rows(named=True), strict=True):
            prices = find_prices(candles[row["symbol"]], ts_ms)
            answers.append(Answer(ts_ms=ts_ms, prices=prices, **row, **facts))
        return rows, self._record(answers)

    def _facts(self, loaded: LoadedModel, began_s: float) -> dict[str, Any]:
        """Return what is the same for all answers of a call that began at `began_s`, by the performance counter."""
        ops = loaded.bundle.user_ops
        return {
            "version": loaded.version,
            "ops_sha256": None if ops is None else ops.sha256,
            "latency_ms": 1000 * (time.perf_counter() - began_s),
        }

    def _record(self, answers: Sequence[Answer]) -> bool:
        """Record answers, and return whether that took long."""
        began_s = time.perf_counter()
        self._log.record(answers)
        # As long as that, serving may have been halted since.
        return time.perf_counter() - began_s > LONG_S


def _read_reason(err: Exception) -> str:
    """Return the code of the reason why there is no answer but this error."""
    return err.reason if isinstance(err, RefusedError) else ERROR


def find_prices(candles: pl.DataFrame, ts_ms: int | None) -> Prices:
    """Return high, low and close of the candle that opens at `ts_ms`, ms UTC; None where there is no finite one.

    The candles are sorted by time; they need not have been checked.
    """
    if ts_ms is None or not {"ts", "high", "low", "close"} <= set(candles.columns):
        return NO_PRICES
    times = times_ms(candles)
    at = int(times.searchsorted(ts_ms))
    if at == times.size or times[at] != ts_ms:
        return NO_PRICES
    high, low, close = (candles[name][at] for name in ("high", "low", "close"))
    return _as_finite(high), _as_finite(low), _as_finite(close)


def _as_finite(price: float | None) -> float | None:
    return float(price) if isinstance(price, float | int) and math.isfinite(price) else None
