"""Measure the latency from candles to a probability.

The timed calls are those that a caller makes (`Model`), checks and calibration included. Each sample ends at another
candle; the first calls, which fill caches, are not counted. The clock is an argument.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.candles.input_tables import InputTable, KnownValues
from mltrain.card.machine import cpu_name
from mltrain.errors import InputError
from mltrain.gates.latency import Bin, Latency, Percentiles
from mltrain.serving.rows import ScoringRequest, read_rows
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet
    from mltrain.serving.model import Model

# Number of newest candles at which the samples end in turn.
CANDLES: Final = 500
# Number of first calls that are not counted.
WARM_UP: Final = 20
BATCH_ROWS: Final = 10_000
BATCH_RUNS: Final = 5
BINS: Final = 12
_NS_PER_MS: Final = 1e6
_NS_PER_S: Final = 1e9

T = TypeVar("T")


def measure_latency(
    model: Model,
    candles: Mapping[str, pl.DataFrame],
    *,
    samples: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Measure how long a model takes from candles, from one row and from many rows of features to probabilities.

    Of the candles by symbol, leaders included and inputs joined, only the newest are used. At least one call
    (`samples`) with candles and as many with one row are timed by a monotonic clock in ns.
    """
    # Read before the measurement itself loads the machine.
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    inputs = known_at_closes(model.feature_set, candles)
    windows, bars = _sample_calls(model, candles, inputs)
    before = _count_preemptions()
    candles_ns = _time_calls(partial(model.predict_candles, inputs=inputs), windows, samples, clock)
    one_row_ns = _time_calls(partial(_score_one, model), bars.windows(model.window), samples, clock)
    after = _count_preemptions()
    batch_ns = _time_calls(partial(_score_batch, model), [bars.batch(model.window)], BATCH_RUNS, clock)
    return Latency(
        candles=_summarise(candles_ns),
        one_row=_summarise(one_row_ns),
        batch_rows_per_s=BATCH_ROWS * BATCH_RUNS * _NS_PER_S / max(1, sum(batch_ns)),
        samples=samples,
        cpu=cpu_name(),
        load_average=load_average,
        histogram=_make_histogram(candles_ns),
        preempted=None if after is None or before is None else after - before,
    )


