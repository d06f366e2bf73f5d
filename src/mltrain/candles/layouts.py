"""Read a file of candles: find out which column is which, from its name, its position, or its numbers.

Pure: bytes in, a frame out. Without names, the layouts of several programs and exchanges are known; every row has to
confirm the one that is taken, and where two are possible, the file is refused. So is a file whose candles have another
interval, and one of funding rates, mark prices or single trades.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.cells import as_ms
from mltrain.candles.frame import CANDLE_SCHEMA, PRICES, TS_DTYPE, times_ms
from mltrain.candles.open_times import INDEX_NAMES, find_open_times, fold, time_columns
from mltrain.candles.tables import read_cells
from mltrain.candles.understood import FileLayout
from mltrain.candles.volumes import TICKS, UNIT_VOLUME, find_only, find_volumes
from mltrain.errors import InputError
from mltrain.names import join_first, show
from mltrain.times import INTERVALS_MS, format_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.candles.cells import Cells
    from mltrain.candles.open_times import OpenTimes

SUFFIXES: Final = (
    *(".parquet", ".feather", ".arrow", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".json", ".json.gz"),
    *(".jsonl", ".jsonl.gz", ".ndjson", ".zip"),
)

_OHLCV: Final = ("ts", "open", "high", "low", "close", "volume")
_BINANCE: Final = (*_OHLCV, "close_time", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote", "ignore")

#: The columns of files without a header, by their number: freqtrade's, Kraken's, Binance's layout.
BY_PLACE: Final[Mapping[int, tuple[str, ...]]] = {6: _OHLCV, 7: (*_OHLCV, "trades"), 12: _BINANCE}
#: Other orders of columns without names: Coinbase's, Bitfinex's; KuCoin's, Bybit's; Gate's.
_OTHER_ORDERS: Final[Mapping[int, tuple[tuple[str, ...], ...]]] = {
    6: (("ts", "low", "high", "open", "close", "volume"), ("ts", "open", "close", "high", "low", "volume")),
    7: (("ts", "open", "close", "high", "low", "volume", "quote_volume"), (*_OHLCV, "quote_volume")),
    8: (("ts", "quote_volume", "close", "high", "low", "open", "volume", "closed"),),
}
_HEADER_HINT: Final = f"save it as a CSV whose first line names its columns: {','.join(_OHLCV)}"

#: The names that other programs use, as `fold` returns them; the first wins.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price"),
    "volume": (
        *("volume", "v", "vol", "base_volume", "base_asset_volume", "real_volume", "volume_base", "volumefrom"),
        *("volume_from", "vol_ccy"),
    ),
    "quote_volume": (
        *("quote_volume", "quote_asset_volume", "quote_vol", "quotevolume", "qav", "turnover", "volume_quote"),
        *("volumeto", "volume_to", "vol_ccy_quote"),
    ),
    "trades": (
        *("trades", "number_of_trades", "num_trades", "trade_count", "n_trades", "tradecount", "count"),
        *("transactions", "n"),
    ),
    "taker_buy_base": (
        *("taker_buy_base", "taker_buy_base_asset_volume", "taker_buy_base_volume", "taker_buy_volume"),
        *("taker_base_volume", "taker_base_vol"),
    ),
    "taker_buy_quote": (
        *("taker_buy_quote", "taker_buy_quote_asset_volume", "taker_buy_quote_volume"),
        *("taker_quote_volume", "taker_quote_vol"),
    ),
}
_SYMBOLS: Final = ("symbol", "ticker", "pair", "instrument")
#: Whether a candle had ended when it was saved.
_CLOSED: Final = ("confirm", "closed", "is_closed")

# Columns that do not describe a candle: Binance's last one, row numbers, and what the names of the files say already.
_WITHOUT_MEANING: Final = frozenset(
    (*("", "ignore", "id", "interval", "timeframe", "exchange", "market", "base", "quote"), *INDEX_NAMES)
)
_COLUMNS_SHOWN: Final = 6

_IN_QUOTE: Final = ("quote_volume", "taker_buy_quote")

# A run of this many equal steps does not occur by chance even in a sparse market.
_LONG_RUN: Final = 20
# Candles by which an order of columns other than the usual one must be proven.
_PROOF_ROWS: Final = 20
# So many times closer to the close before has the open to be than the close to the open before.
_PROOF_RATIO: Final = 4.0


@dataclass(frozen=True, slots=True)
class CandleRows:
    """The rows of a candle file, and how they were read.

    Attributes:
        rows: In the file's order, with the columns of CANDLE_SCHEMA, null where the file lacks one.
        closes_ms: The close times of a text file in Binance's layout, ms UTC, shape (n,); None for other files.
        layout: What was understood of the file; None if it has no rows.
    """

    rows: pl.DataFrame
    closes_ms: NDArray[np.int64] | None
    layout: FileLayout | None


@dataclass(frozen=True, slots=True)
class NamedColumns:
    """Columns of a table that were recognised, and how.

    Attributes:
        rows: The rows in their order with the columns of CANDLE_SCHEMA, null where the table lacks one.
        columns: The table's own name of each column of CANDLE_SCHEMA that it has, without `ts`.
        times: The open times.
        notes: What was decided although the names do not state it.
    """

    rows: pl.DataFrame
    columns: Mapping[str, str]
    times: OpenTimes
    notes: tuple[str, ...]


def read_rows(
    data: bytes, *, name: str, where: str, step_ms: int, timezone: str | None = None, counts_contracts: bool = False
) -> CandleRows:
    """Return the rows of a candle file in the file's order, and how they were read.

    Args:
        data: The bytes of the file.
        name: The file's name, which ends in one of SUFFIXES.
        where: The file's name in messages.
        step_ms: The interval that its candles must have.
        timezone: The zone of times that state none, as `check_time_zone` returns it; None: UTC.
        counts_contracts: Whether its volumes are numbers of contracts, as those of COIN-M futures: its volumes in the
            quote asset are numbers of coins then, and left empty.

    Returns:
        No rows if the file is a JSON `[]` or a header alone.
    """
    offered: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        offered[:] = names
        return _choose_columns(names, where)

    cells = read_cells(data, name=name, where=where, columns=choose)
    if not cells.frame.width:
        return CandleRows(pl.DataFrame(schema=dict(CANDLE_SCHEMA)), _read_close_times(cells), None)
    if cells.named:
        _choose_columns(cells.frame.columns, where)
        symbols = cells.symbols or _find_symbols(cells)
        cells, notes = _leave_out_open(cells)
        read = read_columns(cells, step_ms, timezone)
    else:
        symbols, notes = cells.symbols, ()
        read = _read_unnamed(cells, step_ms, timezone)
    closes_ms = _read_close_times(cells)
    rows, notes = read.rows, (*cells.notes, *notes, *read.notes, *read.times.notes)
    if cells.named:
        # Only some formats offer their columns before they are read.
        notes = (*notes, *describe_unread(offered or cells.frame.columns))
    empty = _find_empty(rows)
    if empty.any():
        count = int(empty.sum())
        notes = (*notes, f"{count:,} row{'s' * (count > 1)} without prices left out")
        rows, closes_ms = rows.filter(~empty), None if closes_ms is None else closes_ms[~empty.to_numpy()]
    if rows.is_empty():
        return CandleRows(rows, closes_ms, None)
    _refuse_untraded(rows, where)
    emptied = tuple(name for name in _IN_QUOTE if counts_contracts and name in read.columns)
    rows = rows.with_columns(pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in emptied)
    ts_ms = np.sort(times_ms(rows))
    # Three times as fast as np.unique, which hashes the times.
    _check_spacing(ts_ms[np.diff(ts_ms, prepend=ts_ms[:1] - 1) != 0], step_ms, where)
    their_names = {*(read.columns[name] for name in read.columns if name not in emptied), *read.times.columns}
    by_place = {their_name: name for name, their_name in read.columns.items()}
    layout = FileLayout(
        file_format=cells.file_format,
        time=read.times.means,
        unit=read.times.unit,
        zone=read.times.zone,
        columns=tuple(n if cells.named else by_place.get(n, "ts") for n in cells.frame.columns if n in their_names),
        named=cells.named,
        symbols=symbols,
        emptied=emptied,
        notes=notes,
    )
    return CandleRows(rows, closes_ms, layout)


def read_binance_csv(data: bytes, *, where: str, symbol: str, step_ms: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return the rows of one of Binance's CSV files in the file's order, and their close times, ms UTC, shape (n,).

    Args:
        data: The bytes of the CSV, unpacked; with a header or without, times in ms or µs.
        where: The file's name in messages, usually the path or the address.
        symbol: Symbol of the candles, named in messages.
        step_ms: The interval that its candles must have.

    Raises:
        InputError: The file has no rows or no close times.
    """
    where = f"{where}: {symbol}"
    read = read_rows(data, name=".csv", where=where, step_ms=step_ms)
    if read.rows.is_empty():
        raise InputError(f"{where}: no rows")
    if read.closes_ms is None:
        raise InputError(f"{where}: a close time is missing, or is not a number")
    return read.rows, read.closes_ms


