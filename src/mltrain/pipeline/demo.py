"""The whole loop on the simulated exchange: snapshots, versions, a promotion, a prediction, a rollback, a backtest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.fee_tiers import find_fee_tier
from mltrain.backtesting.policies import Policy
from mltrain.card.machine import available_cores
from mltrain.config.loading import load_config
from mltrain.errors import UsageError
from mltrain.features.registry import load_registry
from mltrain.pipeline.backtest import BacktestOptions, backtest
from mltrain.pipeline.predict import predict_newest
from mltrain.pipeline.request import TrainRequest
from mltrain.pipeline.train import train_anew
from mltrain.serving.model import load
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.folders import make_folder
from mltrain.storage.writing import atomic_write
from mltrain.store.promotion import promote_version, roll_back_previous
from mltrain.store.store import Store
from mltrain.times import DAY_MS
from mltrain.training.search import ExecutionOptions

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.backtesting.stored import StoredBacktest
    from mltrain.pipeline.train import TrainReport
    from mltrain.progress import Progress

# Marks a folder that the demo created, so that it never writes into anything else.
MARKER: Final = ".mltrain-demo"
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
DAYS: Final = 14
# Ends of the two snapshots, ms UTC.
CUTS_MS: Final = (CLOCK_MS - 2 * DAY_MS, CLOCK_MS)
TRIALS: Final = 8
# Calls of the latency measurement: enough for a p95, and a matter of seconds.
BENCH_SAMPLES: Final = 200
# Fees of the backtest.
FEES: Final = "binance-usdm"


@dataclass(frozen=True, slots=True, eq=False)
class DemoReport:
    """The result of the demo.

    Attributes:
        folder: The data folder.
        snapshots: Ids of the two snapshots.
        trainings: The reports of the two trainings.
        promoted_by_hand: The second version, if its verdict was GO and it was held; else None.
        predictions: Symbol, open time in ms UTC, and probability of up after the newest closed candle.
        rolled_back_from: The live version before the rollback.
        rolled_back_to: The live version after the rollback.
        backtest: What the live version would have earned on the second snapshot.
    """

    folder: Path
    snapshots: tuple[str, ...]
    trainings: tuple[TrainReport, ...]
    promoted_by_hand: str | None
    predictions: tuple[tuple[str, int, float], ...]
    rolled_back_from: str
    rolled_back_to: str
    backtest: StoredBacktest


def run_demo(folder: Path, *, by: str, now_ms: int, progress: Progress) -> DemoReport:
    """Take two snapshots, train on each, promote the second version as a user would, predict, roll back, and backtest.

    The folder is absent, empty, or created by an earlier demo: it is added to, never cleared.
    """
    claim_folder(folder)
    store = Store(folder)
    config = load_config(None, overrides={"search.trials": TRIALS, "bench.samples": BENCH_SAMPLES})
    execution = ExecutionOptions(workers=available_cores())
    trainings: list[TrainReport] = []
    snapshots: list[str] = []
    for cut_ms in CUTS_MS:
        spec = SourceSpec(name="sim", signal="strong", end_ms=cut_ms)
        source = open_source(spec)
        wanted = SnapshotRequest(symbols=SYMBOLS, days=DAYS, interval=spec.interval, end_ms=cut_ms)
        snapshot = take_snapshot(folder, source, spec, wanted, now_ms=now_ms, progress=progress).snapshot
        snapshots.append(snapshot.id)
        request = TrainRequest(
            snapshot, load_registry(None, interval=snapshot.interval), config, execution, promote=True, by=by
        )
        trainings.append(train_anew(request, store, now_ms=now_ms, progress=progress))
    # Two days later there are fewer than ten new days to compare on, so the second version is held.
    second = trainings[-1]
    held = second.held
    if held is not None:
        promote_version(store, second.version, by=by, why=f"the demo promotes what was held: {held}", now_ms=now_ms)
    table = predict_newest(load(store.models / "best_lgbm.pkl"), source)
    rollback = roll_back_previous(store, by=by, why="the demo shows a rollback", now_ms=now_ms)
    live = store.open_version(rollback.to_version)
    fees = find_fee_tier(FEES)
    options = BacktestOptions(
        policy=Policy(name="sign", side="both"),
        costs=Costs(market=fees.market, taker_bps=fees.taker_bps, maker_bps=fees.maker_bps),
        fees=fees,
        funding="1",
    )
    traded = backtest(live, open_snapshot(folder, snapshots[-1]), store, options, now_ms=now_ms, progress=progress)
    return DemoReport(
        folder=folder,
        snapshots=tuple(snapshots),
        trainings=tuple(trainings),
        promoted_by_hand=None if held is None else second.version,
        predictions=tuple(zip(table["symbol"], table["ts"].dt.timestamp("ms"), table["p"], strict=True)),
        rolled_back_from=second.version,
        rolled_back_to=rollback.to_version,
        backtest=traded,
    )


def claim_folder(folder: Path) -> None:
    """Create the demo's folder and mark it, or raise UsageError if it holds files that the demo did not create."""
    marker = folder / MARKER
    if folder.exists() and not marker.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} holds files that the demo did not create",
            hint="name an empty or new folder with --data-dir, or leave it out to use mltrain-demo/",
        )
    make_folder(folder)
    if not marker.is_file():
        atomic_write(marker, b"made by `mltrain demo`; another demo may add to this folder\n")
