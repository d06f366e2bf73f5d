"""Trade given scores with vectorbt, in a separate environment.

    PYTHON benchmarks/backtest_peers.py ROWS.npz POLICIES

`backtest.py` writes the rows and calls this script. It needs vectorbt; it does not import mltrain. The policy is
hysteresis, long and short: in beyond `enter`, out beyond `exit` on the other side, filled at the next open.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import pandas as pd
import vectorbt as vbt


def hold(p: np.ndarray, enter: float, exit_: float) -> np.ndarray:
    """Return 1, -1 or 0 after each close, shape (t, s)."""
    rows = np.arange(len(p))[:, None]
    last = [
        np.maximum.accumulate(np.where(event, rows, -1), axis=0)
        for event in (p >= enter, p <= 1 - enter, p < 1 - exit_, p > exit_)
    ]
    return (last[0] > np.maximum(last[1], last[2])).astype(float) - (last[1] > np.maximum(last[0], last[3]))


def main() -> None:
    """Print net return, Sharpe ratio, seconds without imports, and peak memory as JSON."""
    rows, count = np.load(sys.argv[1]), int(sys.argv[2])
    symbols = rows["p"].shape[1]
    began = time.perf_counter()
    policies = [(e, x) for e in np.linspace(0.505, 0.55, 20) for x in np.linspace(0.5, 0.505, 10)][:count]
    sizes = []
    for enter, exit_ in policies:
        target = hold(rows["p"], enter, exit_) / symbols
        changed = np.vstack([target[:1] != 0, target[1:] != target[:-1]])
        # Decided at a close, filled at the next open; NaN is no order.
        sizes.append(np.vstack([np.full((1, symbols), np.nan), np.where(changed, target, np.nan)[:-1]]))
    index = pd.to_datetime(rows["ts"], unit="ms", utc=True)
    columns = pd.MultiIndex.from_product([range(len(policies)), range(symbols)], names=["policy", "symbol"])
    portfolio = vbt.Portfolio.from_orders(
        close=pd.DataFrame(np.tile(rows["close"], len(policies)), index, columns),
        size=pd.DataFrame(np.hstack(sizes), index, columns),
        size_type="targetpercent",
        price=np.tile(rows["open"], len(policies)),
        fees=0.0005,
        slippage=0.0001,
        init_cash=10_000.0,
        group_by="policy",
        cash_sharing=True,
        call_seq="auto",
        freq="1min",
    )
    net = portfolio.total_return()
    daily = portfolio.value().resample("1D").last().pct_change()
    sharpe = daily.mean() / daily.std() * np.sqrt(365)
    portfolio.max_drawdown()
    print(json.dumps({
        "net": float(net.iloc[0]) if count > 1 else float(np.ravel(net)[0]),
        "sharpe": float(np.ravel(sharpe)[0]),
        "seconds": time.perf_counter() - began,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
