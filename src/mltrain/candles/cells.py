"""The cells of a table in a file, and the numbers in them; errors name line, column and value.

Pure. A cell that could be read in two ways is refused. Whether a row is a possible candle is checked elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.number_text import empty_cells, find_style, to_numbers
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.times import MICROS_FROM

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a table in a file, and how messages name a row of it.

    Attributes:
        frame: Text, numbers or times, null where empty.
        where: The name of its file in messages.
        row_word: What messages call a row: "line" in text, "row" in any other format.
        first_number: The number of the first row in messages.
        named: Whether the file names its columns; if not, they are known by position only.
        file_format: The format of the file, such as "csv with semicolons".
        point_only: Whether numbers have a decimal point unless some have commas: in all formats but CSV, and in CSV
            with commas between its fields.
        above: The text above the line of names; it may name a time zone.
        symbols: The symbols that the file names outside its rows.
        notes: What was passed over.
    """

    frame: pl.DataFrame
    where: str
    row_word: str = "row"
    first_number: int = 1
    named: bool = True
    file_format: str = ""
    point_only: bool = True
    above: str = ""
    symbols: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def name_row(self, row: int) -> str:
        """Return what messages call a row, such as "a.csv: line 3"; `row` counts from 0."""
        return f"{self.where}: {self.row_word} {row + self.first_number}"

    def to_numbers(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Return columns of numbers, or of numbers as text, as floats; null where a cell is empty.

        Raises:
            InputError: A column has another type, a cell is not a number, or the numbers may have a decimal comma.
        """
        for name, dtype in cells.schema.items():
            if not (dtype.is_numeric() or dtype in {pl.String, pl.Null}):
                raise InputError(f"{self.where}: column {name} is {dtype}, not numbers")
        texts = [name for name, dtype in cells.schema.items() if dtype == pl.String]
        cells = cells.with_columns(empty_cells(pl.col(name)).alias(name) for name in texts)
        mark = find_style((cells[name] for name in texts), point_only=self.point_only)
        if mark is None:
            raise self._two_styles(cells.select(texts))
        numbers = cells.with_columns(pl.all().cast(pl.Float64, strict=False))
        for name in texts:
            # In most files every number is plain, and the pattern takes much longer.
            if mark == "," or numbers[name].null_count() != cells[name].null_count():
                numbers = numbers.with_columns(cells.select(to_numbers(pl.col(name), mark)).to_series())
        for name in cells.columns:
            if numbers[name].null_count() != cells[name].null_count():
                self.refuse_first(cells[name], numbers[name].is_null() & cells[name].is_not_null(), "not a number")
        return numbers

    def _two_styles(self, cells: pl.DataFrame) -> InputError:
        """Return the error for numbers that may have a decimal mark or a thousands separator."""
        one_mark = r"^[+-]?[0-9]{1,3}[.,][0-9]{3}$"
        name = next(name for name in cells.columns if cells[name].str.contains(one_mark).any())
        row = cells[name].str.contains(one_mark).arg_true()[0]
        text = cells[name][row]
        plain = text.replace(",", "").replace(".", "")
        return InputError(
            f"{self.name_row(row)}: {name} is {show(text)}: {plain} or {text.replace(',', '.')}? no number of the file "
            "shows which",
            hint="save the numbers with a decimal point and without thousands separators",
        )

    def refuse_first(self, cells: pl.Series, is_bad: pl.Series, problem: str, *, hint: str | None = None) -> None:
        """Raise an InputError for the first cell of a column where `is_bad` is true, if there is one."""
        rows = is_bad.arg_true()
        if rows.len():
            value = cells[rows[0]]
            shown = "missing" if value is None else show(value) if isinstance(value, str) else value
            more = f" (and {rows.len() - 1} more)" if rows.len() > 1 else ""
            message = f"{self.name_row(rows[0])}: {cells.name} is {shown}: {problem}{more}"
            raise InputError(message, hint=hint or "correct that cell, or download the file again")


def as_ms(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return times in ms or µs since 1970, distinguished by size, as ms, rounded down; shape (n,)."""
    return np.where(times >= MICROS_FROM, times // 1000, times)
