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

_WIDTH_PX: Final = 960
# Height of each of the two panels.
_PANEL_PX: Final = 200
_MARGIN_PX: Final = 24
# Width of the labels of the vertical axis.
_LEFT_PX: Final = 96
# Bars shown before the inspected one: twice its lookback, at least this many.
_MIN_BARS: Final = 60
_AFTER_BARS: Final = 20


def plot_inspection(inspection: FeatureInspection, *, step_ms: int) -> str:
    """Return the plot of an inspected feature as SVG: its lookback shaded, the inspected time marked.

    Lines are broken where there is no value. `step_ms` is the length of a candle, ms.
    """
    times = times_ms(inspection.history)
    since_ms = inspection.ts_ms - max(_MIN_BARS, 2 * inspection.info.lookback_bars) * step_ms
    first, stop = np.searchsorted(times, [since_ms, inspection.ts_ms + _AFTER_BARS * step_ms + 1]).tolist()
    shown, times = inspection.history[first:stop], times[first:stop]
    start_ms, end_ms = int(times[0]), int(times[-1])
    px_per_ms = (_WIDTH_PX - _LEFT_PX - _MARGIN_PX) / max(1, end_ms - start_ms)
    x = _LEFT_PX + (times - start_ms) * px_per_ms
    gaps = np.flatnonzero(np.diff(times) > step_ms) + 1
    value = "no value" if inspection.value is None else repr(inspection.value)
    title = f"{inspection.info.name} of {inspection.symbol} at {format_ms(inspection.ts_ms)}: {value}"
    inspected_x = _LEFT_PX + (inspection.ts_ms - start_ms) * px_per_ms
    lookback_x = max(_LEFT_PX, inspected_x - inspection.info.lookback_bars * step_ms * px_per_ms)
    bottom_px = 2 * _MARGIN_PX + 2 * _PANEL_PX
    height_px = bottom_px + 2 * _MARGIN_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height_px}" font-family="sans-serif">',
        _draw_rect(0, 0, _WIDTH_PX, height_px, 'fill="white"'),
        _draw_text(_LEFT_PX, _MARGIN_PX - 6, title, 'font-weight="bold"'),
        _draw_rect(lookback_x, _MARGIN_PX, inspected_x - lookback_x, bottom_px - _MARGIN_PX, 'fill="#fdf0d5"'),
        *_draw_panel(inspection.info.name, x, shown["value"].to_numpy(), gaps, top_px=_MARGIN_PX, colour="#1d4e89"),
        *_draw_panel("close", x, shown["close"].to_numpy(), gaps, top_px=2 * _MARGIN_PX + _PANEL_PX, colour="#444444"),
        f'<line x1="{inspected_x:.1f}" x2="{inspected_x:.1f}" y1="{_MARGIN_PX}" y2="{bottom_px}" stroke="#c1121f"/>',
        _draw_text(_LEFT_PX, height_px - _MARGIN_PX, format_ms(start_ms)),
        _draw_text(_WIDTH_PX - _MARGIN_PX, height_px - _MARGIN_PX, format_ms(end_ms), 'text-anchor="end"'),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _draw_rect(x: float, y: float, width: float, height: float, style: str) -> str:
    """Return an SVG rectangle, in pixels, with the attributes in `style`."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'


def _draw_text(x: float, y: float, text: str, style: str = "") -> str:
    """Return an SVG text at a position in pixels, escaped, with the attributes in `style`."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" {style}>{escape(text)}</text>'


def _draw_panel(
    name: str,
    x: NDArray[np.floating],
    values: NDArray[np.floating],
    gaps: NDArray[np.intp],
    *,
    top_px: float,
    colour: str,
) -> Iterator[str]:
    """Yield the SVG elements of a frame `top_px` pixels down, with a line, its name and the range of its values.

    The line goes through each value (NaN: none) at its position `x` in pixels, both of shape (n,). It is broken before
    the positions in `gaps`, where candles are missing.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    yield _draw_rect(_LEFT_PX, top_px, _WIDTH_PX - _LEFT_PX - _MARGIN_PX, _PANEL_PX, 'fill="none" stroke="#ccc"')
    yield _draw_text(_LEFT_PX + 6, top_px + 16, name, f'fill="{colour}"')
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    y = top_px + _PANEL_PX - 4 - (values.astype(np.float64) - low) / ((high - low) or 1.0) * (_PANEL_PX - 8)
    for value, label_y in ((high, top_px + 12), (low, top_px + _PANEL_PX)):
        yield _draw_text(_LEFT_PX - 6, label_y, f"{value:.6g}", 'text-anchor="end"')
    for piece in np.split(np.arange(x.size), gaps):
        for run in np.split(piece, np.flatnonzero(np.diff(np.isfinite(values[piece]).astype(np.int8))) + 1):
            if run.size and np.isfinite(values[run[0]]):
                # A single value is drawn as a line of length 0, which the round line caps make a dot.
                positions = run.tolist() if run.size > 1 else [run[0], run[0]]
                points = " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in positions)
                yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-linecap="round"/>'
