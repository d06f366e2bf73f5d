"""A figure as a page shows it, and what stands in its place where there is nothing to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mltrain.report.svg import picture

if TYPE_CHECKING:
    from mltrain.report.svg import Plot


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture and what people need with it.

    Attributes:
        title: What it is.
        reading: How to read it, one or two sentences.
        svg: The picture, everything in it escaped; made by `mltrain.report.svg` alone.
        legend: Class of the mark and what it stands for.
        wide: Whether it takes the page's whole width.
        rows: Whether it is rows of names, which are easier to read when the page is not filled.
    """

    title: str
    reading: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()
    wide: bool = False
    rows: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not shown.

    Attributes:
        title: What it would have been.
        why: Why there is nothing to show, one sentence.
    """

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
    """Return a figure of a plot, or of what else was drawn and its height in pixels.

    Args:
        name: Its id on the page.
        title: What it is.
        plot: What was drawn.
        reading: How to read it.
        alt: What it shows, for those who do not see it.
        legend: Class of each mark and what it stands for.
        wide: Whether it takes the page's whole width.
        rows: Whether it is rows of names.
    """
    body, height_px = plot if isinstance(plot, tuple) else (plot.body(), plot.whole_px)
    return Figure(title, reading, picture(name, title, alt, body, height_px=height_px), legend, wide, rows)
