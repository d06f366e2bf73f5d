"""A data folder in operation, made by hand: versions with small cards, a snapshot, a ledger, a heartbeat."""

from __future__ import annotations

import json

from mltrain.killswitch.heartbeat import beat
from mltrain.monitoring.ledger import LEDGER, Ledger
from mltrain.storage.manifest import MANIFEST, FileEntry, Manifest
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.times import DAY_MS, MINUTE_MS, format_seconds
from support.ledger_rows import START_MS, row

# 2025-10-15T12:00:00Z: the first training, and its promotion.
NOON_MS = 1_760_529_600_000
#: The time of the boot clock at which the sentinel was at work.
BEAT_S = 1_000.0
SNAPSHOT = "2025-10-15T12-00-00Z"
HELD = "not compared with the live version: too few days"


def card(*, fitted_on="inner", held=None, failed=(), label_end_ms=NOON_MS - 20 * DAY_MS, valid_until=None):
    """Return a card as the status reads it: one symbol, the direction of the next minute, p from 0.4 to 0.6."""
    outcomes = [{"name": name, "outcome": "failed", "reason": reason} for name, reason in failed]
    return {
        "valid_until": valid_until,
        "train": {
            "label": {"kind": "direction", "horizon_bars": 1, "ties": "drop", "cost_bps": 0.0},
            "interval": "1m",
            "symbols": ["BTCUSDT"],
            "rows": 10,
            "class_balance": {"pos": 5},
        },
        "metrics": {"accuracy": 0.55},
        "lineage": {"config": {"gates": {"latency_p95_ms": 15.0, "champion_min_days": 10}}},
        "gates": {"held": held, "outcomes": outcomes},
        "splits": {
            "fitted_on": fitted_on,
            "blocks": [{"name": name, "last_label_end": format_seconds(label_end_ms)} for name in ("inner", "holdout")],
        },
        "calibration": {"reliability": [{"high": 0.4 + i / 50, "rows": 10} for i in range(1, 11)]},
    }


def publish(store, *, verdict="GO", now_ms=NOON_MS, **given):
    """Publish a version with a card as `card` gives it, and return its name."""
    files = {"lgbm.pkl": b"", "model_card.json": json.dumps(card(**given)).encode(), "report.html": b""}
    return publish_version(store, files, verdict=verdict, date=format_seconds(now_ms)[:10], now_ms=now_ms).name


def promote(store, name, *, now_ms=NOON_MS):
    """Make a version live."""
    promote_version(store, name, why="a test", by="me@host", now_ms=now_ms)


def take_snapshot(data_dir, *, end_ms=NOON_MS):
    """Write the manifest of a snapshot whose newest candle closes at `end_ms`, and point to it."""
    folder = data_dir / "snapshots" / SNAPSHOT
    folder.mkdir(parents=True)
    facts = {"symbol": "BTCUSDT", "last": format_seconds(end_ms - MINUTE_MS)}
    entry = FileEntry("BTCUSDT.parquet", "0" * 64, 0, facts)
    manifest = Manifest("snapshot", {"id": SNAPSHOT, "request": {"interval": "1m"}}, (entry,))
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    (folder.parent / "latest").symlink_to(SNAPSHOT)


def answered(minute, p=0.5, **more):
    """Return the row of the candle that closed so many minutes after noon."""
    return row((NOON_MS - START_MS) // MINUTE_MS + minute - 1, p, **more)


def record(data_dir, rows):
    """Append rows to the ledger."""
    with Ledger(data_dir / LEDGER) as ledger:
        ledger.append(rows)


def operate(store, *, minutes=60):
    """Fill a data folder: a live version that has answered for some minutes since noon, and a sentinel at work.

    The probabilities are those of the holdout, from 0.4 to 0.6, and the price falls and rises in turn.
    """
    promote(store, publish(store))
    take_snapshot(store.data_dir)
    rows = [
        answered(minute, 0.4 + minute % 11 / 50, close=100.0 + minute % 2, high=101.0, low=100.0)
        for minute in range(1, minutes + 1)
    ]
    record(store.data_dir, rows)
    beat(store.models, when=format_seconds(NOON_MS + minutes * MINUTE_MS), clock=lambda: BEAT_S)
