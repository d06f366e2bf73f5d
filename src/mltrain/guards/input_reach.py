"""An input's reach: at a candle, an input has the newest value known by its close, and none that was known later.

The features are computed from the joined candles, and `future_info` checks that they depend on no later row of these.
What is checked here is the join itself:

- inputs: at every row, the joined value is that of the newest row of the input whose known-at time is not after the
  close, if it is not older than `max_age`; the audit finds it in another way than the join. With all times 28 years
  later, the join gives the same values;
- input_poison: at cut points, the candles and values that were known later are removed, then falsified, and every row
  up to the cut point must keep its bits;
- input_isolation: so it must without the values of other symbols, with false ones, and with false other inputs.

The join under audit is an argument. `input_poison` must catch a planted input that is known one row too early at every
cut point; otherwise the audit itself is broken, and fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.candles.input_tables import InputTable, KnownValues
from mltrain.errors import InputError
from mltrain.guards.audited_symbol import Candles
from mltrain.guards.evidence import Failure, format_value
from mltrain.guards.false_candles import make_garbage_candles, replace_after, take_between, take_until
from mltrain.times import format_duration, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputSpec
    from mltrain.features.spec import FeatureSet
    from mltrain.guards.audited_symbol import Canary
    from mltrain.guards.evidence import Findings

# The values of inputs, by name.
Inputs: TypeAlias = Mapping[str, InputTable]
# Joins inputs to candles, as `mltrain.features.input_join.join_inputs` does.
Join: TypeAlias = Callable[["FeatureSet", Candles, Inputs], Mapping[str, pl.DataFrame]]

INPUTS: Final = "inputs"
POISON: Final = "input_poison"
ISOLATION: Final = "input_isolation"
DETAILS: Final[Mapping[str, str]] = {
    INPUTS: "joined values, equal bit for bit to the newest value known by the close; worst: share that differs",
    POISON: "values joined without and with false values known after a cut point, equal bit for bit; worst: share that "
    "differs",
    ISOLATION: "values joined with false values of other symbols and inputs, equal bit for bit; worst: share that "
    "differs",
}

# Cut points per symbol: before the next value becomes known, and anywhere.
_BEFORE_ARRIVALS: Final = 6
_ANYWHERE: Final = 4
# Other symbols whose candles and values are falsified.
_MAX_OTHERS: Final = 2
# Cut points at which the whole history is joined again; at the others, a window of candles around them.
_FULL: Final = 1
_WINDOW_BARS: Final = 64
# False values that become known within this many bars after a cut point.
_FALSE_ROWS: Final = 8
# 28 years, as in `future_info`.
_TIME_SHIFT_MS: Final = 10_227 * 86_400_000


def check_inputs_reach(
    findings: Findings,
    feature_set: FeatureSet,
    candles: Candles,
    inputs: Inputs,
    *,
    join: Join,
    canary: Canary,
    rng: np.random.Generator,
) -> None:
    """Check the inputs that are joined to the candles, and the join.

    Args:
        findings: Collects what is found; failures name the input.
        feature_set: The features, with the inputs that they read.
        candles: Candles by symbol, with the joined inputs as columns.
        inputs: The values of the inputs, by the name of the input.
        join: The join that made these columns.
        canary: Counts how often the planted input is caught.
        rng: Chooses cut points and false values.

    Raises:
        InputError: An input has no table.
    """
    missing = [spec.name for spec in feature_set.inputs if spec.name not in inputs]
    if missing:
        raise InputError(f"there are no values of the input {' and '.join(missing)} to audit")
    names = [spec.name for spec in feature_set.inputs]
    for symbol in sorted(candles):
        others = [other for other in sorted(candles) if other != symbol]
        some = {symbol, *(others[i] for i in rng.permutation(len(others))[:_MAX_OTHERS])}
        audit = _AuditedInputs(
            findings=findings,
            features=feature_set,
            symbol=symbol,
            joined=candles[symbol],
            bare={other: candles[other].drop(names) for other in sorted(some)},
            inputs={name: _select_symbols(inputs[name], some) for name in names},
            join=join,
            rng=rng,
        )
        audit.check_rule()
        audit.check_shifted_times()
        for number, row in enumerate(audit.choose_cut_points()):
            audit.check_cut_point(row, canary, whole=number < _FULL)
        audit.check_isolation()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _AuditedInputs:
    """The joined inputs of one symbol under audit.

    Attributes:
        findings: Collects what is found.
        features: The features, with the inputs that they read.
        symbol: The symbol.
        joined: Its candles with the joined inputs.
        bare: Its candles without them, and those of some other symbols.
        inputs: The values of the inputs for these symbols.
        join: The join under audit.
        rng: Chooses cut points and false values.
    """

    findings: Findings
    features: FeatureSet
    symbol: str
    joined: pl.DataFrame
    bare: Candles
    inputs: Inputs
    join: Join
    rng: np.random.Generator

    @property
    def step_ms(self) -> int:
        """Length of the interval, in ms."""
        return interval_ms(self.features.interval)

    def check_rule(self) -> None:
        """Compare the joined values at every row with those that the rule gives."""
        close_ms = times_ms(self.joined) + self.step_ms
        for spec in self.features.inputs:
            known = self.inputs[spec.name].of(self.symbol)
            expected, known_ms = _apply_rule(known, close_ms, spec.max_age_ms)

            def explain(row: int, *, spec: InputSpec = spec, known_ms: NDArray[np.int64] = known_ms) -> str:
                return _explain(spec, int(close_ms[row]), int(known_ms[row]))

            self._compare(INPUTS, spec.name, expected, self.joined[spec.name], explain)

    def check_shifted_times(self) -> None:
        """Join candles and inputs whose times are all 28 years later."""
        later = pl.duration(milliseconds=_TIME_SHIFT_MS)
        shifted = {other: frame.with_columns(pl.col("ts") + later) for other, frame in self.bare.items()}
        inputs = {name: _map_values(table, _shift) for name, table in self.inputs.items()}
        self._compare_join(INPUTS, shifted, inputs, "the joined value changes when all times are moved by 28 years")

    def choose_cut_points(self) -> list[int]:
        """Return rows, most of them followed by a value that becomes known in the next bar."""
        ts_ms = times_ms(self.joined)
        if ts_ms.size <= 1:
            return []
        arrivals = [self.inputs[spec.name].of(self.symbol).known_ms for spec in self.features.inputs]
        # The last candle whose close is before the value is known.
        before = np.searchsorted(ts_ms + self.step_ms, np.concatenate(arrivals)) - 1
        before = before[(before >= 0) & (before < ts_ms.size - 1)]
        chosen = self.rng.permutation(before)[:_BEFORE_ARRIVALS].tolist()
        anywhere = self.rng.integers(0, ts_ms.size - 1, _ANYWHERE).tolist()
        return list(dict.fromkeys([*chosen, *anywhere]))

    def check_cut_point(self, row: int, canary: Canary, *, whole: bool) -> None:
        """Join again without what was known after a row's close, then with false values; rows up to it must agree."""
        ts_ms = times_ms(self.joined)
        cut_ms, close_ms = int(ts_ms[row]), int(ts_ms[row]) + self.step_ms
        first = 0 if whole else max(0, row - _WINDOW_BARS)
        last = ts_ms.size - 1 if whole else min(ts_ms.size - 1, row + _WINDOW_BARS)
        window = take_between(self.bare, int(ts_ms[first]), int(ts_ms[last]))
        false = make_garbage_candles(self.rng, max(frame.height for frame in window.values()), extreme=False)
        false_values = _draw_values(self.rng, _FALSE_ROWS)
        later_ms = close_ms + 1 + np.sort(self.rng.choice(_FALSE_ROWS * self.step_ms, _FALSE_ROWS, replace=False))

        def remove(known: KnownValues) -> KnownValues:
            kept = int(np.searchsorted(known.known_ms, close_ms, side="right"))
            return KnownValues(known.known_ms[:kept], known.values[:kept])

        def falsify(known: KnownValues) -> KnownValues:
            true = remove(known)
            times, values = (true.known_ms, later_ms), (true.values, false_values)
            return KnownValues(np.concatenate(times), np.concatenate(values))

        prefix = {other: take_until(frame, cut_ms) for other, frame in window.items()}
        poisoned = {other: replace_after(frame, cut_ms, false) for other, frame in window.items()}
        for candles, change, verb in ((prefix, remove, "taken away"), (poisoned, falsify, "changed")):
            inputs = {name: _map_values(table, change) for name, table in self.inputs.items()}
            why = f"the joined value changes when what was known later is {verb}"
            self._compare_join(POISON, candles, inputs, why, rows=slice(first, row + 1))
            self._note_canary(row - first, window, candles, change, canary=canary)

    def _note_canary(
        self,
        row: int,
        window: Candles,
        changed: Candles,
        change: Callable[[KnownValues], KnownValues],
        *,
        canary: Canary,
    ) -> None:
        """Join planted inputs that are known one row too early, before and after a change that must show this."""
        planted = {name: _map_values(table, _number_values) for name, table in self.inputs.items()}
        later = {name: _map_values(table, change) for name, table in planted.items()}
        before, after = (
            self.join(
                self.features,
                {self.symbol: candles[self.symbol]},
                {name: _map_values(table, _move_early) for name, table in tables.items()},
            )[self.symbol][row]
            for candles, tables in ((window, planted), (changed, later))
        )
        close_ms = int(times_ms(window[self.symbol])[row]) + self.step_ms
        for name, table in planted.items():
            known_ms = table.of(self.symbol).known_ms
            # After the last value there is nothing to take away, and the first one has no time to move to.
            has_next = 1 <= np.searchsorted(known_ms, close_ms, side="right") < known_ms.size
            expected, got = (frame[name].cast(pl.Float32).to_numpy() for frame in (before, after))
            if has_next and not np.isnan(expected).any():
                canary.note(POISON, expected, got)

    def check_isolation(self) -> None:
        """Join again without the candles and values of other symbols, with false ones, and with false other inputs."""
        own = {self.symbol: self.bare[self.symbol]}
        only_own = {name: _select_symbols(table, {self.symbol}) for name, table in self.inputs.items()}
        reversed_ = {other: frame.reverse().with_columns(frame["ts"]) for other, frame in self.bare.items()}
        false = {name: _map_values(table, self._falsify) for name, table in self.inputs.items()}
        others_false = {
            name: table
            if table.for_all is not None
            else InputTable(by_symbol={**false[name].by_symbol, **only_own[name].by_symbol})
            for name, table in self.inputs.items()
        }
        why = "the joined value changes with the values of other symbols"
        self._compare_join(ISOLATION, own, only_own, why)
        self._compare_join(ISOLATION, {**reversed_, **own}, others_false, why)
        if len(self.inputs) > 1:
            why = "the joined value changes with the values of other inputs"
            for name, table in self.inputs.items():
                self._compare_join(ISOLATION, own, {**false, name: table}, why, only=name)

    def _falsify(self, known: KnownValues) -> KnownValues:
        return KnownValues(known.known_ms + self.step_ms // 2, _draw_values(self.rng, known.values.size))

    def _compare_join(
        self,
        check: str,
        candles: Candles,
        inputs: Inputs,
        why: str,
        *,
        rows: slice = slice(None),
        only: str | None = None,
    ) -> None:
        """Join other candles and inputs, and compare `rows` of the true ones with as many first rows, bit for bit."""
        joined = self.join(self.features, candles, inputs)[self.symbol]
        for name in self.inputs if only is None else [only]:
            true = self.joined[name][rows]
            first = rows.start or 0
            self._compare(check, name, true.to_numpy(), joined[name].head(true.len()), lambda _: why, first=first)

    def _compare(
        self,
        check: str,
        name: str,
        expected: NDArray[np.float64],
        got: pl.Series,
        explain: Callable[[int], str],
        *,
        first: int = 0,
    ) -> None:
        """Compare values of an input from row `first` on, bit for bit; NaN equals NaN."""
        values = got.cast(pl.Float64).to_numpy()
        same = (expected.view(np.uint64) == values.view(np.uint64)) | (np.isnan(expected) & np.isnan(values))
        wrong = np.flatnonzero(~same)
        ts_ms = times_ms(self.joined)
        case = f"{name} of {self.symbol} at {format_ms(int(ts_ms[first + wrong[0]]))}" if wrong.size else ""
        self.findings.count(check, same.size, wrong.size / max(1, same.size), case=case)
        if wrong.size:
            row = int(wrong[-1])
            failure = Failure(
                feature=name,
                symbol=self.symbol,
                time_ms=int(ts_ms[first + row]),
                expected=format_value(float(expected[row])),
                got=format_value(float(values[row])),
                why=explain(row),
            )
            self.findings.fail(check, failure)


def _apply_rule(
    known: KnownValues, close_ms: NDArray[np.int64], max_age_ms: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the value at each close by the rule, and since when it was known, -1 for none; by a join of Polars."""
    left = pl.DataFrame({"close": close_ms})
    right = pl.DataFrame({"known": known.known_ms, "value": known.values})
    found = left.join_asof(right, left_on="close", right_on="known", strategy="backward", coalesce=False)
    known_ms = found["known"].fill_null(-1)
    is_fresh = (known_ms >= 0) & (found["close"] - known_ms <= max_age_ms)
    return np.where(is_fresh, found["value"].fill_null(np.nan).to_numpy(), np.nan), known_ms.to_numpy()


def _explain(spec: InputSpec, close_ms: int, known_ms: int) -> str:
    """Describe the value that a candle should have."""
    if known_ms < 0:
        return f"no value was known by the close, {format_ms(close_ms)}"
    since = f"the newest value known by the close, {format_ms(close_ms)}, is known since {format_ms(known_ms)}"
    is_old = close_ms - known_ms > spec.max_age_ms
    return since + (f", longer than max_age, {format_duration(spec.max_age_ms)}" if is_old else "")


def _map_values(table: InputTable, change: Callable[[KnownValues], KnownValues]) -> InputTable:
    """Return a table with the values of each symbol, or of all, changed."""
    if table.for_all is not None:
        return InputTable(for_all=change(table.for_all))
    return InputTable(by_symbol={symbol: change(known) for symbol, known in table.by_symbol.items()})


def _select_symbols(table: InputTable, symbols: Collection[str]) -> InputTable:
    """Return a table with the values of some symbols; those for all symbols stay."""
    if table.for_all is not None:
        return table
    return InputTable(by_symbol={symbol: known for symbol, known in table.by_symbol.items() if symbol in symbols})


def _number_values(known: KnownValues) -> KnownValues:
    """Return values that are all different."""
    return replace(known, values=np.arange(1.0, known.values.size + 1))


def _shift(known: KnownValues) -> KnownValues:
    return replace(known, known_ms=known.known_ms + _TIME_SHIFT_MS)


def _move_early(known: KnownValues) -> KnownValues:
    """Return values that are known one row too early."""
    return KnownValues(known.known_ms[:-1], known.values[1:])


def _draw_values(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """Draw finite values of either sign, of 16 orders of magnitude."""
    values: NDArray[np.float64] = rng.choice([-1.0, 1.0], rows) * 10 ** rng.uniform(-8, 8, rows)
    return values
