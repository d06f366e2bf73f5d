"""Measure the latency from candles to a probability.

The timed calls are those that a caller makes (`Model`), checks and calibration included. Each sample ends at another
candle; the first calls, which fill caches, are not counted. The clock is an argument.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.card.machine import cpu_name
from mltrain.errors import InputError
from mltrain.gates.latency import Bin, Latency, Percentiles
from mltrain.serving.rows import ScoringRequest, read_rows
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.serving.model import Model

# Newest candles that the samples cycle through.
CANDLES: Final = 500
WARM_UP: Final = 20
BATCH_ROWS: Final = 10_000
BATCH_RUNS: Final = 5
BINS: Final = 12
_NS_PER_MS: Final = 1e6
_NS_PER_S: Final = 1e9

T = TypeVar("T")


def measure(
    model: Model,
    candles: Mapping[str, pl.DataFrame],
    *,
    samples: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Measure a model on candles, one call after the other.

    Args:
        model: The model.
        candles: Candles by symbol, leaders included; only the newest are used.
        samples: Calls of each kind, at least 1.
        clock: A monotonic clock, in ns.

    Raises:
        InputError: The model can score no row of these candles.
    """
    # Read before the measurement itself loads the machine.
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    windows, matrix = _sample_inputs(model, candles)
    before = _preemptions()
    by_candles = _time_calls(model.predict_candles, windows, samples, clock)
    by_row = _time_calls(model.predict_one, list(matrix), samples, clock)
    after = _preemptions()
    batch = np.resize(matrix, (BATCH_ROWS, matrix.shape[1]))
    by_batch = _time_calls(model.predict_proba, [batch], BATCH_RUNS, clock)
    return Latency(
        candles=_summarise(by_candles),
        one_row=_summarise(by_row),
        batch_rows_per_s=BATCH_ROWS * BATCH_RUNS * _NS_PER_S / max(1, sum(by_batch)),
        samples=samples,
        cpu=cpu_name(),
        load_average=load_average,
        histogram=_histogram(by_candles),
        preempted=None if after is None or before is None else after - before,
    )


def _preemptions() -> int | None:
    """Return the number of involuntary context switches of this process; None if the system does not count them."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _histogram(spent_ns: Sequence[int]) -> tuple[Bin, ...]:
    """Count the calls in BINS bins of equal ratio, from the shortest call to the longest."""
    ms = np.maximum(np.array(spent_ns) / _NS_PER_MS, 1e-6)
    edges = np.geomspace(ms.min(), max(ms.max(), ms.min() * 1.01), BINS + 1)
    edges[0], edges[-1] = min(edges[0], ms.min()), max(edges[-1], ms.max())
    counts = np.histogram(ms, edges)[0].tolist()
    return tuple(Bin(*pair, calls) for pair, calls in zip(itertools.pairwise(edges.tolist()), counts, strict=True))


def _sample_inputs(
    model: Model, candles: Mapping[str, pl.DataFrame]
) -> tuple[list[dict[str, pl.DataFrame]], NDArray[np.float32]]:
    """Return the input that ends at each of the newest candles, as candles and as features, shape (n, f)."""
    feature_set, bars = model.feature_set, model.lookback_bars
    for symbol in (name for name in model.symbols if name in candles):
        leaders = {k: candles[k] for k in feature_set.leaders if k in candles and k != symbol}
        read = {symbol: candles[symbol].tail(bars + CANDLES), **leaders}
        request = ScoringRequest(feature_set, model.symbols, bars, rows="all", now_ms=None, max_age_bars=0)
        found = next(rows for rows in read_rows(read, request) if rows.symbol == symbol)
        accepted = [i for i, reason in enumerate(found.refused) if reason is None]
        if accepted:
            step_ms = interval_ms(feature_set.interval)
            ends_ms = [int(found.ts_ms[i] or 0) for i in accepted]
            return [_cut(read, end - (bars - 1) * step_ms, end) for end in ends_ms], found.x[accepted]
    raise InputError(
        f"cannot measure the latency: no candle has the {bars} consecutive bars that the model reads",
        hint="take a longer snapshot",
    )


def _cut(candles: Mapping[str, pl.DataFrame], first_ms: int, last_ms: int) -> dict[str, pl.DataFrame]:
    """Return the candles that open in a time range, ms UTC, both ends included."""
    cut = {}
    for symbol, frame in candles.items():
        start, stop = np.searchsorted(times_ms(frame), [first_ms, last_ms + 1]).tolist()
        cut[symbol] = frame.slice(start, stop - start)
    return cut


def _time_calls(call: Callable[[T], object], inputs: Sequence[T], samples: int, clock: Callable[[], int]) -> list[int]:
    """Return the duration of each call, ns, after WARM_UP calls that are not counted."""
    spent = []
    for number in range(WARM_UP + samples):
        given = inputs[number % len(inputs)]
        start = clock()
        call(given)
        spent.append(clock() - start)
    return spent[WARM_UP:]


def _summarise(spent_ns: Sequence[int]) -> Percentiles:
    ms = np.array(spent_ns) / _NS_PER_MS
    p50, p95, p99 = np.percentile(ms, [50, 95, 99]).tolist()
    return Percentiles(mean=float(ms.mean()), p50=p50, p95=p95, p99=p99, max=float(ms.max()))
