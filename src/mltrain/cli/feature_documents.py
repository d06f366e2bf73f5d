"""The `--json` documents of the commands on features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mltrain.documents.results import OPTIONAL, Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mltrain.features.profile import FeatureProfile
    from mltrain.features.registry import FeatureInfo
    from mltrain.features.spec import LabelSpec
    from mltrain.guards.evidence import GuardResult


@dataclass(frozen=True, slots=True)
class FeaturesInfoDocument(Result):
    """The document of `features info`.

    Attributes:
        version: Version of the registry's format.
        interval: Interval of the candles; null: any.
        label: What the model predicts.
        lookback_bars: Candles that the newest row needs.
        registry_sha256: SHA-256 of the registry.
        features: The features, in the order of the columns.
        quantile_levels: Levels of the quantiles in `profiles`.
        profiles: Distribution of each feature's values.
    """

    SCHEMA: ClassVar[str] = "features-info/1"

    version: int
    interval: str | None
    label: LabelSpec
    lookback_bars: int
    registry_sha256: str
    features: tuple[FeatureInfo, ...]
    quantile_levels: tuple[float, ...] | None = field(default=None, metadata=OPTIONAL)
    profiles: tuple[FeatureProfile, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class ValueAt:
    """The value of a feature at one candle.

    Attributes:
        time: Open time of the candle, UTC.
        value: The value; NaN and infinity are texts.
    """

    time: str
    value: float | str | None


@dataclass(frozen=True, slots=True)
class FeaturesShowDocument(Result):
    """The document of `features show`.

    Attributes:
        snapshot: Id of the snapshot.
        symbol: Symbol of the candles.
        time: Open time of the candle, UTC.
        feature: The feature.
        value: Its value there; NaN and infinity are texts.
        value_of_the_lookback_alone: The value computed from the candles in its lookback only.
        why_none: Why there is no value.
        around: The values at the candles around it.
        inputs: The candles in its lookback, by column, oldest first.
        plot: The file that --plot wrote.
    """

    SCHEMA: ClassVar[str] = "features-show/1"

    snapshot: str
    symbol: str
    time: str
    feature: FeatureInfo
    value: float | str | None
    value_of_the_lookback_alone: float | str | None
    why_none: str | None
    around: list[ValueAt]
    inputs: list[Mapping[str, Any]]
    plot: Path | None


@dataclass(frozen=True, slots=True)
class FeaturesCheckDocument(Result):
    """The document of `features check`.

    Attributes:
        file: The file of the frame.
        sound: Whether the frame matches the registry; exit code 0 or 3.
        problems: What is wrong with it.
    """

    SCHEMA: ClassVar[str] = "features-check/1"

    file: Path
    sound: bool
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class FeaturesAuditDocument(Result):
    """The document of `features audit`.

    Attributes:
        snapshot: Id of the snapshot whose candles were used.
        thorough: Whether --thorough was given.
        guards: The result of each guard, with its checks.
        report: The files that --report wrote.
    """

    SCHEMA: ClassVar[str] = "features-audit/1"

    snapshot: str
    thorough: bool
    guards: tuple[GuardResult, ...]
    report: tuple[Path, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport(FeaturesAuditDocument):
    """The document in the file of --report.

    Attributes:
        registry_sha256: SHA-256 of the registry.
        ops: The module of the user's ops.
    """

    registry_sha256: str
    ops: str | None
