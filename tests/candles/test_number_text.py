"""Numbers in text are read in the style that the file proves, or not at all."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.cells import Cells
from mltrain.candles.number_text import find_style, to_numbers
from mltrain.errors import InputError

READ = [
    (["91529,74", "1"], [91529.74, 1.0]),
    (["91,529.74", "1,000"], [91529.74, 1000.0]),
    (["91.529,74", "91.529"], [91529.74, 91529.0]),
    (["1234.125", "1.125"], [1234.125, 1.125]),
    (["0,125", "0,500"], [0.125, 0.5]),
    (["0.125", "1.125"], [0.125, 1.125]),
    (["1 234,5", "1\u00a0234\u202f567"], [1234.5, 1234567.0]),
    (["1'234.50"], [1234.5]),
    (["1,234,567"], [1234567.0]),
    (["1e-8", "2.5E+3"], [1e-8, 2500.0]),
    (["5", "7"], [5.0, 7.0]),
]


@pytest.mark.parametrize(("texts", "expected"), READ)
def test_the_style_is_found(texts, expected):
    """Whichever character separates decimals and groups digits."""
    column = pl.Series(texts)
    mark = find_style([column], point_only=False)

    assert pl.select(to_numbers(pl.lit(column), mark)).to_series().to_list() == expected


@pytest.mark.parametrize("texts", [["91,529", "12"], ["91.529", "12"], ["1,234", "999"]])
def test_a_style_that_nothing_proves_is_none(texts):
    """91,529 may be 91529 or 91.529."""
    assert find_style([pl.Series(texts)], point_only=False) is None


def test_a_plain_point_is_decimal_where_commas_separate_fields():
    """Otherwise every CSV with three decimals would be refused."""
    assert find_style([pl.Series(["91.529", "12"])], point_only=True) == "."


@pytest.mark.parametrize("text", ["1 5", "1_5", "0x10", "12,34,5", "1.2.3", "1,23.4", "--1", "1,", ",", ".", "e5"])
def test_other_texts_are_no_numbers(text):
    """In neither style, among numbers with points."""
    value = pl.select(to_numbers(pl.lit(pl.Series(["1.25", text])), ".")).to_series()[1]

    assert value is None or text == "1,"


@given(st.lists(st.floats(0, 1e12), min_size=1), st.sampled_from(["{:,.8f}", "{:.8f}"]), st.booleans())
def test_any_number_survives_both_styles(numbers, style, german):
    """With eight decimals, with and without groups of digits."""
    texts = [style.format(number) for number in numbers]
    texts = [text.translate(str.maketrans(",.", ".,")) for text in texts] if german else texts
    column = pl.Series(texts)
    mark = find_style([column], point_only=False)

    assert mark == ("," if german else ".")
    assert pl.select(to_numbers(pl.lit(column), mark)).to_series().to_list() == [float(f"{n:.8f}") for n in numbers]


def test_the_refusal_gives_both_readings():
    """With the line and the column."""
    cells = Cells(pl.DataFrame({"Close": ["12", "91,529"]}), "a.csv", "line", 2, point_only=False)

    with pytest.raises(InputError, match=r"^a\.csv: line 3: Close is '91,529': 91529 or 91\.529\? no number") as err:
        cells.to_numbers(cells.frame)
    assert "decimal point" in err.value.hint


def test_what_stands_for_an_empty_cell_is_null():
    """As pandas, Yahoo and spreadsheets write it."""
    texts = ["1.5", "NaN", "null", "None", "N/A", " ", "-"]

    assert Cells(pl.DataFrame(), "x").to_numbers(pl.DataFrame({"a": texts}))["a"].to_list() == [1.5, *[None] * 6]
