"""Tables fit the width of the terminal without losing content."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from mltrain.cli.tables import Column, Framed, bar, folding, optional, right, table

COLUMNS = ("version", *optional("trained (UTC)"), *folding("why it stays"), *right("rows"))
ROWS = [
    ("2025-10-15", "2025-10-15 12:00", "it is the best one, and a service reads it just now", "17,246"),
    ("2025-10-15.2", "2025-10-15 13:00", None, "5"),
]


def shown(part, width, *, terminal=False, **more):
    """Return the output of a console of that width, without trailing spaces."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=terminal, markup=False, highlight=False, **more).print(part)
    assert all(Text(line).cell_len <= width for line in out.getvalue().splitlines()) or terminal
    return re.sub(" +$", "", out.getvalue(), flags=re.MULTILINE)


def test_a_wide_terminal_gets_one_line_per_row():
    """There are headers, a rule and a line per row; numbers are right-aligned."""
    lines = shown(table("Versions", *COLUMNS, rows=ROWS), 140).splitlines()

    assert lines == [
        "Versions",
        "version       trained (UTC)     why it stays                                           rows",
        "─" * 91,
        "2025-10-15    2025-10-15 12:00  it is the best one, and a service reads it just now  17,246",
        "2025-10-15.2  2025-10-15 13:00  -                                                         5",
    ]


def test_a_narrow_terminal_drops_optional_columns_first():
    """An optional column is dropped before a row is broken up; cells wrap at spaces."""
    lines = shown(table(None, *COLUMNS, rows=ROWS), 50).splitlines()

    assert "trained" not in lines[0]
    assert lines[2] == "2025-10-15    it is the best one, and a     17,246"
    assert lines[3] == "              service reads it just now"


def test_without_room_a_row_is_a_paragraph():
    """Each row begins with its first cell, and every other cell follows its header."""
    assert shown(table(None, *COLUMNS, rows=ROWS), 33).splitlines() == [
        "2025-10-15",
        "  trained (UTC) 2025-10-15 12:00",
        "  why it stays it is the best",
        "  one, and a service reads it",
        "  just now",
        "  rows 17,246",
        "2025-10-15.2",
        "  trained (UTC) 2025-10-15 13:00",
        "  rows 5",
    ]


@given(
    st.lists(st.tuples(*[st.text("abc ABC.é界", max_size=30).map(str.strip)] * 4), max_size=4),
    st.integers(20, 160),
    st.lists(st.sampled_from(("left", "right", "folding")), min_size=4, max_size=4),
)
def test_no_line_is_too_long_and_no_letter_is_lost(rows, width, kinds):
    """At any width each line fits, and all letters of all cells are printed."""
    out = shown(
        table(None, *[Column(header, kind) for header, kind in zip("abcd", kinds, strict=True)], rows=rows), width
    )

    for row in rows:
        for letter in "BC.é界":
            assert out.count(letter) == sum(cell.count(letter) for r in rows for cell in r), row


def test_a_bar_takes_the_remaining_width():
    """The longest bar shrinks with the terminal and is never cut off."""
    bars = table(None, *right("ms"), bar(""), rows=[("1", "1.0"), ("2", "0.5")])

    assert shown(bars, 140).splitlines()[2:] == [" 1  " + "━" * 48, " 2  " + "━" * 24]
    assert shown(bars, 20).splitlines()[2:] == [" 1  " + "━" * 16, " 2  " + "━" * 8]


@pytest.mark.parametrize(
    ("terminal", "dumb", "boxed"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_frame_is_drawn_only_on_a_terminal(terminal, dumb, boxed):
    """A pipe and a dumb terminal get the title as a line above the content."""
    environment = {"TERM": "dumb" if dumb else "xterm-256color"}
    out = shown(Framed("GO", (Text("well"),), "green"), 40, terminal=terminal, _environ=environment)

    assert ("╭" in out) == boxed
    assert "GO" in out
    assert "well" in out


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "TERM": "xterm-256color"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(environment):
    """Coloured words are plain under NO_COLOR and on a dumb terminal."""
    part = table(None, "gate", "outcome", rows=[("skill", "failed")])
    wanted = shown(part, 40, terminal=True, _environ={"TERM": "xterm-256color"})
    unwanted = shown(part, 40, terminal=True, _environ=environment)

    assert "\x1b[1;31mfailed" in wanted
    assert "31m" not in unwanted
