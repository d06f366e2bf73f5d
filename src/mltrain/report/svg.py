"""Draw plots and rows of bars, dots and strips as inline SVG. Pure.

Drawings stretch with the page, their text does not: positions are shares of the plot's width and height, letters are
in CSS pixels, so a figure is legible at 400 and at 1400 pixels. Colours are classes of `style.css`, which has a light
and a dark scheme. Every text is escaped here; nothing else in a figure comes from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final, TypeAlias

from mltrain.report.scales import linear_scale, widen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.report.scales import Scale

# Units of the plot's own coordinates, for curves: finer than any screen.
_GRID: Final = 10_000.0
# Ticks of y below this share of the height would lie on the axis; they get no label.
_LAST_LABEL: Final = 0.97
# Above the plot: the name of y. Below it: the ticks and the name of x.
_TOP_PX: Final = 32
_BOTTOM_PX: Final = 40

# A strip row: one line of text and a strip below it.
_ROW_PX: Final = 42
_STRIP_PX: Final = 14
# A bar or dot row: name, drawing and value on one line.
_LINE_PX: Final = 24
_AXIS_PX: Final = 40
# Shares of the figure's width: the name, one value, two values.
_NAME_WIDTH: Final = 0.40
_VALUE_WIDTH: Final = 0.18
_VALUES_WIDTH: Final = 0.30
# Letters of a name that fit on a narrow page.
_NAME_LETTERS: Final = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its title and caption.

    Attributes:
        title: What the picture shows.
        reading: How to read it, one or two sentences.
        svg: The picture; every text in it is escaped.
        legend: Class of each mark, and its meaning.
        wide: Whether it takes the full width of the page.
        rows: Whether it consists of named rows, which are limited in width.
    """

    title: str
    reading: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()
    wide: bool = False
    rows: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that cannot be drawn: its title, and one sentence that says why."""

    title: str
    why: str


Shown: TypeAlias = Figure | Missing


def figure(
    name: str,
    title: str,
    plot: Plot | tuple[str, int],
    *,
    reading: str,
    alt: str,
    legend: tuple[tuple[str, str], ...] = (),
    wide: bool = False,
    rows: bool = False,
) -> Figure:
    """Return a plot, or rows with their height in pixels, as a figure; arguments as in `Figure`.

    Args:
        name: The figure's id on the page.
        title: What the figure shows.
        plot: The drawing.
        reading: How to read it.
        alt: Its content in words, for screen readers.
        legend: Class of each mark, and its meaning.
        wide: Whether it takes the full width of the page.
        rows: Whether it consists of named rows.
    """
    body, height_px = plot if isinstance(plot, tuple) else (plot.body(), plot.height_px + _TOP_PX + _BOTTOM_PX)
    return Figure(title, reading, picture(name, title, alt, body, height_px=height_px), legend, wide, rows)


def picture(name: str, title: str, description: str, body: str, *, height_px: int) -> str:
    """Return an SVG element that a screen reader announces as one picture, as wide as the page allows."""
    ids = f"{name}-title", f"{name}-desc"
    return (
        f'<svg class="figure" role="img" width="100%" height="{height_px}" aria-labelledby="{ids[0]} {ids[1]}">'
        f'<title id="{ids[0]}">{escape(title)}</title><desc id="{ids[1]}">{escape(description)}</desc>{body}</svg>'
    )


def text(
    value: str, x: float, y: float, *, anchor: str = "start", css: str = "t", dx: int = 0, dy: int = 0, tip: str = ""
) -> str:
    """Return text at a share of width and height, moved by dx, dy pixels; `tip` is its tooltip."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    moved = (f' dx="{dx}"' if dx else "") + (f' dy="{dy}"' if dy else "")
    return (
        f'<text class="{css}" x="{x * 100:.2f}%" y="{y * 100:.2f}%"{moved} text-anchor="{anchor}">'
        f"{title}{escape(value)}</text>"
    )


def _tick_anchor(at: float, label: str) -> str:
    """Return the anchor of a tick's label at a share of the width, so that a narrow page does not cut it off."""
    # Half of the label's width on a page of 400 pixels.
    room = 0.011 * len(label)
    return "start" if at < room else "end" if at > 1 - room else "middle"


