"""The holdout's scores: every figure of a model on rows that its training has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mltrain.training.baselines import Comparison, score_baselines
from mltrain.training.bootstrap import score_intervals
from mltrain.training.metrics import brier_parts, ece_null_floor, reliability_table, score, score_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mltrain.training.baselines import Baselines, Skill, SymbolPrior
    from mltrain.training.bootstrap import Bootstrap, MetricIntervals
    from mltrain.training.metrics import BrierParts, Metrics, NullFloor, ReliabilityBin, SymbolScore
    from mltrain.training.samples import Samples


@dataclass(frozen=True, slots=True)
class HoldoutScores:
    """The scores of a model on the holdout.

    Attributes:
        rows: Number of rows scored.
        up_share: Share of the rows that went up.
        before: Scores of the uncalibrated probabilities.
        after: Scores of the calibrated probabilities: the reported figures.
        intervals: Confidence intervals of `after`.
        baselines: Scores of the rules without a model on the same rows.
        comparison: The model minus the baselines, paired by row.
        skill: The model minus the baselines with standard errors, and for each symbol alone.
        null_floor: The ECE to expect by chance under perfect calibration.
        brier: The Brier score of the calibrated probabilities in its parts.
        reliability_before: Reliability table of the uncalibrated probabilities.
        reliability_after: Reliability table of the calibrated probabilities.
        symbols: Scores of the calibrated probabilities per symbol.
        blocks: Number of bootstrap blocks.
        by_day: Whether a block is a UTC day; else one of ten equal parts of the holdout.
        draws: Number of bootstrap draws.
        level: Nominal coverage of the intervals, such as 0.9.
    """

    rows: int
    up_share: float
    before: Metrics
    after: Metrics
    intervals: MetricIntervals
    baselines: Baselines
    comparison: Comparison
    skill: Skill
    null_floor: NullFloor
    brier: BrierParts
    reliability_before: tuple[ReliabilityBin, ...]
    reliability_after: tuple[ReliabilityBin, ...]
    symbols: tuple[SymbolScore, ...]
    blocks: int
    by_day: bool
    draws: int
    level: float


def score_holdout(
    holdout: Samples,
    raw: NDArray[np.float64],
    p: NDArray[np.float64],
    *,
    priors: Sequence[SymbolPrior],
    train_up_share: float,
    bootstrap: Bootstrap,
) -> HoldoutScores:
    """Compute every figure of a model on the holdout.

    Args:
        holdout: The n rows.
        raw: Uncalibrated probabilities of "up", shape (n,), in [0, 1], in row order.
        p: Calibrated probabilities of "up", shape (n,), in [0, 1].
        priors: Base rate and best rule of each of `holdout.symbols` before the holdout, in their order.
        train_up_share: Share of the rows before the holdout that went up, in (0, 1).
        bootstrap: The bootstrap of these rows; its seed is also that of the labels simulated for the ECE by chance.
    """
    baselines, skill = score_baselines(p, holdout, priors, train_up_share=train_up_share, bootstrap=bootstrap)
    one_sided = (1 + bootstrap.level) / 2
    return HoldoutScores(
        rows=int(holdout.y.size),
        up_share=float(holdout.y.mean()),
        before=score(raw, holdout.y),
        after=score(p, holdout.y),
        intervals=score_intervals(p, holdout.y, bootstrap),
        baselines=baselines,
        comparison=Comparison(
            accuracy_margin=skill.margin.interval(one_sided), log_loss_skill=skill.log_loss_skill.interval(one_sided)
        ),
        skill=skill,
        null_floor=ece_null_floor(p, seed=bootstrap.seed),
        brier=brier_parts(p, holdout.y),
        reliability_before=reliability_table(raw, holdout.y),
        reliability_after=reliability_table(p, holdout.y),
        symbols=score_symbols(p, holdout.y, holdout.symbol_ix, holdout.symbols),
        blocks=bootstrap.blocks,
        by_day=bootstrap.by_day,
        draws=bootstrap.draws,
        level=bootstrap.level,
    )
