"""Draw plots and rows of bars, dots and strips as inline SVG. Pure.

Drawings stretch with the page, their text does not: positions are shares of the picture's width and height, letters
are in CSS pixels, so a figure is legible at 400 and at 1400 pixels. Colours are classes of `style.css`, which has a
light and a dark scheme. Every text is escaped here; nothing else in a figure comes from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final, TypeAlias

from mltrain.report.scales import linear_scale, widen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.report.scales import Scale

# Width and height of the coordinate system of curves: finer than any screen.
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
# Width of a letter as a share of a plot's width, on a narrow page.
_LETTER_WIDTH: Final = 0.021
# Letters of a name that fit on a narrow page.
_NAME_LETTERS: Final = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its title and caption.

    Attributes:
        title: What the picture shows.
        reading: How to read it, one or two sentences.
        svg: The picture; every text in it is escaped.
        height_px: Its height in CSS pixels.
        legend: CSS class of each mark, and its meaning.
        wide: Whether it takes the full width of the page.
        named_rows: Whether it consists of named rows, whose width the page limits.
    """

    title: str
    reading: str
    svg: str
    height_px: int
    legend: tuple[tuple[str, str], ...] = ()
    wide: bool = False
    named_rows: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that cannot be drawn: its title, and one sentence that says why."""

    title: str
    why: str


Shown: TypeAlias = Figure | Missing


def make_figure(
    name: str,
    title: str,
    drawing: Plot | tuple[str, int],
    *,
    reading: str,
    alt: str,
    legend: tuple[tuple[str, str], ...] = (),
    wide: bool = False,
    named_rows: bool = False,
) -> Figure:
    """Return a figure of a plot, or of SVG elements with their height in CSS pixels.

    `name` is the figure's id on the page, `alt` its content in words for screen readers; the other arguments are the
    attributes of `Figure`.
    """
    if isinstance(drawing, tuple):
        body, height_px = drawing
    else:
        body, height_px = drawing.render(), drawing.height_px + _TOP_PX + _BOTTOM_PX
    svg = make_svg(name, title, alt, body, height_px=height_px)
    return Figure(title, reading, svg, height_px, legend=legend, wide=wide, named_rows=named_rows)


def make_svg(name: str, title: str, description: str, body: str, *, height_px: int) -> str:
    """Return SVG elements as one picture as wide as the page allows, which a screen reader announces as one image."""
    ids = f"{name}-title", f"{name}-desc"
    return (
        f'<svg class="figure" role="img" width="100%" height="{height_px}" aria-labelledby="{ids[0]} {ids[1]}">'
        f'<title id="{ids[0]}">{escape(title)}</title><desc id="{ids[1]}">{escape(description)}</desc>{body}</svg>'
    )


def draw_text(
    value: str, x: float, y: float, *, anchor: str = "start", css: str = "t", dx: int = 0, dy: int = 0, tip: str = ""
) -> str:
    """Return an SVG text element.

    Args:
        value: The text, not yet escaped.
        x: Its position, as a share of the picture's width from the left, 0 to 1.
        y: Its baseline, as a share of the picture's height from the top, 0 to 1.
        anchor: The part of the text at `x`: "start", "middle" or "end".
        css: Its CSS class.
        dx: Pixels by which it is moved to the right.
        dy: Pixels by which it is moved down.
        tip: Its tooltip, not yet escaped; empty for none.
    """
    title = f"<title>{escape(tip)}</title>" if tip else ""
    moved = (f' dx="{dx}"' if dx else "") + (f' dy="{dy}"' if dy else "")
    return (
        f'<text class="{css}" x="{x * 100:.2f}%" y="{y * 100:.2f}%"{moved} text-anchor="{anchor}">'
        f"{title}{escape(value)}</text>"
    )


def _draw_line(css: str, x1: float, x2: float, y1: float, y2: float) -> str:
    """Return an SVG line; positions are shares of the width from the left, and of the height from the top, 0 to 1."""
    x = f'x1="{x1 * 100:.2f}%" x2="{x2 * 100:.2f}%"'
    return f'<line class="{css}" {x} y1="{y1 * 100:.2f}%" y2="{y2 * 100:.2f}%"/>'


def _choose_anchor(x: float, label: str) -> str:
    """Return the anchor of a tick's label, so that it stays on a narrow page; `x` is a share of the width, 0 to 1."""
    # Half of the label's width on a page of 400 pixels.
    room = 0.011 * len(label)
    return "start" if x < room else "end" if x > 1 - room else "middle"


