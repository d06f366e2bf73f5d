"""Scales and drawings: positions, ticks, and text that is always escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.report.scales import linear_scale, log_scale, time_scale
from mltrain.report.svg import (
    DotRow,
    Plot,
    Segment,
    Strip,
    draw_bar_rows,
    draw_dot_rows,
    draw_sparkline,
    draw_strips,
    draw_text,
    make_svg,
)
from mltrain.times import DAY_MS

NUMBERS = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-6)
HOSTILE = "</title></svg><script>alert(1)</script>&\"'"
DRAWN = {"svg", "title", "desc", "text", "line", "rect", "circle", "path"}
SPACE = "{http://www.w3.org/2000/svg}"


def parsed(svg):
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))  # noqa: S314 (our own)


@settings(max_examples=100)
@given(low=NUMBERS, width=st.floats(1e-5, 1e9), value=NUMBERS, other=NUMBERS)
def test_places_keep_the_order_and_stay_inside(low, width, value, other):
    """Positions are non-decreasing in the value and inside [0, 1]."""
    scale = linear_scale(low, low + width, "x")
    a, b = sorted((value, other))

    assert 0 <= scale.position(a) <= scale.position(b) <= 1


@settings(max_examples=100)
@given(low=NUMBERS, width=st.floats(1e-4, 1e6))
def test_ticks_are_few_inside_and_distinct(low, width):
    """Ticks lie inside the scale, are at most seven, and no two have the same text."""
    scale = linear_scale(low, low + width, "x")
    values, texts = [v for v, _ in scale.ticks], [t for _, t in scale.ticks]

    assert len(scale.ticks) <= 7
    assert all(scale.low - 1e-6 * width <= v <= scale.high + 1e-6 * width for v in values)
    if abs(low) < 1e6 * width:
        assert len(values) >= 2
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("low", "high", "percent", "texts"),
    [
        (0, 1, True, ["0%", "25%", "50%", "75%", "100%"]),
        (0.49, 0.55, True, ["50%", "52%", "54%"]),
        (0.6871, 0.6889, False, ["0.6875", "0.688", "0.6885"]),
        (0, 4000, False, ["0", "1,000", "2,000", "3,000", "4,000"]),
        (3, 3, False, ["2.9", "3", "3.1"]),
    ],
)
def test_ticks_are_round_numbers(low, high, percent, texts):
    """Ticks have round steps, no needless digits, and commas; an empty range is widened."""
    assert [t for _, t in linear_scale(low, high, "x", percent=percent).ticks] == texts


@settings(max_examples=100)
@given(low=st.integers(0, 2_000_000_000_000), span=st.integers(1, 4_000 * DAY_MS))
def test_ticks_of_time_are_whole_hours_inside(low, span):
    """Ticks of time are whole hours UTC, inside the range, and at most six."""
    scale = time_scale(low, low + span)

    assert len(scale.ticks) <= 6
    assert all(v % 3_600_000 == 0 and low <= v <= low + span for v, _ in scale.ticks)


@pytest.mark.parametrize(("low", "high"), [(3.0, 4.0), (0.001, 10), (1e-7, 1e7), (5, 5)])
def test_a_logarithmic_scale_always_has_ticks(low, high):
    """Ranges below a decade have ticks, and ranges of many decades at most 16."""
    ticks = log_scale(low, high, "x").ticks

    assert 1 <= len(ticks) <= 16
    assert log_scale(1, 100, "x").position(10) == pytest.approx(0.5)


def test_no_text_leaves_its_element():
    """Hostile text in labels, tooltips, titles and descriptions is shown as text, never read as markup."""
    scale = linear_scale(0, 1, HOSTILE)
    plot = Plot(scale, scale)
    plot.add_dots([0.5], [0.5], "dot c1", tips=[HOSTILE])
    plot.add_horizontal(0.5, HOSTILE, "rule")
    plot.add_vertical(0.5, HOSTILE, "rule")
    rows = [Strip(HOSTILE, HOSTILE, (Segment(0, 1, "fill c1", HOSTILE, mark=True),))]
    bodies = [
        plot.render(),
        draw_strips(rows, scale)[0],
        draw_bar_rows([(HOSTILE, ((0.5, "fill c1"),), HOSTILE)])[0],
        draw_dot_rows([DotRow(HOSTILE, 0.5, (0.4, 0.6), HOSTILE)], scale, reference=0.5, other_css="c1")[0],
        draw_text(HOSTILE, 0, 0),
    ]
    whole = parsed(make_svg("figure", HOSTILE, HOSTILE, "".join(bodies), height_px=100))

    assert {e.tag.removeprefix(SPACE) for e in whole.iter()} <= DRAWN
    assert [whole.find(SPACE + t).text for t in ("title", "desc")] == [HOSTILE, HOSTILE]
    assert sum(e.text == HOSTILE for e in whole.iter()) >= 12


def test_a_screen_reader_reads_one_picture():
    """A figure has the role of an image, and is labelled by the title and description inside it."""
    whole = parsed(draw_sparkline("spark", "Accuracy", [0.5, 0.52, 0.51]))
    ids = {e.get("id"): e.text for e in whole.iter() if e.get("id")}

    assert whole.get("role") == "img"
    assert [ids[i] for i in whole.get("aria-labelledby").split()] == ["Accuracy", "3 values, from 0.5 to 0.51"]


def test_bars_and_dots_lie_where_their_values_are():
    """A bar reaches from the bottom to its value, a dot is centred on its value, and a marked segment has a line."""
    plot = Plot(linear_scale(0, 10, "x"), linear_scale(0, 4, "y"))
    plot.add_bars([(0, 5, 1)], "fill c1")
    plot.add_dots([2.5], [3], "dot c1")
    whole = parsed(make_svg("p", "t", "d", plot.render(), height_px=9))
    bar, dot = (next(whole.iter(SPACE + tag)) for tag in ("rect", "circle"))
    row = draw_strips([Strip("a", "b", (Segment(5, 5, "fill bad", mark=True),))], linear_scale(0, 10, "x"))[0]

    assert (bar.get("x"), bar.get("width"), bar.get("y"), bar.get("height")) == (
        "0.000%", "50.000%", "75.000%", "25.000%",
    )  # fmt: skip
    assert (dot.get("cx"), dot.get("cy")) == ("25.00%", "25.00%")
    assert '<line class="mark fill bad" x1="50.000%"' in row
