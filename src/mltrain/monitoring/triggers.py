"""The triggers of the kill switch: each is fed with ledger rows of one version, and states its evidence at any moment.

A trigger reads rows, a clock and its settings, and nothing else. Its evidence is cheap to ask for: the work is done
when rows come. Evidence that is not a number counts as a breach, and so does evidence that does not come by its
deadline. `VersionTriggers` holds all triggers of a version; an exception in one of them is a breach named `error`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol

from mltrain.killswitch.gate import HALTED, REDUCED
from mltrain.monitoring.martingales import CALIBRATION, SKILL, Wealth
from mltrain.monitoring.outcomes import OutcomeFeed
from mltrain.times import DAY_MS, SECOND_MS, day_name, parse_time
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mltrain.config.halt_config import (
        BettingConfig,
        CodeConfig,
        LatencyConfig,
        LossConfig,
        RefusedConfig,
        StaleConfig,
        TriggersConfig,
    )
    from mltrain.documents.values import Json
    from mltrain.features.label_spec import LabelSpec
    from mltrain.monitoring.ledger import LedgerRow
    from mltrain.monitoring.outcomes import SettledBar

# Reasons of rows that were refused because a halt is in force.
_BY_A_HALT: Final = frozenset({HALTED, REDUCED})
#: Reason of rows that were refused because serving failed with an exception.
ERROR: Final = "error"
# Longest part of an exception's message in a sentence.
_MAX_MESSAGE: Final = 300


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What the triggers need to know of a version; all of it is in its card.

    Attributes:
        version: Its name.
        step_ms: Length of the interval of its candles, in ms.
        label: Its label.
        bases: The base rate of each of its symbols in training, in (0, 1).
        latency_budget_ms: The latency that its gate allowed, in ms.
    """

    version: str
    step_ms: int
    label: LabelSpec
    bases: Mapping[str, float]
    latency_budget_ms: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a trigger sees.

    Attributes:
        trigger: Its name.
        fired: Whether it fires.
        value: The figure that it compares; None: there is none yet, or none that a float can hold. A trigger itself
            gives NaN where there should be one.
        level: From this value on it fires.
        sample: Number of rows, or of bars, behind the value.
        sentence: All of this in one sentence.
        version: The version that it concerns.
    """

    trigger: str
    fired: bool
    value: float | None
    level: float
    sample: int
    sentence: str
    version: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return what the log of halts keeps."""
        return {"version": self.version, "value": self.value, "level": self.level, "sample": self.sample}


class Trigger(Protocol):
    """A trigger of one version."""

    @property
    def name(self) -> str:
        """Its name in settings, messages and the log of halts."""

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Add rows of the version, in the order of the ledger."""

    def evidence(self, now_ms: int, /) -> Evidence:
        """Return what the trigger sees at a time of the machine's clock, ms UTC."""


