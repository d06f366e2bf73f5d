"""The evidence that the gates judge: frozen figures, measured elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from mltrain.training.bootstrap import JUDGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.guards.evidence import GuardResult
    from mltrain.training.baselines import SymbolSkill
    from mltrain.training.bootstrap import Estimate, Interval, MetricIntervals
    from mltrain.training.economics import Economics, SymbolBounce

# Share of the lucky maximum of repeated tries that is added to the margin; the wider interval covers the rest.
_MARGIN_FACTOR: Final = 0.7


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """Takes the place of evidence that could not be measured: its gate fails; the champion gate is held.

    Attributes:
        reason: Why it could not be measured.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """Takes the place of a comparison with the champion where there is no champion.

    Attributes:
        reason: Why there is none.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """How often other configurations or seeds were tried on this holdout before, and how that tightens the gates.

    The best of several tries looks better than it is. With L earlier looks each interval is widened so that the chance
    of a lucky end among 1 + L tries is that of a single try (Sidak 1967), and the required margin rises.

    Attributes:
        looks: L, earlier looks of other configurations or seeds, each weighted by the share of this holdout it covered.
    """

    looks: float

    @property
    def confidence(self) -> float:
        """Confidence that one end of an interval needs after these looks, in (0, 1).

        >>> round(Selection(0).confidence, 4), round(Selection(5).confidence, 4)
        (0.95, 0.9915)
        """
        return float(JUDGED ** (1 / (1 + self.looks)))

    def raised_by(self, se: float) -> float:
        """Return what to add to a required margin for the earlier looks, in the unit of `se`, its standard error.

        >>> round(Selection(5).raised_by(0.6), 2), round(Selection(100).raised_by(0.6), 2)
        (0.52, 1.04)
        """
        from scipy.special import ndtri

        return _MARGIN_FACTOR * se * float(ndtri(0.5 ** (1 / (1 + self.looks))))


@dataclass(frozen=True, slots=True)
class SkillEvidence:
    """The gain on the holdout over predictions that need no model.

    Attributes:
        base_rate: Share of the training rows that went up, 0 to 1; it decides which of the two gains is judged.
        accuracy_margin: Accuracy minus that of the symbols' baselines on the same rows, paired; a share, not pp.
        log_loss_skill: 1 - log loss / log loss of the training base rate, paired; a share, not percent.
    """

    base_rate: float
    accuracy_margin: Estimate
    log_loss_skill: Estimate


@dataclass(frozen=True, slots=True)
class SimpleModelEvidence:
    """The gain in log loss over simpler models, paired by row, in nats.

    Attributes:
        over_logistic: Over a logistic regression on five features.
        over_base_rate: Over the training base rate.
    """

    over_logistic: Estimate
    over_base_rate: Estimate


@dataclass(frozen=True, slots=True)
class CalibrationEvidence:
    """The calibration error, and the error that chance alone explains.

    Attributes:
        ece: Expected calibration error on the holdout, 0 to 1; its interval is shown, but not judged.
        ece_null_p95: 95th percentile of the ECE that exact probabilities would show by chance on as many rows, 0 to 1.
    """

    ece: Interval
    ece_null_p95: float


@dataclass(frozen=True, slots=True)
class BounceEvidence:
    """Figures that distinguish a signal from the bounce between bid and ask.

    Attributes:
        economics: Gross gain of the model's calls, from the close and from the next open.
        symbols: Opens and returns of each symbol's candles.
    """

    economics: Economics
    symbols: tuple[SymbolBounce, ...]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Every score of two models on the same rows and bootstrap draws, with its interval.

    Attributes:
        rows: Number of rows.
        ours: Scores of the new model.
        theirs: Scores of the live version.
    """

    rows: int
    ours: MetricIntervals
    theirs: MetricIntervals


@dataclass(frozen=True, slots=True)
class ChampionEvidence:
    """The new model compared with the live version, on rows later than the live version's last training label.

    Attributes:
        version: Name of the live version.
        gain: Log loss of the live version minus that of the new model, paired, in nats; above 0 the new one is better.
        days: Number of UTC days that the rows touch.
        side_by_side: Every score of both; None if it was not requested.
    """

    version: str
    gain: Interval
    days: int
    side_by_side: SideBySide | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Whether the new model and the champion were trained on real or on simulated candles.

    Attributes:
        simulated: Whether the new model's candles were simulated.
        champion: The champion's candles; "none" if nothing was promoted yet.
    """

    simulated: bool
    champion: Literal["none", "real", "simulated", "unknown"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the gates judge, one field per gate in most cases; its type says what it holds.

    Attributes:
        symbols: Skill on each symbol alone.
        leaders: Leader symbols of the features.
        latency_p95_ms: 95th percentile of the time from candles to the probability of one symbol, in ms.
        break_even: Cost per side at which the predictions earn nothing, in bps.
        meaning: Why the model is not a drop-in replacement for the live version, one sentence each.
    """

    skill: SkillEvidence | NotEvaluated
    simple_model: SimpleModelEvidence | NotEvaluated
    symbols: Sequence[SymbolSkill] | NotEvaluated
    leaders: tuple[str, ...]
    calibration: CalibrationEvidence | NotEvaluated
    latency_p95_ms: float | NotEvaluated
    guards: Sequence[GuardResult] | NotEvaluated
    bounce: BounceEvidence | NotEvaluated
    break_even: Estimate | NotEvaluated
    champion: ChampionEvidence | NotApplicable | NotEvaluated
    meaning: tuple[str, ...] | NotApplicable
    origin: Origin
    selection: Selection
