"""The `--json` documents of predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mltrain.documents.results import INLINE


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one candle.

    Attributes:
        ts: Open time of the candle, UTC.
        symbol: The symbol.
        p: Calibrated probability that the label is up; null where refused.
        raw: Raw score of the booster.
        refused: Why there is no probability.
        explanation: With --explain: `log_odds`, `base`, and `contribution_` with the name of each feature.
    """

    ts: str | None
    symbol: str
    p: float | None
    raw: float | None
    refused: str | None
    explanation: Mapping[str, float | None] = field(default_factory=dict, metadata=INLINE)


@dataclass(frozen=True, slots=True)
class PredictDocument:
    """The document of `predict`.

    Attributes:
        version: Name of the version.
        predictions: One row per candle.
    """

    version: str
    predictions: list[Prediction]


@dataclass(frozen=True, slots=True)
class PredictFileDocument:
    """The document of `predict --output`.

    Attributes:
        output: The file.
        rows: Number of rows.
        refused: Number of rows without a probability.
    """

    output: str
    rows: int
    refused: int
