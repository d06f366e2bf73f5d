"""How good the answers of a live version are: drift of their probabilities, and how often they came true."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.monitoring.outcomes import OutcomeFeed
from mltrain.training.metrics import ece

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mltrain.card.model_card import ModelCard
    from mltrain.monitoring.ledger import LedgerRow
    from mltrain.monitoring.triggers import VersionFacts

# Few bins: the ECE that chance alone gives grows with their number.
_ECE_BINS: Final = 10
# A probability of 0 or 1 would make one surprise an infinite loss.
_SMALLEST_P: Final = 1e-6


@dataclass(frozen=True, slots=True)
class ScoreDrift:
    """How far the probabilities have moved since training.

    Attributes:
        distance: Largest distance between the distribution functions of P(up) in the ledger and on the holdout, 0 to 1.
        rows: Number of answers behind it.
    """

    distance: float
    rows: int


@dataclass(frozen=True, slots=True)
class OutcomeScores:
    """How often the answers came true, of those whose outcome is known.

    Attributes:
        bars: Number of bars with an outcome.
        horizon_bars: Bars until an outcome is known: outcomes of so many bars in a row overlap.
        rows: Number of outcomes, all symbols together.
        mean_p: Mean probability of up.
        up_share: Share that went up.
        ece: Expected calibration error over ten bins of equal mass, 0 to 1.
        log_loss: Mean log loss, in nats.
        base_log_loss: The same of the base rates of the training rows: a useful model is below.
    """

    bars: int
    horizon_bars: int
    rows: int
    mean_p: float
    up_share: float
    ece: float
    log_loss: float
    base_log_loss: float


def find_score_drift(rows: Sequence[LedgerRow], card: ModelCard) -> ScoreDrift | None:
    """Return how far the probabilities of rows are from those on the holdout; None if either side has none.

    The reference is the reliability table of the card: bins of equal mass, each with its highest probability.
    """
    ranked = sorted(row.p for row in rows if row.p is not None)
    bins = [
        (high, count)
        for part in card.sections("calibration", "reliability")
        if (high := part.number("high")) is not None and (count := part.number("rows")) is not None
    ]
    total = sum(count for _, count in bins)
    if not ranked or total <= 0:
        return None
    below, distance = 0.0, 0.0
    for high, count in sorted(bins):
        below += count
        distance = max(distance, abs(bisect_right(ranked, high) / len(ranked) - below / total))
    return ScoreDrift(distance, len(ranked))


def score_outcomes(rows: Iterable[LedgerRow], facts: VersionFacts) -> OutcomeScores | None:
    """Return how often the answers in rows, oldest first, came true; None if no outcome is known."""
    settled = OutcomeFeed(facts.label, facts.step_ms, facts.bases).feed(rows)
    outcomes = [outcome for bar in settled for outcome in bar.outcomes]
    if not outcomes:
        return None
    p, y, base = (np.array(column, np.float64) for column in zip(*outcomes, strict=True))
    return OutcomeScores(
        bars=sum(bool(bar.outcomes) for bar in settled),
        horizon_bars=facts.label.horizon_bars,
        rows=len(outcomes),
        mean_p=float(p.mean()),
        up_share=float(y.mean()),
        ece=ece(p, y.astype(np.uint8), bins=_ECE_BINS),
        log_loss=_mean_log_loss(p, y),
        base_log_loss=_mean_log_loss(base, y),
    )


def _mean_log_loss(p: np.ndarray, y: np.ndarray) -> float:
    clipped = np.clip(p, _SMALLEST_P, 1 - _SMALLEST_P)
    return -math.fsum(np.log(np.where(y == 1, clipped, 1 - clipped)).tolist()) / y.size
