"""Drawing: numbers in, inline SVG out.

Pure. What is drawn stretches with the page and its text does not: positions are shares of the plot's width and height,
letters are in the page's own pixels, so a figure reads alike at 400 and at 1400. Colours are classes of the sheet,
which knows light and dark. Every text is escaped here; nothing else in a figure comes from outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Final

from mltrain.times import DAY_MS, EPOCH, FIRST_MONDAY_MS, HOUR_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

_GRID: Final = 10_000.0  # the plot's own units, for curves: fine enough for any screen
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_DAY_STEPS: Final = (1, 2, 7, 14, 28, 91, 182, 364)  # days between two ticks
_HOUR_STEPS: Final = (1, 2, 3, 6, 12, 24)
_BOTTOM: Final = 0.97  # from here on down a tick gets no label
_TOP_PX: Final = 32  # above the plot: the name of what goes up
_BOTTOM_PX: Final = 40  # below it: ticks, and the name of what goes right


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values lie along one side of a plot.

    Attributes:
        low: The value at the beginning.
        high: The value at the end, above `low`.
        name: What is measured, with its unit.
        logarithmic: Equal ratios are equal lengths; `low` is then above 0.
        ticks: Value and text of each tick.
    """

    low: float
    high: float
    name: str
    ticks: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return where a value lies, as a share from 0 to 1; what is outside lies at the nearer end."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return min(max((value - low) / (high - low), 0.0), 1.0)