def _with_tip(shape: str, tip: str) -> str:
    """Return an empty element with a tooltip."""
    name = shape[1:].split(" ", 1)[0]
    return f"{shape[:-2]}><title>{escape(tip)}</title></{name}>" if tip else shape


@dataclass(slots=True)
class Plot:
    """A plot with two scales; later marks lie above earlier ones.

    Attributes:
        x: From left to right.
        y: From the bottom up.
        height_px: Height without the names of the scales.
        inset: Share of the width that is kept free for the labels of y.
    """

    x: Scale
    y: Scale
    height_px: int = 220
    inset: float = 0.0
    _curves: list[str] = field(default_factory=list)
    _marks: list[str] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float], css: str) -> None:
        """Draw a line through points."""
        if len(xs):
            self._curves.append(f'<path class="{css}" d="{self.path(xs, ys)}"/>')

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Return the SVG path through points, in the plot's own units."""
        points = zip(xs, ys, strict=True)
        return "M" + "L".join(f"{self._across(x) * _GRID:.0f} {(1 - self.y.at(y)) * _GRID:.0f}" for x, y in points)

    def steps(self, xs: Sequence[float], ys: Sequence[float], css: str) -> None:
        """Draw a line that stays at each value until the next."""
        twice_x = [xs[0], *(x for x in xs[1:] for _ in range(2))]
        twice_y = [y for y in ys[:-1] for _ in range(2)]
        self.line(twice_x, [*twice_y, ys[-1]], css)

    def area(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], css: str) -> None:
        """Fill the area between two lines."""
        outline = self.path([*xs, *xs[::-1]], [*highs, *lows[::-1]])
        self._curves.append(f'<path class="{css}" d="{outline}Z"/>')

    def bars(self, edges: Sequence[tuple[float, float, float]], css: str, tips: Sequence[str] = ()) -> None:
        """Draw bars (left, right, height) from the bottom."""
        for ix, (left, right, value) in enumerate(edges):
            x0, x1, top = self._across(left), self._across(right), self.y.at(value)
            shape = (
                f'<rect class="{css}" x="{x0 * 100:.3f}%" y="{(1 - top) * 100:.3f}%" '
                f'width="{max(x1 - x0, 0) * 100:.3f}%" height="{top * 100:.3f}%"/>'
            )
            self._marks.append(_with_tip(shape, tips[ix] if tips else ""))

    def dots(
        self, xs: Sequence[float], ys: Sequence[float], css: str, *, radius: float = 3.5, tips: Sequence[str] = ()
    ) -> None:
        """Draw points."""
        for ix, (x, y) in enumerate(zip(xs, ys, strict=True)):
            shape = (
                f'<circle class="{css}" cx="{self._across(x) * 100:.2f}%" cy="{(1 - self.y.at(y)) * 100:.2f}%" '
                f'r="{radius:g}"/>'
            )
            self._marks.append(_with_tip(shape, tips[ix] if tips else ""))

    def whiskers(self, xs: Sequence[float], intervals: Sequence[tuple[float, float]], css: str) -> None:
        """Draw vertical lines, each from the low to the high end of an interval."""
        for x, (low, high) in zip(xs, intervals, strict=True):
            at = f"{self._across(x) * 100:.2f}%"
            self._marks.append(
                f'<line class="{css}" x1="{at}" x2="{at}" y1="{(1 - self.y.at(low)) * 100:.2f}%" '
                f'y2="{(1 - self.y.at(high)) * 100:.2f}%"/>'
            )

    def vertical(self, value: float, label: str, css: str, *, row: int = 0) -> None:
        """Draw a line across the plot at a value of x, its label at the top, `row` lines down."""
        x = self._across(value)
        anchor, dx = ("end", -5) if x > 0.6 else ("start", 5)
        self._marks.append(
            f'<line class="{css}" x1="{x * 100:.2f}%" x2="{x * 100:.2f}%" y1="0" y2="100%"/>'
            + text(label, x, 0, anchor=anchor, css="t halo", dx=dx, dy=12 + 15 * row)
        )

    def horizontal(self, value: float, label: str, css: str) -> None:
        """Draw a line across the plot at a value of y, its label below the right end."""
        y = 1 - self.y.at(value)
        self._marks.append(
            f'<line class="{css}" x1="0" x2="100%" y1="{y * 100:.2f}%" y2="{y * 100:.2f}%"/>'
            + text(label, 1, y, anchor="end", css="t halo", dx=-4, dy=14)
        )

    def body(self) -> str:
        """Return all marks with the grid, the ticks and the names of the scales."""
        levels = [((1 - self.y.at(v)), label) for v, label in self.y.ticks]
        grid = "".join(
            f'<line class="gridline" x1="0" x2="100%" y1="{y * 100:.2f}%" y2="{y * 100:.2f}%"/>' for y, _ in levels
        )
        y_ticks = "".join(text(label, 0, y, css="t tick halo", dx=2, dy=-4) for y, label in levels if y < _LAST_LABEL)
        x_ticks = "".join(
            text(label, at, 1, anchor=_tick_anchor(at, label), css="t tick", dy=15)
            for at, label in ((self._across(value), label) for value, label in self.x.ticks)
        )
        curves = (
            f'<svg width="100%" height="100%" viewBox="0 0 {_GRID:.0f} {_GRID:.0f}" preserveAspectRatio="none" '
            f'overflow="visible">{"".join(self._curves)}</svg>'
        )
        return (
            f'<svg x="1%" y="{_TOP_PX}" width="98%" height="{self.height_px}" overflow="visible">{grid}{curves}'
            f'<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>{"".join(self._marks)}{y_ticks}{x_ticks}</svg>'
            + text(self.y.name, 0.01, 0, css="t name", dy=11)
            + text(self.x.name, 0.99, 1, anchor="end", css="t name", dy=-4)
        )

    def _across(self, value: float) -> float:
        return self.inset + (1 - self.inset) * self.x.at(value)


