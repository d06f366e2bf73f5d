"""Records the results behind the golden files: of each real result exactly the values that its view reads.

    python tests/support/record.py

It trains on the simulated exchange in a temporary folder (about a minute) and writes tests/cli/recorded/. Run it when a
view reads something that was not recorded; then rewrite the golden files (see test_golden.py) and look at them.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from mltrain.card.model_card import ModelCard
from mltrain.gates.gate_evidence import NotApplicable, NotEvaluated

TESTS = Path(__file__).parents[1]
RECORDED = TESTS / "cli" / "recorded"
QUICK = TESTS / "support" / "quick.yml"
NOW_MS = 1_760_529_600_000


class Recorded(SimpleNamespace):
    """The recorded values of a result."""

    def __getattr__(self, name):
        raise AttributeError(f"{name} was not recorded: run `python tests/support/record.py`")


class Watched:
    """A proxy of a result that records the values read from it."""

    def __init__(self, value, seen):
        self._value, self._seen, self._kept = value, seen, {}

    def __getattr__(self, name):
        if name not in self._kept:
            self._kept[name], self._seen[name] = watch(getattr(self._value, name))
        return self._kept[name]


def watch(value):
    """Return a proxy of a value, and the record that is filled while the proxy is read."""
    if isinstance(value, str | int | float | None):
        return value, value
    if isinstance(value, Path):
        return str(value), str(value)
    if isinstance(value, list | tuple):
        pairs = [watch(v) for v in value]
        return [kept for kept, _ in pairs], [seen for _, seen in pairs]
    # Views distinguish these two types.
    if isinstance(value, NotApplicable | NotEvaluated):
        return value, {"type": type(value).__name__, **asdict(value)}
    seen = {}
    return Watched(value, seen), seen


def record(name, value, view):
    """Show a result with its view, and write the values that the view read."""
    kept, seen = watch(value)
    list(view(kept))
    (RECORDED / f"{name}.json").write_text(json.dumps(seen, indent=1, allow_nan=False) + "\n", "utf-8")


def read(name):
    """Return a recorded result as an object whose attributes its view reads."""
    text = (RECORDED / f"{name}.json").read_text("utf-8")
    return json.loads(text, object_hook=_made)


# What the view of a training reads of the card.
IN_VIEW = {
    "splits": ("blocks",),
    "search": ("pruned", "best"),
    "calibration": ("before",),
    "intervals": ("level",),
    "gates": ("held",),
}


def record_card(name, card):
    """Write the parts of a card that the view of its training reads."""
    kept = {section: {key: card.value(section, key) for key in keys} for section, keys in IN_VIEW.items()}
    (RECORDED / f"{name}-card.json").write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n", "utf-8")


def read_card(name):
    """Return the recorded parts of a card."""
    return ModelCard(json.loads((RECORDED / f"{name}-card.json").read_text("utf-8")))


def _made(pairs):
    kinds = {kind.__name__: kind for kind in (NotApplicable, NotEvaluated)}
    return kinds.get(pairs.pop("type", ""), Recorded)(**pairs)


def main():
    """Train, measure and record."""
    import polars as pl

    from mltrain.api.features import FeaturesAudit
    from mltrain.api.train import describe_training
    from mltrain.cli import bench, evaluate, features, predict, train
    from mltrain.config.loading import load_config
    from mltrain.features.profile import profile_features
    from mltrain.features.registry import load_registry
    from mltrain.pipeline.bench import bench_version
    from mltrain.pipeline.evaluate import evaluate as run_evaluation
    from mltrain.pipeline.plan import plan_training
    from mltrain.pipeline.predict import open_followed_model, predict_newest
    from mltrain.pipeline.prepare import audit_snapshot, read_candles
    from mltrain.pipeline.request import TrainRequest
    from mltrain.pipeline.train import train_anew
    from mltrain.progress import Silent
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.take import take_snapshot
    from mltrain.sources.opening import open_source
    from mltrain.sources.source_spec import SourceSpec
    from mltrain.store.store import Store
    from mltrain.training.search import ExecutionOptions

    silent, data = Silent(), Path("data")
    spec = SourceSpec(name="sim", signal="strong")
    source = open_source(spec)
    asked = SnapshotRequest(symbols=("BTCUSDT", "ETHUSDT"), days=6, interval="1m", end_ms=None)
    take_snapshot(data, source, spec, asked, now_ms=NOW_MS, progress=silent)
    snapshot, registry = open_snapshot(data, "latest"), load_registry(interval="1m")
    store, config = Store(data), load_config(QUICK, overrides={"search.trials": 8})
    request = TrainRequest(
        snapshot=snapshot,
        feature_set=registry,
        config=config,
        execution=ExecutionOptions(workers=2),
        promote=True,
        by="ada@desk",
    )
    record("plan", plan_training(request, progress=silent), train._view_plan)
    strict = {"search.trials": 2, "gates.accuracy_margin_pp": 20.0}
    for name, changed in (("train-go", {}), ("train-held", {"seed": 7}), ("train-no-go", strict)):
        asked_for = replace(request, config=load_config(QUICK, overrides={"search.trials": 8} | changed))
        trained = describe_training(train_anew(asked_for, store, now_ms=NOW_MS, progress=silent))
        record_card(name, trained.read_card())
        record(name, trained, partial(train._view_training, card=trained.read_card()))
    record("bench", [bench_version(lambda: store.open_version("best"), samples=200)], bench._view_reports)
    best = store.open_version("best")
    record("evaluate", run_evaluation(best, snapshot, store, now_ms=NOW_MS, progress=silent), evaluate.view_evaluation)
    guards = audit_snapshot(snapshot, registry, config, progress=silent)
    record("audit", guards, lambda results: features._view_audit(FeaturesAudit(snapshot.id, False, results)))
    profiles = profile_features(registry, read_candles(snapshot, silent))[:12]
    record("profiles", profiles, features._view_profiles)
    model, _ = open_followed_model(store, "best", allow_no_go=False)
    rows = predict_newest(model, source, explain=True).with_columns(pl.col("ts").dt.timestamp("ms"))
    (RECORDED / "predict.json").write_text(json.dumps(rows.to_dicts(), indent=1) + "\n", "utf-8")
    shown = rows.with_columns(pl.col("ts").cast(pl.Datetime("ms")))
    list(predict._prediction_outcome(model.version, shown, explain=True).view())


if __name__ == "__main__":
    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        main()