class Stale:
    """Fires when candles that are due by the source's clock were not answered.

    The source's clock is that of the newest row, moved on by the machine's clock, so that it goes on when no row comes.

    Args:
        config: Its settings.
        step_ms: Length of the interval, in ms.
        symbols: The symbols that are watched, each from its first row on.
        from_ms: Only candles that close after this time count, ms UTC by the machine's clock; None: all.
        newest_ms: Open time, ms UTC, of the newest candle of symbols that were answered by an earlier version.
    """

    name = "stale"

    def __init__(
        self,
        config: StaleConfig,
        step_ms: int,
        symbols: Sequence[str],
        *,
        from_ms: int | None = None,
        newest_ms: Mapping[str, int] | None = None,
    ) -> None:
        self._config = config
        self._step_ms = step_ms
        self._symbols = symbols
        self._from_ms = from_ms
        self._offset_ms = 0
        self.newest_ms = {symbol: ms for symbol, ms in (newest_ms or {}).items() if symbol in symbols}

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Note the newest candle of each symbol, and how the source's clock differs from the machine's."""
        for row in rows:
            if row.ts is None or row.symbol is None or row.symbol not in self._symbols:
                continue
            ts_ms = parse_time(row.ts)
            if ts_ms > self.newest_ms.get(row.symbol, -1):
                self.newest_ms[row.symbol] = ts_ms
                at_ms = parse_time(row.at)
                self._offset_ms = 0 if row.source_at is None else parse_time(row.source_at) - at_ms

    def evidence(self, now_ms: int) -> Evidence:
        """Return the largest number of due candles in a row that a symbol lacks."""
        due_ms = now_ms + self._offset_ms - int(self._config.grace_s * SECOND_MS)
        lacking = {symbol: self._count_due(ts_ms, due_ms) for symbol, ts_ms in self.newest_ms.items()}
        worst = max(lacking, key=lacking.__getitem__, default=None)
        if worst is None:
            return Evidence(
                self.name, fired=False, value=None, level=self._config.bars, sample=0, sentence="no row yet"
            )
        bars = lacking[worst]
        sentence = f"{worst}: {bars} due candle(s) were not answered; {self._config.bars} are a breach"
        return Evidence(
            self.name, bars >= self._config.bars, bars, self._config.bars, sample=len(lacking), sentence=sentence
        )

    def _count_due(self, newest_ms: int, due_ms: int) -> int:
        """Return how many candles after the newest one have closed by `due_ms`, ms UTC of the source's clock."""
        known_until_ms = newest_ms + self._step_ms
        if self._from_ms is not None:
            known_until_ms = max(known_until_ms, self._from_ms + self._offset_ms)
        return max(0, (due_ms - known_until_ms) // self._step_ms)


class Refused:
    """Fires when too many of the newest answers were refused; those that a halt refused do not count."""

    name = "refused"

    def __init__(self, config: RefusedConfig) -> None:
        self._config = config
        self._reasons: deque[str | None] = deque(maxlen=config.window_rows)

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Note which rows were refused."""
        self._reasons.extend(row.refused for row in rows if row.refused not in _BY_A_HALT)

    def evidence(self, _now_ms: int) -> Evidence:
        """Return the share of the newest rows that were refused."""
        refused = [reason for reason in self._reasons if reason is not None]
        sample, level = len(self._reasons), self._config.share
        value = len(refused) / sample if sample else None
        most = f", most of them as {max(set(refused), key=refused.count)}" if refused else ""
        return Evidence(
            self.name,
            fired=value is not None and sample >= self._config.min_rows and value >= level,
            value=value,
            level=level,
            sample=sample,
            sentence=f"{len(refused)} of the last {sample} answers were refused{most}; {level:.0%} are a breach",
        )


class Latency:
    """Fires when the 99th percentile of the newest answers' latency is above the budget.

    Args:
        config: Its settings.
        budget_ms: The budget of the version, in ms, if the settings have none.
    """

    name = "latency"

    def __init__(self, config: LatencyConfig, budget_ms: float) -> None:
        self._config = config
        self._budget_ms = budget_ms if config.budget_ms is None else config.budget_ms
        self._latencies_ms: deque[float] = deque(maxlen=config.window_rows)
        self._unmeasured = 0
        self._p99_ms = 0.0

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Note the latencies of the rows that were answered."""
        answered = [row.latency_ms for row in rows if row.refused is None]
        measured = [latency_ms for latency_ms in answered if latency_ms is not None]
        self._unmeasured = 0 if measured else self._unmeasured + len(answered)
        if measured:
            self._latencies_ms.extend(measured)
            ranked = sorted(self._latencies_ms)
            self._p99_ms = ranked[math.ceil(0.99 * len(ranked)) - 1]

    def evidence(self, _now_ms: int) -> Evidence:
        """Return the 99th percentile in ms; NaN if a whole window of answers was not measured."""
        sample, budget_ms = len(self._latencies_ms), self._budget_ms
        if self._unmeasured >= self._config.window_rows:
            value, sentence = math.nan, f"the last {self._unmeasured} answers have no latency"
        else:
            value, sentence = self._p99_ms, f"the p99 of the last {sample} answers is {self._p99_ms:.4g} ms"
        # Not `>`: every comparison with NaN is false.
        fired = not value <= budget_ms and (sample >= self._config.min_rows or math.isnan(value))
        sentence = f"{sentence}; above {budget_ms:.4g} ms is a breach"
        return Evidence(self.name, fired, value, budget_ms, sample, sentence)


class Error:
    """Fires at the first row that was refused because serving failed with an exception."""

    name = ERROR

    def __init__(self) -> None:
        self._count = self._rows = 0
        self._first = ""

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Count the rows of failures."""
        self._rows += len(rows)
        for row in rows:
            if row.refused == ERROR:
                self._count += 1
                self._first = self._first or f", the first at {row.at}"

    def evidence(self, _now_ms: int) -> Evidence:
        """Return the number of failures."""
        sentence = f"serving failed with an exception {self._count} time(s){self._first}"
        return Evidence(self.name, self._count > 0, self._count, 1, self._rows, sentence)


class Code:
    """Fires when answers of one version come from processes with different code or user ops.

    A deployment replaces one hash by another. A hash that comes back after another one was seen belongs to a second
    process that was not replaced.
    """

    name = "code"

    def __init__(self, config: CodeConfig) -> None:
        self._config = config
        self._rows = 0
        self._current = ""
        # By hash: number of its newest row.
        self._last_row: dict[str, int] = {}
        self._pair: tuple[str, str] | None = None

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Note the hashes, and whether one comes back."""
        for row in rows:
            self._rows += 1
            code = row.code_sha256
            if code != self._current:
                seen = self._last_row.get(code)
                if self._pair is None and seen is not None and self._rows - seen <= self._config.window_rows:
                    self._pair = self._current, code
                self._current = code
            self._last_row[code] = self._rows

    def evidence(self, _now_ms: int) -> Evidence:
        """Return the number of different hashes that answer at the same time: 1 or 2."""
        sentence = "all answers come from the same code"
        if self._pair is not None:
            sentence = f"answers come from different code in turn: {self._pair[0][:12]} and {self._pair[1][:12]}"
        value = min(1, self._rows) if self._pair is None else 2
        return Evidence(self.name, self._pair is not None, value, 2, self._rows, sentence)


class Betting:
    """Fires when bets against the probabilities have won so much that chance is no explanation.

    `calibration` bets that they are wrong by more than the tolerance, `skill` that the base rate predicts better.

    Args:
        name: "calibration" or "skill".
        config: Its settings.
        horizon_bars: Bars until an outcome is known.
    """

    def __init__(self, name: Literal["calibration", "skill"], config: BettingConfig, horizon_bars: int) -> None:
        self.name = name
        self._config = config
        self._bets = {"calibration": CALIBRATION, "skill": SKILL}[name]
        self._wealth = Wealth(self._bets, horizon_bars)
        # The largest so far: Ville's inequality holds for it.
        self._peak = 1.0
        self._bars = self._unknown = 0

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Do nothing: what it needs of the rows comes by `settle`."""

    def settle(self, bars: Sequence[SettledBar]) -> None:
        """Add bars, in order."""
        for bar in bars:
            if not bar.outcomes:
                self._unknown += 1
                continue
            self._unknown = 0
            self._bars += 1
            payoffs = self._bets.payoffs(bar.outcomes, answered=bar.answered, tolerance=self._config.tolerance)
            self._wealth.bet(bar.bar, payoffs)
            wealth = self._wealth.sure_wealth
            # Keeps NaN.
            self._peak = wealth if not wealth <= self._peak else self._peak

    def evidence(self, _now_ms: int) -> Evidence:
        """Return the largest wealth so far; NaN if no outcome has come for too long."""
        config = self._config
        if self._unknown >= config.deadline_bars:
            value, sentence = math.nan, f"the last {self._unknown} answered bars have no known outcome"
        else:
            value = self._peak
            sentence = (
                f"after {self._bars} bars, bets that {self._bets.claim} have multiplied their stake by {value:.4g}"
            )
        fired = not value < config.level and (self._bars >= config.min_bars or math.isnan(value))
        return Evidence(self.name, fired, value, config.level, self._bars, f"{sentence}; {config.level:g} is a breach")


class Loss:
    """Fires when a paper account that follows the probabilities loses too much in a UTC day, or since its peak.

    Each symbol has an equal share of the exposure, long where p is above one half, short below, from the close of one
    answered candle to that of the next one; a refused answer leaves the position as it is. Every candle marks the
    account, so losses that are not realised count. (The engine of `backtesting/` computes whole frames, with Polars.)

    Args:
        config: Its settings.
        step_ms: Length of the interval, in ms.
        symbols: The symbols of the account.
    """

    name = "loss"

    def __init__(self, config: LossConfig, step_ms: int, symbols: Sequence[str]) -> None:
        self._config = config
        self._step_ms = step_ms
        self._symbols = symbols
        self._weight = config.exposure / len(symbols)
        self._equity = self._peak = self._day_start = 1.0
        self._day = -1
        # Per symbol: open time of the last candle, its close, and the side of the position: 1, 0 or -1.
        self._held: dict[str, tuple[int, float, int]] = {}
        self._candles = self._unpriced = 0
        self._worst = (0.0, config.from_peak, "since its peak")

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Mark the account at each candle, and follow its probability."""
        for row in rows:
            if row.ts is None or row.symbol is None or row.symbol not in self._symbols:
                continue
            if row.close is None:
                self._unpriced += row.refused is None
                continue
            ts_ms = parse_time(row.ts)
            last_ms, last_close, side = self._held.get(row.symbol, (-1, row.close, 0))
            if ts_ms > last_ms:
                self._candles, self._unpriced = self._candles + 1, 0
                self._mark(ts_ms + self._step_ms, side * self._weight * (row.close / last_close - 1))
                wanted = side if row.p is None else (row.p > 0.5) - (row.p < 0.5)
                cost = self._config.cost_bps / BPS * self._weight * abs(wanted - side)
                if cost:
                    self._mark(ts_ms + self._step_ms, -cost)
                self._held[row.symbol] = ts_ms, row.close, wanted

    def _mark(self, close_ms: int, change: float) -> None:
        """Change the equity by a share of it at the close of a candle, and compare it with both limits."""
        # The candle that closes at midnight is the last one of its day.
        day = (close_ms - 1) // DAY_MS
        if day > self._day:
            self._day, self._day_start = day, self._equity
        self._equity *= 1 + change
        self._peak = max(self._peak, self._equity)
        config = self._config
        for lost, limit, since in (
            (1 - self._equity / self._day_start, config.per_day, f"since the start of {day_name(day * DAY_MS)}"),
            (1 - self._equity / self._peak, config.from_peak, "since its peak"),
        ):
            worst, worst_limit, _ = self._worst
            # The largest one so far, because what was lost once is a breach even if it is won back. Keeps NaN.
            if not lost / limit <= worst / worst_limit:
                self._worst = lost, limit, since

    def evidence(self, _now_ms: int) -> Evidence:
        """Return the largest loss so far, as a share; NaN if no candle has had a price for too long."""
        value, level, since = self._worst
        sentence = f"the paper account has lost {value:.2%} {since}; {level:.2%} are a breach"
        if self._unpriced >= self._config.deadline_bars:
            value, sentence = math.nan, f"the last {self._unpriced} answers have no price"
        bars = self._candles // len(self._symbols)
        fired = not value < level and (bars >= self._config.min_bars or math.isnan(value))
        return Evidence(self.name, fired, value, level, bars, sentence)


class VersionTriggers:
    """All triggers of one version whose mode is not "off".

    Args:
        facts: The version.
        config: The settings of the triggers.
        from_ms: For `Stale`: since when the rows are watched, ms UTC; None: from the first row on.
        newest_ms: For `Stale`: the newest candle of each symbol that an earlier version answered, ms UTC.
    """

    def __init__(
        self,
        facts: VersionFacts,
        config: TriggersConfig,
        *,
        from_ms: int | None = None,
        newest_ms: Mapping[str, int] | None = None,
    ) -> None:
        self.facts = facts
        symbols, horizon_bars = tuple(facts.bases), facts.label.horizon_bars
        self.stale = Stale(config.stale, facts.step_ms, symbols, from_ms=from_ms, newest_ms=newest_ms)
        self._outcomes = OutcomeFeed(facts.label, facts.step_ms, facts.bases)
        self._betting = [
            Betting("calibration", config.calibration, horizon_bars),
            Betting("skill", config.skill, horizon_bars),
        ]
        triggers: list[Trigger] = [
            self.stale,
            Refused(config.refused),
            Latency(config.latency, facts.latency_budget_ms),
            Error(),
            Code(config.code),
            *self._betting,
            Loss(config.loss, facts.step_ms, symbols),
        ]
        self._triggers = {trigger.name: trigger for trigger in triggers if config.mode_of(trigger.name) != "off"}
        # What failed, and how; a trigger that failed once has lost count.
        self._failures: dict[str, str] = {}

    def feed(self, rows: Sequence[LedgerRow]) -> None:
        """Add rows of the ledger in their order; those of other versions are ignored."""
        own = [row for row in rows if row.version == self.facts.version]
        if not own:
            return
        for name, trigger in self._triggers.items():
            try:
                trigger.feed(own)
            except Exception as err:  # noqa: BLE001 -- any failure of a trigger is a breach, and ends no sentinel
                self._note_failure(name, err)
        try:
            settled = self._outcomes.feed(own)
        except Exception as err:  # noqa: BLE001 -- see above
            self._note_failure("outcomes", err)
            return
        for betting in self._betting:
            try:
                betting.settle(settled)
            except Exception as err:  # noqa: BLE001 -- see above
                self._note_failure(betting.name, err)

    def feed_earlier(self, rows: Sequence[LedgerRow]) -> None:
        """Add rows from before the triggers began: they say which candles were answered, and count for nothing else."""
        self.stale.feed([row for row in rows if row.version == self.facts.version])

    def evaluate(self, now_ms: int) -> tuple[Evidence, ...]:
        """Return the evidence of every trigger at a time of the machine's clock, ms UTC, in a fixed order."""
        found: dict[str, Evidence] = {}
        for name, trigger in self._triggers.items():
            try:
                found[name] = trigger.evidence(now_ms)
            except Exception as err:  # noqa: BLE001 -- see `feed`
                self._note_failure(name, err)
        if self._failures and ERROR in self._triggers:
            sentence = "; ".join(f"the trigger {name} failed: {text}" for name, text in self._failures.items())
            found[ERROR] = error_evidence(sentence)
        return tuple(
            replace(
                evidence,
                value=evidence.value if evidence.value is not None and math.isfinite(evidence.value) else None,
                version=self.facts.version,
            )
            for evidence in found.values()
        )

    def _note_failure(self, name: str, err: Exception) -> None:
        self._failures.setdefault(name, " ".join(f"{type(err).__name__}: {err}".split())[:_MAX_MESSAGE])


def error_evidence(sentence: str) -> Evidence:
    """Return the evidence of a failure of the monitoring itself."""
    return Evidence(ERROR, fired=True, value=None, level=1, sample=0, sentence=sentence)
