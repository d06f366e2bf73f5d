"""One symbol under audit: its features over the whole history, and how recomputed values differ from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.features.user_ops import user_module_of
from mltrain.guards.cut_points import find_inputs_read
from mltrain.guards.evidence import Failure, format_value
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet
    from mltrain.guards.evidence import Findings

    Values: TypeAlias = NDArray[np.float32]

# Candles by symbol.
Candles: TypeAlias = Mapping[str, pl.DataFrame]
# Computes the features of one symbol, as `mltrain.features.computation.compute_features` does.
Compute: TypeAlias = Callable[["FeatureSet", str, Candles], pl.DataFrame]

# A planted feature with a known leak: ln(close[t+1] / close[t]), in the last column of every matrix.
CANARY: Final = "planted_future"

# The tolerance for values that may carry the rounding of a running sum, in standard deviations of the feature.
TOLERANCE: Final = 1e-9

_WHY: Final[Mapping[str, str]] = {
    "repeat": "the same candles give another value the second time",
    "calendar": "the value changes when all times are moved by 28 years, after which every calendar repeats: the op "
    "looks something up by time, or uses today's date",
    "prefix": "the value changes when later candles are taken away",
    "poison": "the value changes when later candles are changed",
    "lookback": "the last {bars} bars, its declared lookback, do not give the value",
    "isolation": "the value changes with symbols that the feature does not name",
    "gap": "a candle inside the last {bars} bars, its declared lookback, is missing",
    "missing_input": "a candle or a value of an input inside the last {bars} bars, its declared lookback, is missing",
}
# A feature that fails one of these fails other checks for the same reason, which they would misname.
_SUFFICIENT: Final = ("repeat", "isolation")
_CANARY_CHECKS: Final = ("prefix", "poison", "lookback", "sweep")


@dataclass(frozen=True, slots=True)
class FeatureGroup:
    """Features that read the same symbols.

    Attributes:
        features: These features, as a registry.
        columns: Their columns in `AuditedSymbol.batch`, then that of the planted feature, shape (features + 1,).
        reads: The symbols that they may read, the audited one first.
        inputs: The inputs that they read, by the symbol whose values these are.
        user_ops: Whether their ops come from a user's module, so that only the audit tests them.
    """

    features: FeatureSet
    columns: NDArray[np.intp]
    reads: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]]
    user_ops: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Recomputed values of features against those from the whole history; both arrays have shape (rows, features).

    Attributes:
        deviation: Absolute difference in standard deviations of the feature; infinite if only one of them is a value.
        wrong: Whether it exceeds one unit of float32 and TOLERANCE.
    """

    deviation: NDArray[np.float64]
    wrong: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class AuditedSymbol:
    """One symbol under audit.

    Attributes:
        symbol: The symbol.
        ts_ms: Open time of each candle, UTC ms, shape (rows,).
        names: The features, then the planted one.
        batch: Values computed from the whole history, float32, shape (rows, names); NaN for no value.
        scale: Standard deviation of each column of `batch`, or 1 where it has none, shape (names,).
        groups: The features, grouped by the symbols that they read.
        by_lookback: The same, grouped also by declared lookback and inputs, as (bars, group).
        compute: Computes features.
        findings: Collects what the checks find.
    """

    symbol: str
    ts_ms: NDArray[np.int64]
    names: tuple[str, ...]
    batch: Values
    scale: NDArray[np.float64]
    groups: tuple[FeatureGroup, ...]
    by_lookback: tuple[tuple[int, FeatureGroup], ...]
    compute: Compute
    findings: Findings

    def recompute(self, group: FeatureGroup, candles: Candles) -> Values:
        """Compute features and, as the last column, the planted one from other candles, shape (rows, features + 1)."""
        return _compute_values(self.compute, group.features, self.symbol, candles)

    def compare(self, group: FeatureGroup, rows: NDArray[np.intp], got: Values) -> Comparison:
        """Compare values recomputed for n `rows` of `batch` with it, to one unit of float32 or TOLERANCE.

        `got`, shape (n, features + 1), has the values of the group's features, then of the planted one.
        """
        columns = group.columns[:-1]
        expected, got, scale = self.batch[np.ix_(rows, columns)], got[:, :-1], self.scale[columns]
        same = ~differ(expected, got)
        # Infinite features are reported by feature_audit.
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0.0, np.nan_to_num(np.abs(expected.astype(np.float64) - got), nan=np.inf))
            unit = np.spacing(np.maximum(np.abs(expected), np.abs(got)))
        return Comparison(gap / scale, ~same & ~(gap <= np.maximum(unit, TOLERANCE * scale)))

    def record_deviations(
        self,
        check: str,
        group: FeatureGroup,
        rows: NDArray[np.intp],
        deviation: NDArray[np.float64] | NDArray[np.bool_],
    ) -> None:
        """Count the values that a check compared, and keep the largest deviation with its feature and time.

        `deviation`, shape (n, features), says for n `rows` of `batch` by how much a recomputed value deviates (in the
        unit of the check), or whether it differs.
        """
        if deviation.size:
            row, i = np.unravel_index(int(np.argmax(deviation)), deviation.shape)
            when = format_ms(int(self.ts_ms[rows[row]]))
            case = f"{self.names[group.columns[i]]} of {self.symbol} at {when}"
            self.findings.count(check, deviation.size, float(deviation[row, i]), case=case)

    def record_failure(
        self,
        check: str,
        group: FeatureGroup,
        index: int,
        row: int,
        *,
        got: float,
        why: str | None = None,
        expected: float | None = None,
    ) -> None:
        """Record that the value of the feature at position `index` of a group is wrong at a row of `batch`.

        `why` is a key of `_WHY`, by default `check`; the expected value is by default that of `batch`.
        """
        column = int(group.columns[index])
        feature = self.names[column]
        if any(self.findings.has_failed(name, feature, self.symbol) for name in _SUFFICIENT):
            return
        failure = Failure(
            feature=feature,
            symbol=self.symbol,
            time_ms=int(self.ts_ms[row]),
            expected=format_value(float(self.batch[row, column]) if expected is None else expected),
            got=format_value(got),
            why=_WHY[why or check].format(bars=group.features.features[index].window().lookback_bars),
        )
        self.findings.fail(check, failure)


