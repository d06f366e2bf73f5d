"""Rows of a ledger as tests need them: everything that a test does not name has an ordinary value."""

from __future__ import annotations

from mltrain.features.label_spec import LabelSpec
from mltrain.monitoring.ledger import LedgerRow, format_at
from mltrain.monitoring.triggers import VersionFacts
from mltrain.times import MINUTE_MS, format_ms

VERSION = "2025-10-15"
CODE = "c" * 64
START_MS = 1_760_486_400_000


def row(bar, p=0.5, *, symbol="BTCUSDT", refused=None, **more):
    """Return the row of a candle of one minute, numbered from START_MS, answered 0.3 s after its close."""
    ts_ms = START_MS + bar * MINUTE_MS
    answered_ms = ts_ms + MINUTE_MS + 300
    values = {
        "at": format_at(answered_ms),
        "ts": format_ms(ts_ms),
        "symbol": symbol,
        "version": VERSION,
        "code_sha256": CODE,
        "p": None if refused else p,
        "raw": None if refused else p,
        "refused": refused,
        "permit": None,
        "high": 101.0,
        "low": 99.0,
        "close": 100.0,
        "source_at": format_ms(answered_ms),
        "latency_ms": 2.0,
    }
    return LedgerRow(**values | more)


def facts(*symbols, label=None, base=0.5, version=VERSION):
    """Return the facts of a version that predicts the direction of the next minute."""
    bases = dict.fromkeys(symbols or ("BTCUSDT",), base)
    return VersionFacts(version, MINUTE_MS, label or LabelSpec("direction", 1, "drop"), bases, latency_budget_ms=15.0)
