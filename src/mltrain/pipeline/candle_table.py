"""Candles and predictions as tables in files: parquet, CSV or JSON lines, one row a candle, a column for the symbol.

A table is what a caller has at hand for a batch job: columns as in `mltrain.candles.frame.CANDLE_SCHEMA` and `symbol`,
in any order, further ones being left out. `ts` is a time with its zone, an ISO 8601 text in UTC, or ms since 1970.
Numbers may come as texts where the format has no others; what cannot be read is an error that names its column.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.closed import find_closed, tell_open
from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE, interval_ms
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mltrain.models.serve import Model

Format: TypeAlias = Literal["parquet", "csv", "jsonl"]

MAX_TABLE_BYTES: Final = 4 << 30
SUFFIXES: Final[dict[str, Format]] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

_READERS: Final[Mapping[Format, Callable[[io.BytesIO], pl.DataFrame]]] = {
    "parquet": lambda data: pl.read_parquet(data, use_pyarrow=False),
    "csv": lambda data: pl.read_csv(data, infer_schema=False),
    "jsonl": lambda data: pl.read_ndjson(data, infer_schema_length=None),
}
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
        InputError: It cannot be read, or a column is missing or holds what is no number or no time.
    """
    try:
        table = _READERS[form](io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"{where}: is no table in {form}: {show(reason[:200])}") from err
    known = [name for name in ("symbol", *CANDLE_SCHEMA) if name in table.columns]
    if "ts" not in known:
        raise InputError(f"{where}: column ts missing; there are {', '.join(map(show, table.columns[:20]))}")
    return pl.DataFrame([_column(table[name], where) for name in known])


def _column(column: pl.Series, where: str) -> pl.Series:
    if column.name == "symbol":
        if column.dtype not in {pl.String, pl.Categorical} and not isinstance(column.dtype, pl.Enum):
            raise InputError(f"{where}: column symbol is {column.dtype}, not text")
        return column.cast(pl.String)
    if column.name == "ts":
        return _times(column, where)
    wanted = CANDLE_SCHEMA[column.name]
    if column.dtype == pl.String:
        column = column.replace("", None)
    elif not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise InputError(f"{where}: column {column.name} is {column.dtype}, not {wanted}")
    found = column.cast(pl.Float64, strict=False) if column.dtype == pl.String else column
    if found.null_count() > column.null_count():
        raise _unreadable(column, found, where, "number")
    if wanted == pl.Int64 and found.dtype.is_float():
        whole = found.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) != found).any():
            raise InputError(f"{where}: column {column.name} holds what is no whole number")
        return whole
    return found


def _times(column: pl.Series, where: str) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            raise InputError(f"{where}: column ts has no time zone", hint="give it one, such as UTC")
        whole = column.dt.convert_time_zone("UTC").cast(TS_DTYPE)
        if (whole.cast(pl.Datetime("ns", "UTC")) != column.cast(pl.Datetime("ns", "UTC"))).any():
            raise InputError(f"{where}: column ts holds a time between two milliseconds")
        return whole
    if dtype.is_integer():
        return column.cast(pl.Int64).cast(TS_DTYPE)
    if dtype != pl.String:
        raise InputError(f"{where}: column ts is {dtype}: not a time, nor a text, nor ms since 1970")
    number = column.cast(pl.Int64, strict=False)
    if not number.null_count():
        return number.cast(TS_DTYPE)
    plain = column.str.replace(r"(Z|\+00:?00)$", "").str.replace(" ", "T", literal=True)
    found = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ms", strict=False)
    if found.null_count():
        raise _unreadable(column, found, where, "time in UTC such as 2025-10-15T12:00:00Z")
    return found.dt.replace_time_zone("UTC")


def _unreadable(column: pl.Series, found: pl.Series, where: str, what: str) -> InputError:
    row = int((found.is_null() & column.is_not_null()).arg_max() or 0)
    return InputError(f"{where}: row {row + 1}: {column.name} is {show(str(column[row]))}: no {what}")


def drop_open(model: Model, table: pl.DataFrame, *, now_ms: int, where: str) -> tuple[pl.DataFrame, str]:
    """Leave out the candles of a table that have not closed yet.

    Args:
        model: The model, whose interval the candles have.
        table: As `read_table` returns it.
        now_ms: The machine's clock, ms UTC.
        where: The name of its file, for messages.

    Returns:
        The other candles, in their order, and what was left out, in words; empty where nothing was.

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
    return table.filter(closed), tell_open(first_ms, int(np.count_nonzero(~closed)), now_ms=now_ms)


def score_table(model: Model, table: pl.DataFrame, *, explain: bool) -> pl.DataFrame:
    """Score every candle of a table; the rows come in the order of the table.

    Args:
        model: The model.
        table: As `read_table` returns it.
        explain: Add what each feature contributed; see `Model.explain`.

    Returns:
        ts, symbol, p, raw, refused, and what `explain` adds. A symbol that only leads others has no rows.

    Raises:
        InputError: The candles are impossible, or a column, a leader or the symbol is missing.
    """
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
    plain = table.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    if form == "csv":
        plain.write_csv(out)
    else:
        plain.write_ndjson(out)
    return out.getvalue()
