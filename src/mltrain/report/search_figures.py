"""Figures of the search: the loss of every complete trial, and which parameters mattered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.report.access import mapping_at, number_at, text_at
from mltrain.report.figure import Missing, figure
from mltrain.report.svg import Plot, linear_scale, log_scale, span

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from mltrain.report.figure import Shown
    from mltrain.report.svg import Scale

MAX_DOTS: Final = 400  # trials that are drawn: more are thinned out evenly, the best one never
MIN_TRIALS: Final = 5  # complete ones, for a rank correlation
_TICK: Final = 0.04  # height of the mark of a pruned trial, as a share of the plot's
_TRIALS: Final = "Trials"
_PARAMETERS: Final = "Parameters"
_OWN_COLUMNS: Final = frozenset({"number", "state", "log_loss", "rounds"})
_NINETY_PERCENT: Final = 1.645  # of a normal distribution, both sides


def trials(table: pl.DataFrame | None) -> Shown:
    """Draw the loss of every complete trial and the best one so far; of a pruned trial, only its position.

    A pruned trial's loss is a mean over the folds of its rung and over few rounds: on the same axis it would often lie
    below the best.
    """
    if table is None or not table.height:
        return Missing(_TRIALS, "this version keeps no table of trials.")
    number, loss, complete = _columns(table)
    if not complete.any():
        return Missing(_TRIALS, "no trial of the search was completed.")
    best_so_far = np.minimum.accumulate(np.where(complete, loss, np.inf))
    known, best = np.isfinite(best_so_far), _best(loss, complete)
    least = float(loss[best])
    # A few trials that went wrong must not press all others into one line.
    top = max(float(np.quantile(loss[complete], 0.9)), least * 1.0002)
    y = linear_scale(*span(least, top, pad=0.12), "out-of-fold log loss, nats")
    plot = Plot(linear_scale(0, max(float(number.max()), 1.0), "trial"), y, inset=0.06)
    shown = _thinned(number, best)
    pruned, drawn = number[shown & ~complete].tolist(), shown & complete
    plot.whiskers(pruned, [(y.low, y.low + _TICK * (y.high - y.low))] * len(pruned), "whisker c3")
    tips = [f"trial {n:.0f}: {v:.5f}" for n, v in zip(number[drawn], loss[drawn], strict=True)]
    plot.dots(number[drawn].tolist(), loss[drawn].tolist(), "dot c1", tips=tips)
    plot.steps(number[known].tolist(), best_so_far[known].tolist(), "line c2")
    above = int((loss[complete] > y.high).sum())
    return figure(
        "trials",
        _TRIALS,
        plot,
        reading="Each dot is one set of parameters, scored on rows that it had not learned from; lower is better. "
        "The first one is LightGBM's defaults. A flat line at the end says that more trials would hardly help"
        + (f"; {above} worse {'ones lie' if above > 1 else 'one lies'} at the upper edge." if above else ".")
        + (" A tick on the axis is a trial that was pruned: it was scored on fewer folds or rounds, so its loss "
           "cannot be compared and is not drawn." if pruned else ""),
        alt=f"{table.height} trials, {int((~complete).sum())} of them pruned. The best is trial {number[best]:.0f} "
        f"with a log loss of {least:.5f}" + (f"; the first had {loss[0]:.5f}." if complete[0] else "."),
        legend=(
            ("dot c1", "complete"),
            *((("line c3", "pruned"),) if pruned else ()),
            ("line c2", "best so far"),
        ),
    )  # fmt: skip


def parameters(table: pl.DataFrame | None, card: dict[str, Any]) -> tuple[Shown, ...]:
    """Draw the trials' losses over each parameter, the one of the strongest rank correlation first."""
    if table is None or not table.height:
        return (Missing(_PARAMETERS, "this version keeps no table of trials."),)
    _, loss, complete = _columns(table)
    if complete.sum() < MIN_TRIALS:
        return (Missing(_PARAMETERS, f"{int(complete.sum())} complete trials are too few to compare parameters."),)
    space = mapping_at(card, "lineage", "config", "search", "space")
    logarithmic = {name for name in space if text_at(space, name, "scale") == "log"}
    names = [c for c in table.columns if c not in _OWN_COLUMNS and table[c].dtype.is_numeric()]
    values = {name: table[name].cast(float).fill_null(float("nan")).to_numpy() for name in names}
    moving = [n for n in names if np.unique(values[n][complete]).size > 1 and np.isfinite(values[n]).all()]
    found = {name: _rank_correlation(values[name][complete], loss[complete]) for name in moving}
    chosen = mapping_at(card, "hyperparameters")
    chance = _NINETY_PERCENT / math.sqrt(int(complete.sum()) - 1)
    return tuple(
        _parameter(name, values[name], loss, complete, found[name], chance=chance, log=name in logarithmic,
                   chosen=number_at(chosen, name))
        for name in sorted(moving, key=lambda name: -abs(found[name]))
    ) or (Missing(_PARAMETERS, "no parameter took more than one value."),)  # fmt: skip


