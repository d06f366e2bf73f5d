"""Small trainings: few features, little data, real steps."""

from __future__ import annotations

from mltrain.config.loading import load_config
from mltrain.features.registry import parse_registry
from mltrain.pipeline.request import TrainRequest
from mltrain.pipeline.train import train_anew
from mltrain.progress import Silent
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.store.store import Store
from mltrain.times import parse_time
from mltrain.training.search import ExecutionOptions

REGISTRY = b"""
version: 1
interval: %s
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: return_5, op: log_return, params: {bars: 5}}
  - {name: volatility_10, op: realised_volatility, params: {bars: 10}}
  - {name: rsi_7, op: rsi, params: {bars: 7}}
  - {name: quarter, op: clock, params: {period: quarter, wave: saw}}
"""
IN_PROCESS = ExecutionOptions(workers=1)
NOW_MS = parse_time("2025-10-20T09:30:00Z")


class Workshop:
    """A data folder, and the calls that fill it."""

    def __init__(self, folder):
        self.folder = folder
        self.store = Store(folder)

    def snapshot(self, *, days=4, interval="1m", end=None, signal="strong", symbols=("BTCUSDT",)):
        end_ms = None if end is None else parse_time(end)
        spec = SourceSpec(name="sim", signal=signal, interval=interval, end_ms=end_ms)
        request = SnapshotRequest(symbols=symbols, days=days, interval=interval, end_ms=end_ms)
        taken = take_snapshot(self.folder, open_source(spec), spec, request, now_ms=NOW_MS, progress=Silent())
        return taken.snapshot

    def request(self, snapshot, *, promote=True, execution=IN_PROCESS, final="inner", warm_start=None, **overrides):
        options = {"search.trials": 2, "search.max_rounds": 60, "bench.samples": 10, "bootstrap.draws": 200}
        return TrainRequest(
            snapshot=snapshot,
            feature_set=parse_registry(REGISTRY % snapshot.interval.encode(), where="the test's registry"),
            config=load_config(None, overrides={**options, **overrides}),
            execution=execution,
            promote=promote,
            by="the test",
            final=final,
            warm_start=warm_start,
        )

    def train(self, snapshot, *, now_ms=NOW_MS, **options):
        return self.train_request(self.request(snapshot, **options), now_ms=now_ms)

    def train_request(self, request, *, now_ms=NOW_MS, progress=None):
        return train_anew(request, self.store, now_ms=now_ms, progress=progress or Silent())
