"""Inputs: the user's own columns, as tables of values with the time since when each was known.

An input is one column of a file that has, in another column, the time at which each value became known. In the table
made of it, each symbol has the values in the order of these times; where the file has no column `symbol`, the values
are for all symbols.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE, values_sha256
from mltrain.candles.open_times import read_instants
from mltrain.candles.parquet import ParquetFile, parquet_options
from mltrain.candles.symbols import read_symbol
from mltrain.candles.tables import read_cells
from mltrain.candles.time_zones import check_time_zone
from mltrain.documents.records import OMIT_DEFAULT, Encoded, Key, Limits, RecordError, record
from mltrain.errors import InputError, UsageError
from mltrain.names import FEATURE, did_you_mean, join_first, show
from mltrain.times import DAY_MS, LAST_MS, SECOND_MS, ceil_to_grid, format_duration, format_ms, parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.candles.cells import Cells

SYMBOL_COLUMN: Final = "symbol"
#: Names that an input cannot have: columns of candles and tables, and one that the computation of features adds.
RESERVED: Final = (*CANDLE_SCHEMA, SYMBOL_COLUMN, "consecutive_bars")
# Columns that a message names.
_COLUMNS_SHOWN: Final = 12
# A smaller time is no time: numbers of rows read as seconds lie in 1970.
_FIRST_MS: Final = 1_000 * DAY_MS
# Columns that may hold times, such as the end of a period or of a correction.
_TIME_NAME: Final = re.compile(
    r"time|date|stamp|until|period|publi|releas|revis|correct|known|valid|(?:^|_)(?:at|ts|end|close)(?:$|_)|End$|At$",
    re.IGNORECASE,
)
_FARTHEST_TIME_MS: Final = 400 * DAY_MS
# Ten years: who means "never too old" can say so.
_MAX_AGE_MS: Final = 3_650 * DAY_MS


_FILE_COLUMNS: Final = (
    (SYMBOL_COLUMN, "string"),
    ("known_at", "timestamp[ms, tz=UTC]"),
    ("value", "double"),
)


@record
@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input that a registry declares.

    Attributes:
        name: Its name, by which ops read it.
        file: Name of the file, without a folder.
        column: The file's column of values.
        known_at: The file's column of the times since when each value was known.
        max_age_ms: How long a value may be used after that time, in ms.
        timezone: The zone of times that state none; None: such times are refused.
    """

    name: Annotated[str, FEATURE]
    file: Annotated[str, re.compile(r"[A-Za-z0-9_][^/\\\x00-\x1f]{0,119}")]
    column: Annotated[str, re.compile(r"[^\x00-\x1f]{1,120}")]
    known_at: Annotated[str, re.compile(r"[^\x00-\x1f]{1,120}")]
    max_age_ms: Annotated[int, Encoded(str, parse_duration, format_duration), Key("max_age")]
    timezone: Annotated[str | None, OMIT_DEFAULT] = None

    def __post_init__(self) -> None:
        violations: list[tuple[tuple[str | int, ...], str]] = []
        if self.name in RESERVED or self.name.startswith("leader_"):
            violations.append((("name",), f"{self.name} is the name of another column: choose a different one"))
        if self.column in {self.known_at, SYMBOL_COLUMN}:
            violations.append((("column",), f"{show(self.column)} is not a column of values: it is known_at or symbol"))
        if not SECOND_MS <= self.max_age_ms <= _MAX_AGE_MS:
            violations.append((("max_age",), f"must be 1s to {format_duration(_MAX_AGE_MS)}"))
        if self.timezone is not None:
            try:
                check_time_zone(self.timezone)
            except UsageError as err:
                violations.append((("timezone",), f"{err.message}; {err.hint}"))
        if violations:
            raise RecordError(*violations)


