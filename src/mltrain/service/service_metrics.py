"""What the service counts and measures, as Prometheus text.

The figures live in their own registry, so that several services in one process do not mix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from mltrain.service.scoring import Scoring

# Seconds; the budget is a p99 of 15 ms.
_BUCKETS: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class ServiceMetrics:
    """The figures of one service.

    Args:
        scoring: What the service answers with.
        in_progress: Returns how many requests run or wait.
    """

    def __init__(self, scoring: Scoring, *, in_progress: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "mltrain_requests", "Requests, by route and code.", ("route", "code"), registry=registry
        )
        self._rows = Counter("mltrain_predictions", "Rows answered with a probability.", registry=registry)
        self._refusals = Counter(
            "mltrain_refusals", "Rows answered without a probability, by reason.", ("reason",), registry=registry
        )
        self._seconds = Histogram(
            "mltrain_request_seconds",
            "Time from the head of a request to the end of its answer, by route.",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )
        registry.register(_States(scoring, in_progress))
        # Memory, processor time and open files.
        ProcessCollector(registry=registry)

    def count_request(self, route: str, code: int, seconds: float) -> None:
        """Count a request that was answered, and its duration."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_rows(self, refused: Iterable[str | None]) -> None:
        """Count the rows of an answer: the reason of each refused one; None for one with a probability."""
        for reason in refused:
            if reason is None:
                self._rows.inc()
            else:
                self._refusals.labels(reason).inc()

    def render(self) -> bytes:
        """Return the figures in Prometheus' text format."""
        return generate_latest(self._registry)


class _States(Collector):
    """Reads states, such as an age, for each answer."""

    def __init__(self, scoring: Scoring, in_progress: Callable[[], int]) -> None:
        self._scoring = scoring
        self._in_progress = in_progress

    def describe(self) -> list[Metric]:
        """Return nothing: no other collector has these names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the state at this moment."""
        served, now_s = self._scoring.describe(), self._scoring.now_ms() / 1000
        labels = {
            "version": served.version,
            "slot": served.slot,
            "verdict": served.verdict,
            "interval": served.interval,
        }
        yield InfoMetricFamily("mltrain_model", "The version that answers.", value=labels)
        yield GaugeMetricFamily(
            "mltrain_model_age_seconds", "Time since the version was trained.", now_s - served.created_at_ms / 1000
        )
        if (age_s := self._scoring.data_age_s()) is not None:
            yield GaugeMetricFamily(
                "mltrain_data_age_seconds",
                "Time since the close of the newest candle, of the symbol whose is oldest.",
                age_s,
            )
        halted = GaugeMetricFamily("mltrain_halted_symbols", "Symbols of the model that are halted.", labels=["mode"])
        for mode, count in self._scoring.halted_symbols().items():
            halted.add_metric([mode], count)
        yield halted
        yield GaugeMetricFamily("mltrain_ready", "1: the service is ready.", 0 if self._scoring.find_obstacles() else 1)
        yield GaugeMetricFamily("mltrain_requests_in_progress", "Requests that run or wait.", self._in_progress())
