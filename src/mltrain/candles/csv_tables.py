"""Tables in CSV and its relatives: fields separated by commas, semicolons or tabs, as cells of text.

Pure. Lines above the line of names are passed over if they cannot be part of the table; two more lines of names, as
yfinance writes them, are understood. A line with too many or too few fields, or with a quotation mark that is not
closed, is refused: its numbers would be read as those of other columns.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.cells import Cells
from mltrain.candles.open_times import fold, is_time_name
from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEPARATORS: Final = {",": "csv", ";": "csv with semicolons", "\t": "csv with tabs"}
# Lines that may come before the first row, and bytes of the longest one.
_HEAD_LINES: Final = 30
_MAX_LINE: Final = 1 << 17
_COMMENT: Final = re.compile(r"\s*(?:#|//|%)+\s*")
_PRICES: Final = {"open", "high", "low", "close", "o", "h", "l", "c"}
# Columns of candles that a line of names has at least.
_KNOWN_NAMES: Final = 3
_DATE: Final = re.compile(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}\b")
_TICKER_NAMES: Final = {"ticker", "tickers", "symbol", ""}
_QUOTED: Final = re.compile(rb'"[^"]*"')
_READ_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class _Head:
    """The lines of a CSV before its first row.

    Attributes:
        lines: Their number.
        separator: What separates the fields.
        names: The names of the columns; None if there is no line of names.
        above: The text above the names.
        symbols: The symbols that another line of names states.
        notes: What was passed over.
    """

    lines: int
    separator: str
    names: list[str] | None
    above: str = ""
    symbols: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_csv(data: bytes, where: str, *, max_cells: int) -> Cells:
    """Return the cells of a CSV as text; it has no line of names if its first field is a number or a date.

    Args:
        data: The bytes of the file, without a byte order mark.
        where: The file's name in messages.
        max_cells: The largest accepted number of lines times columns.

    Raises:
        InputError: The file is empty, too large, not UTF-8, or a line has another number of fields than the first.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:200].count(b"\0") > len(data[:200]) // 4:
        raise InputError(f"{where}: is UTF-16", hint="save it as UTF-8")
    text = data.lstrip(b"\r\n")
    # One line end may stay: removing it would copy the whole text.
    if text[-4:].count(b"\n") > 1 or text.endswith(b"\r"):
        text = text.rstrip(b"\r\n")
    if not text:
        raise InputError(f"{where}: not a readable CSV file: nothing is in it")
    first_lines = [line[:_MAX_LINE] for line in io.BytesIO(text[: _HEAD_LINES * _MAX_LINE]).readlines(_MAX_LINE)]
    head = _read_head([line.decode("utf-8", "replace").rstrip("\r\n") for line in first_lines[:_HEAD_LINES]], where)
    # Empty lines may come before the first line with text.
    first_number = 1 + data.count(b"\n", 0, data.index(text[:1])) + head.lines
    start = 0
    for _ in range(head.lines):
        start = text.find(b"\n", start) + 1 or len(text)
    body, separator = text[start:], head.separator.encode()
    line_end = body.find(b"\n")
    first = _QUOTED.sub(b"", body[:line_end] if line_end >= 0 else body)
    width = first.count(separator) + 1 if head.names is None else len(head.names)
    lines = body.count(b"\n") + (not body.endswith(b"\n")) if body else 0
    # Each cell takes 16 bytes and more, even an empty one.
    if (lines + head.lines) * width > max_cells:
        raise InputError(f"{where}: {lines + head.lines} lines of {width} columns: at most {max_cells} cells are read")
    names = [f"column_{i + 1}" for i in range(width)] if head.names is None else _make_unique(head.names)
    frame = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    if body:
        refuse = partial(
            _refuse_ragged_line, body, separator=separator, width=width, first_number=first_number, where=where
        )
        if b'"' in body:
            refuse()
        try:
            frame = pl.read_csv(body, has_header=False, new_columns=names, infer_schema=False, separator=head.separator)
        except _READ_ERRORS as err:
            refuse()
            reason = (str(err).splitlines() or [type(err).__name__])[0][:200]
            raise InputError(f"{where}: not a readable CSV file: {reason}") from err
        # If the total is right in spite of a short line, another line is too long, which Polars has refused.
        if frame.width != width or body.count(separator) != lines * (width - 1):
            refuse()
    return Cells(
        frame,
        where,
        row_word="line",
        first_number=first_number,
        named=head.names is not None,
        file_format=_SEPARATORS[head.separator],
        # MetaTrader writes decimal points in any country.
        point_only=head.separator == "," or any("<" in name for name in names),
        above=head.above,
        symbols=head.symbols,
        notes=head.notes,
    )


