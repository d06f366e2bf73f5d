"""Benchmark a version as it is served: loading, the first call, later calls, memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.pipeline.predict import bench_candles, open_default_model
from mltrain.serving.latency_bench import measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mltrain.gates.latency import Latency

_NS_PER_MS: Final = 1e6
_BYTES_PER_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The cost of serving a version.

    Attributes:
        version: Its name.
        path: The way in which one row is scored.
        load_ms: From the reference to a checked model; for the first version of a process including the import of
            LightGBM.
        first_ms: Duration of the first call from candles.
        latency: The later calls.
        memory_mb: Resident memory of the process; None if the system does not report it.
        cores: Cores that the process may use.
        noise: Other load on the machine during the measurement; None if there was none.
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
    data_dir: Path, ref: str | None, *, samples: int, clock: Callable[[], int] = time.perf_counter_ns
) -> tuple[BenchReport, str | None]:
    """Load and measure a version on simulated candles.

    Args:
        data_dir: The data folder.
        ref: best, latest, a version, or a path; None: the live version or, if nothing was promoted, the latest.
        samples: Calls of each kind.
        clock: A steady clock, in ns.

    Returns:
        The measurement, and a warning about the choice of the version, if any.

    Raises:
        InputError: There is no such version, or it is damaged.
    """
    start = clock()
    model, warning = open_default_model(data_dir, ref, allow_no_go=True)
    loaded = clock()
    candles = bench_candles(model)
    newest = {symbol: frame.tail(model.lookback_bars) for symbol, frame in candles.items()}
    read = {symbol: newest[symbol] for symbol in {model.symbols[0], *model.feature_set.leaders}}
    called = clock()
    model.predict_candles(read)
    first_ms = (clock() - called) / _NS_PER_MS
    latency = measure(model, candles, samples=samples, clock=clock)
    cores = _cores()
    return BenchReport(
        version=model.version,
        path=model.path,
        load_ms=(loaded - start) / _NS_PER_MS,
        first_ms=first_ms,
        latency=latency,
        memory_mb=_resident_mb(),
        cores=cores,
        noise=latency.describe_noise(cores=cores),
    ), warning


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        # macOS has no affinity.
        return os.cpu_count() or 1


def _resident_mb() -> float | None:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 -- a file of the kernel
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _BYTES_PER_MB
    except OSError:
        return None
