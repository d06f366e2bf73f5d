"""The measured latency of a model, for the gate and the card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Per core: with more processes than this ready to run, the machine counts as busy.
BUSY_LOAD: Final = 0.75
# Share of interrupted calls above which the machine counts as busy: then interruptions reach p99.
BUSY_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How long one kind of call takes, in ms.

    Attributes:
        mean: Mean.
        p50: Median.
        p95: 95 % of the calls took at most this long.
        p99: 99 % of the calls took at most this long.
        max: The longest call.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a histogram of latencies.

    Attributes:
        from_ms: Lower edge, in ms, included.
        to_ms: Upper edge, in ms, excluded except in the last bin.
        calls: Number of calls.
    """

    from_ms: float
    to_ms: float
    calls: int


@dataclass(frozen=True, slots=True)
class Latency:
    """A latency measurement and the machine it ran on.

    Attributes:
        candles: From candles to the probability of one symbol, in ms; the gate judges this one.
        one_row: From one row of features to the probability, in ms.
        batch_rows_per_s: Rows of features scored per second, many at a time, on one thread.
        samples: Calls of each kind.
        cpu: The processor's name.
        load_average: Mean number of processes ready to run in the minute before; None if the system does not report it.
        histogram: Histogram of the calls summarized in `candles`.
        preempted: How often another process took the processor during the calls; None if the system does not report
            it.
    """

    candles: Percentiles
    one_row: Percentiles
    batch_rows_per_s: float
    samples: int
    cpu: str
    load_average: float | None
    histogram: tuple[Bin, ...] = ()
    preempted: int | None = None

    def describe_noise(self, *, cores: int) -> str | None:
        """Describe other work on the machine that may have raised the figures; None if it was idle enough."""
        reasons = []
        if self.load_average is not None and self.load_average > BUSY_LOAD * cores:
            reasons.append(f"load {self.load_average:.2f} on {cores} cores")
        # `candles` and `one_row` are two kinds of calls.
        calls = 2 * self.samples
        if self.preempted is not None and self.preempted > BUSY_SHARE * calls:
            reasons.append(f"interrupted {self.preempted:,} times in {calls:,} calls")
        return ", ".join(reasons) or None
