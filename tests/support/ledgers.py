"""Ledgers with a few rows, for tests that need no model."""

from __future__ import annotations

from dataclasses import replace

from mltrain.monitoring.ledger import LEDGER, Ledger, LedgerRow, format_at
from mltrain.times import DAY_MS, MINUTE_MS, format_ms

ROW = LedgerRow(
    at="2025-10-15T12:00:00.250Z",
    ts="2025-10-15T11:59:00Z",
    symbol="BTCUSDT",
    version="2025-10-14",
    code_sha256="0" * 64,
    p=0.53,
    raw=0.51,
    refused=None,
    permit=None,
    high=101.5,
    low=99.5,
    close=100.25,
    source_at="2025-10-15T12:00:00.100Z",
    latency_ms=3.5,
)


def write_ledger(data_dir, *, now_ms, days=3):
    """Write the answers for two symbols in the last minutes of each of some days, the last of them today."""
    with Ledger(data_dir / LEDGER) as ledger:
        for day in range(days):
            for minute in range(6):
                at_ms = now_ms - (days - 1 - day) * DAY_MS - (6 - minute) * MINUTE_MS
                given = replace(
                    ROW,
                    at=format_at(at_ms + 250),
                    ts=format_ms(at_ms - MINUTE_MS),
                    source_at=format_ms(at_ms),
                    p=0.5 + minute / 100,
                    latency_ms=3.5 + minute,
                    missed=4 if minute == 0 and day else 0,
                    permit="reduce" if minute == 5 and day == days - 1 else None,
                )
                reason = {1: "stale", 2: "halted"}.get(minute)
                other = replace(given, symbol="ETHUSDT", version="2025-10-15" if day else "2025-10-14")
                if reason is not None:
                    other = replace(other, p=None, raw=None, refused=reason, permit=None)
                ledger.append([given, other])
