"""Two versions on the rows of both holdouts: where one has the lower log loss, and what their average would have."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError
from mltrain.times import FIRST_MONDAY_MS, WEEK_MS, day_name
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.metrics import predict_up, row_log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.report.version_data import Holdout
    from mltrain.training.bootstrap import Bootstrap, Interval

# Fewer common rows say nothing.
_LEAST_ROWS: Final = 200


@dataclass(frozen=True, slots=True)
class PairedScore:
    """The log losses of both versions on some common rows.

    Attributes:
        name: The rows: "all", a symbol, or the first day of a week.
        rows: Their number.
        a: Mean log loss of the first version, nats.
        b: The same of the second.
        difference: a - b with its interval, paired by row: above zero the second is better; None: the rows fill fewer
            than two blocks of time.
    """

    name: str
    rows: int
    a: float
    b: float
    difference: Interval | None


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Two versions on the rows of both their holdouts.

    Attributes:
        whole: On all common rows.
        symbols: By symbol.
        weeks: By week, Monday to Sunday UTC.
        agreement: Share of the rows on which both call the same side.
        average_log_loss: Log loss of the mean of both probabilities, nats. It is shown, not served.
    """

    whole: PairedScore
    symbols: tuple[PairedScore, ...]
    weeks: tuple[PairedScore, ...]
    agreement: float
    average_log_loss: float


def pair_holdouts(a: Holdout, b: Holdout) -> PairedScores | None:
    """Compare two versions on the rows of both their holdouts; None if these are few, or their labels differ."""
    names = np.union1d(a.symbol, b.symbol)
    keys = [each.ts_ms * names.size + np.searchsorted(names, each.symbol) for each in (a, b)]
    _, in_a, in_b = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    if in_a.size < _LEAST_ROWS or not np.array_equal(a.y[in_a], b.y[in_b]):
        return None
    ts_ms, symbol, y = a.ts_ms[in_a], a.symbol[in_a], a.y[in_a]
    p_a, p_b = a.p[in_a], b.p[in_b]
    losses = a.loss[in_a], b.loss[in_b]
    week = (ts_ms - FIRST_MONDAY_MS) // WEEK_MS

    def score(name: str, rows: NDArray[np.bool_]) -> PairedScore:
        loss_a, loss_b = (loss[rows] for loss in losses)
        difference = None
        # The rows may fill too few blocks of time for an interval.
        with suppress(InputError):
            difference = _draw_again(a.bootstrap, ts_ms[rows]).mean(loss_a - loss_b)
        return PairedScore(name, int(rows.sum()), float(loss_a.mean()), float(loss_b.mean()), difference)

    return PairedScores(
        whole=score("all", np.ones(y.size, np.bool_)),
        symbols=tuple(score(str(name), symbol == name) for name in np.unique(symbol)),
        weeks=tuple(score(day_name(int(each) * WEEK_MS + FIRST_MONDAY_MS), week == each) for each in np.unique(week)),
        agreement=float((predict_up(p_a) == predict_up(p_b)).mean()),
        average_log_loss=float(row_log_loss((p_a + p_b) / 2, y).mean()),
    )


def _draw_again(bootstrap: Bootstrap, ts_ms: NDArray[np.int64]) -> Bootstrap:
    """Return the bootstrap of some of the rows; raise InputError if they fill fewer than two blocks of time."""
    return plan_bootstrap(
        ts_ms,
        draws=bootstrap.draws,
        level=bootstrap.level,
        seed=bootstrap.seed,
        overlap_ms=bootstrap.overlap_ms,
    )
