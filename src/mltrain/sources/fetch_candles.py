"""`fetch_candles`: the candles of a time range as Polars frames, without a snapshot."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mltrain.candles.anomalies import empty_false_volumes
from mltrain.errors import UsageError
from mltrain.names import read_symbols
from mltrain.progress import Silent
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import TimeRange, as_time_ms, floor_to_grid, interval_ms

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    import polars as pl

    from mltrain.progress import Progress
    from mltrain.sources.network_rules import NetworkRules


def fetch_candles(
    symbols: Sequence[str],
    *,
    start: str | dt.date,
    end: str | dt.date | None = None,
    spec: SourceSpec | None = None,
    data_dir: Path | str | None = None,
    rules: NetworkRules | None = None,
    progress: Progress | None = None,
    now_ms: int | None = None,
) -> dict[str, pl.DataFrame]:
    """Return the closed candles of each symbol that open from `start` on and before `end`, without a snapshot.

    Args:
        symbols: Such as ["BTCUSDT", "ETHUSDT"]; a single symbol may be a string.
        start: A time such as "2025-10-15T12:00:00Z", a datetime with a zone, or a date, which is its midnight in UTC;
            rounded down to the interval.
        end: As `start`; None, or a time in the future, means the time of the source's clock.
        spec: Source and interval; None for one-minute candles of Binance's public host.
        data_dir: Folder in whose `cache` downloaded days are kept for the next call; None: they are not kept.
        rules: How the network may be used; None for the defaults.
        progress: Receives the progress of each symbol.
        now_ms: The machine's time, ms UTC: candles of the source `files` that close later are left out; None: none are.

    Returns:
        A frame per symbol, sorted by `ts` (open time, UTC, ms), unique, on the interval's grid, with the columns of
        `mltrain.candles.frame.CANDLE_SCHEMA`. Gaps are left as they are; a frame may be empty. A volume that most
        candles contradict is null in every row (`mltrain.candles.anomalies`).

    Raises:
        UsageError: A symbol, a time or the interval is invalid, or the range is empty.
        InputError: The source lacks a symbol, or a candle is damaged or impossible.
        SourceError: The exchange or the network failed; with `data_dir`, the finished days are kept.
        LockedError: Another mltrain is downloading into that folder.
        MachineError: The folder cannot be read or written, or its disk is full.
    """
    spec = SourceSpec(name="binance") if spec is None else spec
    names = read_symbols(symbols)
    start_ms, wanted_end_ms = as_time_ms(start, "start"), None if end is None else as_time_ms(end, "end")
    source, step_ms = open_source(spec, rules, now_ms=now_ms), interval_ms(spec.interval)
    source.check_symbols(names)
    clock_ms = source.clock_ms(names)
    end_ms = clock_ms if wanted_end_ms is None else min(wanted_end_ms, clock_ms)
    window = TimeRange(floor_to_grid(start_ms, step_ms), floor_to_grid(end_ms, step_ms))
    if window.start_ms >= window.end_ms:
        raise UsageError(f"no candle opens and closes from {window}")
    progress = progress or Silent()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if data_dir is None else data_dir)
        with source.download(names, window, data_dir=folder, refresh=False, progress=progress) as downloaded:
            frames = {name: downloaded.candles(name).frame for name in names}
            for note in downloaded.notes():
                progress.warn(note)
    for name in names:
        frames[name], false_volumes = empty_false_volumes(frames[name])
        for false_volume in false_volumes:
            if false_volume.emptied:
                progress.warn(f"{name}: {false_volume}")
    return frames