def _parameter(
    name: str,
    values: NDArray[np.float64],
    loss: NDArray[np.float64],
    complete: NDArray[np.bool_],
    rho: float,
    *,
    chance: float,
    log: bool,
    chosen: float | None,
) -> Shown:
    low, high = float(values.min()), float(values.max())
    x: Scale = log_scale(low, high, "log scale") if log and low > 0 else linear_scale(low, high, "")
    plot = Plot(
        x, linear_scale(*span(float(loss[complete].min()), float(loss[complete].max())), "log loss"), 110, inset=0.16
    )
    if chosen is not None and low <= chosen <= high:
        plot.upright(chosen, "", "rule c2")
    shown = _thinned(values, _best(loss, complete)) & complete
    plot.dots(values[shown].tolist(), loss[shown].tolist(), "dot c1", radius=3)
    strength = "more than chance would" if abs(rho) > chance else "no more than chance would"
    return figure(
        f"parameter-{''.join(c if c.isalnum() else '-' for c in name)}",
        name,
        plot,
        reading=f"Rank correlation with the loss {rho:+.2f}: {strength}."
        + (f" Chosen: {chosen:.4g}." if chosen is not None else ""),
        alt=f"Losses of {int(complete.sum())} complete trials over {name} from {low:.4g} to {high:.4g}; "
        f"rank correlation {rho:+.2f}" + (f"; {chosen:.4g} was chosen." if chosen is not None else "."),
    )


def _columns(table: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return number, loss (infinite where there is none) and whether the trial is complete."""
    number = table["number"].cast(float, strict=False).fill_null(0).to_numpy()
    loss = table["log_loss"].cast(float, strict=False).fill_null(float("inf")).fill_nan(float("inf")).to_numpy()
    return number, loss, (table["state"].cast(str) == "complete").fill_null(value=False).to_numpy() & np.isfinite(loss)


def _best(loss: NDArray[np.float64], complete: NDArray[np.bool_]) -> int:
    return int(np.argmin(np.where(complete, loss, np.inf)))


def _thinned(values: NDArray[np.float64], best: int) -> NDArray[np.bool_]:
    shown = np.zeros(values.size, dtype=np.bool_)
    shown[np.linspace(0, values.size - 1, min(values.size, MAX_DOTS)).astype(np.int64)] = True
    shown[best] = True
    return shown


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's coefficient; equal values share their mean rank.

    >>> round(_rank_correlation(np.array([1.0, 2.0, 2.0, 9.0]), np.array([4.0, 3.0, 2.0, 1.0])), 3)
    -0.949
    """
    ranks = [np.cumsum(c)[i] - (c[i] - 1) / 2 for _, i, c in (_unique(v) for v in (a, b))]
    centred = [r - r.mean() for r in ranks]
    norm = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / norm) if norm else 0.0


def _unique(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    return np.unique(values, return_inverse=True, return_counts=True)