def _read_head(lines: list[str], where: str) -> _Head:
    """Find the line of names among the first lines of a CSV, and what separates its fields."""
    for i, line in enumerate(lines):
        plain = _COMMENT.sub("", line, count=1)
        known = {sep: sum(_is_known(name) for name in _split(plain, sep)) for sep in _SEPARATORS}
        separator = max(known, key=lambda sep: known[sep])
        fields = _split(line, _find_separator(line))
        if known[separator] >= _KNOWN_NAMES:
            return _read_names(lines, i, _split(plain, separator), separator, where)
        if _is_counted(fields):
            # pandas' to_csv of a list of rows: 0,1,2,3,4,5.
            note = f"line {i + 1} numbers the columns and was passed over"
            return _Head(i + 1, _find_separator(line), None, above="\n".join(lines[:i]), notes=(note,))
        if _starts_row(fields):
            above = [j for j in range(i) if not _COMMENT.match(lines[j])]
            if above:
                # The columns are none of a candle's: their names are in the first line that has as many.
                separator = _find_separator(line)
                at = next((j for j in above if len(_split(lines[j], separator)) == len(fields)), above[0])
                return _read_names(lines, at, _split(lines[at], separator), separator, where)
            return _Head(i, _find_separator(line), None, above="\n".join(lines[:i]), notes=_note_above(i))
    first = next((i for i, line in enumerate(lines) if not _COMMENT.match(line)), 0)
    return _Head(first + 1, ",", [name.strip() for name in _split(lines[first], ",")], above="\n".join(lines[:first]))


def _read_names(lines: list[str], at: int, names: list[str], separator: str, where: str) -> _Head:
    """Return the head of a CSV whose names are in line `at`, with the lines around it that belong to the names."""
    names = [name.strip() for name in names]
    symbols: list[str] = []
    count = at + 1
    for i in (at - 1, at + 1, at + 2):
        fields = [field.strip() for field in _split(lines[i], separator)] if 0 <= i < len(lines) else []
        if len(fields) != len(names) or len(fields) < _KNOWN_NAMES or _starts_row(fields) or i > count:
            continue
        if not any(fields[1:]):
            names[0] = fields[0] if i > at else names[0]
        elif fold(fields[0]) in _TICKER_NAMES and not any(map(_is_number, fields[1:])):
            symbols += sorted(set(fields[1:]))
        else:
            continue
        count = max(count, i + 1)
    if len(symbols) > 1:
        raise InputError(
            f"{where}: its columns are of {len(symbols)} symbols: {', '.join(map(show, symbols[:5]))}",
            hint="save one file per symbol",
        )
    return _Head(count, separator, names, "\n".join(lines[:at]), tuple(symbols), _note_above(0 if symbols else at))


def _note_above(count: int) -> tuple[str, ...]:
    """Return a note on lines that were passed over at the top of a file."""
    return (f"{count} line{'s' * (count > 1)} above the table passed over",) if count else ()


def _split(line: str, separator: str) -> list[str]:
    """Return the fields of a line."""
    try:
        return next(csv.reader([line.replace("\0", "")], delimiter=separator), None) or [""]
    except csv.Error:
        return [line]


def _find_separator(line: str) -> str:
    """Return what separates the fields of a row: where commas are decimal marks, there are semicolons or tabs too."""
    return next((separator for separator in ("\t", ";") if separator in line), ",")


def _is_known(name: str) -> bool:
    """Return whether a name is that of a price, or of a time."""
    return fold(name) in _PRICES or is_time_name(name.strip())


def _starts_row(fields: Sequence[str]) -> bool:
    """Return whether fields are those of a row, not names: the first one is a number or a date."""
    return _is_number(fields[0]) or _DATE.match(fields[0].strip(" '\"")) is not None


def _is_counted(fields: Sequence[str]) -> bool:
    """Return whether fields are 0, 1, 2 and so on."""
    return len(fields) > _KNOWN_NAMES and [field.strip() for field in fields] == [str(i) for i in range(len(fields))]


def _is_number(field: str) -> bool:
    """Return whether a field, quoted or not, is a number."""
    try:
        float(field.strip(" '\"").replace(",", "."))
    except ValueError:
        return False
    return True


def _make_unique(names: Sequence[str]) -> list[str]:
    """Return names with `_duplicated_0` and so on after those that were there before, as Polars calls them."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        unique.append(f"{name}_duplicated_{seen[name] - 1}" if seen.get(name) else name)
        seen[name] = seen.get(name, 0) + 1
    return unique


def _refuse_ragged_line(text: bytes, *, separator: bytes, width: int, first_number: int, where: str) -> None:
    """Raise an InputError for the first line of a CSV without `width` fields, or with an open quotation.

    `first_number` is the number of the first line.
    """
    for number, line in enumerate(io.BytesIO(text), start=first_number):
        plain = line
        if b'"' in line:
            if line.count(b'"') % 2:
                excerpt = show(line.decode("utf-8", "replace").rstrip("\r\n"))
                raise InputError(
                    f"{where}: line {number}: a quotation mark is not closed: {excerpt}",
                    hint="download the file again, or correct the line",
                )
            plain = _QUOTED.sub(b"", line)
        fields = plain.count(separator) + 1
        if fields != width:
            raise InputError(
                f"{where}: line {number} has {fields} field{'s' * (fields > 1)}, the first line {width}",
                hint="download the file again, or correct the line",
            )
