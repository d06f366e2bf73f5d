"""The measured latency of a model, as gates and cards read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUSY_LOAD: Final = 0.75  # of a core each: more processes than that want to run
BUSY_SHARE: Final = 0.02  # of the calls interrupted: it reaches p99


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How long one kind of call takes, in ms.

    Attributes:
        mean: Mean.
        p50: Median.
        p95: 95 % of the calls took at most so long.
        p99: 99 % of the calls took at most so long.
        max: The longest.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram of latencies.

    Attributes:
        from_ms: The least that a call of it took, in ms.
        to_ms: What every call of it took less than; the last bin has its end, too.
        calls: How many there are.
    """

    from_ms: float
    to_ms: float
    calls: int


@dataclass(frozen=True, slots=True)
class Latency:
    """What was measured, and on what.

    Attributes:
        candles: From candles to the probability of one symbol; this is what the gate judges.
        one_row: From one row of features to the probability.
        batch_rows_per_s: Rows of features scored in a second, many at a time, on one thread.
        samples: Calls of each kind.
        cpu: The processor's name.
        load_average: Processes that wanted to run in the minute before; None where the system does not tell.
        histogram: Of the calls from candles.
        preempted: How often another process was given the processor in the midst of the calls; None where the system
            does not tell.
    """

    candles: Percentiles
    one_row: Percentiles
    batch_rows_per_s: float
    samples: int
    cpu: str
    load_average: float | None
    histogram: tuple[Bin, ...] = ()
    preempted: int | None = None

    def noise(self, *, cores: int) -> str | None:
        """Say what else the machine did meanwhile, where that may show in the figures; None where it was calm."""
        told = []
        if self.load_average is not None and self.load_average > BUSY_LOAD * cores:
            told.append(f"load {self.load_average:.2f} on {cores} cores")
        if self.preempted is not None and self.preempted > BUSY_SHARE * 2 * self.samples:
            told.append(f"interrupted {self.preempted:,} times in {2 * self.samples:,} calls")
        return ", ".join(told) or None
