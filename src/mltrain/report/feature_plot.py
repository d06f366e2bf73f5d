"""The plot of a feature inspection: the feature around a time, and the price below, as an SVG. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.features.inspection import FeatureInspection

_WIDTH: Final = 960
# Height of each of the two panels.
_PANEL: Final = 200
_MARGIN: Final = 24
# Width of the axis labels.
_LEFT: Final = 96
# Bars shown before the inspected one: twice its lookback, at least this many.
_MIN_BARS: Final = 60
_AFTER_BARS: Final = 20


def plot_inspection(inspection: FeatureInspection, *, step_ms: int) -> str:
    """Return the SVG: the lookback shaded, the inspected time marked, lines broken where there is no value.

    Args:
        inspection: The inspected feature.
        step_ms: Length of the candles' interval.
    """
    times = times_ms(inspection.history)
    since_ms = inspection.ts_ms - max(_MIN_BARS, 2 * inspection.info.lookback_bars) * step_ms
    first, stop = np.searchsorted(times, [since_ms, inspection.ts_ms + _AFTER_BARS * step_ms + 1]).tolist()
    shown = inspection.history[first:stop]
    times = times[first:stop]
    span_ms = max(1, int(times[-1] - times[0]))
    x = _LEFT + (times - times[0]) / span_ms * (_WIDTH - _LEFT - _MARGIN)
    pixel_per_ms = (_WIDTH - _LEFT - _MARGIN) / span_ms
    breaks = np.flatnonzero(np.diff(times) > step_ms) + 1
    value = "no value" if inspection.value is None else repr(inspection.value)
    title = f"{inspection.info.name} of {inspection.symbol} at {format_ms(inspection.ts_ms)}: {value}"
    window = inspection.info.lookback_bars * step_ms * pixel_per_ms
    at = _LEFT + (inspection.ts_ms - int(times[0])) * pixel_per_ms
    height = 3 * _MARGIN + 2 * _PANEL + _MARGIN
    left = max(_LEFT, at - window)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        _rect(0, 0, _WIDTH, height, 'fill="white"'),
        _text(_LEFT, _MARGIN - 6, title, 'font-weight="bold"'),
        _rect(left, _MARGIN, at - left, 2 * _PANEL + _MARGIN, 'fill="#fdf0d5"'),
        *_panel(inspection.info.name, x, shown["value"].to_numpy(), breaks, top=_MARGIN, colour="#1d4e89"),
        *_panel("close", x, shown["close"].to_numpy(), breaks, top=2 * _MARGIN + _PANEL, colour="#444444"),
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_MARGIN}" y2="{2 * _MARGIN + 2 * _PANEL}" stroke="#c1121f"/>',
        _text(_LEFT, height - _MARGIN, format_ms(int(times[0]))),
        _text(_WIDTH - _MARGIN, height - _MARGIN, format_ms(int(times[-1])), 'text-anchor="end"'),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" {style}>{escape(text)}</text>'


def _panel(
    name: str,
    x: NDArray[np.float64],
    values: NDArray[np.floating],
    breaks: NDArray[np.intp],
    *,
    top: float,
    colour: str,
) -> Iterator[str]:
    """Draw one line with the name and the range of its values."""
    finite = values[np.isfinite(values)].astype(np.float64)
    yield _rect(_LEFT, top, _WIDTH - _LEFT - _MARGIN, _PANEL, 'fill="none" stroke="#ccc"')
    yield _text(_LEFT + 6, top + 16, name, f'fill="{colour}"')
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    y = top + _PANEL - 4 - (values.astype(np.float64) - low) / ((high - low) or 1.0) * (_PANEL - 8)
    for value, height in ((high, top + 12), (low, top + _PANEL)):
        yield _text(_LEFT - 6, height, f"{value:.6g}", 'text-anchor="end"')
    for piece in np.split(np.arange(x.size), breaks):
        for run in np.split(piece, np.flatnonzero(np.diff(np.isfinite(values[piece]).astype(np.int8))) + 1):
            if run.size and np.isfinite(values[run[0]]):
                # A single value is drawn as a line of length 0, which the round line caps make a dot.
                at = run.tolist() if run.size > 1 else [run[0], run[0]]
                points = " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in at)
                yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-linecap="round"/>'