def linear_scale(low: float, high: float, name: str, *, count: int = 4, percent: bool = False) -> Scale:
    """Return a scale with about `count` round ticks; `percent` writes shares as percent.

    >>> [text for _, text in linear_scale(0.0, 1.0, "share").ticks]
    ['0', '0.25', '0.5', '0.75', '1']
    """
    if not high > low:
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(s * size for s in _STEPS if s * size >= raw * 0.999)
    values = [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    shown = step * 100 if percent else step
    digits = max(0, -math.floor(math.log10(shown) + 1e-9))
    digits += round(shown * 10**digits, 6) % 1 > 1e-6
    texts = (f"{v * 100:.{digits}f} %" if percent else _tick_text(v, digits) for v in values)
    return Scale(low, high, name, tuple(zip(values, texts, strict=True)))


def _tick_text(value: float, digits: int) -> str:
    """Return a tick without needless digits: 0, not 0.00."""
    if value == 0:
        return "0"
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def time_scale(low_ms: float, high_ms: float, *, count: int = 4) -> Scale:
    """Return a scale of UTC time with at most about `count` ticks on whole hours, days or weeks."""
    if not high_ms > low_ms:
        high_ms = low_ms + DAY_MS
    span_h = (high_ms - low_ms) / HOUR_MS
    # A label with a clock is half as long again as a date alone.
    hours = next((h for h in _HOUR_STEPS if span_h / h <= (count if h >= 24 else count - 1)), None)
    if hours is None:
        days = next((d for d in _DAY_STEPS if span_h / 24 / d <= count), math.ceil(span_h / 24 / count))
        hours = 24 * days
    step_ms = hours * HOUR_MS
    origin_ms = FIRST_MONDAY_MS if hours % (24 * 7) == 0 else 0
    first = math.ceil((low_ms - origin_ms) / step_ms)
    last = math.floor((high_ms - origin_ms) / step_ms)
    form = "%d %b %H:%M" if hours < 24 else "%d %b" if span_h < 24 * 300 else "%b %Y"
    values = [origin_ms + k * step_ms for k in range(first, last + 1)]
    return Scale(low_ms, high_ms, "UTC", tuple((float(v), _format_tick(v, form)) for v in values))


def log_scale(low: float, high: float, name: str) -> Scale:
    """Return a logarithmic scale with ticks at 1, 2 and 5 of every power of ten."""
    low, high = max(low, 1e-9), max(high, low * 1.01, 1e-9 * 1.01)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [m * 10.0**k for k in powers for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    if len(values) > 6:
        values = [v for v in values if round(math.log10(v), 9).is_integer()]
    if len(values) < 2:  # less than a decade: round steps are few enough
        return Scale(low, high, name, linear_scale(low, high, "").ticks, logarithmic=True)
    return Scale(low, high, name, tuple((v, f"{v:g}") for v in values), logarithmic=True)


def _format_tick(time_ms: float, form: str) -> str:
    return (EPOCH + timedelta(milliseconds=time_ms)).strftime(form)


def span(low: float, high: float, *, pad: float = 0.06) -> tuple[float, float]:
    """Return a range widened by a share of itself on both sides."""
    more = (high - low) * pad
    return low - more, high + more


def text(
    value: str, x: float, y: float, *, anchor: str = "start", css: str = "t", dx: int = 0, dy: int = 0, tip: str = ""
) -> str:
    """Return letters at a share of width and height, moved by pixels; `tip` is told under the pointer."""
    told = f"<title>{escape(tip)}</title>" if tip else ""
    moved = (f' dx="{dx}"' if dx else "") + (f' dy="{dy}"' if dy else "")
    return (
        f'<text class="{css}" x="{x * 100:.2f}%" y="{y * 100:.2f}%"{moved} text-anchor="{anchor}">'
        f"{told}{escape(value)}</text>"
    )


def tick_anchor(at: float, label: str) -> str:
    """Return how a tick's label is set at a share of the width, so that a narrow page does not cut it off."""
    room = 0.011 * len(label)  # half of it, where the page is 400 pixels wide
    return "start" if at < room else "end" if at > 1 - room else "middle"


def titled(shape: str, tip: str) -> str:
    """Return a shape that tells `tip` under the pointer; `shape` is an empty element."""
    name = shape[1:].split(" ", 1)[0]
    return f"{shape[:-2]}><title>{escape(tip)}</title></{name}>" if tip else shape


def picture(name: str, title: str, description: str, body: str, *, height_px: int) -> str:
    """Return a whole figure that a screen reader reads as one picture.

    Args:
        name: Its id on the page.
        title: What it is.
        description: What it shows, for those who do not see it.
        body: What is drawn.
        height_px: Its height; it is as wide as the page lets it.
    """
    ids = f"{name}-title", f"{name}-desc"
    return (
        f'<svg class="figure" role="img" width="100%" height="{height_px}" aria-labelledby="{ids[0]} {ids[1]}">'
        f'<title id="{ids[0]}">{escape(title)}</title><desc id="{ids[1]}">{escape(description)}</desc>{body}</svg>'
    )


@dataclass(slots=True)
class Plot:
    """A plot that is being drawn: what comes later lies above.

    Attributes:
        x: From left to right.
        y: From the bottom up.
        height_px: Of the plot alone, without its names.
        inset: Share of the width that is left to the labels of y, where marks would lie under them.
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
            self._curves.append(f'<path class="{css}" d="{self.curve(xs, ys)}"/>')

    def curve(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Return the path of a line through points, in the plot's own units."""
        return _path(self._points(xs, ys))

    def steps(self, xs: Sequence[float], ys: Sequence[float], css: str) -> None:
        """Draw a line that stays at each value until the next."""
        twice_x = [xs[0], *(x for x in xs[1:] for _ in range(2))]
        twice_y = [y for y in ys[:-1] for _ in range(2)]
        self.line(twice_x, [*twice_y, ys[-1]], css)

    def area(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], css: str) -> None:
        """Fill between two lines."""
        there, back = self._points(xs, highs), self._points(xs[::-1], lows[::-1])
        self._curves.append(f'<path class="{css}" d="{_path([*there, *back])}Z"/>')

    def bars(self, edges: Sequence[tuple[float, float, float]], css: str, tips: Sequence[str] = ()) -> None:
        """Draw bars (left, right, height) from the bottom."""
        for ix, (left, right, value) in enumerate(edges):
            x0, x1, top = self._across(left), self._across(right), self.y.at(value)
            shape = (
                f'<rect class="{css}" x="{x0 * 100:.3f}%" y="{(1 - top) * 100:.3f}%" '
                f'width="{max(x1 - x0, 0) * 100:.3f}%" height="{top * 100:.3f}%"/>'
            )
            self._marks.append(titled(shape, tips[ix] if tips else ""))

    def dots(
        self, xs: Sequence[float], ys: Sequence[float], css: str, *, radius: float = 3.5, tips: Sequence[str] = ()
    ) -> None:
        """Draw points."""
        for ix, (x, y) in enumerate(zip(xs, ys, strict=True)):
            shape = (
                f'<circle class="{css}" cx="{self._across(x) * 100:.2f}%" cy="{(1 - self.y.at(y)) * 100:.2f}%" '
                f'r="{radius:g}"/>'
            )
            self._marks.append(titled(shape, tips[ix] if tips else ""))

    def whiskers(self, xs: Sequence[float], intervals: Sequence[tuple[float, float]], css: str) -> None:
        """Draw upright lines, each from the low to the high end of an interval."""
        for x, (low, high) in zip(xs, intervals, strict=True):
            at = f"{self._across(x) * 100:.2f}%"
            self._marks.append(
                f'<line class="{css}" x1="{at}" x2="{at}" y1="{(1 - self.y.at(low)) * 100:.2f}%" '
                f'y2="{(1 - self.y.at(high)) * 100:.2f}%"/>'
            )

    def upright(self, value: float, label: str, css: str, *, row: int = 0) -> None:
        """Draw a line across the plot at a value of x, its label at the top, `row` lines down."""
        x = self._across(value)
        side = ("end", -5) if x > 0.6 else ("start", 5)
        self._marks.append(
            f'<line class="{css}" x1="{x * 100:.2f}%" x2="{x * 100:.2f}%" y1="0" y2="100%"/>'
            + text(label, x, 0, anchor=side[0], css="t halo", dx=side[1], dy=12 + 15 * row)
        )

    def level(self, value: float, label: str, css: str, *, below: bool = False) -> None:
        """Draw a line across the plot at a value of y, its label at the right end."""
        y = 1 - self.y.at(value)
        self._marks.append(
            f'<line class="{css}" x1="0" x2="100%" y1="{y * 100:.2f}%" y2="{y * 100:.2f}%"/>'
            + text(label, 1, y, anchor="end", css="t halo", dx=-4, dy=14 if below else -5)
        )

    def label(self, x: float, y: float, value: str, *, anchor: str = "start", dx: int = 7, dy: int = 4) -> None:
        """Write beside a point."""
        self._marks.append(text(value, self._across(x), 1 - self.y.at(y), anchor=anchor, css="t halo", dx=dx, dy=dy))

    def body(self) -> str:
        """Return everything drawn, with its grid and its names."""
        levels = [((1 - self.y.at(v)), label) for v, label in self.y.ticks]
        grid = "".join(
            f'<line class="gridline" x1="0" x2="100%" y1="{y * 100:.2f}%" y2="{y * 100:.2f}%"/>' for y, _ in levels
        )
        # A label at the very bottom would lie on the axis.
        ticks = "".join(text(label, 0, y, css="t tick halo", dx=2, dy=-4) for y, label in levels if y < _BOTTOM)
        curves = (
            f'<svg width="100%" height="100%" viewBox="0 0 {_GRID:.0f} {_GRID:.0f}" preserveAspectRatio="none" '
            f'overflow="visible">{"".join(self._curves)}</svg>'
        )
        plot = (
            f'<svg x="1%" y="{_TOP_PX}" width="98%" height="{self.height_px}" overflow="visible">{grid}{curves}'
            f'<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>{"".join(self._marks)}{ticks}'
            f"{self._x_ticks()}</svg>"
        )
        names = text(self.y.name, 0.01, 0, css="t name", dy=11) + text(
            self.x.name, 0.99, 1, anchor="end", css="t name", dy=-4
        )
        return plot + names

    @property
    def whole_px(self) -> int:
        """Height with the names."""
        return self.height_px + _TOP_PX + _BOTTOM_PX

    def _across(self, value: float) -> float:
        return self.inset + (1 - self.inset) * self.x.at(value)

    def _x_ticks(self) -> str:
        found = []
        for value, label in self.x.ticks:
            at = self._across(value)
            found.append(text(label, at, 1, anchor=tick_anchor(at, label), css="t tick", dy=15))
        return "".join(found)

    def _points(self, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
        return [(self._across(x) * _GRID, (1 - self.y.at(y)) * _GRID) for x, y in zip(xs, ys, strict=True)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in points)


def sparkline(name: str, title: str, values: Sequence[float], *, css: str = "line c1", zero: bool = False) -> str:
    """Return a small curve through values at equal distances, its last point marked; `zero` draws that level, too.

    Args:
        name: Its id on the page.
        title: What it is; it is described by its ends.
        values: One or more, finite.
        css: Class of the line.
        zero: Whether zero is on it.
    """
    ends = [*values, 0.0] if zero else list(values)
    y = linear_scale(*span(min(ends), max(ends), pad=0.15), "")
    plot = Plot(linear_scale(0, max(len(values) - 1, 1), ""), y)
    points = plot.curve(list(range(len(values))), values)
    level = (
        f'<line class="rule ideal" x1="0" x2="100%" y1="{(1 - y.at(0)) * 100:.1f}%" y2="{(1 - y.at(0)) * 100:.1f}%"/>'
    )
    end = f"{plot.x.at(len(values) - 1) * 96 + 2:.1f}%", f"{(1 - y.at(values[-1])) * 100:.1f}%"
    body = (
        f'{level if zero else ""}<svg x="2%" width="96%" height="100%" viewBox="0 0 {_GRID:.0f} {_GRID:.0f}" '
        f'preserveAspectRatio="none" overflow="visible"><path class="{css}" d="{points}"/></svg>'
        f'<circle class="dot {css.partition(" ")[2]}" cx="{end[0]}" cy="{end[1]}" r="3"/>'
    )
    told = f"{len(values)} values, from {values[0]:.4g} to {values[-1]:.4g}"
    return picture(name, title, told, body, height_px=36)