def find_columns(names: Sequence[str]) -> list[str]:
    """Return those of a table's columns that may hold candles' times, prices, volumes or symbols, in their order.

    >>> find_columns(["Open time", "Close", "mood", "Volume BTC"])
    ['Open time', 'Close', 'Volume BTC']
    """
    folded = {alias for aliases in _ALIASES.values() for alias in aliases}
    folded |= {*TICKS, *_SYMBOLS, *_CLOSED, "timezone", "time_zone", "tz"}
    times = time_columns(names)
    return [name for name in names if name in times or fold(name) in folded or UNIT_VOLUME.fullmatch(fold(name))]


def describe_unread(names: Sequence[str]) -> tuple[str, ...]:
    """Return a note that names the columns of a table which nothing reads; none if every one is read.

    >>> describe_unread(["ts", "close", "funding", "ignore"])
    ('not read: funding (a registry can declare such columns as `inputs`)',)
    >>> describe_unread(["ts", "close"])
    ()
    """
    read = set(find_columns(names))
    unread = [show(name) for name in names if name not in read and fold(name) not in _WITHOUT_MEANING]
    listed = join_first([name.strip("'") for name in unread], _COLUMNS_SHOWN)
    return (f"not read: {listed} (a registry can declare such columns as `inputs`)",) if unread else ()