def sparkline(name: str, title: str, values: Sequence[float], *, zero: bool = False) -> str:
    """Return a small curve through one or more finite values at equal distances, its last point marked.

    Args:
        name: Its id on the page.
        title: What it shows; the description gives its ends.
        values: One or more, finite.
        zero: Whether to include and mark the level of zero.
    """
    ends = [*values, 0.0] if zero else list(values)
    y = linear_scale(*widen(min(ends), max(ends), pad=0.15), "")
    plot = Plot(linear_scale(0, max(len(values) - 1, 1), ""), y)
    level = f"{(1 - y.at(0)) * 100:.1f}%"
    base = f'<line class="rule ideal" x1="0" x2="100%" y1="{level}" y2="{level}"/>' if zero else ""
    body = (
        f'{base}<svg x="2%" width="96%" height="100%" viewBox="0 0 {_GRID:.0f} {_GRID:.0f}" '
        f'preserveAspectRatio="none" overflow="visible">'
        f'<path class="line c1" d="{plot.path(list(range(len(values))), values)}"/></svg>'
        f'<circle class="dot c1" cx="{plot.x.at(len(values) - 1) * 96 + 2:.1f}%" '
        f'cy="{(1 - y.at(values[-1])) * 100:.1f}%" r="3"/>'
    )
    description = f"{len(values)} values, from {values[0]:.4g} to {values[-1]:.4g}"
    return picture(name, title, description, body, height_px=36)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a strip.

    Attributes:
        start: Where it starts on the strip's scale.
        end: Where it ends.
        css: Its class.
        tip: Its tooltip.
        mark: Whether to add a line of fixed width, so that a minute is visible in a year.
    """

    start: float
    end: float
    css: str
    tip: str = ""
    mark: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One row: its name and a note above its segments."""

    name: str
    note: str
    segments: tuple[Segment, ...]


def strips(rows: Sequence[Strip], scale: Scale) -> tuple[str, int]:
    """Draw rows of segments over one scale, its ticks below; returns the body and its height in pixels."""
    bottom = len(rows) * _ROW_PX
    grid, ticks = [], []
    for value, label in scale.ticks:
        at = scale.at(value)
        place = f"{_indent(at) * 100:.2f}%"
        grid.append(f'<line class="gridline" x1="{place}" x2="{place}" y1="4" y2="{bottom + 4}"/>')
        ticks.append(text(label, _indent(at), 0, anchor=_tick_anchor(at, label), css="t tick", dy=bottom + 18))
    found = []
    for ix, row in enumerate(rows):
        top_px = ix * _ROW_PX
        found += [
            text(row.name, 0.01, 0, css="t strong halo", dy=top_px + 15),
            text(row.note, 0.99, 0, anchor="end", css="t halo", dy=top_px + 15),
        ]
        for part in row.segments:
            x0, x1 = _indent(scale.at(part.start)), _indent(scale.at(part.end))
            y, h = top_px + 21, _STRIP_PX
            width = f"{(x1 - x0) * 100:.3f}%"
            shape = f'<rect class="{part.css}" x="{x0 * 100:.3f}%" y="{y}" width="{width}" height="{h}"/>'
            found.append(_with_tip(shape, part.tip))
            if part.mark:
                middle = f"{(x0 + x1) / 2 * 100:.3f}%"
                shape = f'<line class="mark {part.css}" x1="{middle}" x2="{middle}" y1="{y - 3}" y2="{y + h + 3}"/>'
                found.append(_with_tip(shape, part.tip))
    name = text(scale.name, 0.99, 0, anchor="end", css="t name", dy=bottom + 34)
    return "".join([*grid, *found, *ticks, name]), bottom + _AXIS_PX


