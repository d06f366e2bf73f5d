"""Benchmark a version as it is served: loading, the first call, later calls, memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.card.machine import available_cores
from mltrain.pipeline.predict import simulate_bench_candles
from mltrain.serving.latency_bench import known_at_closes, measure_latency
from mltrain.serving.model import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.gates.latency import Latency
    from mltrain.store.versions import StoredVersion

_NS_PER_MS: Final = 1e6
_BYTES_PER_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The cost of serving a version.

    Attributes:
        version: Name of the version.
        path: How one row is scored: by LightGBM's "single-row fast call" or by "Booster.predict".
        load_ms: Time to find, check and load the model, in ms; for the first version of a process including the import
            of LightGBM.
        first_ms: Duration of the first call with candles, in ms.
        latency: Durations of the later calls.
        memory_mb: Resident memory of the process, in MB (10^6 bytes); None if the system does not report it.
        cores: Number of cores that the process may use.
        noise: Other work on the machine during the measurement; None if it was idle enough.
    """

    version: str
    path: str
    load_ms: float
    first_ms: float
    latency: Latency
    memory_mb: float | None
    cores: int
    noise: str | None


def bench_version(
    find: Callable[[], StoredVersion], *, samples: int, clock: Callable[[], int] = time.perf_counter_ns
) -> BenchReport:
    """Load a version and measure it on simulated candles, with `samples` calls of each kind.

    `find` opens the version, of any verdict; its time counts. `clock` returns ns and never goes back.
    """
    started_ns = clock()
    model = open_model(find())
    loaded_ns = clock()
    candles = simulate_bench_candles(model)
    needed = {model.symbols[0], *model.feature_set.leaders}
    newest = {symbol: candles[symbol].tail(model.lookback_bars) for symbol in needed}
    inputs = known_at_closes(model.feature_set, candles)
    called_ns = clock()
    model.predict_candles(newest, inputs=inputs)
    first_ms = (clock() - called_ns) / _NS_PER_MS
    latency = measure_latency(model, candles, samples=samples, clock=clock)
    cores = available_cores()
    return BenchReport(
        version=model.version,
        path=model.path,
        load_ms=(loaded_ns - started_ns) / _NS_PER_MS,
        first_ms=first_ms,
        latency=latency,
        memory_mb=_read_resident_mb(),
        cores=cores,
        noise=latency.describe_noise(cores=cores),
    )


def _read_resident_mb() -> float | None:
    """Return the resident memory of this process, in MB (10^6 bytes); None if the system does not report it."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 -- a file of the kernel
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _BYTES_PER_MB
    except OSError:
        return None
