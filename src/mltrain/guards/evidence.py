"""What a guard has found: frozen evidence, fit for a card, and the error that ends a run."""

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
_HINT: Final = "a score that used future information is worthless: fix or remove these features, then train again"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a guard did.

    Attributes:
        name: What was checked.
        points: How many values were compared.
        worst: The largest deviation met, finite; its unit is in `detail`.
        case: The feature, symbol and time of the worst; empty where nothing deviates.
        detail: What was done, and what `worst` means.
    """

    name: str
    points: int
    worst: float
    case: str
    detail: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One leak; of the same kind, feature and symbol only the first is kept.

    Attributes:
        feature: The feature, or "label", or the block where no feature is at fault.
        symbol: The symbol, or "all".
        time_ms: Open time of the candle whose value is wrong, ms UTC; None where no single time is at fault.
        expected: The value that should be.
        got: The value that is.
        why: What that means.
        hint: What to do, if known.
    """

    feature: str
    symbol: str
    time_ms: int | None
    expected: str
    got: str
    why: str
    hint: str = ""

    def __str__(self) -> str:
        when = "" if self.time_ms is None else f" at {format_ms(self.time_ms)}"
        return f"{self.feature} of {self.symbol}{when}: {self.why}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class SuspectFeature:
    """A feature that alone predicts the label of one symbol better than is plausible.

    Attributes:
        feature: The feature.
        symbol: The symbol.
        auc: Its |AUC - 1/2| + 1/2 on this symbol's training rows.
    """

    feature: str
    symbol: str
    auc: float


@dataclass(frozen=True, slots=True)
class GuardResult:
    """What a guard found.

    Attributes:
        name: "future_info", "time_split" or "feature_audit".
        passed: Whether there is no failure.
        checks: What was done, in order.
        failures: What is wrong, in order of discovery.
        warnings: What is suspicious.
        seconds: Time that it took.
        suspects: The features above `auc_warn`, by symbol, the highest AUC first; empty for the other guards.
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
        LeakageError: One did not; the message names every failure with feature, symbol, time and both values.
    """
    failures = [f"{result.name}: {failure}" for result in results for failure in result.failures]
    silent = [
        f"{result.name}: failed without saying why" for result in results if not (result.passed or result.failures)
    ]
    if failures or silent:
        hints = dict.fromkeys(failure.hint or _HINT for result in results for failure in result.failures)
        raise LeakageError("\n".join([*failures, *silent]), hint="; ".join(hints) or _HINT)


class Findings:
    """Collects what one guard does and finds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started_s = time.perf_counter()
        self._points: dict[str, int] = {}
        self._worst: dict[str, tuple[float, str]] = {}
        self._failures: dict[tuple[str, str, str], Failure] = {}
        self.warnings: list[str] = []
        self.suspects: list[SuspectFeature] = []

    def did(self, check: str, points: int, worst: float = 0.0, *, case: str = "") -> None:
        """Count `points` more comparisons of a check, and keep the worst deviation (what is not finite counts 1).

        Args:
            check: The check.
            points: How many values were compared.
            worst: The largest deviation among them.
            case: Where that was.
        """
        self._points[check] = self._points.get(check, 0) + points
        worst = worst if math.isfinite(worst) else 1.0
        if worst > self._worst.get(check, (0.0, ""))[0]:
            self._worst[check] = worst, case

    def fail(self, check: str, failure: Failure) -> None:
        """Record a failure, where that check has not failed for that feature and symbol before."""
        self._failures.setdefault((check, failure.feature, failure.symbol), failure)

    def has_failed(self, check: str, feature: str, symbol: str) -> bool:
        """Tell whether that check has failed for that feature and symbol."""
        return (check, feature, symbol) in self._failures

    def result(self, details: Mapping[str, str]) -> GuardResult:
        """Return the evidence, with a check for each of `details`, in that order."""
        failures = tuple(self._failures.values())
        return GuardResult(
            name=self._name,
            passed=not failures,
            checks=tuple(
                Check(name, self._points.get(name, 0), *self._worst.get(name, (0.0, "")), detail)
                for name, detail in details.items()
            ),
            failures=failures,
            warnings=tuple(self.warnings),
            seconds=time.perf_counter() - self._started_s,
            suspects=tuple(sorted(self.suspects, key=lambda s: (-s.auc, s.feature, s.symbol))),
        )


def format_value(value: float) -> str:
    """Return a feature's value so that two different ones never look alike; NaN stands for none."""
    return NO_VALUE if math.isnan(value) else repr(float(value))


def format_names(names: Iterable[str], *, shown: int = 5) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