def _indent(share: float) -> float:
    return 0.01 + 0.98 * share


def bar_rows(rows: Sequence[tuple[str, Sequence[tuple[float, str]], str]]) -> tuple[str, int]:
    """Draw named rows of thin bars; returns the body and its height in pixels.

    Args:
        rows: The name; length (a share from 0 to 1) and class of each bar; the text at the end.
    """
    found = []
    room = 1 - _NAME_WIDTH - _VALUES_WIDTH
    for ix, (name, bars, note) in enumerate(rows):
        top = ix * _LINE_PX
        found.append(_row_name(name, top))
        thick = 14 // len(bars)
        for k, (share, css) in enumerate(bars):
            found.append(
                f'<rect class="{css}" x="{_NAME_WIDTH * 100:.0f}%" y="{top + 5 + k * (thick + 1)}" '
                f'width="{max(share * room, 0.002) * 100:.2f}%" height="{thick}"/>'
            )
        found.append(text(note, 0.99, 0, anchor="end", dy=top + 16))
    return "".join(found), len(rows) * _LINE_PX + 6


def dot_rows(
    rows: Sequence[tuple[str, float, tuple[float, float] | None, str]], scale: Scale, *, zero: float, others: str
) -> tuple[str, int]:
    """Draw named rows of one dot each, with its interval; returns the body and its height in pixels.

    Args:
        rows: The name; the value; its interval, or None; the text at the end.
        scale: The scale of the values.
        zero: Where to draw the reference line.
        others: Class of the dots after the first, which is c1.
    """

    def place(value: float) -> float:
        return _NAME_WIDTH + scale.at(value) * (1 - _NAME_WIDTH - _VALUE_WIDTH)

    bottom = len(rows) * _LINE_PX
    grid, ticks = [], []
    for value, label in scale.ticks:
        at = f"{place(value) * 100:.2f}%"
        grid.append(f'<line class="gridline" x1="{at}" x2="{at}" y1="0" y2="{bottom}"/>')
        ticks.append(text(label, place(value), 0, anchor="middle", css="t tick", dy=bottom + 14))
    at = f"{place(zero) * 100:.2f}%"
    found = [f'<line class="axis" x1="{at}" x2="{at}" y1="0" y2="{bottom}"/>']
    for ix, (name, value, interval, note) in enumerate(rows):
        y, css = ix * _LINE_PX + 12, others if ix else "c1"
        found.append(_row_name(name, ix * _LINE_PX))
        if interval is not None:
            x0, x1 = (f"{place(end) * 100:.2f}%" for end in interval)
            found.append(f'<line class="whisker {css}" x1="{x0}" x2="{x1}" y1="{y}" y2="{y}"/>')
        found += [
            f'<circle class="dot {css}" cx="{place(value) * 100:.2f}%" cy="{y}" r="4"/>',
            text(note, 0.99, 0, anchor="end", dy=y + 4),
        ]
    name = text(scale.name, 0.99, 0, anchor="end", css="t name", dy=bottom + 32)
    return "".join([*grid, *found, *ticks, name]), bottom + _AXIS_PX


def _row_name(name: str, top_px: int) -> str:
    """Return a row's name; a long one is shortened, with the whole name as its tooltip."""
    if len(name) <= _NAME_LETTERS:
        return text(name, 0.01, 0, dy=top_px + 16)
    return text(name[: _NAME_LETTERS - 1] + "…", 0.01, 0, dy=top_px + 16, tip=name)
