"""CSV files as spreadsheets and other programs write them become the same cells."""

from __future__ import annotations

import polars as pl
import pytest

from mltrain.candles.csv_tables import read_csv
from mltrain.candles.layouts import read_rows
from mltrain.errors import InputError
from mltrain.times import HOUR_MS

NAMES = "time,open,high,low,close,volume"
ROWS = "1767571200,1,2,0.5,1.5,10\n1767574800,1.5,2.5,1,2,20\n"


def read(text):
    return read_csv(text.encode(), "a.csv", max_cells=1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        f"{NAMES}\n{ROWS}",
        f"https://www.CryptoDataDownload.com\n{NAMES}\n{ROWS}",
        f"Created on 05-18-2019,https://www.CryptoDataDownload.com\n{NAMES}\n{ROWS}",
        f"# exported\n// by hand\n{NAMES}\n{ROWS}",
        f"# {NAMES}\n{ROWS}",
        f"sep=;\n{NAMES}\n{ROWS}".replace(",", ";"),
        f"{NAMES}\n{ROWS}".replace(",", "\t"),
        f"{NAMES}\n{ROWS}".replace("\n", "\r\n"),
        f"Price,open,high,low,close,volume\nTicker,BTC,BTC,BTC,BTC,BTC\ntime,,,,,\n{ROWS}",
        f"Ticker,BTC,BTC,BTC,BTC,BTC\n{NAMES}\n{ROWS}",
        '"time","open","high","low","close","volume"\n' + ROWS.replace("10\n", '"10"\n'),
    ],
)
def test_names_are_found_below_other_lines(text):
    """Whatever stands above them, and whatever separates the fields."""
    cells = read(text)

    assert cells.frame.columns == NAMES.split(",")
    assert cells.frame["close"].to_list() == ["1.5", "2"]
    assert cells.named


@pytest.mark.parametrize("text", [ROWS, f"# comment\n{ROWS}", f"0,1,2,3,4,5\n{ROWS}", ROWS.replace(",", ";")])
def test_a_file_without_names_has_numbered_columns(text):
    """Numbers of columns, as pandas writes them, are no row."""
    cells = read(text)

    assert not cells.named
    assert cells.frame.height == 2
    assert cells.frame["column_6"].to_list() == ["10", "20"]


def test_lines_are_counted_from_the_top_of_the_file():
    """With the lines that were passed over."""
    text = f"https://example.com\n{NAMES}\n{ROWS}1767578400,x,2,1,2,3\n"

    with pytest.raises(InputError, match="^a.csv: line 5: open is 'x': not a number"):  # noqa: RUF043
        read_rows(text.encode(), name="a.csv", where="a.csv", step_ms=HOUR_MS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{NAMES}\n1767571200,1,2,0.5,1.5,"10\n', "line 2: a quotation mark is not closed"),
        (f'{NAMES}\n1767571200,1,2,0.5,1.5,"10",7\n', "line 2 has 7 fields, the first line 6"),
        (f"{NAMES}\n{ROWS}1767578400,1,2\n", "line 4 has 3 fields, the first line 6"),
        (f"{NAMES},\n{ROWS}", "line 2 has 6 fields, the first line 7"),
        ("Price,open,close,high,open,close\nTicker,BTC,BTC,BTC,ETH,ETH\n" + ROWS, "its columns are of 2 symbols"),
        ("t\0i\0m\0e\0,\0", "is UTF-16"),
    ],
)
def test_lines_that_do_not_fit_are_refused(text, message):
    """Their numbers would be read as those of other columns."""
    with pytest.raises(InputError, match=f"^a.csv: {message}"):
        read(text)


def test_a_column_that_is_there_twice_keeps_both():
    """Plots of indicators have one name; two closes that differ are refused later."""
    cells = read(f"{NAMES},Plot,Plot\n" + ROWS.replace("\n", ",7,8\n"))

    assert cells.frame.columns[-2:] == ["Plot", "Plot_duplicated_0"]
    text = f"{NAMES},close\n" + ROWS.replace("\n", ",7\n")
    with pytest.raises(InputError, match="two columns for close that disagree"):
        read_rows(text.encode(), name="a.csv", where="a.csv", step_ms=HOUR_MS)


def test_a_german_spreadsheet_gives_the_numbers_of_an_english_one():
    """Semicolons and decimal commas; thousands in quotation marks."""
    frames = [
        read_rows(text.encode(), name="a.csv", where="a.csv", step_ms=HOUR_MS).rows
        for text in (
            f"{NAMES}\n1767571200,91529.74,92426.82,91514.81,92405.46,2061.87264\n",
            f"{NAMES}\n".replace(",", ";") + "1767571200;91.529,74;92.426,82;91.514,81;92.405,46;2.061,87264\n",
            f'{NAMES}\n1767571200,"91,529.74","92,426.82","91,514.81","92,405.46","2,061.87264"\n',
        )
    ]

    assert all(frame.equals(frames[0]) for frame in frames)
    assert frames[0]["open"].to_list() == [91529.74]


def test_any_table_that_polars_writes_is_read():
    """With quotation marks around every field, too."""
    frame = pl.DataFrame({"time": ["1"], "open": ["2"], "high": ["3,5"], "low": ["4;5"], "close": ["5"]})

    assert read(frame.write_csv(quote_style="always")).frame.equals(frame)
