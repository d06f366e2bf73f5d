"""The tables of a stored backtest: fills, equity by bar, results by day, policies of a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.backtesting.performance import positions, sum_by_day
from mltrain.candles.frame import TS_DTYPE
from mltrain.documents.records import to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.engine import Simulation
    from mltrain.backtesting.result import BacktestResult


def build_equity(bars: Bars, simulation: Simulation) -> pl.DataFrame:
    """Return the equity bar by bar.

    Returns:
        One row for each bar: `ts` (open time, UTC); `equity` (at the close), `costs` (all costs and the funding booked
        at the bar), both in the quote asset; `held` (the return since the start of equal weights, bought at the first
        close and held without costs).
    """
    costs = np.zeros(bars.ts_ms.size)
    fills = np.array([(fill.bar, fill.fee + (fill.price - fill.reference) * fill.units) for fill in simulation.fills])
    if fills.size:
        np.add.at(costs, fills[:, 0].astype(np.int64), fills[:, 1])
    for bar, paid in simulation.payments:
        costs[bar] += float(paid.sum())
    return pl.DataFrame(
        {
            "ts": pl.Series(bars.ts_ms).cast(TS_DTYPE),
            "equity": simulation.equity[:, 0],
            "costs": costs,
            "held": (bars.mark / bars.mark[0]).mean(axis=1) - 1,
        }
    )


def build_tables(
    result: BacktestResult, bars: Bars, simulation: Simulation, weights: NDArray[np.float64]
) -> dict[str, pl.DataFrame]:
    """Return the tables of a backtest by the names of their files.

    The simulation is that of the result's policy, whose target weights after each close have the shape (t, s).
    """
    fills, symbols = simulation.fills, np.array(bars.symbols, dtype=object)
    bar_ms = bars.ts_ms[[fill.bar for fill in fills]] if fills else np.zeros(0, np.int64)
    decided_ms = bars.ts_ms[[fill.decided for fill in fills]] if fills else np.zeros(0, np.int64)
    at_close = np.array([fill.at_close for fill in fills], np.bool_)
    fill_table = pl.DataFrame(
        {
            "ts": pl.Series(bar_ms + at_close * bars.step_ms).cast(TS_DTYPE),
            "candle": pl.Series(bar_ms).cast(TS_DTYPE),
            "decided": pl.Series(decided_ms).cast(TS_DTYPE),
            "symbol": pl.Series([symbols[fill.symbol_ix] for fill in fills], dtype=pl.String),
            **{
                name: pl.Series([getattr(fill, name) for fill in fills], dtype=pl.Float64)
                for name in ("units", "reference", "price", "fee")
            },
        }
    )
    units = positions(bars, fills)
    equity_table = build_equity(bars, simulation).with_columns(
        **{f"units_{symbol}": pl.Series(units[:, ix]) for ix, symbol in enumerate(bars.symbols)},
        **{f"weight_{symbol}": pl.Series(weights[:, ix]) for ix, symbol in enumerate(bars.symbols)},
    )
    days = sum_by_day(bars, simulation, start=result.request.equity)
    daily_table = pl.DataFrame(
        {
            "day": pl.Series(days.day_ms).cast(TS_DTYPE),
            "equity": days.equity,
            "net_return": days.returns,
            "gross": days.gross,
            "costs": days.costs,
            "funding": days.funding,
            "traded": days.traded,
        }
    )
    tables = {"fills.parquet": fill_table, "equity.parquet": equity_table, "daily.parquet": daily_table}
    if result.grid:
        tables["grid.parquet"] = pl.DataFrame(
            [
                {
                    **to_json(row.policy),
                    **{name: getattr(row, name) for name in ("net_return", "sharpe", "drawdown", "turnover", "fees")},
                }
                for row in result.grid
            ],
            infer_schema_length=None,
        )
    return tables