def compute_audited_symbol(
    compute: Compute, features: FeatureSet, symbol: str, candles: Candles, findings: Findings
) -> AuditedSymbol:
    """Compute the features of a symbol over its whole history, and group them by the symbols that they read.

    Raises:
        InputError: The candles lack a symbol or column that a feature reads.
    """
    by_reads: dict[tuple[str | None, bool], list[int]] = {}
    by_lookback: dict[tuple[str | None, bool, int, str], list[int]] = {}
    for i, (spec, window) in enumerate(zip(features.features, features.windows(), strict=True)):
        leader = None if spec.leader == symbol else spec.leader
        user_ops = user_module_of(spec.op) is not None
        by_reads.setdefault((leader, user_ops), []).append(i)
        inputs = str(find_inputs_read([spec], symbol)) if features.inputs else ""
        by_lookback.setdefault((leader, user_ops, window.lookback_bars, inputs), []).append(i)

    def make_group(leader: str | None, indices: Sequence[int], *, user_ops: bool) -> FeatureGroup:
        chosen = replace(features, features=tuple(features.features[i] for i in indices))
        reads = (symbol,) if leader is None else (symbol, leader)
        inputs = find_inputs_read(chosen.features, symbol) if features.inputs else {}
        return FeatureGroup(chosen, np.array([*indices, len(features.features)]), reads, inputs, user_ops)

    batch = _compute_values(compute, features, symbol, candles)
    return AuditedSymbol(
        symbol=symbol,
        ts_ms=times_ms(candles[symbol]),
        names=(*features.names, CANARY),
        batch=batch,
        scale=np.array([_standard_deviation(column) for column in batch.T]),
        groups=tuple(make_group(leader, ix, user_ops=user_ops) for (leader, user_ops), ix in by_reads.items()),
        by_lookback=tuple(
            (bars, make_group(leader, ix, user_ops=user_ops)) for (leader, user_ops, bars, _), ix in by_lookback.items()
        ),
        compute=compute,
        findings=findings,
    )


def differ(expected: Values, got: Values) -> NDArray[np.bool_]:
    """Return where two float32 arrays of one shape differ in any bit, as a mask; NaN equals NaN."""
    same = (expected.view(np.uint32) == got.view(np.uint32)) | (np.isnan(expected) & np.isnan(got))
    differs: NDArray[np.bool_] = ~same
    return differs


def _compute_values(compute: Compute, features: FeatureSet, symbol: str, candles: Candles) -> Values:
    """Compute a symbol's features, then the planted one (the next return), shape (rows, features + 1); NaN for none."""
    frame = compute(features, symbol, candles)
    close = candles[symbol]["close"].to_numpy()
    planted = np.full(close.size, np.nan, dtype=np.float32)
    planted[:-1] = np.log(close[1:] / close[:-1])
    return np.column_stack([*(frame[name].to_numpy() for name in features.names), planted])


def _standard_deviation(values: Values) -> float:
    """Return the standard deviation of the finite values, or 1 where it is 0 or overflows."""
    finite = values[np.isfinite(values)].astype(np.float64)
    deviation = float(finite.std()) if finite.size else 0.0
    return deviation if 0 < deviation < np.inf else 1.0


@dataclass(slots=True)
class Canary:
    """Counts for each check how often the planted feature had a value, and how often the check caught its leak."""

    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_CANARY_CHECKS, 0))
    caught: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_CANARY_CHECKS, 0))

    def note(self, check: str, expected: Values, got: Values) -> None:
        """Count the rows where the planted feature has a value, and those where its recomputed value differs."""
        has_value = ~np.isnan(expected)
        self.seen[check] = self.seen.get(check, 0) + int(has_value.sum())
        self.caught[check] = self.caught.get(check, 0) + int((differ(expected, got) & has_value).sum())

    def judge(self, findings: Findings) -> None:
        """Record a failure for each check that did not catch the planted feature every time."""
        for check, seen in self.seen.items():
            escaped = seen - self.caught[check]
            findings.count("canary", seen, escaped / seen if seen else 1.0)
            # A market shorter than a lookback and its gap leaves the sweep nothing to compare.
            if escaped or not (seen or check == "sweep"):
                what = "a feature that looks one bar ahead" if check in _CANARY_CHECKS else "an input known a row early"
                why = f"the audit is broken: its {check} check does not catch {what}"
                got = f"{self.caught[check]} of {seen} times caught ({check})"
                findings.fail("canary", Failure(feature=CANARY, expected="caught every time", got=got, why=why))
