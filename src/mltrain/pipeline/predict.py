"""The newest closed candle of each symbol, scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mltrain.candles.frame import interval_ms
from mltrain.candles.snapshot import open_snapshot
from mltrain.candles.source import Window, open_source
from mltrain.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from mltrain.candles.source import Source, SourceSpec
    from mltrain.models.serve import Model


def source_of_model(model: Model, data_dir: Path) -> SourceSpec:
    """Return the source that the model's snapshot was taken from.

    Raises:
        InputError: The snapshot that the card names is not there any more.
    """
    name = model.card["train"]["snapshot_id"]
    try:
        return open_snapshot(data_dir, name).source
    except InputError as err:
        raise InputError(
            f"the source of {model.version} is not known: {err.message}", hint="name one with --source"
        ) from err


def predict_newest(model: Model, source: Source) -> pl.DataFrame:
    """Score the newest closed candle of every symbol of the model; only the lookback is fetched.

    Args:
        model: The model.
        source: Where the candles come from; its clock says what is closed and how old a candle is.

    Returns:
        One row a symbol: ts, symbol, p, raw, refused.

    Raises:
        InputError: The source lacks a symbol, or its candles are of another interval.
        SourceError: The source did not answer.
    """
    step_ms = interval_ms(model.feature_set.interval)
    clock_ms = source.clock_ms(model.symbols)
    end_ms = clock_ms // step_ms * step_ms
    wanted = sorted({*model.symbols, *model.feature_set.leaders})
    window = Window(end_ms - model.feature_set.lookback_bars * step_ms, end_ms)
    candles = {symbol: source.candles(symbol, window) for symbol in wanted}
    return model.predict_candles(candles, now_ms=clock_ms)
