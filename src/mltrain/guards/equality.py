"""How one value is compared with another, and what is said where they differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from mltrain.guards.audited_symbol import CANARY, differ
from mltrain.guards.evidence import Failure, format_value
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.guards.audited_symbol import Part, Subject
    from mltrain.guards.evidence import Findings

    Values: TypeAlias = NDArray[np.float32]

SCALE_SHARE: Final = 1e-9

WHY: Final[Mapping[str, str]] = {
    "repeat": "the same candles give another value the second time",
    "calendar": "the value changes when all times are moved by 28 years, which no clock and no calendar notices: it "
    "looks something up by its time, or knows today's date",
    "prefix": "the value changes when later candles are taken away",
    "poison": "the value changes when later candles are changed",
    "lookback": "the last {bars} bars, its declared lookback, do not give the value",
    "isolation": "the value changes with symbols that the feature does not name",
    "hole": "a candle inside the last {bars} bars, its declared lookback, is missing",
}
# A feature that fails these fails others for the same reason, where it would be called by another name.
_SAYS_IT_ALL: Final = ("repeat", "isolation")
_BY_CUT: Final = ("prefix", "poison", "lookback", "sweep")


@dataclass(slots=True)
class Canary:
    """How often the planted feature had a value to be caught by, and how often it was."""

    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_BY_CUT, 0))
    caught: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_BY_CUT, 0))

    def note(self, check: str, expected: Values, differs: NDArray[np.bool_]) -> None:
        """Note where it had a value, and whether another one was found there."""
        has = ~np.isnan(expected)
        self.seen[check] += int(has.sum())
        self.caught[check] += int((differs & has).sum())

    def judge(self, findings: Findings) -> None:
        """Check that it was caught each time, by each check."""
        for check, seen in self.seen.items():
            escaped = seen - self.caught[check]
            findings.did("canary", seen, escaped / seen if seen else 1.0)
            # A market shorter than a lookback and its gap has next to nothing to sweep.
            if escaped or not (seen or check == "sweep"):
                why = f"the audit is broken: its {check} check does not catch a feature that looks one bar ahead"
                got = f"{self.caught[check]} of {seen} times caught"
                findings.fail("canary", Failure(CANARY, "all", None, "caught every time", f"{got} ({check})", why))


@dataclass(frozen=True, slots=True)
class Closeness:
    """How values compare with those of the batch, shape (rows, features).

    Attributes:
        gap: Deviation in units of the feature's scale; infinite where only one of the two is a value.
        wrong: Where it is more than one unit of float32 and more than SCALE_SHARE of the scale.
    """

    gap: NDArray[np.float64]
    wrong: NDArray[np.bool_]


def compare_closely(expected: Values, got: Values, scale: NDArray[np.float64]) -> Closeness:
    """Compare values to one unit of float32 or 1e-9 of the feature's scale.

    Args:
        expected: Of the batch, shape (rows, features).
        got: Computed otherwise, likewise.
        scale: Of each feature.
    """
    same = ~differ(expected, got)
    with np.errstate(invalid="ignore"):  # infinite features are another guard's affair
        gap = np.where(same, 0.0, np.nan_to_num(np.abs(expected.astype(np.float64) - got), nan=np.inf))
        unit = np.spacing(np.maximum(np.abs(expected), np.abs(got)))
    return Closeness(gap / scale, ~same & ~(gap <= np.maximum(unit, SCALE_SHARE * scale)))


class Verdicts:
    """What is said of one symbol's features."""

    def __init__(self, findings: Findings, subject: Subject) -> None:
        self._findings = findings
        self._subject = subject

    def did(self, check: str, part: Part, rows: NDArray[np.intp], deviation: NDArray[np.float64]) -> None:
        """Count what was compared, and keep the worst of it with its feature and time.

        Args:
            check: By which check.
            part: The features.
            rows: The rows of the batch, shape (n,).
            deviation: From the batch, shape (n, features).
        """
        if not deviation.size:
            return
        row, i = np.unravel_index(int(np.argmax(deviation)), deviation.shape)
        when = format_ms(int(self._subject.ts_ms[rows[row]]))
        case = f"{self._subject.names[part.columns[i]]} of {self._subject.symbol} at {when}"
        self._findings.did(check, deviation.size, float(deviation[row, i]), case=case)

    def fail(
        self,
        check: str,
        part: Part,
        index: int,
        row: int,
        *,
        got: float,
        why: str | None = None,
        expected: float | None = None,
    ) -> None:
        """Say that a feature's value at a row is not what it should be.

        Args:
            check: What found it.
            part: The features.
            index: Which of them.
            row: Of the batch.
            got: The other value.
            why: Key of WHY; None: the check's own.
            expected: The value that should be; None: the batch's.
        """
        subject = self._subject
        column = int(part.columns[index])
        feature = subject.names[column]
        if any(self._findings.has_failed(name, feature, subject.symbol) for name in _SAYS_IT_ALL):
            return
        failure = Failure(
            feature=feature,
            symbol=subject.symbol,
            time_ms=int(subject.ts_ms[row]),
            expected=format_value(float(subject.batch[row, column]) if expected is None else expected),
            got=format_value(got),
            why=WHY[why or check].format(bars=part.features.features[index].window().lookback_bars),
        )
        self._findings.fail(check, failure)