def _count_preemptions() -> int | None:
    """Return the number of involuntary context switches of this process; None if the system does not count them."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _make_histogram(durations_ns: Sequence[int]) -> tuple[Bin, ...]:
    """Count durations in BINS bins whose edges have a constant ratio, from the shortest duration to the longest."""
    ms = np.maximum(np.array(durations_ns) / _NS_PER_MS, 1e-6)
    edges = np.geomspace(ms.min(), max(ms.max(), ms.min() * 1.01), BINS + 1)
    edges[0], edges[-1] = min(edges[0], ms.min()), max(edges[-1], ms.max())
    counts = np.histogram(ms, edges)[0].tolist()
    pairs = itertools.pairwise(edges.tolist())
    return tuple(Bin(from_ms, to_ms, calls) for (from_ms, to_ms), calls in zip(pairs, counts, strict=True))


def known_at_closes(feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]) -> dict[str, InputTable]:
    """Return values of the inputs that give each of the joined candles the value that it has already."""
    step_ms = interval_ms(feature_set.interval)

    def take(frame: pl.DataFrame, name: str) -> KnownValues:
        known = frame.select("ts", name).drop_nulls()
        return KnownValues(times_ms(known) + step_ms, known[name].to_numpy())

    return {
        spec.name: InputTable(by_symbol={symbol: take(frame, spec.name) for symbol, frame in candles.items()})
        for spec in feature_set.inputs
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Bars:
    """Bars of a symbol, and which of them can be scored.

    Attributes:
        symbol: The symbol.
        ts_ms: Open times, ms UTC, shape (n,).
        x: Features, shape (n, f).
        ends: Positions of the bars that can be scored, shape (m,).
    """

    symbol: str
    ts_ms: NDArray[np.int64]
    x: NDArray[np.float32]
    ends: NDArray[np.int64]

    def batch(self, window: int) -> _Bars:
        """Return bars with BATCH_ROWS rows to score, these bars again and again."""
        ends = np.resize(self.ends, BATCH_ROWS)
        if window > 1:
            return replace(self, ends=ends)
        return _Bars(self.symbol, self.ts_ms[ends], self.x[ends], np.arange(BATCH_ROWS))

    def windows(self, window: int) -> list[_Bars]:
        """Return for each bar that can be scored those that its score needs."""
        last = np.array([window - 1])
        parts = [slice(end - window + 1, end + 1) for end in self.ends.tolist()]
        return [_Bars(self.symbol, self.ts_ms[part], self.x[part], last) for part in parts]


def _score_one(model: Model, bars: _Bars) -> None:
    """Score the features of one row."""
    if model.window == 1:
        model.predict_one(bars.x[-1])
    else:
        model.score_bars(bars.symbol, bars.ts_ms, bars.x, bars.ends)


def _score_batch(model: Model, bars: _Bars) -> None:
    """Score all of the rows."""
    if model.window == 1:
        model.predict_proba(bars.x)
    else:
        model.score_bars(bars.symbol, bars.ts_ms, bars.x, bars.ends)


def _sample_calls(
    model: Model, candles: Mapping[str, pl.DataFrame], inputs: Mapping[str, InputTable]
) -> tuple[list[dict[str, pl.DataFrame]], _Bars]:
    """Return what n <= CANDLES calls get: candles of the lookback by symbol, and the features of bars.

    Raise InputError if the model can score none of these candles.
    """
    feature_set, bars = model.feature_set, model.lookback_bars
    for symbol in (name for name in model.symbols if name in candles):
        leaders = {k: candles[k] for k in feature_set.leaders if k in candles and k != symbol}
        given = {symbol: candles[symbol].tail(bars + CANDLES), **leaders}
        request = ScoringRequest(
            feature_set,
            model.symbols,
            bars,
            rows="all",
            now_ms=None,
            max_age_bars=0,
            inputs=inputs,
            window=model.window,
        )
        rows = next(rows for rows in read_rows(given, request) if rows.symbol == symbol)
        accepted = [i for i, reason in enumerate(rows.refused) if reason is None]
        if accepted:
            reach_ms = (bars - 1) * interval_ms(feature_set.interval)
            last_ms = [int(rows.ts_ms[i] or 0) for i in accepted]
            scored = _Bars(symbol, rows.bars_ms, rows.x, np.array(accepted))
            return [_cut(given, ms - reach_ms, ms) for ms in last_ms], scored
    raise InputError(
        f"cannot measure the latency: no candle has the {bars} consecutive bars that the model reads",
        hint="take a longer snapshot",
    )


def _cut(candles: Mapping[str, pl.DataFrame], first_ms: int, last_ms: int) -> dict[str, pl.DataFrame]:
    """Return each symbol's candles with open times, ms UTC, in [first_ms, last_ms]."""
    cut = {}
    for symbol, frame in candles.items():
        start, stop = np.searchsorted(times_ms(frame), [first_ms, last_ms + 1]).tolist()
        cut[symbol] = frame.slice(start, stop - start)
    return cut


def _time_calls(call: Callable[[T], object], inputs: Sequence[T], samples: int, clock: Callable[[], int]) -> list[int]:
    """Call a function with each input in turn; return the duration, in ns, of `samples` calls after WARM_UP others."""
    durations_ns = []
    for number in range(WARM_UP + samples):
        argument = inputs[number % len(inputs)]
        start_ns = clock()
        call(argument)
        durations_ns.append(clock() - start_ns)
    return durations_ns[WARM_UP:]


def _summarise(durations_ns: Sequence[int]) -> Percentiles:
    """Return mean, percentiles and maximum of durations, in ms."""
    ms = np.array(durations_ns) / _NS_PER_MS
    p50, p95, p99 = np.percentile(ms, [50, 95, 99]).tolist()
    return Percentiles(mean=float(ms.mean()), p50=p50, p95=p95, p99=p99, max=float(ms.max()))
