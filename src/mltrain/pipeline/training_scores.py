"""What the out-of-fold scores of a version's training say about its moves, and about the thresholds of a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.backtesting.bars import align_bars
from mltrain.backtesting.grid import tune
from mltrain.backtesting.policies import MoveStatistics
from mltrain.candles.parquet import ParquetFile
from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError
from mltrain.pipeline.evaluate import read_model_candles
from mltrain.report.version_data import OOF_FILE
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.times import interval_ms
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.policies import Policy
    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.store.versions import StoredVersion

_MAX_OOF_BYTES: Final = 1 << 30
_MAX_OOF_ROWS: Final = 100_000_000


def read_oof(version: StoredVersion) -> pl.DataFrame:
    """Return a version's out-of-fold scores: `ts`, `symbol`, `p`, `forward_bps` and `fold`.

    Raises:
        InputError: It was stored without them, or the file is not the published one.
    """
    if version.manifest.entry(OOF_FILE) is None:
        raise InputError(
            f"{version.name} was trained by an earlier release, which stored no out-of-fold scores: this policy needs "
            "them",
            hint="train a new version, or use --policy sign, threshold or hysteresis without --tune",
        )
    data = version.read(OOF_FILE, max_bytes=_MAX_OOF_BYTES)
    file = ParquetFile(data, where=str(version.folder / OOF_FILE), max_rows=_MAX_OOF_ROWS)
    return file.read(["ts", "symbol", "p", "forward_bps", "fold"])


def measure_moves(oof: pl.DataFrame, model: Model) -> list[MoveStatistics]:
    """Return what a version's out-of-fold rows say about each of its symbols, in sorted order.

    Args:
        oof: Columns `ts`, `symbol`, `p` in [0, 1] and `forward_bps`, the move to the end of the label.
        model: The model.
    """
    statistics = []
    for symbol in sorted(model.symbols):
        rows = oof.filter(pl.col("symbol") == symbol).sort("ts")
        move = rows["forward_bps"].to_numpy() / BPS
        side = np.sign(rows["p"].to_numpy() - 0.5)
        changes = int((np.diff(side) != 0).sum()) + 1
        known = move.size > 0
        statistics.append(
            MoveStatistics(
                mean_move=float(np.abs(move).mean()) if known else float("nan"),
                variance=float(np.square(move).mean()) if known else float("nan"),
                run_bars=move.size / changes if known else float("nan"),
                horizon_bars=model.label.horizon_bars,
            )
        )
    return statistics


def tune_policy(
    policy: Policy, costs: Costs, oof: pl.DataFrame, model: Model, *, data_dir: Path, equity: float, progress: Progress
) -> Policy:
    """Choose enter and exit on the candles of the training, with the out-of-fold probabilities; funding is left out.

    Args:
        policy: The policy whose other options are kept.
        costs: The costs of the backtest.
        oof: The out-of-fold scores, as `read_oof` returns them.
        model: The model.
        data_dir: The data folder that has the snapshot of the training.
        equity: Cash at the start, in the quote asset.
        progress: Receives the stages of reading.

    Raises:
        InputError: The snapshot is missing or damaged.
    """
    trained_on = open_snapshot(data_dir, ModelCard(model.card).snapshot_id)
    candles = read_model_candles(model, trained_on, progress)
    frames, scores = {}, {}
    for symbol in model.symbols:
        of_symbol = oof.filter(pl.col("symbol") == symbol)
        first, last = of_symbol["ts"].min(), of_symbol["ts"].max()
        frames[symbol] = candles[symbol].filter(pl.col("ts").is_between(first, last))
        scores[symbol] = (
            frames[symbol]
            .select("ts")
            .join(of_symbol.select("ts", "p"), on="ts", how="left", maintain_order="left")
            .with_columns(refused=pl.lit(None, pl.String))
        )
    bars = align_bars(frames, scores, step_ms=interval_ms(model.interval))
    no_funding = {symbol: np.zeros((0, 2)) for symbol in bars.symbols}
    return tune(bars, policy, costs, start=equity, funding=no_funding)