def _with_tip(element: str, tip: str) -> str:
    """Return an SVG element without content (`<rect .../>`) with a tooltip; unchanged if the tip is empty."""
    name = element[1:].split(" ", 1)[0]
    return f"{element[:-2]}><title>{escape(tip)}</title></{name}>" if tip else element


@dataclass(slots=True)
class Plot:
    """A plot with two scales, drawn mark by mark: later marks lie above earlier ones, and labels above all marks.

    Values are in the units of the scales; `css` is the CSS class of a mark, `tips` the tooltip of each mark.

    Attributes:
        x: Scale from left to right.
        y: Scale from the bottom up.
        height_px: Height in CSS pixels, without the names of the scales.
        inset: Share of the width, 0 to 1, that is kept free for the labels of y.
    """

    x: Scale
    y: Scale
    height_px: int = 220
    inset: float = 0.0
    _curves: list[str] = field(default_factory=list)
    _marks: list[str] = field(default_factory=list)
    _labels: list[str] = field(default_factory=list)

    def add_line(self, xs: Sequence[float], ys: Sequence[float], css: str) -> None:
        """Draw a line through points; nothing without points."""
        if len(xs):
            self._curves.append(f'<path class="{css}" d="{self.path_data(xs, ys)}"/>')

    def path_data(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Return a line through points as the `d` of an SVG path, in `_GRID` units from the upper left corner."""
        points = zip(xs, ys, strict=True)
        return "M" + "L".join(f"{self._x_share(x) * _GRID:.0f} {self._y_share(y) * _GRID:.0f}" for x, y in points)

    def add_steps(self, xs: Sequence[float], ys: Sequence[float], css: str) -> None:
        """Draw a line that stays at each y until the next x."""
        twice_x = [xs[0], *(x for x in xs[1:] for _ in range(2))]
        twice_y = [y for y in ys[:-1] for _ in range(2)]
        self.add_line(twice_x, [*twice_y, ys[-1]], css)

    def add_area(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], css: str) -> None:
        """Fill the area between two lines over the same xs."""
        outline = self.path_data([*xs, *xs[::-1]], [*highs, *lows[::-1]])
        self._curves.append(f'<path class="{css}" d="{outline}Z"/>')

    def add_bars(self, bars: Sequence[tuple[float, float, float]], css: str, tips: Sequence[str] = ()) -> None:
        """Draw bars from the bottom, each given as (left, right, height)."""
        for ix, (left, right, height) in enumerate(bars):
            x0, x1, top = self._x_share(left), self._x_share(right), self._y_share(height)
            element = (
                f'<rect class="{css}" x="{x0 * 100:.3f}%" y="{top * 100:.3f}%" '
                f'width="{max(x1 - x0, 0) * 100:.3f}%" height="{(1 - top) * 100:.3f}%"/>'
            )
            self._marks.append(_with_tip(element, tips[ix] if tips else ""))

    def add_dots(
        self, xs: Sequence[float], ys: Sequence[float], css: str, *, radius: float = 3.5, tips: Sequence[str] = ()
    ) -> None:
        """Draw points as circles; the radius is in CSS pixels."""
        for ix, (x, y) in enumerate(zip(xs, ys, strict=True)):
            element = (
                f'<circle class="{css}" cx="{self._x_share(x) * 100:.2f}%" cy="{self._y_share(y) * 100:.2f}%" '
                f'r="{radius:g}"/>'
            )
            self._marks.append(_with_tip(element, tips[ix] if tips else ""))

    def add_whiskers(self, xs: Sequence[float], intervals: Sequence[tuple[float, float]], css: str) -> None:
        """Draw vertical lines, each at an x from the low to the high end of an interval of y."""
        for x, (low, high) in zip(xs, intervals, strict=True):
            left = self._x_share(x)
            self._marks.append(_draw_line(css, left, left, self._y_share(low), self._y_share(high)))

    def add_vertical(self, x: float, label: str, css: str, *, label_row: int = 0) -> None:
        """Draw a line from bottom to top at an x; `label_row` is the line of text, from the top, of its label."""
        left = self._x_share(x)
        # Right of the line, unless the label would not fit there.
        anchor, dx = ("end", -5) if left > min(0.8, 0.98 - _LETTER_WIDTH * len(label)) else ("start", 5)
        self._marks.append(_draw_line(css, left, left, 0, 1))
        self._labels.append(draw_text(label, left, 0, anchor=anchor, css="t halo", dx=dx, dy=12 + 15 * label_row))

    def add_horizontal(self, y: float, label: str, css: str) -> None:
        """Draw a line from left to right at a y, its label below the right end."""
        top = self._y_share(y)
        self._marks.append(_draw_line(css, 0, 1, top, top))
        self._labels.append(draw_text(label, 1, top, anchor="end", css="t halo", dx=-4, dy=14))

    def render(self) -> str:
        """Return all marks as SVG elements, with the grid, the ticks and the names of the scales."""
        levels = [(self._y_share(value), label) for value, label in self.y.ticks]
        grid = "".join(_draw_line("gridline", 0, 1, y, y) for y, _ in levels)
        y_ticks = "".join(
            draw_text(label, 0, y, css="t tick halo", dx=2, dy=-4) for y, label in levels if y < _LAST_LABEL
        )
        x_ticks = "".join(
            draw_text(label, x, 1, anchor=_choose_anchor(x, label), css="t tick", dy=15)
            for x, label in ((self._x_share(value), label) for value, label in self.x.ticks)
        )
        curves = (
            f'<svg width="100%" height="100%" viewBox="0 0 {_GRID:.0f} {_GRID:.0f}" preserveAspectRatio="none" '
            f'overflow="visible">{"".join(self._curves)}</svg>'
        )
        marks = "".join(self._marks + self._labels)
        return (
            f'<svg x="1%" y="{_TOP_PX}" width="98%" height="{self.height_px}" overflow="visible">{grid}{curves}'
            f'<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>{marks}{y_ticks}{x_ticks}</svg>'
            + draw_text(self.y.name, 0.01, 0, css="t name", dy=11)
            + draw_text(self.x.name, 0.99, 1, anchor="end", css="t name", dy=-4)
        )

    def _x_share(self, x: float) -> float:
        """Return where an x lies, as a share of the plot's width from the left, 0 to 1."""
        return self.inset + (1 - self.inset) * self.x.position(x)

    def _y_share(self, y: float) -> float:
        """Return where a y lies, as a share of the plot's height from the top, 0 to 1."""
        return 1 - self.y.position(y)


def draw_sparkline(name: str, title: str, values: Sequence[float], *, zero: bool = False) -> str:
    """Return a small curve as an SVG picture: one or more finite values at equal distances, the last one marked.

    `name` is its id on the page, `title` what it shows; `zero` extends the range to zero and marks it by a line.
    """
    ends = [*values, 0.0] if zero else list(values)
    y = linear_scale(*widen(min(ends), max(ends), pad=0.15), "")
    plot = Plot(linear_scale(0, max(len(values) - 1, 1), ""), y)
    level = 1 - y.position(0)
    base = _draw_line("rule ideal", 0, 1, level, level) if zero else ""
    body = (
        f'{base}<svg x="2%" width="96%" height="100%" viewBox="0 0 {_GRID:.0f} {_GRID:.0f}" '
        f'preserveAspectRatio="none" overflow="visible">'
        f'<path class="line c1" d="{plot.path_data(list(range(len(values))), values)}"/></svg>'
        f'<circle class="dot c1" cx="{plot.x.position(len(values) - 1) * 96 + 2:.1f}%" '
        f'cy="{(1 - y.position(values[-1])) * 100:.1f}%" r="3"/>'
    )
    description = f"{len(values)} values, from {values[0]:.4g} to {values[-1]:.4g}"
    return make_svg(name, title, description, body, height_px=36)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a strip.

    Attributes:
        start: Where it starts, in the units of the strip's scale.
        end: Where it ends, in the same units.
        css: Its CSS class.
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
    """A row of a figure: its name and a note above its segments."""

    name: str
    note: str
    segments: tuple[Segment, ...]


def draw_strips(rows: Sequence[Strip], scale: Scale) -> tuple[str, int]:
    """Return rows of segments over one horizontal scale as SVG elements, and their height in CSS pixels."""
    bottom_px = len(rows) * _ROW_PX
    grid, ticks = [], []
    for value, label in scale.ticks:
        x = _indent(scale.position(value))
        left = f"{x * 100:.2f}%"
        grid.append(f'<line class="gridline" x1="{left}" x2="{left}" y1="4" y2="{bottom_px + 4}"/>')
        anchor = _choose_anchor(scale.position(value), label)
        ticks.append(draw_text(label, x, 0, anchor=anchor, css="t tick", dy=bottom_px + 18))
    elements = []
    for ix, row in enumerate(rows):
        top_px = ix * _ROW_PX
        elements += [
            draw_text(row.name, 0.01, 0, css="t strong halo", dy=top_px + 15),
            draw_text(row.note, 0.99, 0, anchor="end", css="t halo", dy=top_px + 15),
        ]
        for part in row.segments:
            x0, x1 = _indent(scale.position(part.start)), _indent(scale.position(part.end))
            y, h = top_px + 21, _STRIP_PX
            width = f"{(x1 - x0) * 100:.3f}%"
            element = f'<rect class="{part.css}" x="{x0 * 100:.3f}%" y="{y}" width="{width}" height="{h}"/>'
            elements.append(_with_tip(element, part.tip))
            if part.mark:
                middle = f"{(x0 + x1) / 2 * 100:.3f}%"
                element = f'<line class="mark {part.css}" x1="{middle}" x2="{middle}" y1="{y - 3}" y2="{y + h + 3}"/>'
                elements.append(_with_tip(element, part.tip))
    name = draw_text(scale.name, 0.99, 0, anchor="end", css="t name", dy=bottom_px + 34)
    return "".join([*grid, *elements, *ticks, name]), bottom_px + _AXIS_PX


def _indent(share: float) -> float:
    """Return a share of the width, 0 to 1, moved into the margins of 1 % on both sides."""
    return 0.01 + 0.98 * share


def draw_bar_rows(rows: Sequence[tuple[str, Sequence[tuple[float, str]], str]]) -> tuple[str, int]:
    """Return named rows of thin horizontal bars as SVG elements, and their height in CSS pixels.

    Args:
        rows: The name; length (a share from 0 to 1) and CSS class of each bar; the text at the end.
    """
    elements = []
    longest = 1 - _NAME_WIDTH - _VALUES_WIDTH
    for ix, (name, bars, note) in enumerate(rows):
        top_px = ix * _LINE_PX
        elements.append(_draw_row_name(name, top_px))
        bar_px = 14 // len(bars)
        for k, (share, css) in enumerate(bars):
            elements.append(
                f'<rect class="{css}" x="{_NAME_WIDTH * 100:.0f}%" y="{top_px + 5 + k * (bar_px + 1)}" '
                f'width="{max(share * longest, 0.002) * 100:.2f}%" height="{bar_px}"/>'
            )
        elements.append(draw_text(note, 0.99, 0, anchor="end", dy=top_px + 16))
    return "".join(elements), len(rows) * _LINE_PX + 6


@dataclass(frozen=True, slots=True)
class DotRow:
    """A row of a figure: its name, a value drawn as a dot, the value's interval if known, and the text at the end."""

    name: str
    value: float
    interval: tuple[float, float] | None
    note: str


def draw_dot_rows(rows: Sequence[DotRow], scale: Scale, *, reference: float, other_css: str) -> tuple[str, int]:
    """Return named rows of one dot each as SVG elements, and their height in CSS pixels.

    A vertical line marks the value `reference`; `other_css` is the CSS class of all dots but the first, which has c1.
    """

    def x_share(value: float) -> float:
        return _NAME_WIDTH + scale.position(value) * (1 - _NAME_WIDTH - _VALUE_WIDTH)

    bottom_px = len(rows) * _LINE_PX
    grid, ticks = [], []
    for value, label in scale.ticks:
        left = f"{x_share(value) * 100:.2f}%"
        grid.append(f'<line class="gridline" x1="{left}" x2="{left}" y1="0" y2="{bottom_px}"/>')
        ticks.append(draw_text(label, x_share(value), 0, anchor="middle", css="t tick", dy=bottom_px + 14))
    left = f"{x_share(reference) * 100:.2f}%"
    elements = [f'<line class="axis" x1="{left}" x2="{left}" y1="0" y2="{bottom_px}"/>']
    for ix, row in enumerate(rows):
        y, css = ix * _LINE_PX + 12, other_css if ix else "c1"
        elements.append(_draw_row_name(row.name, ix * _LINE_PX))
        if row.interval is not None:
            x0, x1 = (f"{x_share(end) * 100:.2f}%" for end in row.interval)
            elements.append(f'<line class="whisker {css}" x1="{x0}" x2="{x1}" y1="{y}" y2="{y}"/>')
        elements += [
            f'<circle class="dot {css}" cx="{x_share(row.value) * 100:.2f}%" cy="{y}" r="4"/>',
            draw_text(row.note, 0.99, 0, anchor="end", dy=y + 4),
        ]
    name = draw_text(scale.name, 0.99, 0, anchor="end", css="t name", dy=bottom_px + 32)
    return "".join([*grid, *elements, *ticks, name]), bottom_px + _AXIS_PX


def _draw_row_name(name: str, top_px: int) -> str:
    """Return a row's name as SVG text; a long one is shortened, with the whole name as its tooltip."""
    if len(name) <= _NAME_LETTERS:
        return draw_text(name, 0.01, 0, dy=top_px + 16)
    return draw_text(name[: _NAME_LETTERS - 1] + "…", 0.01, 0, dy=top_px + 16, tip=name)
