"""The settings of halt.yml: when the triggers of the kill switch fire, and how the sentinel runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from mltrain.documents.records import Limits, RecordError, record

#: What a trigger that fires does; "off": it is not evaluated.
TriggerMode: TypeAlias = Literal["halt", "reduce", "off"]
_Rows: TypeAlias = Annotated[int, Limits(1, 100_000)]
_Share: TypeAlias = Annotated[float, Limits(0.0001, 1)]


@record
@dataclass(frozen=True, slots=True)
class SentinelConfig:
    """How the sentinel runs.

    Attributes:
        every_s: Seconds between two evaluations and heartbeats.
        timeout_s: Seconds without a heartbeat after which an armed store counts as halted.
        history_days: Days of the ledger that are read at the start.
    """

    every_s: Annotated[float, Limits(0.1, 60)]
    timeout_s: Annotated[float, Limits(1, 3_600)]
    history_days: Annotated[int, Limits(1, 3_650)]

    def __post_init__(self) -> None:
        # One late beat must not stop serving.
        if self.timeout_s < 3 * self.every_s:
            raise RecordError(
                (("timeout_s",), f"must be at least 3 times every_s, {self.every_s}; is {self.timeout_s}")
            )


@record
@dataclass(frozen=True, slots=True)
class StaleConfig:
    """Candles that are due were not answered.

    Attributes:
        mode: What the trigger does.
        bars: So many due candles of one symbol in a row fire.
        grace_s: Seconds after its close at which a candle is due, by the source's clock.
    """

    mode: TriggerMode
    bars: Annotated[int, Limits(1, 10_000)]
    grace_s: Annotated[float, Limits(0, 3_600)]


@record
@dataclass(frozen=True, slots=True)
class RefusedConfig:
    """Too many answers were refused.

    Attributes:
        mode: What the trigger does.
        share: The share of refused rows that fires.
        window_rows: Number of the newest rows that count.
        min_rows: Rows below which it never fires.
    """

    mode: TriggerMode
    share: _Share
    window_rows: _Rows
    min_rows: _Rows

    def __post_init__(self) -> None:
        _check_sample(self.min_rows, self.window_rows)


@record
@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """Answers take too long.

    Attributes:
        mode: What the trigger does.
        window_rows: Number of the newest answers that count.
        min_rows: Answers below which it never fires.
        budget_ms: The budget in ms; None: that of the latency gate, which the version's card states.
    """

    mode: TriggerMode
    window_rows: _Rows
    min_rows: _Rows
    budget_ms: Annotated[float, Limits(0.001, 60_000)] | None

    def __post_init__(self) -> None:
        _check_sample(self.min_rows, self.window_rows)


@record
@dataclass(frozen=True, slots=True)
class ErrorConfig:
    """Serving failed, or a trigger did.

    Attributes:
        mode: What the trigger does.
    """

    mode: TriggerMode


@record
@dataclass(frozen=True, slots=True)
class CodeConfig:
    """Processes that answer for one version run different code.

    Attributes:
        mode: What the trigger does.
        window_rows: Number of the newest rows that count.
    """

    mode: TriggerMode
    window_rows: _Rows


@record
@dataclass(frozen=True, slots=True)
class BettingConfig:
    """A test by bets against the probabilities, `mltrain.monitoring.martingales`.

    Attributes:
        mode: What the trigger does.
        level: The wealth that fires; false alarms are at most 1 in `level`.
        tolerance: Largest difference of a probability and the chance of its outcome that is no fault.
        min_bars: Bars with an outcome below which it never fires.
        deadline_bars: Answered bars in a row without an outcome that count as a breach.
    """

    mode: TriggerMode
    level: Annotated[float, Limits(10, 1e12)]
    tolerance: Annotated[float, Limits(0, 0.5)]
    min_bars: _Rows
    deadline_bars: _Rows


@record
@dataclass(frozen=True, slots=True)
class LossConfig:
    """A paper account loses too much.

    Attributes:
        mode: What the trigger does.
        per_day: Loss since the start of the UTC day that fires, as a share of the equity then.
        from_peak: Loss since the highest equity that fires, as a share of it.
        exposure: Share of the equity in positions, all symbols together.
        cost_bps: Costs of a trade, in bps of its value.
        min_bars: Bars with an answer below which it never fires.
        deadline_bars: Answered bars in a row without a price that count as a breach.
    """

    mode: TriggerMode
    per_day: _Share
    from_peak: _Share
    exposure: Annotated[float, Limits(0.001, 100)]
    cost_bps: Annotated[float, Limits(0, 1_000)]
    min_bars: _Rows
    deadline_bars: _Rows


@record
@dataclass(frozen=True, slots=True)
class TriggersConfig:
    """The settings of every trigger, by its name."""

    stale: StaleConfig
    refused: RefusedConfig
    latency: LatencyConfig
    error: ErrorConfig
    code: CodeConfig
    calibration: BettingConfig
    skill: BettingConfig
    loss: LossConfig

    def mode_of(self, trigger: str) -> TriggerMode:
        """Return what a trigger does, by its name."""
        mode: TriggerMode = getattr(self, trigger).mode
        return mode


@record
@dataclass(frozen=True, slots=True)
class HaltConfig:
    """The settings of halt.yml.

    Attributes:
        sentinel: How the sentinel runs.
        triggers: When the triggers fire.
    """

    sentinel: SentinelConfig
    triggers: TriggersConfig


def _check_sample(min_rows: int, window_rows: int) -> None:
    if min_rows > window_rows:
        raise RecordError((("min_rows",), f"must not be above window_rows, {window_rows}; is {min_rows}"))
