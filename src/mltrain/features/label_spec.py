"""The label to predict, as a registry and a card describe it; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeAlias

from mltrain.documents.records import OMIT_DEFAULT, Key, Limits, RecordError, record
from mltrain.documents.results import OPTIONAL
from mltrain.features.op import MAX_BARS

MIN_COST_BPS: Final = 0.01
# A tenth of the price.
MAX_COST_BPS: Final = 1_000.0
# Half of the price.
MAX_BARRIER_BPS: Final = 5_000.0

_BarrierBps: TypeAlias = Annotated[float, Limits(MIN_COST_BPS, MAX_BARRIER_BPS)]
# Of the volatility per bar: in 1,440 bars a random walk moves by 38 of them.
_BarrierMultiple: TypeAlias = Annotated[float, Limits(0.1, 100.0)]


@record
@dataclass(frozen=True, slots=True)
class LabelSpec:
    """The label to predict.

    Attributes:
        kind: "direction": 1 if close[t + horizon] is above close[t], 0 if below; "threshold": 1 if above by more than
            `cost_bps`, 0 if below by more than `cost_bps`; "barrier": 1 if the upper barrier is touched before the
            lower one within the horizon, 0 if the lower one is touched first.
        horizon_bars: Number of bars that the label looks ahead, 1 to MAX_BARS.
        ties: "drop": moves in between have no label; "down": their label is 0. For "direction" that is
            close[t + horizon] == close[t], for "threshold" every move that does not exceed the cost, for "barrier" a
            timeout with close[t + horizon] == close[t]. A candle whose barriers are both touched first in one bar never
            has a label, because nobody knows which of the two came first.
        cost_bps: In basis points of close[t], MIN_COST_BPS to MAX_COST_BPS; 0 for other kinds than "threshold".
        upper_bps: Distance of the upper barrier from close[t], in basis points of it, MIN_COST_BPS to MAX_BARRIER_BPS.
        lower_bps: The same of the lower barrier.
        upper: Distance of the upper barrier in multiples of the realised volatility per bar up to t, instead of in bps.
        lower: The same of the lower barrier.
        volatility_bars: Number of one-bar log returns, the newest at t, whose root mean square is that volatility.
        timeout: Label of a candle without a touch within the horizon: "drop": it has none; "sign": that of the
            direction of close[t + horizon] - close[t]. None for other kinds than "barrier", whose default is "drop".
    """

    kind: Literal["direction", "threshold", "barrier"]
    horizon_bars: Annotated[int, Limits(1, MAX_BARS), Key("horizon")]
    ties: Literal["drop", "down"]
    cost_bps: Annotated[float, Limits(0, MAX_COST_BPS), OMIT_DEFAULT] = 0.0
    # `OPTIONAL`: cards of other labels stay as they were.
    upper_bps: Annotated[_BarrierBps | None, OMIT_DEFAULT] = field(default=None, metadata=OPTIONAL)
    lower_bps: Annotated[_BarrierBps | None, OMIT_DEFAULT] = field(default=None, metadata=OPTIONAL)
    upper: Annotated[_BarrierMultiple | None, OMIT_DEFAULT] = field(default=None, metadata=OPTIONAL)
    lower: Annotated[_BarrierMultiple | None, OMIT_DEFAULT] = field(default=None, metadata=OPTIONAL)
    volatility_bars: Annotated[Annotated[int, Limits(2, MAX_BARS)] | None, OMIT_DEFAULT] = field(
        default=None, metadata=OPTIONAL
    )
    timeout: Annotated[Literal["drop", "sign"] | None, OMIT_DEFAULT] = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        if self.kind == "threshold" and self.cost_bps < MIN_COST_BPS:
            raise RecordError((("cost_bps",), f"must be at least {MIN_COST_BPS} for a threshold, is {self.cost_bps}"))
        if self.kind != "threshold" and self.cost_bps:
            raise RecordError((("cost_bps",), "belongs to a label of the kind threshold"))
        in_bps, in_volatilities = ("upper_bps", "lower_bps"), ("upper", "lower", "volatility_bars")
        given = [name for name in (*in_bps, *in_volatilities, "timeout") if getattr(self, name) is not None]
        if self.kind != "barrier":
            if given:
                raise RecordError(*(((name,), "belongs to a label of the kind barrier") for name in given))
            return
        if set(given) - {"timeout"} not in (set(in_bps), set(in_volatilities)):
            message = "a barrier needs upper_bps and lower_bps, or upper, lower and volatility_bars"
            raise RecordError((("kind",), f"{message}; it has {', '.join(given) or 'none of them'}"))
        if self.timeout is None:
            object.__setattr__(self, "timeout", "drop")
        if self.timeout == "drop" and self.ties == "down":
            raise RecordError((("ties",), "must be drop, unless the barrier has `timeout: sign`"))

    @property
    def lookback_bars(self) -> int:
        """Number of bars up to t that the barriers depend on, the newest included; 1 if only on close[t]."""
        return 1 if self.volatility_bars is None else self.volatility_bars + 1

    def describe_barriers(self) -> str:
        """Return the distances of a barrier label in words.

        >>> LabelSpec("barrier", 60, "drop", upper_bps=30, lower_bps=20).describe_barriers()
        '30 bps above and 20 bps below the close'
        >>> LabelSpec("barrier", 60, "drop", upper=6, lower=6, volatility_bars=240).describe_barriers()
        '6 volatilities (of 240 bars) above and 6 below the close'
        """
        if self.volatility_bars is None:
            return f"{self.upper_bps:g} bps above and {self.lower_bps:g} bps below the close"
        volatilities = f"{self.upper:g} volatilities (of {self.volatility_bars} bars)"
        return f"{volatilities} above and {self.lower:g} below the close"