def _choose_columns(names: Sequence[str], where: str) -> list[str]:
    """Return the columns to read of a file of candles; an InputError if it lacks times, a price or a volume."""
    folded = {fold(name) for name in names}
    missing = [name for name in PRICES if not folded.intersection(_ALIASES[name])]
    has_volume = folded.intersection((*_ALIASES["volume"], *TICKS)) or any(map(UNIT_VOLUME.fullmatch, folded))
    missing = [*([] if time_columns(names) else ["ts"]), *missing, *([] if has_volume else ["volume"])]
    if not missing:
        return find_columns(names)
    shown = ", ".join(show(name) for name in names[:15])
    for words, what in (
        (("funding",), "funding rates"),
        (("side", "price"), "single trades"),
        (("qty", "price"), "single trades"),
        (("mark_price",), "mark prices"),
        (("index_price",), "index prices"),
    ):
        if "open" in missing and all(any(word in name for name in folded) for word in words):
            raise InputError(f"{where}: holds {what}, not candles: its columns are {shown}", hint="move it elsewhere")
    raise InputError(
        f"{where}: no column for {' and '.join(missing)} among {shown}",
        hint="the first line of a CSV names its columns, with commas: ts,open,high,low,close,volume",
    )


def read_columns(cells: Cells, step_ms: int | None = None, timezone: str | None = None) -> NamedColumns:
    """Return the rows of a table whose columns have names; it may lack any but one of times.

    Args:
        cells: The table.
        step_ms: The interval of the candles; None if it is not known.
        timezone: The zone of times that state none, as `check_time_zone` returns it; None: UTC.

    Raises:
        InputError: A cell is not a time or a number, or two columns that may be the same contradict each other.
    """
    times = find_open_times(cells, step_ms, timezone=timezone)
    names = [name for name in cells.frame.columns if name not in times.columns]
    matches = {
        role: [name for alias in aliases for name in names if fold(name) == alias] for role, aliases in _ALIASES.items()
    }
    matches["ticks"] = [name for name in names if fold(name) in TICKS]
    matches["unit"] = [] if matches["volume"] else [name for name in names if UNIT_VOLUME.fullmatch(fold(name))]
    wanted = {name for found in matches.values() for name in found}
    numbers = cells.to_numbers(cells.frame.select(name for name in names if name in wanted))
    volumes = find_volumes(numbers, matches, cells.where)
    columns = volumes.columns | {
        role: find_only(numbers, found, role, cells.where)
        for role, found in matches.items()
        if found and role in {*PRICES, "trades", "taker_buy_base", "taker_buy_quote"}
    }
    if "trades" in columns:
        trades = numbers[columns["trades"]]
        whole = (trades == trades.round()) & (trades.abs() < 2**53)
        cells.refuse_first(cells.frame[columns["trades"]], ~whole.fill_null(True), "not a whole number")
    rows = numbers.select(
        times.ms.cast(TS_DTYPE).alias("ts"),
        *(
            (pl.col(columns[name]) if name in columns else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in CANDLE_SCHEMA.items()
            if name != "ts"
        ),
    )
    return NamedColumns(rows, columns, times, volumes.notes)


def _find_symbols(cells: Cells) -> tuple[str, ...]:
    """Return the symbol in a column of a file, in a tuple; an InputError if there are several."""
    for name in cells.frame.columns:
        column = cells.frame[name]
        if fold(name) in _SYMBOLS and column.dtype in {pl.String, pl.Categorical}:
            symbols = column.cast(pl.String).drop_nulls().unique().sort().to_list()
            if len(symbols) > 1:
                raise InputError(
                    f"{cells.where}: column {show(name)} names {len(symbols)} symbols: "
                    f"{', '.join(map(show, symbols[:5]))}",
                    hint="save one file per symbol",
                )
            return tuple(symbols)
    return ()


def _leave_out_open(cells: Cells) -> tuple[Cells, tuple[str, ...]]:
    """Leave out the last candle of a file that says of each whether it had ended when it was saved."""
    for name in cells.frame.columns:
        if fold(name) not in _CLOSED:
            continue
        text = cells.frame[name].cast(pl.String).str.strip_chars().str.to_lowercase()
        is_open = text.is_in(["0", "false"]).fill_null(False)
        if text.is_in(["0", "1", "true", "false"]).all() and is_open.any():
            last = cells.frame.filter(~is_open)
            return replace(cells, frame=last), (
                f"{int(is_open.sum())} candle left out that had not ended, by {show(name)}",
            )
    return cells, ()


def _find_empty(rows: pl.DataFrame) -> pl.Series:
    """Return which rows have no price, and no volume above 0: intervals without a trade, as some programs list them."""
    no_price = pl.all_horizontal(pl.col(name).is_null() | pl.col(name).is_nan() for name in PRICES)
    no_volume = pl.col("volume").is_null() | pl.col("volume").is_nan() | (pl.col("volume") == 0)
    return rows.select((no_price & no_volume).alias("empty")).to_series()


def _refuse_untraded(rows: pl.DataFrame, where: str) -> None:
    """Raise an InputError for prices that move without a trade: those of a mark or an index."""
    moves, untraded = rows.select(
        ((pl.col("high") > pl.col("low")).sum() * 2 > pl.len()).alias("moves"), (pl.col("volume") == 0).all()
    ).row(0)
    if rows["volume"].null_count() == rows.height:
        raise InputError(
            f"{where}: volume is empty in every row",
            hint="mark and index prices are no candles; complete the volume, or remove the file",
        )
    if moves and untraded and rows.height >= _LONG_RUN:
        raise InputError(
            f"{where}: volume is 0 in every row, but the prices move: mark or index prices, not candles of trades",
            hint="remove the file, or complete its volume",
        )


def _read_close_times(cells: Cells) -> NDArray[np.int64] | None:
    """Return the close times of a file in Binance's layout, ms UTC, shape (n,).

    None for another layout, and if one is missing or not a whole number.
    """
    names = [fold(name) for name in cells.frame.columns] if cells.named else list(_BINANCE)
    if cells.frame.width < len(_BINANCE) or "close_time" not in names:
        return None
    closes = cells.frame[:, names.index("close_time")].cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
    return None if closes.null_count() else as_ms(closes.to_numpy())


def _read_unnamed(cells: Cells, step_ms: int, timezone: str | None) -> NamedColumns:
    """Return the rows of a file without column names.

    The number of columns gives the layout; every row is checked against it. Another order is taken only if the rows
    allow no other, and prove it.
    """
    width = cells.frame.width
    if {"buy", "sell"}.intersection(map(str, cells.frame.row(0) if cells.frame.height else ())):
        raise InputError(f"{cells.where}: holds single trades, not candles", hint="move it elsewhere")
    usual = BY_PLACE.get(width)
    if usual is _BINANCE:
        return _read_in_order(cells, usual, step_ms, timezone)
    known = ", ".join(f"{number} ({columns[-1]} last)" for number, columns in BY_PLACE.items())
    failure = InputError(f"{cells.where}: no header, and {width} columns: only {known} are known by position")
    if usual is not None:
        try:
            return _read_checked(cells, usual, step_ms, timezone)
        except InputError as err:
            failure = InputError(f"{err.message}; without a header it is taken for {','.join(usual)}")
    read = _read_in_other_order(cells, step_ms, timezone)
    if read is None:
        raise InputError(failure.message, hint=_HEADER_HINT)
    return read


def _read_in_other_order(cells: Cells, step_ms: int, timezone: str | None) -> NamedColumns | None:
    """Return the rows of a file without names in the order of another exchange, if they prove it; None otherwise."""
    for names in _OTHER_ORDERS.get(cells.frame.width, ()):
        try:
            read = _read_checked(cells, names, step_ms, timezone)
        except InputError:
            continue
        # High and low are proven by being the highest and the lowest price in every row.
        if _compare_opens(read.rows) > _PROOF_RATIO:
            note = f"without names, its columns are {' '.join(names)}: its prices allow no other order"
            return replace(read, notes=(*read.notes, note))
    return None


def _read_checked(cells: Cells, names: Sequence[str], step_ms: int, timezone: str | None) -> NamedColumns:
    """Return the rows of a file as if its columns had these names; an InputError if they are no candles then."""
    read = _read_in_order(cells, names, step_ms, timezone)
    _check_guessed_layout(read.rows, cells)
    if _compare_opens(read.rows) < 1 / _PROOF_RATIO:
        raise InputError(f"{cells.where}: its candles open far from the close before: open and close are exchanged")
    return read


def _read_in_order(cells: Cells, names: Sequence[str], step_ms: int, timezone: str | None) -> NamedColumns:
    """Return the rows of a file without names as if its columns had these."""
    frame = cells.frame.rename(dict(zip(cells.frame.columns, names, strict=True)))
    named, notes = _leave_out_open(replace(cells, frame=frame.drop("ignore", "close_time", strict=False)))
    read = read_columns(named, step_ms, timezone)
    if "quote_volume" in read.columns and names is not _BINANCE and read.columns["quote_volume"] != "quote_volume":
        raise InputError(f"{cells.where}: its volumes are in another order")
    positions = dict(zip(names, cells.frame.columns, strict=True))
    columns = {name: positions[their_name] for name, their_name in read.columns.items()}
    times = replace(read.times, columns=(positions["ts"],))
    return replace(read, columns=columns, times=times, notes=(*notes, *read.notes))


def _compare_opens(rows: pl.DataFrame) -> float:
    """Return how much closer candles open to the close before them than they would with open and close exchanged.

    Returns:
        The ratio of the sums of the distances, above 1 for candles read rightly; 1 if too few candles move.
    """
    sorted_rows = rows.sort("ts")
    opens, closes = sorted_rows["open"].to_numpy(), sorted_rows["close"].to_numpy()
    if int((opens != closes).sum()) < _PROOF_ROWS:
        return 1.0
    as_read, exchanged = np.abs(opens[1:] - closes[:-1]).sum(), np.abs(closes[1:] - opens[:-1]).sum()
    return float(exchanged / max(as_read, 1e-300))


def _check_guessed_layout(rows: pl.DataFrame, cells: Cells) -> None:
    """Raise an InputError for rows that are no candles in this order: some files put close second, an average sixth."""
    if rows["volume"].null_count() == rows.height:
        raise InputError(f"{cells.where}: volume is empty in every row")
    highest, lowest = pl.max_horizontal("open", "low", "close"), pl.min_horizontal("open", "close")
    bad = rows.select(((pl.col("high") < highest) | (pl.col("low") > lowest)).fill_null(True).arg_true()).to_series()
    if bad.len():
        row = rows.row(bad[0], named=True)
        prices = ", ".join(f"{name} {row[name]}" for name in ("open", "high", "low", "close"))
        raise InputError(f"{cells.name_row(bad[0])}: {prices} cannot be a candle")
    if rows.select(pl.col("volume").is_between("low", "high").all()).item():
        raise InputError(f"{cells.where}: its sixth column lies between low and high in every row, as an average does")


def _check_spacing(ts_ms: NDArray[np.int64], step_ms: int, where: str) -> None:
    """Raise an InputError if most candles are closer together than `step_ms`, or a long run of them is farther apart.

    Args:
        ts_ms: Open times, ms UTC, shape (n,), strictly increasing.
        step_ms: The expected interval.
        where: The file's name in messages.
    """
    steps_ms = np.diff(ts_ms)
    if steps_ms.size == 0:
        return
    median_ms = int(np.median(steps_ms))
    run_starts = np.flatnonzero(np.diff(steps_ms, prepend=-1))
    run_lengths = np.diff(run_starts, append=steps_ms.size)
    wide = (steps_ms[run_starts] > step_ms) & (run_lengths >= max(2, min(_LONG_RUN, steps_ms.size)))
    if median_ms >= step_ms and not wide.any():
        return
    first_row = int(run_starts[wide][0]) if wide.any() else 0
    actual = interval_name(int(steps_ms[first_row]) if wide.any() else median_ms)
    from_time, expected = format_ms(int(ts_ms[first_row])), interval_name(step_ms)
    raise InputError(
        f"{where}: its candles are {actual} apart from {from_time} on, not {expected}",
        hint=f"pass --interval {actual}" if actual in INTERVALS_MS else None,
    )
