"""Candles and predictions as tables in files: parquet, CSV or JSON lines, one row a candle, a column for the symbol.

A table is what a caller has at hand for a batch job: columns as in `mltrain.candles.frame.CANDLE_SCHEMA` and `symbol`,
in any order, read as `mltrain.candles.conversion.as_candles` reads them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.closed_candles import describe_open, find_closed
from mltrain.candles.conversion import as_candles
from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.candles.parquet import MAX_ROWS, ParquetFile
from mltrain.candles.tables import name_columns
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.times import TIME_FORMAT, interval_ms

if TYPE_CHECKING:
    from mltrain.serving.model import Model

Format: TypeAlias = Literal["parquet", "csv", "jsonl"]

MAX_TABLE_BYTES: Final = 4 << 30
# A table holds many symbols: a year of minutes of ninety.
MAX_TABLE_ROWS: Final = 4 * MAX_ROWS
SUFFIXES: Final[dict[str, Format]] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

_ROW: Final = "row of the table"


def format_of(suffix: str) -> Format:
    """Return the format that a file's suffix names.

    Raises:
        UsageError: It names none.
    """
    if suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{show(suffix)} is no format of a table",
            hint=did_you_mean(suffix, SUFFIXES) or f"take {', '.join(SUFFIXES)}",
        )
    return SUFFIXES[suffix.lower()]


def read_table(data: bytes, form: Format, *, where: str) -> pl.DataFrame:
    """Return the candles that a table holds, with the column `symbol` where it has one.

    Raises:
        InputError: It cannot be read, has no times or too many rows, or a cell is not a number or not a time.
        MachineError: Not enough memory.
    """
    if form == "parquet":
        return as_candles(_read_parquet(data, where), where)
    try:
        table = (
            pl.read_csv(io.BytesIO(data), infer_schema=False)
            if form == "csv"
            else pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"{where}: is no table in {form}: {show(reason[:200])}") from err
    return as_candles(table, where)


def _read_parquet(data: bytes, where: str) -> pl.DataFrame:
    """Return the columns that describe candles; all of them where none holds times, so that the message names them."""
    file = ParquetFile(data, where=where, max_rows=MAX_TABLE_ROWS)
    names = name_columns(list(file.types))
    wanted = {*CANDLE_SCHEMA, "symbol", *names.values()} if "ts" in names else {*file.types}
    return file.read([name for name in file.types if name in wanted])


def drop_open(model: Model, table: pl.DataFrame, *, now_ms: int, where: str) -> tuple[pl.DataFrame, str]:
    """Leave out the candles of a table that have not closed yet.

    Args:
        model: The model, whose interval the candles have.
        table: As `read_table` returns it.
        now_ms: The machine's clock, ms UTC.
        where: The name of its file, for messages.

    Returns:
        The other candles, in their order, and a sentence about those that were left out; empty if none were.

    Raises:
        InputError: A symbol's times are hours ahead of the clock.
    """
    ts_ms = table["ts"].dt.timestamp("ms").fill_null(0).to_numpy()
    named = "symbol" in table.columns
    symbols = table["symbol"].fill_null("").to_numpy() if named else np.full(ts_ms.size, ", ".join(model.symbols))
    if ts_ms.size and ts_ms.max() + interval_ms(model.interval) <= now_ms:
        return table, ""
    closed = np.ones(ts_ms.size, np.bool_)
    first_ms: dict[str, int] = {}
    for symbol in sorted(set(symbols.tolist())):
        rows = np.flatnonzero(symbols == symbol)
        closed[rows] = find_closed(
            ts_ms[rows], step_ms=interval_ms(model.interval), now_ms=now_ms, symbol=symbol, where=where
        )
        if not closed[rows].all():
            first_ms[symbol] = int(ts_ms[rows][~closed[rows]].min())
    if not first_ms:
        return table, ""
    return table.filter(closed), describe_open(first_ms, int(np.count_nonzero(~closed)), now_ms=now_ms)


def score_table(model: Model, table: pl.DataFrame, *, explain: bool, as_of_ms: int | None = None) -> pl.DataFrame:
    """Score every candle of a table; the rows come in the order of the table.

    Args:
        model: The model.
        table: As `read_table` returns it.
        explain: Add what each feature contributed; see `Model.explain`.
        as_of_ms: Leave out candles that close later, ms UTC; None: leave out none. No candle of a table is stale.

    Returns:
        ts, symbol, p, raw, refused, and what `explain` adds. A symbol that only leads others has no rows.

    Raises:
        InputError: The candles are impossible, or a column, a leader or the symbol is missing.
    """
    if as_of_ms is not None:
        table = table.filter(pl.col("ts").dt.timestamp("ms") <= as_of_ms - interval_ms(model.interval))
    if "symbol" not in table.columns:
        score = model.explain if explain else model.predict_candles
        return score(table, rows="all")
    if table["symbol"].null_count():
        raise InputError("the column symbol must name a symbol in every row")
    numbered = table.with_row_index(_ROW)
    parts = {str(key[0]): part for key, part in numbered.partition_by("symbol", as_dict=True).items()}
    candles = {symbol: part.drop(_ROW, "symbol") for symbol, part in parts.items()}
    scored = model.explain(candles, rows="all") if explain else model.predict_candles(candles, rows="all")
    there = [parts[symbol][_ROW] for symbol in scored["symbol"].unique(maintain_order=True)]
    return scored.with_columns(pl.concat(there).alias(_ROW)).sort(_ROW).drop(_ROW) if there else scored


def write_table(table: pl.DataFrame, form: Format) -> bytes:
    """Return predictions as a file; times of texts are ISO 8601 in UTC."""
    out = io.BytesIO()
    if form == "parquet":
        table.write_parquet(out)
        return out.getvalue()
    plain = table.with_columns(pl.col("ts").dt.strftime(TIME_FORMAT))
    if form == "csv":
        plain.write_csv(out)
    else:
        plain.write_ndjson(out)
    return out.getvalue()
