"""The settings of operate.yml: what the status of a data folder counts as overdue or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from mltrain.documents.records import Limits, record

_YEAR_H: Final = 8_760
_Share: TypeAlias = Annotated[float, Limits(0.0001, 1)]
_Rows: TypeAlias = Annotated[int, Limits(1, 1_000_000)]


@record
@dataclass(frozen=True, slots=True)
class RoundsConfig:
    """When rounds of training are expected.

    Attributes:
        every_h: Hours between two rounds; None: none are expected.
        grace_h: Hours by which a round may be late.
    """

    every_h: Annotated[float, Limits(0.01, _YEAR_H)] | None
    grace_h: Annotated[float, Limits(0, _YEAR_H)]


@record
@dataclass(frozen=True, slots=True)
class LiveConfig:
    """Limits of the live versions.

    Attributes:
        required: Whether a slot without a live version is wrong.
        max_age_days: Days since the training of the live version; None: not checked.
    """

    required: bool
    max_age_days: Annotated[float, Limits(0.01, 3_650)] | None


@record
@dataclass(frozen=True, slots=True)
class CandlesConfig:
    """Limits of the latest snapshot.

    Attributes:
        max_age_h: Hours since the close of its newest candle; None: not checked.
    """

    max_age_h: Annotated[float, Limits(0.01, 10 * _YEAR_H)] | None


@record
@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Limits of the answers in the ledger.

    Attributes:
        required: Whether every live version must have an answer.
        rows: Number of the newest rows that are read.
        max_age_bars: Bars without an answer of a live version that has answered; None: not checked.
        max_refused_share: Share of the answers of a live version that were refused; None: not checked.
        min_rows: Answers below which the share is not judged.
    """

    required: bool
    rows: Annotated[int, Limits(100, 1_000_000)]
    max_age_bars: Annotated[int, Limits(1, 100_000)] | None
    max_refused_share: _Share | None
    min_rows: _Rows


@record
@dataclass(frozen=True, slots=True)
class DriftConfig:
    """Limits of the drift of the probabilities.

    Attributes:
        max_distance: Largest distance of the distribution functions; None: not checked.
        min_rows: Answers below which it is not judged.
    """

    max_distance: _Share | None
    min_rows: _Rows


@record
@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """Limits of the calibration of the answers.

    Attributes:
        max_ece: Largest expected calibration error; None: not checked.
        min_bars: Bars with an outcome, per bar of the horizon, below which it is not judged.
    """

    max_ece: _Share | None
    min_bars: _Rows


@record
@dataclass(frozen=True, slots=True)
class SilenceConfig:
    """Limits of a sentinel that serving does not depend on.

    Attributes:
        max_silence_s: Seconds since its last heartbeat; None: not checked.
    """

    max_silence_s: Annotated[float, Limits(1, 10_000_000)] | None


@record
@dataclass(frozen=True, slots=True)
class EventsConfig:
    """Limits of the queue of events.

    Attributes:
        max_age_h: Hours for which an event may wait for its delivery; None: not checked.
    """

    max_age_h: Annotated[float, Limits(0.01, _YEAR_H)] | None


@record
@dataclass(frozen=True, slots=True)
class OperateConfig:
    """The settings of operate.yml, one section for each part of the status."""

    training: RoundsConfig
    live: LiveConfig
    candles: CandlesConfig
    ledger: LedgerConfig
    drift: DriftConfig
    calibration: CalibrationConfig
    sentinel: SilenceConfig
    events: EventsConfig