@dataclass(frozen=True, slots=True, eq=False)
class KnownValues:
    """The values of an input for one symbol, or for all.

    Attributes:
        known_ms: Time since when each value was known, ms UTC, shape (n,), strictly increasing.
        values: The values, shape (n,), finite.
    """

    known_ms: NDArray[np.int64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        is_valid = (
            self.known_ms.shape == self.values.shape == (self.known_ms.size,)
            and bool((np.diff(self.known_ms) > 0).all())
            and bool(np.isfinite(self.values).all())
        )
        if not is_valid:
            raise ValueError("values of an input are finite, in the order of strictly increasing times")


_NO_VALUES: Final = KnownValues(np.empty(0, np.int64), np.empty(0, np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class InputTable:
    """The values of an input, for all symbols or for each.

    Attributes:
        for_all: The values for all symbols; None if each symbol has its own.
        by_symbol: The values of each symbol; empty if they are for all.
    """

    for_all: KnownValues | None = None
    by_symbol: Mapping[str, KnownValues] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.for_all is not None and self.by_symbol:
            raise ValueError("the values of an input are for all symbols, or for each")

    @property
    def rows(self) -> int:
        """The number of values, all symbols together."""
        return sum(each.values.size for each in self._parts())

    @property
    def known_range(self) -> tuple[int, int] | None:
        """The first and the last time since when a value was known, ms UTC; None without values."""
        times = [each.known_ms for each in self._parts() if each.known_ms.size]
        return (min(int(t[0]) for t in times), max(int(t[-1]) for t in times)) if times else None

    def of(self, symbol: str) -> KnownValues:
        """Return the values for a symbol; none if the table does not have it."""
        return self.for_all if self.for_all is not None else self.by_symbol.get(symbol, _NO_VALUES)

    def _parts(self) -> Sequence[KnownValues]:
        return (self.for_all,) if self.for_all is not None else tuple(self.by_symbol.values())

    def within(self, first_ms: int, last_ms: int, symbols: Sequence[str]) -> InputTable:
        """Return the values that the closes of some symbols from a first to a last one, ms UTC, may have.

        These are all that became known between them, and the newest known at the first, however old it is.
        """

        def cut(known: KnownValues) -> KnownValues:
            start, stop = np.searchsorted(known.known_ms, [first_ms, last_ms], side="right")
            rows = slice(max(0, int(start) - 1), int(stop))
            return KnownValues(known.known_ms[rows], known.values[rows])

        if self.for_all is not None:
            return InputTable(for_all=cut(self.for_all))
        parts = {symbol: cut(self.by_symbol[symbol]) for symbol in sorted(symbols) if symbol in self.by_symbol}
        return InputTable(by_symbol={symbol: part for symbol, part in parts.items() if part.values.size})

    def to_frame(self) -> pl.DataFrame:
        """Return the table as `known_at`, `value` and, unless it is for all symbols, `symbol` first; sorted by them."""
        parts = sorted(self.by_symbol.items()) if self.for_all is None else [("", self.for_all)]
        schema = {SYMBOL_COLUMN: pl.String(), "known_at": TS_DTYPE, "value": pl.Float64()}
        frame = pl.concat(
            [
                pl.DataFrame(schema=schema),
                *(
                    pl.DataFrame({"known_at": pl.Series(each.known_ms).cast(TS_DTYPE), "value": each.values}).select(
                        pl.lit(symbol).alias(SYMBOL_COLUMN), pl.all()
                    )
                    for symbol, each in parts
                ),
            ]
        )
        return frame if self.for_all is None else frame.drop(SYMBOL_COLUMN)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> InputTable:
        """Return the table that a frame with the columns of `to_frame` holds, sorted and unique.

        Raises:
            ValueError: The frame is not sorted, or a value is missing or infinite.
        """
        if SYMBOL_COLUMN not in frame.columns:
            return cls(for_all=_take_values(frame))
        parts = frame.partition_by(SYMBOL_COLUMN, maintain_order=True)
        return cls(by_symbol={str(part[SYMBOL_COLUMN][0]): _take_values(part) for part in parts})


def _take_values(frame: pl.DataFrame) -> KnownValues:
    """Return the columns `known_at` and `value` of a frame."""
    return KnownValues(frame["known_at"].to_physical().to_numpy(), frame["value"].to_numpy())


@record
@dataclass(frozen=True, slots=True)
class LaterTimes:
    """Another column of times in the file of an input, which lies after the known-at time in some rows.

    Attributes:
        column: The column.
        rows: In how many rows it is later.
        longest_ms: By how much at most, in whole seconds, rounded up, as ms.
    """

    column: str
    rows: Annotated[int, Limits(1)]
    longest_ms: Annotated[int, Limits(SECOND_MS)]

    def describe(self, spec_name: str, known_at: str) -> str:
        """Return a warning, which says what it may mean.

        >>> LaterTimes("period_end", 90, 86_400_000).describe("funding", "stamp")
        'the input funding: period_end is later than stamp in 90 rows, by up to 1d: a value was not known before its \
period ended, or before it was corrected; if that is what period_end says, declare `known_at: period_end`'
        """
        return (
            f"the input {spec_name}: {self.column} is later than {known_at} in {self.rows} rows, by up to "
            f"{format_duration(self.longest_ms)}: a value was not known before its period ended, or before it was "
            f"corrected; if that is what {self.column} says, declare `known_at: {self.column}`"
        )


@dataclass(frozen=True, slots=True, eq=False)
class InputRead:
    """An input as read.

    Attributes:
        table: The values.
        empty: Number of rows dropped because they have no value.
        repeated: Number of rows dropped because another one says the same.
        zone: The zone that the file states for its times, or that was given; "" for numbers.
        later: Other columns of times that lie after the known-at time in some rows.
    """

    table: InputTable
    empty: int
    repeated: int
    zone: str
    later: tuple[LaterTimes, ...] = ()


def input_sha256(table: InputTable) -> str:
    """Return the SHA-256 of an input's values, which does not depend on the library that wrote their file."""
    digest = hashlib.sha256(b"mltrain input 1\n")
    frame = table.to_frame()
    parts = frame.partition_by(SYMBOL_COLUMN, maintain_order=True) if SYMBOL_COLUMN in frame.columns else [frame]
    for part in parts:
        symbol = str(part[SYMBOL_COLUMN][0]) if SYMBOL_COLUMN in part.columns else "all"
        digest.update(values_sha256(part, ("known_at", "value"), head=f"{symbol}\n".encode()).encode())
    return digest.hexdigest()


def encode_input(table: InputTable) -> bytes:
    """Encode an input as Parquet; nothing is written to disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("known_at", pa.timestamp("ms", "UTC")), ("value", pa.float64())]
    schema = pa.schema(fields if table.for_all is not None else [(SYMBOL_COLUMN, pa.string()), *fields])
    sink = io.BytesIO()
    writer: Any
    with pq.ParquetWriter(sink, schema, **parquet_options()) as writer:
        writer.write_table(table.to_frame().to_arrow().cast(schema))
    return sink.getvalue()


def decode_input(data: bytes, *, rows: int, where: str) -> InputTable:
    """Read a Parquet file of an input whose hash has been verified.

    Raises:
        InputError: Columns, types, number or order of rows are not those that `encode_input` writes.
    """
    file = ParquetFile(data, where=where)
    columns = tuple(file.types.items())
    if file.rows != rows or columns not in {_FILE_COLUMNS, _FILE_COLUMNS[1:]}:
        found = ", ".join(f"{name} {dtype}" for name, dtype in columns)
        raise InputError(f"{where}: expected {rows} values of an input, got {file.rows} rows of {found}")
    try:
        return InputTable.from_frame(file.read(list(file.types)))
    except ValueError as err:
        raise InputError(f"{where}: {err}") from err


def read_input(spec: InputSpec, data: bytes, *, where: str) -> InputRead:
    """Read an input from its file, of any format that `read_cells` knows.

    Args:
        spec: The input's declaration.
        data: The bytes of the file `spec.file`.
        where: The file's name in messages.

    Raises:
        InputError: The file is damaged or lacks a column, a time is missing, not a time or without a zone, a value is
            not a number or infinite, or two values of one symbol were known since the same time.
    """

    def choose(names: Sequence[str]) -> list[str]:
        _check_columns(spec, names, where)
        needed = {spec.column, spec.known_at, _find_symbol_column(names)}
        return [name for name in names if name in needed or _TIME_NAME.search(name)]

    return normalise_input(spec, read_cells(data, name=spec.file, where=where, columns=choose))


def normalise_input(spec: InputSpec, cells: Cells) -> InputRead:
    """Turn the cells of a table into the values of an input; errors as in `read_input`."""
    frame = cells.frame
    _check_columns(spec, frame.columns if cells.named else (), cells.where)
    value = cells.to_numbers(frame.select(spec.column)).to_series().cast(pl.Float64).fill_nan(None)
    cells.refuse_first(value, value.is_infinite().fill_null(False), "not a finite number")
    # 32 bits hold seconds since 1970 in steps of 128, so a time may be a minute too early.
    if frame[spec.known_at].dtype == pl.Float32:
        raise InputError(
            f"{cells.where}: column {show(spec.known_at)} is Float32, too coarse for times: "
            "expected Float64 or integers",
            hint="write the file again from the exact times",
        )
    times = read_instants(cells, spec.known_at, timezone=spec.timezone)
    is_time = times.ms.is_between(_FIRST_MS, LAST_MS)
    cells.refuse_first(frame[spec.known_at], ~is_time, "not a time between 1973 and 9999")
    columns = {"known_at": times.ms.cast(TS_DTYPE), "value": value}
    symbol_column = _find_symbol_column(frame.columns)
    if symbol_column is not None:
        columns = {SYMBOL_COLUMN: _read_symbols(cells, symbol_column), **columns}
    rows = pl.DataFrame(columns)
    known = rows.drop_nulls("value")
    keys = [name for name in columns if name != "value"]
    # -0.0 and 0.0 are one value.
    known = known.with_columns(pl.col("value") + 0.0)
    unique = known.unique().sort(keys)
    _refuse_two_values(unique, keys, cells.where)
    zone = "" if times.is_number else times.zone or spec.timezone or ""
    return InputRead(
        InputTable.from_frame(unique),
        empty=rows.height - known.height,
        repeated=known.height - unique.height,
        zone=zone,
        later=tuple(_find_later_times(spec, cells, times.ms)),
    )


def _find_later_times(spec: InputSpec, cells: Cells, known_ms: pl.Series) -> Iterator[LaterTimes]:
    """Yield the other columns of times, by their names and values, that lie after the known-at time in some rows."""
    for name in cells.frame.columns:
        if name in {spec.column, spec.known_at} or not _TIME_NAME.search(name):
            continue
        try:
            times = read_instants(cells, name, timezone=spec.timezone)
        except (InputError, pl.exceptions.PolarsError):
            # Not times, or of an unknown zone; nothing depends on them.
            continue
        after_ms = (times.ms - known_ms).drop_nulls().to_numpy()
        later_ms = after_ms[after_ms > 0]
        # Numbers that are no times are years away.
        if later_ms.size and np.abs(after_ms).max() <= _FARTHEST_TIME_MS:
            longest_ms = ceil_to_grid(int(later_ms.max()), SECOND_MS)
            yield LaterTimes(name, rows=later_ms.size, longest_ms=longest_ms)


def _check_columns(spec: InputSpec, names: Sequence[str], where: str) -> None:
    """Raise an InputError if a file with these columns lacks one that the input is declared to have."""
    # The readers of text number the columns of one name.
    repeated = [name for name in (spec.column, spec.known_at) if f"{name}_duplicated_0" in names]
    if repeated:
        raise InputError(
            f"{where}: there are two columns {show(repeated[0])}, and the input {spec.name} reads one of them",
            hint="rename or remove one",
        )
    missing = [name for name in (spec.column, spec.known_at) if name not in names]
    if missing:
        found = join_first([show(name) for name in names], _COLUMNS_SHOWN) if names else "none with a name"
        raise InputError(
            f"{where}: there is no column {' and no column '.join(map(show, missing))} for the input {spec.name}: "
            f"its columns are {found}",
            hint=did_you_mean(missing[0], names),
        )


def _find_symbol_column(names: Sequence[str]) -> str | None:
    """Return the column called `symbol`, in small or large letters; None if there is none."""
    return next((name for name in names if name.lower() == SYMBOL_COLUMN), None)


def _read_symbols(cells: Cells, name: str) -> pl.Series:
    """Return a column of symbols, as they are spelled everywhere."""
    column = cells.frame[name]
    if column.dtype not in {pl.String, pl.Categorical, pl.Enum, pl.Null}:
        raise InputError(f"{cells.where}: column {name} is {column.dtype}, not text")
    texts = column.cast(pl.String)
    cells.refuse_first(texts, texts.is_null(), "a value for all symbols is in a table without this column")
    spelled: dict[str, str] = {}
    for text in texts.unique().to_list():
        try:
            spelled[text] = read_symbol(text)
        except UsageError as err:
            cells.refuse_first(texts, texts == text, "not a symbol", hint=err.hint)
    return texts.replace_strict(spelled, return_dtype=pl.String) if spelled else texts


def _refuse_two_values(rows: pl.DataFrame, keys: Sequence[str], where: str) -> None:
    """Raise an InputError if sorted rows without repetition have two values for one symbol and time."""
    repeated = rows.filter(rows.select(pl.struct(keys).is_duplicated()).to_series())
    if repeated.height:
        first, second = repeated.row(0, named=True), repeated.row(1, named=True)
        at = format_ms(int(repeated["known_at"].to_physical()[0]))
        of = f"{first[SYMBOL_COLUMN]} has" if SYMBOL_COLUMN in keys else "there are"
        raise InputError(
            f"{where}: {of} two values known since {at}: {first['value']} and {second['value']}",
            hint="a corrected value is known since its correction: give it that time"
            + ("" if SYMBOL_COLUMN in keys else "; values of several symbols need a column called symbol"),
        )
