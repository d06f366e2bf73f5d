"""future_info: no feature sees a later candle, more candles than it says, or a symbol that it does not name.

For every symbol, every feature's values are computed again, from less and from falsified candles, and compared with
those of the whole batch. At cuts, which are random rows, rows around gaps and UTC midnights, and rows of odd candles
(without trades, without a range, the largest ones), the value at the cut t:

- prefix: from all candles up to t, nothing after: every row up to t, bit for bit;
- poison: with garbage in every candle after t, of every symbol, ordinary and extreme: bit for bit;
- lookback: from each feature's own last `lookback` bars alone, to one unit of float32 or 1e-9 of the feature's scale;
- isolation: with the symbols that a feature does not name removed, or garbage throughout: bit for bit.

Over the whole history:

- sweep: most rows, each with false candles all around its lookback; see `mltrain.guards.sweep`;
- again: once more at other dates, and reading: nothing but candles; see `mltrain.guards.time_shift`;
- hole: a feature has no value where a candle inside its lookback is missing;
- alignment: see `mltrain.guards.alignment`;
- label: see `mltrain.guards.label_reach`;
- canary: a planted feature that looks one bar ahead must be caught wherever it has a value, by prefix, poison, lookback
  and sweep; where it is not, the audit is broken and says so.

Prefix and poison run over the whole history at a few cuts only. At the others they run over a window of candles, from
a little more than the longest lookback before t to some bars after it. That is sound: the value of the window, which
knows nothing outside of it, must equal the value of the batch, and falsifying what lies after t must not change it. A
feature that looks beyond the window, or at a statistic of the whole sample, differs between window and batch; one that
looks after t inside the window differs with the poison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.guards.alignment import CHECK as ALIGNMENT
from mltrain.guards.alignment import DETAIL as ALIGNMENT_DETAIL
from mltrain.guards.alignment import check_alignment
from mltrain.guards.audited_symbol import differ, open_subject, values_of
from mltrain.guards.cut_points import bars_of, choose_cuts
from mltrain.guards.equality import Canary, Verdicts, compare_closely
from mltrain.guards.evidence import Findings, format_names
from mltrain.guards.label_reach import DETAIL as LABEL_DETAIL
from mltrain.guards.label_reach import check_label
from mltrain.guards.poison import between_all, garbage, poison_after, until
from mltrain.guards.sweep import DETAIL as SWEEP_DETAIL
from mltrain.guards.sweep import Sweep, false_candles
from mltrain.guards.time_shift import DETAIL as AGAIN_DETAIL
from mltrain.guards.time_shift import READING_DETAIL, check_again, check_reading, moved_candles
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet
    from mltrain.guards.audited_symbol import Candles, Compute, Part, Subject
    from mltrain.guards.cut_points import Cuts
    from mltrain.guards.evidence import GuardResult

    Row: TypeAlias = NDArray[np.float32]

Labels: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]

_AFTER_BARS: Final = 64  # of a window, behind its cut; a feature that looks further ahead has no value there at all
_BEFORE_BARS: Final = 16  # of a window, before the longest lookback: a feature that reads a little more shows, too
_FULL_CUTS: Final = 2  # prefixes, and poisonings, of the whole history: each costs as much as the batch
_FALSE_SYMBOLS: Final = 2  # other symbols that are falsified at a time, where a snapshot has many
_LOOKBACK_EVERY: Final = 4  # random cuts

_DETAILS: Final[Mapping[str, str]] = {
    "prefix": "values computed from the candles up to a cut alone, equal bit for bit; worst: share that differs",
    "poison": "values computed with garbage after a cut, equal bit for bit; worst: share that differs",
    "lookback": "values computed from a feature's own lookback alone; worst: deviation in units of the feature's scale",
    "sweep": SWEEP_DETAIL,
    "isolation": "values computed without the symbols that a feature does not name; worst: share that differs",
    "again": AGAIN_DETAIL,
    "reading": READING_DETAIL,
    "hole": "values with a candle inside their lookback missing: there must be none; worst: share that has a value",
    ALIGNMENT: ALIGNMENT_DETAIL,
    "label": LABEL_DETAIL,
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
) -> GuardResult:
    """Check that features and label see no candle and no symbol that they must not see.

    Args:
        feature_set: The features.
        candles: Checked candles by symbol; the features of each are audited.
        labels: Gives `ts`, `label_end` (ms) and `y` of each candle of one symbol.
        seed: Of the choice of cuts and of the garbage.
        points: Random cuts per symbol; those around gaps and midnights come on top.
        compute: What computes features; another one than the library's is for testing the audit itself.

    Returns:
        The evidence. A failure names feature, symbol, time, the value of the batch and the other one.

    Raises:
        InputError: The candles lack what a feature reads, or there is but one of them.
    """
    if max((frame.height for frame in candles.values()), default=0) <= 1:
        one = f"a single candle, of {', '.join(sorted(candles))}," if candles else "no candle at all"
        raise InputError(f"{one} cannot be audited for leaks: there is no future to take away")
    audit = _Audit(feature_set, candles, compute, np.random.default_rng(seed), points=points)
    for symbol in sorted(candles):
        cuts = choose_cuts(feature_set, symbol, candles, points=points, rng=audit.rng)
        audit.check_symbol(symbol, cuts)
        check_label(
            audit.findings, feature_set, symbol, candles[symbol], labels=labels, rows=cuts.shared, rng=audit.rng
        )
    check_reading(audit.findings, feature_set)
    check_alignment(audit.findings, feature_set, candles)
    audit.canary.judge(audit.findings)
    return audit.findings.result(_DETAILS)


class _Audit:
    """One run of the guard: what every check needs at hand."""

    def __init__(
        self,
        feature_set: FeatureSet,
        candles: Candles,
        compute: Compute,
        rng: np.random.Generator,
        *,
        points: int,
    ) -> None:
        self.findings = Findings("future_info")
        self.rng = rng
        self._features = feature_set
        self._candles = candles
        self._compute = compute
        self.canary = Canary()
        rows = max((frame.height for frame in candles.values()), default=0)
        self._garbage = garbage(rng, rows, extreme=False), garbage(rng, rows, extreme=True)
        false = {symbol: false_candles(frame, rng) for symbol, frame in sorted(candles.items())}
        self._moved = moved_candles(candles)
        self._possible: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
        self._sweep = Sweep(compute, candles, false, points, rng)

    def _poisons(self, subject: Subject, part: Part) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return candles to falsify others with: garbage, or for a user's ops, which may refuse that, possible ones."""
        if not part.own:
            return self._garbage
        if subject.symbol not in self._possible:
            false = self._sweep.false[subject.symbol].drop("ts")
            false = false[np.arange(self._garbage[0].height) % false.height]  # another symbol may have more candles
            self._possible[subject.symbol] = false, false.reverse()
        return self._possible[subject.symbol]

    def check_symbol(self, symbol: str, cuts: Cuts) -> None:
        """Run every check on the features of one symbol."""
        subject = open_subject(self._compute, self._features, symbol, self._candles)
        verdicts = Verdicts(self.findings, subject)
        check_again(subject, verdicts, compute=self._compute, candles=self._candles, moved=self._moved)
        self._check_gaps(subject, verdicts)
        self._warn_of_unseen(subject, cuts)
        for number, row in enumerate(cuts.shared):
            for part in subject.parts:
                self._check_window(subject, verdicts, part, row, alone=bool(number % 2))
        for number, row in enumerate(cuts.full[:_FULL_CUTS]):
            self._check_prefix(subject, verdicts, row)
            self._check_poisoned_history(subject, verdicts, row, number % 2)
        for number, (bars, part) in enumerate(subject.lookbacks):
            # Each window has compared a lookback of a little more at each cut, the sweep does at most rows.
            edges = cuts.edges if part.own else cuts.edges[number % 2 :: 2]
            for row in (*edges, *cuts.random[number % _LOOKBACK_EVERY :: _LOOKBACK_EVERY], *cuts.first_with(bars)):
                self._check_lookback(subject, verdicts, part, row, bars)
        self._sweep.run(subject, verdicts, self.canary)

    def _values(self, subject: Subject, part: Part, candles: Candles) -> NDArray[np.float32]:
        return values_of(self._compute, part.features, subject.symbol, candles)

    def _check_gaps(self, subject: Subject, verdicts: Verdicts) -> None:
        """Check every row: no value across a gap; and warn of features without a value elsewhere."""
        gaps = []
        for bars, part in subject.lookbacks:
            in_a_row = bars_of(subject.symbol, part.reads, self._candles, interval_ms(self._features.interval))
            has = ~np.isnan(subject.batch[:, part.columns[:-1]])
            spans = has & (in_a_row < bars)[:, None]
            self.findings.did(
                "hole", int((in_a_row < bars).sum()) * has.shape[1], float(spans.mean()) if has.size else 0
            )
            for i in np.flatnonzero(spans.any(axis=0)).tolist():
                row = int(np.flatnonzero(spans[:, i])[0])
                got = float(subject.batch[row, part.columns[i]])
                verdicts.fail("hole", part, i, row, got=got, expected=float("nan"))
            gaps += [
                subject.names[part.columns[i]] for i in np.flatnonzero((~has & (in_a_row >= bars)[:, None]).any(axis=0))
            ]
        if gaps:
            self.findings.warnings.append(
                f"{subject.symbol}: candles but no value for some rows of {format_names(gaps)}"
            )

    def _warn_of_unseen(self, subject: Subject, cuts: Cuts) -> None:
        rows = [*cuts.shared, *cuts.full]
        unseen = np.isnan(subject.batch[rows, :-1]).all(axis=0)
        names = [subject.names[i] for i in np.flatnonzero(unseen).tolist()]
        if rows and names:
            self.findings.warnings.append(f"{subject.symbol}: no cut found a value of {format_names(names)}")

    def _check_prefix(self, subject: Subject, verdicts: Verdicts, row: int) -> None:
        moment_ms = int(subject.ts_ms[row])
        for part in subject.parts:
            known = {symbol: until(self._candles[symbol], moment_ms) for symbol in part.reads}
            got = self._values(subject, part, known)
            self._compare_bits(subject, verdicts, part, "prefix", got)

    def _check_poisoned_history(self, subject: Subject, verdicts: Verdicts, row: int, number: int) -> None:
        moment_ms = int(subject.ts_ms[row])
        for part in subject.parts:
            poison = self._poisons(subject, part)[number]
            false = {symbol: poison_after(self._candles[symbol], moment_ms, poison) for symbol in part.reads}
            got = self._values(subject, part, false)[: row + 1]
            self._compare_bits(subject, verdicts, part, "poison", got)

    def _compare_bits(self, subject: Subject, verdicts: Verdicts, part: Part, check: str, got: Row) -> None:
        """Compare the first rows; the canary must differ in the last of them alone."""
        rows = np.arange(got.shape[0])
        expected = subject.batch[: rows.size, part.columns]
        differs = differ(expected, got)
        self.canary.note(check, expected[-1:, -1], differs[-1:, -1])
        verdicts.did(check, part, rows, differs[:, :-1].astype(np.float64))
        for i in np.flatnonzero(differs[:, :-1].any(axis=0)).tolist():
            row = int(np.flatnonzero(differs[:, i])[-1])
            verdicts.fail(check, part, i, row, got=float(got[row, i]))

    def _check_window(self, subject: Subject, verdicts: Verdicts, part: Part, row: int, *, alone: bool) -> None:
        """Falsify what lies after one cut, and other symbols throughout (`alone`: leave them out)."""
        first = max(0, row + 1 - self._features.lookback_bars - _BEFORE_BARS)
        last = min(subject.ts_ms.size - 1, row + _AFTER_BARS)
        moment_ms = int(subject.ts_ms[row])
        others = self._others(part)
        near = {symbol: self._candles[symbol] for symbol in (*part.reads, *others)}
        near = between_all(near, int(subject.ts_ms[first]), int(subject.ts_ms[last]))
        expected = subject.batch[row, part.columns]
        for poison in self._poisons(subject, part):
            kept = [symbol for symbol in near if not (alone and symbol in others)]
            false = {s: poison_after(near[s], -1 if s in others else moment_ms, poison) for s in kept}
            got = self._values(subject, part, false)[row - first]
            differs = differ(expected, got)
            self.canary.note("poison", expected[-1:], differs[-1:])
            self.findings.did("poison", part.columns.size - 1)
            self.findings.did("isolation", part.columns.size - 1 if others else 0)
            if differs[:-1].any():
                self._explain(subject, verdicts, part, row, row - first, near=near, false=false)

    def _others(self, part: Part) -> tuple[str, ...]:
        unnamed = [symbol for symbol in sorted(self._candles) if symbol not in part.reads]
        chosen = self.rng.permutation(len(unnamed))[:_FALSE_SYMBOLS]
        return tuple(unnamed[i] for i in sorted(chosen.tolist()))

    def _explain(
        self, subject: Subject, verdicts: Verdicts, part: Part, row: int, at: int, *, near: Candles, false: Candles
    ) -> None:
        """Find out why a window with falsified candles gives another value than the batch.

        Args:
            subject: Whose features.
            verdicts: Takes what is found.
            part: Which of the features.
            row: The cut, in the batch.
            at: The cut, in the window.
            near: The window of every symbol that may matter.
            false: The same, falsified; without the symbols that were left out.
        """
        foreign = {symbol: near[symbol] if symbol in part.reads else frame for symbol, frame in false.items()}
        true, unnamed, after = (self._values(subject, part, world)[at] for world in (near, foreign, false))
        for check, expected, got in (("isolation", true, unnamed), ("poison", unnamed, after)):
            differs = differ(expected, got)[:-1]
            verdicts.did(check, part, np.array([row]), differs[None, :].astype(np.float64))
            for i in np.flatnonzero(differs).tolist():
                verdicts.fail(check, part, i, row, got=float(got[i]), expected=float(expected[i]))
        # What neither explains reads candles outside of the window, unless it is the rounding of a running sum.
        self._compare_closely(subject, verdicts, part, row, true)

    def _check_lookback(self, subject: Subject, verdicts: Verdicts, part: Part, row: int, bars: int) -> None:
        """Compute a cut from the declared lookback alone; a window that holds a gap must give no value."""
        first = max(0, row + 1 - bars)
        named = {symbol: self._candles[symbol] for symbol in part.reads}
        alone = between_all(named, int(subject.ts_ms[first]), int(subject.ts_ms[row]))
        got = self._values(subject, part, alone)[-1]
        expected = subject.batch[row, part.columns]
        self.canary.note("lookback", expected[-1:], differ(expected, got)[-1:])
        self._compare_closely(subject, verdicts, part, row, got)

    def _compare_closely(self, subject: Subject, verdicts: Verdicts, part: Part, row: int, got: Row) -> None:
        """Compare with the batch to one unit of float32 or 1e-9 of the feature's scale."""
        expected = subject.batch[row, part.columns]
        close = compare_closely(expected[None, :-1], got[None, :-1], subject.scale[part.columns[:-1]])
        verdicts.did("lookback", part, np.array([row]), close.gap)
        for i in np.flatnonzero(close.wrong[0]).tolist():
            verdicts.fail("lookback", part, i, row, got=float(got[i]))
