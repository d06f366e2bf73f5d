"""Rows of strips: time lines, stacked shares, bars and dots with a name each, inline SVG as `svg` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.report.svg import text, tick_anchor, titled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.report.svg import Scale

_ROW_PX: Final = 42  # a line of text, and the strip below it
_STRIP_PX: Final = 14
_LINE_PX: Final = 24  # name and bar beside each other
_AXIS_PX: Final = 40
_NAME_WIDTH: Final = 0.40  # of the figure's width, for names beside bars
_VALUE_WIDTH: Final = 0.18
_VALUES_WIDTH: Final = 0.30  # for two of them
_NAME_LETTERS: Final = 20  # that fit there where the page is narrow


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a strip, from `start` to `end` on its scale.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        css: Its class.
        tip: Shown under the pointer.
        mark: Drawn as a line, too, so that a moment is seen in a year.
    """

    start: float
    end: float
    css: str
    tip: str = ""
    mark: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One row: its name and a note stand above its segments."""

    name: str
    note: str
    segments: tuple[Segment, ...]


def strips(rows: Sequence[Strip], scale: Scale) -> tuple[str, int]:
    """Draw rows of segments over one scale, its ticks below.

    Returns:
        The body of a picture, and its height in pixels.
    """
    found = [_strip(row, ix * _ROW_PX, scale) for ix, row in enumerate(rows)]
    bottom = len(rows) * _ROW_PX
    for value, label in scale.ticks:
        at = scale.at(value)
        place = f"{_across(at) * 100:.2f}%"
        found.insert(0, f'<line class="gridline" x1="{place}" x2="{place}" y1="4" y2="{bottom + 4}"/>')
        found.append(_words(label, _across(at), bottom + 18, anchor=tick_anchor(at, label), css="t tick"))
    found.append(_words(scale.name, 0.99, bottom + 34, anchor="end", css="t name"))
    return "".join(found), bottom + _AXIS_PX


def _strip(row: Strip, top_px: int, scale: Scale) -> str:
    found = [
        _words(row.name, 0.01, top_px + 15, css="t strong halo"),
        _words(row.note, 0.99, top_px + 15, anchor="end", css="t halo"),
    ]
    for part in row.segments:
        x0, x1 = _across(scale.at(part.start)), _across(scale.at(part.end))
        y, h = top_px + 21, _STRIP_PX
        shape = f'<rect class="{part.css}" x="{x0 * 100:.3f}%" y="{y}" width="{(x1 - x0) * 100:.3f}%" height="{h}"/>'
        found.append(titled(shape, part.tip))
        if part.mark:
            at = f"{(x0 + x1) / 2 * 100:.3f}%"
            shape = f'<line class="mark {part.css}" x1="{at}" x2="{at}" y1="{y - 3}" y2="{y + h + 3}"/>'
            found.append(titled(shape, part.tip))
    return "".join(found)


def _across(share: float) -> float:
    return 0.01 + 0.98 * share


def _words(value: str, x: float, y_px: int, *, anchor: str = "start", css: str = "t", tip: str = "") -> str:
    return text(value, x, 0, anchor=anchor, css=css, dy=y_px, tip=tip)


def bar_rows(rows: Sequence[tuple[str, Sequence[tuple[float, str]], str]]) -> tuple[str, int]:
    """Draw named rows of thin bars.

    Args:
        rows: The name; length (a share from 0 to 1) and class of each of its bars; what is written at the end.

    Returns:
        The body of a picture, and its height in pixels.
    """
    found = []
    room = 1 - _NAME_WIDTH - _VALUES_WIDTH
    for ix, (name, bars, note) in enumerate(rows):
        top = ix * _LINE_PX
        found.append(_name(name, top))
        thick = 14 // len(bars)
        for k, (share, css) in enumerate(bars):
            found.append(
                f'<rect class="{css}" x="{_NAME_WIDTH * 100:.0f}%" y="{top + 5 + k * (thick + 1)}" '
                f'width="{max(share * room, 0.002) * 100:.2f}%" height="{thick}"/>'
            )
        found.append(_words(note, 0.99, top + 16, anchor="end"))
    return "".join(found), len(rows) * _LINE_PX + 6


def dot_rows(
    rows: Sequence[tuple[str, float, tuple[float, float] | None, str]], scale: Scale, *, zero: float, others: str
) -> tuple[str, int]:
    """Draw named rows of one dot each, with its interval.

    Args:
        rows: The name; the figure; its interval, or None where there is none; what is written at the end.
        scale: Of the figures.
        zero: Where a line stands: the figure of what needs no model.
        others: Class of the dots behind the first, which is c1.

    Returns:
        The body of a picture, and its height in pixels.
    """
    room = 1 - _NAME_WIDTH - _VALUE_WIDTH

    def place(value: float) -> str:
        return f"{(_NAME_WIDTH + scale.at(value) * room) * 100:.2f}%"

    bottom = len(rows) * _LINE_PX
    found = [f'<line class="axis" x1="{place(zero)}" x2="{place(zero)}" y1="0" y2="{bottom}"/>']
    for ix, (name, value, interval, note) in enumerate(rows):
        y, css = ix * _LINE_PX + 12, others if ix else "c1"
        found.append(_name(name, ix * _LINE_PX))
        if interval is not None:
            x0, x1 = map(place, interval)
            found.append(f'<line class="whisker {css}" x1="{x0}" x2="{x1}" y1="{y}" y2="{y}"/>')
        found += [
            f'<circle class="dot {css}" cx="{place(value)}" cy="{y}" r="4"/>',
            _words(note, 0.99, y + 4, anchor="end"),
        ]
    for value, label in scale.ticks:
        found.insert(0, f'<line class="gridline" x1="{place(value)}" x2="{place(value)}" y1="0" y2="{bottom}"/>')
        at = _NAME_WIDTH + scale.at(value) * room
        found.append(_words(label, at, bottom + 14, anchor="middle", css="t tick"))
    found.append(_words(scale.name, 0.99, bottom + 32, anchor="end", css="t name"))
    return "".join(found), bottom + _AXIS_PX


def _name(name: str, top_px: int) -> str:
    """Write a row's name; a long one is cut, and told whole under the pointer."""
    if len(name) <= _NAME_LETTERS:
        return _words(name, 0.01, top_px + 16)
    return _words(name[: _NAME_LETTERS - 1] + "…", 0.01, top_px + 16, tip=name)
