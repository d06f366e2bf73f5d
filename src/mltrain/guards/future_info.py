"""future_info: no feature depends on a later candle, on more candles than it declares, or on an undeclared symbol.

Every feature of every symbol is recomputed from fewer or from false candles, and compared with the batch, its values
over the whole history. Cut points t are random rows, rows around gaps and UTC midnights, and rows of unusual candles
(no trades, no range, the largest ones). At each, the value at t is recomputed:

- prefix: without the candles after t; every row up to t, bit for bit;
- poison: with make_garbage_candles, ordinary and extreme, in every symbol's candles after t; bit for bit;
- lookback: from the feature's declared lookback only; to one unit of float32, or 1e-9 standard deviations;
- isolation: without the symbols that the feature does not name, or with garbage in them; bit for bit.

Over the whole history:

- sweep: most rows, each with false candles all around its lookback; see `mltrain.guards.sweep`;
- time_shift: the same candles 28 years later give the same values, bit for bit. Weekdays, months and leap years repeat
  after 28 years, so a clock or a calendar passes; a table that is looked up by time, an age against today's date and a
  random feature fail;
- gap: a feature has no value where a candle inside its lookback is missing;
- alignment: see `mltrain.guards.alignment`;
- label: see `mltrain.guards.label_reach`;
- inputs, input_poison, input_isolation: see `mltrain.guards.input_reach`; in the checks above, the joined inputs are
  columns of the candles like any other;
- input_alignment: see `mltrain.guards.input_alignment`;
- canary: prefix, poison, lookback and sweep must catch a planted feature that looks one bar ahead wherever it has a
  value; otherwise the audit itself is broken, and fails.

Prefix and poison run over the whole history at a few cut points only. At the others they run over a window of candles,
from a little more than the longest lookback before t to some bars after it. That is sound: the value computed from the
window must equal the value of the batch, and falsifying what lies after t must not change it. A feature that looks
beyond the window, or at a statistic of the whole sample, differs between window and batch; one that looks after t
inside the window differs with the poison.

What no recomputation can detect: a constant that was fitted on later candles and is written into the op or a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.input_join import join_inputs
from mltrain.guards.alignment import CHECK as ALIGNMENT
from mltrain.guards.alignment import DETAIL as ALIGNMENT_DETAIL
from mltrain.guards.alignment import check_alignment
from mltrain.guards.audited_symbol import Canary, compute_audited_symbol, differ
from mltrain.guards.cut_points import choose_cut_points, count_shared_bars
from mltrain.guards.evidence import Findings, format_names
from mltrain.guards.false_candles import (
    make_garbage_candles,
    make_plausible_candles,
    replace_after,
    take_between,
    take_until,
)
from mltrain.guards.input_alignment import CHECK as INPUT_ALIGNMENT
from mltrain.guards.input_alignment import DETAIL as INPUT_ALIGNMENT_DETAIL
from mltrain.guards.input_alignment import check_input_alignment
from mltrain.guards.input_reach import DETAILS as INPUT_DETAILS
from mltrain.guards.input_reach import check_inputs_reach
from mltrain.guards.label_reach import DETAIL as LABEL_DETAIL
from mltrain.guards.label_reach import LABEL, check_label, describe_check
from mltrain.guards.sweep import DETAIL as SWEEP_DETAIL
from mltrain.guards.sweep import Sweep
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.features.spec import FeatureSet
    from mltrain.guards.audited_symbol import AuditedSymbol, Candles, Compute, FeatureGroup, Values
    from mltrain.guards.cut_points import CutPoints
    from mltrain.guards.evidence import GuardResult
    from mltrain.guards.input_reach import Inputs, Join
    from mltrain.guards.label_reach import Labels

# Bars of a window after its cut point; a feature that looks further ahead has no value in the window.
_AFTER_BARS: Final = 64
# Bars of a window before the longest lookback, so that a feature that reads a little more is caught as well.
_BEFORE_BARS: Final = 16
# Cut points of the checks over the whole history, each of which costs as much as the batch.
_FULL_CUT_POINTS: Final = 2
# Other symbols that are falsified at a time.
_MAX_OTHERS: Final = 2
# The lookback check takes every fourth random cut point: each window has compared a little more than the lookback.
_LOOKBACK_STRIDE: Final = 4
# 28 years, seven of them leap years: exactly 1461 weeks.
_TIME_SHIFT: Final = pl.duration(days=10_227)

_DETAILS: Final[Mapping[str, str]] = {
    "prefix": "values computed without the candles after a cut point, equal bit for bit; worst: share that differs",
    "poison": "values computed with garbage after a cut point, equal bit for bit; worst: share that differs",
    "lookback": "values computed from a feature's lookback only; worst: deviation in standard deviations",
    "sweep": SWEEP_DETAIL,
    "isolation": "values computed without the symbols that a feature does not name; worst: share that differs",
    "time_shift": "values computed with all times moved by 28 years, equal bit for bit; worst: share that differs",
    "gap": "values with a candle inside their lookback missing: there must be none; worst: share that has a value",
    ALIGNMENT: ALIGNMENT_DETAIL,
    LABEL: LABEL_DETAIL,
    "canary": "a planted feature that looks one bar ahead, caught every time; worst: share that escaped",
}


def future_info(
    feature_set: FeatureSet,
    candles: Candles,
    *,
    labels: Labels,
    seed: int,
    points: int,
    compute: Compute = compute_features,
    inputs: Inputs | None = None,
    join: Join = join_inputs,
) -> GuardResult:
    """Check that features and label depend on no candle, no symbol and no value of an input that they must not know.

    Args:
        feature_set: The features.
        candles: Checked candles by symbol, joined with the inputs; the features of each symbol are audited.
        labels: Returns `ts`, `label_end` (UTC ms) and `y` of each candle of one symbol.
        seed: Seed of the cut points and of the false candles.
        points: Random cut points per symbol; those at gaps, midnights and unusual candles are added.
        compute: Computes features; another function than the default serves to test the audit itself.
        inputs: The values of the inputs, by name; needed if the features read any.
        join: Joined the inputs to `candles`; another function than the default serves to test the audit itself.

    Returns:
        The evidence. A failure names feature, symbol, time, the value of the batch and the recomputed one.

    Raises:
        InputError: The candles lack what a feature reads, or no symbol has two of them; or an input has no values.
    """
    if max((frame.height for frame in candles.values()), default=0) <= 1:
        available = f"a single candle, of {', '.join(sorted(candles))}," if candles else "no candle at all"
        raise InputError(f"{available} cannot be audited for leaks: there is no future to take away")
    findings = Findings("future_info")
    rng = np.random.default_rng(seed)
    audit = _Audit(feature_set, candles, compute, findings, rng, points=points)
    for symbol in sorted(candles):
        cut_points = choose_cut_points(feature_set, symbol, candles, points=points, rng=rng)
        audit.check_symbol(symbol, cut_points)
        check_label(findings, feature_set, symbol, candles[symbol], labels=labels, rows=cut_points.shared, rng=rng)
    check_alignment(findings, feature_set, candles)
    details = {**_DETAILS, LABEL: describe_check(feature_set.label)}
    if feature_set.inputs:
        inputs = inputs or {}
        check_inputs_reach(findings, feature_set, candles, inputs, join=join, canary=audit.canary, rng=rng)
        check_input_alignment(findings, feature_set, candles, inputs)
        details |= {**INPUT_DETAILS, INPUT_ALIGNMENT: INPUT_ALIGNMENT_DETAIL}
    audit.canary.judge(findings)
    return findings.build_result(details)


class _Audit:
    """The checks that recompute features from other candles."""

    def __init__(
        self,
        feature_set: FeatureSet,
        candles: Candles,
        compute: Compute,
        findings: Findings,
        rng: np.random.Generator,
        *,
        points: int,
    ) -> None:
        self.canary = Canary()
        self._features = feature_set
        self._candles = candles
        self._compute = compute
        self._findings = findings
        self._rng = rng
        rows = max((frame.height for frame in candles.values()), default=0)
        inputs = [spec.name for spec in feature_set.inputs]
        self._garbage = (
            make_garbage_candles(rng, rows, extreme=False, inputs=inputs),
            make_garbage_candles(rng, rows, extreme=True, inputs=inputs),
        )
        false = {symbol: make_plausible_candles(frame, rng) for symbol, frame in sorted(candles.items())}
        self._shifted = {symbol: frame.with_columns(pl.col("ts") + _TIME_SHIFT) for symbol, frame in candles.items()}
        self._plausible: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
        self._sweep = Sweep(candles, false, points, rng)

    def check_symbol(self, symbol: str, cut_points: CutPoints) -> None:
        """Run every check on the features of one symbol."""
        audited = compute_audited_symbol(self._compute, self._features, symbol, self._candles, self._findings)
        self._check_time_shift(audited)
        self._check_gaps(audited)
        self._warn_of_unseen(audited, cut_points)
        # To save time, cut points take turns in what is done to other candles, and feature groups share the cut points.
        for number, row in enumerate(cut_points.shared):
            for group in audited.groups:
                self._check_window(audited, group, row, leave_out=bool(number % 2))
        for number, row in enumerate(cut_points.full[:_FULL_CUT_POINTS]):
            self._check_prefix(audited, row)
            self._check_poisoned_history(audited, row, variant=number % 2)
        for number, (bars, group) in enumerate(audited.by_lookback):
            edges = cut_points.edges if group.user_ops else cut_points.edges[number % 2 :: 2]
            random = cut_points.random[number % _LOOKBACK_STRIDE :: _LOOKBACK_STRIDE]
            for row in (*edges, *random, *cut_points.find_first_complete(bars)):
                self._check_lookback(audited, group, row, bars)
        self._sweep.run(audited, self.canary)

    def _choose_false_candles(self, audited: AuditedSymbol, group: FeatureGroup) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return two variants of garbage or, for user ops, which may raise on absurd prices, of plausible candles."""
        if not group.user_ops:
            return self._garbage
        if audited.symbol not in self._plausible:
            false = self._sweep.false[audited.symbol].drop("ts")
            # Another symbol may have more candles.
            false = false[np.arange(self._garbage[0].height) % false.height]
            self._plausible[audited.symbol] = false, false.reverse()
        return self._plausible[audited.symbol]

    def _check_time_shift(self, audited: AuditedSymbol) -> None:
        """Recompute at times 28 years later; where that differs, also at the true times: random features differ too."""
        for group in audited.groups:
            expected = audited.batch[:, group.columns[:-1]]
            shifted = audited.recompute(group, self._shifted)[:, :-1]
            is_shifted = differ(expected, shifted)
            audited.record_deviations("time_shift", group, np.arange(audited.ts_ms.size), is_shifted)
            if not is_shifted.any():
                continue
            repeated = audited.recompute(group, self._candles)[:, :-1]
            is_random = differ(expected, repeated)
            for i in np.flatnonzero(is_shifted.any(axis=0)).tolist():
                check, got, wrong = "calendar", shifted, is_shifted
                if is_random[:, i].any():
                    check, got, wrong = "repeat", repeated, is_random
                row = int(np.flatnonzero(wrong[:, i])[0])
                audited.record_failure(check, group, i, row, got=float(got[row, i]))

    def _check_gaps(self, audited: AuditedSymbol) -> None:
        """Check that no feature has a value where its lookback spans a gap; warn if it has none elsewhere."""
        step_ms = interval_ms(self._features.interval)
        lacking: list[str] = []
        for bars, group in audited.by_lookback:
            shared = count_shared_bars(audited.symbol, group.reads, self._candles, step_ms, inputs=group.inputs)
            is_complete = shared >= bars
            has_value = ~np.isnan(audited.batch[:, group.columns[:-1]])
            spans_gap = has_value & ~is_complete[:, None]
            points = int((~is_complete).sum()) * has_value.shape[1]
            self._findings.count("gap", points, float(spans_gap.mean()) if spans_gap.size else 0.0)
            for i in np.flatnonzero(spans_gap.any(axis=0)).tolist():
                row = int(np.flatnonzero(spans_gap[:, i])[0])
                got = float(audited.batch[row, group.columns[i]])
                why = "missing_input" if group.inputs else None
                audited.record_failure("gap", group, i, row, got=got, expected=float("nan"), why=why)
            lacks_value = (~has_value & is_complete[:, None]).any(axis=0)
            lacking += [audited.names[group.columns[i]] for i in np.flatnonzero(lacks_value).tolist()]
        if lacking:
            warning = f"{audited.symbol}: no value for some rows with a complete lookback: {format_names(lacking)}"
            self._findings.warnings.append(warning)

    def _warn_of_unseen(self, audited: AuditedSymbol, cut_points: CutPoints) -> None:
        """Warn of features that have no value at any cut point, so that no check has seen them."""
        rows = [*cut_points.shared, *cut_points.full]
        unseen = np.isnan(audited.batch[rows, :-1]).all(axis=0)
        names = [audited.names[i] for i in np.flatnonzero(unseen).tolist()]
        if rows and names:
            self._findings.warnings.append(f"{audited.symbol}: no value at any cut point: {format_names(names)}")

    def _check_prefix(self, audited: AuditedSymbol, row: int) -> None:
        """Recompute all rows up to a cut point without the candles after it."""
        time_ms = int(audited.ts_ms[row])
        for group in audited.groups:
            known = {symbol: take_until(self._candles[symbol], time_ms) for symbol in group.reads}
            self._check_first_rows(audited, group, "prefix", audited.recompute(group, known))

    def _check_poisoned_history(self, audited: AuditedSymbol, row: int, *, variant: int) -> None:
        """Recompute all rows up to a cut point with a variant (0 or 1) of false candles after it."""
        time_ms = int(audited.ts_ms[row])
        for group in audited.groups:
            false = self._choose_false_candles(audited, group)[variant]
            poisoned = {symbol: replace_after(self._candles[symbol], time_ms, false) for symbol in group.reads}
            self._check_first_rows(audited, group, "poison", audited.recompute(group, poisoned)[: row + 1])

    def _check_first_rows(self, audited: AuditedSymbol, group: FeatureGroup, check: str, got: Values) -> None:
        """Compare recomputed first rows with the batch, bit for bit; the planted feature must differ in the last."""
        rows = np.arange(got.shape[0])
        self.canary.note(check, audited.batch[rows[-1:], -1], got[-1:, -1])
        differs = differ(audited.batch[: rows.size, group.columns[:-1]], got[:, :-1])
        audited.record_deviations(check, group, rows, differs)
        for i in np.flatnonzero(differs.any(axis=0)).tolist():
            row = int(np.flatnonzero(differs[:, i])[-1])
            audited.record_failure(check, group, i, row, got=float(got[row, i]))

    def _check_window(self, audited: AuditedSymbol, group: FeatureGroup, row: int, *, leave_out: bool) -> None:
        """Recompute a row with false candles after it, and with undeclared symbols falsified or left out."""
        ts_ms = audited.ts_ms
        first = max(0, row + 1 - self._features.lookback_bars - _BEFORE_BARS)
        last = min(ts_ms.size - 1, row + _AFTER_BARS)
        others = self._choose_others(group)
        window = {symbol: self._candles[symbol] for symbol in (*group.reads, *others)}
        window = take_between(window, int(ts_ms[first]), int(ts_ms[last]))
        expected = audited.batch[row, group.columns]
        for false in self._choose_false_candles(audited, group):
            falsified = {
                symbol: replace_after(frame, -1 if symbol in others else int(ts_ms[row]), false)
                for symbol, frame in window.items()
                if not (leave_out and symbol in others)
            }
            got = audited.recompute(group, falsified)[row - first]
            self.canary.note("poison", expected[-1:], got[-1:])
            self._findings.count("poison", expected.size - 1)
            self._findings.count("isolation", expected.size - 1 if others else 0)
            if differ(expected, got)[:-1].any():
                self._find_cause(audited, group, row, row - first, window=window, falsified=falsified)

    def _choose_others(self, group: FeatureGroup) -> tuple[str, ...]:
        """Draw some of the symbols that the features must not read."""
        others = [symbol for symbol in sorted(self._candles) if symbol not in group.reads]
        chosen = self._rng.permutation(len(others))[:_MAX_OTHERS]
        return tuple(others[i] for i in sorted(chosen.tolist()))

    def _find_cause(
        self,
        audited: AuditedSymbol,
        group: FeatureGroup,
        row: int,
        window_row: int,
        *,
        window: Candles,
        falsified: Candles,
    ) -> None:
        """Find out whether undeclared symbols, later candles or candles outside of the window change values.

        The cut point is `row` of the batch and `window_row` of `window`, which has true candles of every symbol;
        `falsified` has false ones, perhaps without the undeclared symbols.
        """
        foreign = {symbol: window[symbol] if symbol in group.reads else frame for symbol, frame in falsified.items()}
        true, isolated, poisoned = (
            audited.recompute(group, candles)[window_row] for candles in (window, foreign, falsified)
        )
        for check, expected, got in (("isolation", true, isolated), ("poison", isolated, poisoned)):
            differs = differ(expected, got)[:-1]
            audited.record_deviations(check, group, np.array([row]), differs[None, :])
            for i in np.flatnonzero(differs).tolist():
                audited.record_failure(check, group, i, row, got=float(got[i]), expected=float(expected[i]))
        # What is left reads candles outside of the window, unless it is the rounding of a running sum.
        self._compare_row(audited, group, row, true)

    def _check_lookback(self, audited: AuditedSymbol, group: FeatureGroup, row: int, bars: int) -> None:
        """Recompute a row from the features' declared lookback of `bars` bars only; with a gap there is no value."""
        first = max(0, row + 1 - bars)
        candles = {symbol: self._candles[symbol] for symbol in group.reads}
        lookback = take_between(candles, int(audited.ts_ms[first]), int(audited.ts_ms[row]))
        got = audited.recompute(group, lookback)[-1]
        self.canary.note("lookback", audited.batch[row : row + 1, -1], got[-1:])
        self._compare_row(audited, group, row, got)

    def _compare_row(self, audited: AuditedSymbol, group: FeatureGroup, row: int, got: Values) -> None:
        """Compare a row's recomputed values with the batch, to one unit of float32 or 1e-9 standard deviations."""
        rows = np.array([row])
        comparison = audited.compare(group, rows, got[None, :])
        audited.record_deviations("lookback", group, rows, comparison.deviation)
        for i in np.flatnonzero(comparison.wrong[0]).tolist():
            audited.record_failure("lookback", group, i, row, got=float(got[i]))
