"""The evidence of a guard: what it checked, what failed, and the error that ends a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.errors import LeakageError
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NO_VALUE: Final = "no value"
ALL_SYMBOLS: Final = "all"
_HINT: Final = "a score that used future information is worthless: fix or remove these features, then train again"


@dataclass(frozen=True, slots=True)
class Check:
    """The evidence of one check of a guard.

    Attributes:
        name: The check.
        points: Number of values compared.
        worst: The largest deviation found, finite; `detail` names its unit.
        case: Feature, symbol and time of the largest deviation; empty if nothing deviates.
        detail: What was compared, and what `worst` means.
    """

    name: str
    points: int
    worst: float
    case: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One leak; only the first of each check, feature and symbol is kept.

    Attributes:
        feature: The feature, "label", or the name of a block or array if no single feature is wrong.
        symbol: The symbol, or "all".
        time_ms: Open time of the candle whose value is wrong, UTC ms; None if no single time is wrong.
        expected: The right value.
        got: The value found.
        why: What is wrong.
        hint: What to do; empty if unknown.
    """

    feature: str
    symbol: str = ALL_SYMBOLS
    time_ms: int | None = None
    expected: str
    got: str
    why: str
    hint: str = ""

    def __str__(self) -> str:
        when = "" if self.time_ms is None else f" at {format_ms(self.time_ms)}"
        return f"{self.feature} of {self.symbol}{when}: {self.why}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class SuspectFeature:
    """A feature that predicts the label of one symbol implausibly well without any other.

    Attributes:
        feature: The feature.
        symbol: The symbol.
        auc: |AUC - 1/2| + 1/2 on the symbol's training rows, 0.5 to 1.
    """

    feature: str
    symbol: str
    auc: float


@dataclass(frozen=True, slots=True)
class GuardResult:
    """The result of one guard.

    Attributes:
        name: "future_info", "time_split" or "feature_audit".
        passed: Whether there is no failure.
        checks: The evidence of each check, in a fixed order.
        failures: The leaks, in order of discovery.
        warnings: Findings that are suspicious, but no proof of a leak.
        seconds: Run time, in s.
        suspects: Features above `auc_warn` on a symbol, highest AUC first; empty for guards other than "feature_audit".
    """

    name: str
    passed: bool
    checks: tuple[Check, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    seconds: float
    suspects: tuple[SuspectFeature, ...] = ()


def check_guards(results: Sequence[GuardResult]) -> None:
    """Check that every guard passed.

    Raises:
        LeakageError: One failed; the message lists every failure with feature, symbol, time and both values.
    """
    failures = [f"{result.name}: {failure}" for result in results for failure in result.failures]
    failures += [f"{r.name}: failed without a reason" for r in results if not (r.passed or r.failures)]
    if failures:
        hints = dict.fromkeys(failure.hint or _HINT for result in results for failure in result.failures)
        raise LeakageError("\n".join(failures), hint="; ".join(hints) or _HINT)


class Findings:
    """Collects the evidence of one guard."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started_s = time.perf_counter()
        self._points: dict[str, int] = {}
        self._worst: dict[str, tuple[float, str]] = {}
        self._failures: dict[tuple[str, str, str], Failure] = {}
        self.warnings: list[str] = []
        self.suspects: list[SuspectFeature] = []

    def count(self, check: str, points: int, worst: float = 0.0, *, case: str = "") -> None:
        """Add to the number of values that a check compared, and keep its largest deviation.

        Args:
            check: Name of the check.
            points: Number of values compared.
            worst: The largest deviation among them, in the check's unit; infinite or NaN counts as 1.
            case: Feature, symbol and time of `worst`.
        """
        self._points[check] = self._points.get(check, 0) + points
        worst = worst if math.isfinite(worst) else 1.0
        if worst > self._worst.get(check, (0.0, ""))[0]:
            self._worst[check] = worst, case

    def fail(self, check: str, failure: Failure) -> None:
        """Record a failure, unless the check has already failed for this feature and symbol."""
        self._failures.setdefault((check, failure.feature, failure.symbol), failure)

    def has_failed(self, check: str, feature: str, symbol: str) -> bool:
        """Return whether the check has failed for this feature and symbol."""
        return (check, feature, symbol) in self._failures

    def build_result(self, details: Mapping[str, str]) -> GuardResult:
        """Return the guard's result, with one Check per key of `details` (check to its description), in that order."""
        checks = []
        for name, detail in details.items():
            worst, case = self._worst.get(name, (0.0, ""))
            checks.append(Check(name, points=self._points.get(name, 0), worst=worst, case=case, detail=detail))
        failures = tuple(self._failures.values())
        return GuardResult(
            name=self._name,
            passed=not failures,
            checks=tuple(checks),
            failures=failures,
            warnings=tuple(self.warnings),
            seconds=time.perf_counter() - self._started_s,
            suspects=tuple(sorted(self.suspects, key=lambda s: (-s.auc, s.feature, s.symbol))),
        )


def format_value(value: float) -> str:
    """Format a feature's value so that different values differ as texts; NaN stands for no value."""
    return NO_VALUE if math.isnan(value) else repr(float(value))


def format_names(names: Iterable[str], *, shown: int = 5) -> str:
    """Join the first `shown` names with commas, and say how many more there are."""
    names = list(names)
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
