"""Fixtures with small candle frames and simulated snapshots."""

from __future__ import annotations

import polars as pl
import pytest

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import TS_DTYPE
from mltrain.progress import Silent
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import MINUTE_MS

NOW_MS = CLOCK_MS + 1_234_567


def check(frame, interval="1m"):
    """Return a frame as `check_candles` does."""
    return check_candles(frame, symbol="BTCUSDT", interval=interval, where="here")


@pytest.fixture
def make_candles():
    """Return a function that makes plain candles at the given minutes after CLOCK_MS."""

    def make(minutes, *, base=100.0, step_ms=MINUTE_MS, **columns):
        minutes = list(minutes)
        prices = [base + m % 7 for m in minutes]
        frame = pl.DataFrame(
            {
                "ts": pl.Series([CLOCK_MS + m * step_ms for m in minutes], dtype=pl.Int64).cast(TS_DTYPE),
                "open": pl.Series(prices, dtype=pl.Float64),
                "high": pl.Series([p + 1 for p in prices], dtype=pl.Float64),
                "low": pl.Series([p - 1 for p in prices], dtype=pl.Float64),
                "close": pl.Series([p + 0.5 for p in prices], dtype=pl.Float64),
                "volume": pl.Series([1.0 + abs(m) for m in minutes], dtype=pl.Float64),
            }
        )
        return frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})

    return make


@pytest.fixture
def take(tmp_path):
    """Return a function that takes a snapshot of the simulated exchange, or of a folder, into tmp_path/data."""

    def take_one(
        symbols=("BTCUSDT", "ETHUSDT"),
        *,
        days=1,
        progress=None,
        end_ms=None,
        folder=None,
        interval="1m",
        align="union",
        max_missing=1.0,
    ):
        name = "sim" if folder is None else "files"
        signal = "weak" if folder is None else "none"
        spec = SourceSpec(name=name, folder=folder, interval=interval, signal=signal)
        request = SnapshotRequest(symbols=tuple(symbols), days=days, interval=interval, end_ms=end_ms, align=align)
        return take_snapshot(
            tmp_path / "data",
            open_source(spec),
            spec,
            request,
            now_ms=NOW_MS,
            progress=progress or Silent(),
            max_missing=max_missing,
        )

    return take_one


@pytest.fixture
def tree(tmp_path):
    """Return a function that returns everything under tmp_path/data: bytes, folders, link targets."""

    def read_tree():
        root = tmp_path / "data"
        found = {}
        for path in sorted(root.rglob("*")):
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = f"-> {path.readlink()}"
            else:
                found[key] = path.read_bytes() if path.is_file() else "folder"
        return found

    return read_tree
