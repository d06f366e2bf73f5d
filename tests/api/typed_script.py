"""A user's script with every public name, for `mypy --strict`; it is never run.

`assert_type` says what a checker must know of a result, so that no name of the library is `Any` to its users.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import polars as pl

import mltrain as mt
from mltrain.ops import Bars, Window


class Lines:
    """Shows progress as lines of text."""

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Print a stage."""
        print(name, total, concurrent)

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Print a step."""
        print(steps, note, stage)

    def warn(self, message: str) -> None:
        """Print a warning."""
        print(message)


def momentum(*, bars: Bars) -> Window:
    """Return the change of the close over some bars, as a ratio."""
    return Window(pl.col("close") / pl.col("close").shift(bars) - 1, bars + 1)


def smooth_range(*, bars: Bars) -> mt.ops.Window:
    """Return the mean range of some bars, as a ratio."""
    return mt.ops.Window(mt.ops.window_mean((pl.col("high") - pl.col("low")) / pl.col("close"), bars), bars)


def count(stage: str, done: int, total: int | None, note: str) -> None:
    """Take progress as a function."""
    print(stage, done, total, note)


def take_candles(folder: Path) -> mt.SnapshotResult:
    """Take snapshots, and look at them."""
    progress: mt.Progress = Lines()
    snap = mt.snapshot(source="files", folder=folder, days=30, symbols=["BTCUSDT"], data_dir="data", progress=progress)
    assert_type(snap, mt.SnapshotResult)
    assert_type(snap.snapshot, mt.Snapshot)
    assert_type(snap.snapshot.candles("BTCUSDT"), pl.DataFrame)
    plan = mt.snapshot_plan(source="files", folder=str(folder), progress=count)
    print(plan.to_json(), snap.window, snap.created)
    rebuilt: mt.RebuildResult = mt.snapshot_rebuild("latest")
    listed: mt.SnapshotList = mt.list_snapshots(data_dir=folder)
    difference: mt.SnapshotDiff = mt.snapshots_diff(snap, "latest")
    cached: mt.CacheInfo = mt.cache_info()
    print(rebuilt.sound, len(listed.snapshots), difference.symbols, len(cached.cached))
    print(mt.snapshots_prune(keep=3, dry_run=True).removed, mt.cache_prune(everything=True, dry_run=True).days)
    frames = mt.fetch_candles(["BTCUSDT"], start="2025-10-14", source="sim", interval="5m")
    assert_type(frames, dict[str, pl.DataFrame])
    opened: mt.Snapshot = mt.open_snapshot(snap)
    same: mt.SnapshotRef = opened
    assert_type(mt.verify_snapshot(same).sound, bool)
    return snap


def study_features(snap: mt.SnapshotResult) -> pl.DataFrame:
    """Look at features."""
    print(mt.features_init(interval="5m", output="features.yml").to_json())
    info = mt.features_info(snapshot=snap)
    print(info.lookback_bars, [feature.name for feature in info.features])
    shown = mt.features_show("rsi_7", snapshot=snap, at="2025-10-07T12:00Z")
    print(shown.value, mt.features_audit(snapshot=snap).guards[0].passed)
    table = mt.feature_table(snap, registry="features-ohlcv.yml")
    assert_type(table, pl.DataFrame)
    print(mt.features_export("matrix.parquet", snapshot=snap).to_json())
    print(mt.features_check("frame.parquet").problems)
    validator = mt.FeatureSchemaValidator("features-ohlcv.yml", interval="1m")
    assert_type(validator.validate_features(table, strict=False), tuple[str, ...])
    return table


def train_one(snap: mt.SnapshotResult, table: pl.DataFrame) -> mt.TrainResult:
    """Train, and look at the result."""
    print(mt.train_plan(snap, trials=20).minutes)
    with mt.rich_progress() as bars:
        run = mt.train(snap, trials=20, slot="btc-1m", config={"seed": 7}, features="features.yml", progress=bars)
    result: mt.TrainResult = run
    assert_type(run.version, str)
    assert_type(run.trials_table(), pl.DataFrame)
    print(result.verdict, result.card["metrics"], result.feature_importance())
    if isinstance(run, mt.TrainedVersion):
        print(run.metrics.log_loss, run.promoted)
    elif isinstance(run, mt.ExistingVersion):
        print(run.best)
    for chart in (mt.plot_trials(run), mt.plot_calibration(run), mt.plot_feature_importance(run)):
        assert_type(chart, mt.Chart)
        chart.save(f"{chart.title}.html")
    model = run.model(allow_no_go=True)
    assert_type(model, mt.Model)
    p = model.predict_proba(table.select(model.feature_names_in_.tolist()))[:, 1]
    mt.plot_calibration_curve(table["label"], p).savefig("curve.png")
    return run


def judge(run: mt.TrainResult, snap: mt.SnapshotResult) -> None:
    """Evaluate and backtest; list and remove what is stored."""
    version: mt.VersionRef = run
    evaluation = mt.evaluate(version, snap)
    print(evaluation.scores.after.log_loss, mt.bench(run, samples=100).to_json())
    tested = mt.backtest(run, snap, policy="hysteresis", taker_bps=1.0, start="2025-10-01")
    assert_type(tested, mt.BacktestReport)
    assert_type(tested.equity_table(), pl.DataFrame)
    mt.plot_equity(tested).save("equity.html")
    again = mt.backtest_show(tested.backtest)
    print(mt.backtest_diff(tested, again).figures, mt.list_backtests().backtests, mt.backtest_prune(keep=5).removed)
    card = mt.card_show(run)
    print(card.ref, mt.card_schema().to_json(), [each.valid for each in mt.card_validate().cards])
    print(mt.card_report(run).path, mt.card_diff("best", run).differences, mt.card_diff_page("best", run).path)
    print(mt.verify_model(run, retrain=True).problems, mt.list_studies().studies)
    print(mt.studies_prune(older_than=90, dry_run=True).removed)
    print(mt.config_show(config="train.yml").to_json(), mt.config_init("train.yml").to_json())


def operate(run: mt.TrainResult) -> None:
    """Promote, roll back, carry, and predict."""
    print(mt.promote(run, slot="btc-1m").to_json(), mt.rollback(previous=True, slot="btc-1m").to_json())
    print([row.version for row in mt.list_models().models], mt.models_page().path, mt.models_history().to_json())
    print(mt.models_pack(run, output="model.tar").to_json(), mt.models_unpack("model.tar").to_json())
    print(mt.models_prune(keep=3, dry_run=True).removed, mt.models_repair(dry_run=True).steps)
    print(mt.halt("wrong prices", mode="reduce", symbols=["BTCUSDT"]).halt.describe(), mt.halt_status().state)
    print(mt.resume("the feed is right again", acknowledge=["stale"]).lifted, mt.halt_history().lines)
    print(mt.halt_arm(config={"sentinel": {"timeout_s": 5}}).armed, mt.halt_disarm().armed)
    print([made.sentence for made in mt.cycle(every="12h", at="02:00", once=True, symbols=["BTCUSDT"], trials=20)])
    print(mt.notify(flush=True, notify="https://example.com", notify_secret_file=Path("secret")).waiting)
    print(mt.halt_drill(run, rounds=3).first_refusal.max_ms)
    model = mt.load("best:btc-1m", clock=None)
    assert_type(model, mt.Model)
    try:
        print(model.predict_one({"rsi_7": 0.5}))
    except mt.RefusedError as err:
        print(err.reason)
    except (mt.InputError, mt.UsageError, mt.OwnOpsError, mt.MachineError) as err:
        print(err.message, err.hint, err.exit_code)
    stream: mt.Stream = model.stream(["BTCUSDT"])
    stream.push_input("funding", 0.0001, known_at="2025-10-15T08:00:00Z", symbol="BTCUSDT")
    result = mt.predict(run)
    assert_type(result, mt.PredictResult)
    predictions: list[mt.Prediction] = result.predictions
    written: mt.PredictFileResult = mt.predict_file("predictions.csv", run, input="candles.parquet")
    print(predictions[0].p, written.rows)
    print([each.sentence for each in mt.sentinel(config={"triggers": {"loss": {"mode": "off"}}}).fired])
    print(next(mt.run_sentinel(config="halt.yml")).halted)
    print([each.sentence for each in mt.status(config={"training": {"every_h": None}}, slot="btc-1m").problems])
    ledger = mt.Ledger("data/ledger")
    recorded = mt.load("best:btc-1m", ledger=ledger)
    rows: list[mt.LedgerRow] = list(mt.read_ledger("data/ledger"))
    print(recorded.predict_candles("candles.parquet"), [row.p for row in rows])
    print(mt.ledger(symbols=["BTCUSDT"]).problem, mt.ledger_prune(keep_days=400).removed)
    for prediction in mt.watch("best:btc-1m", ledger=True):
        assert_type(prediction, mt.WatchedPrediction)
        print(prediction.symbol, prediction.p)


def try_everything() -> None:
    """Serve a market, and catch each kind of error."""
    try:
        print(mt.demo(data_dir="demo").rolled_back_to)
        with mt.serve("best", bind="127.0.0.1:0") as service:
            assert_type(service, mt.RunningService)
            started: mt.ServeResult = service.result
            print(started.url, service.to_json())
        with mt.sim(seed=3) as exchange:
            assert_type(exchange, mt.RunningExchange)
            served: mt.SimResult = exchange.result
            print(served.base_url, mt.snapshot(base_url=served.base_url, days=2).to_json())
    except (mt.NoGoError, mt.LeakageError, mt.LockedError, mt.SourceError) as err:
        print(err)
    except mt.MltrainError as err:
        print(err, issubclass(mt.MltrainWarning, UserWarning), mt.__version__)
