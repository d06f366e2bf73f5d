"""A registry to start from: the packaged one for OHLCV candles, as text with comments, made to fit an interval."""

from __future__ import annotations

from typing import Final

from mltrain.config.loading import packaged_config
from mltrain.features.registry import OHLCV_NAME, parse_registry, read_registry
from mltrain.times import DAY_MS, HOUR_MS, INTERVALS_MS, WEEK_MS, interval_ms

_SPANS: Final = (
    ("an hour", HOUR_MS),
    ("a day", DAY_MS),
    ("a week", WEEK_MS),
    ("30 days", 30 * DAY_MS),
    ("52 weeks", 52 * WEEK_MS),
)
# Longer candles of fewer bars would say little that the bars do not.
_MIN_BARS_PER_LONGER_CANDLE: Final = 4


def write_template(interval: str) -> bytes:
    """Return a registry file for candles of an interval, with comments; it reads open, high, low, close and volume.

    Its features are those of the packaged registry at this interval, so its hash is the same. Features that would have
    one value only are there as comments, and so are a few of other ops.

    Raises:
        UsageError: There is no such interval.
    """
    step_ms = interval_ms(interval)
    constant = read_registry(packaged_config(OHLCV_NAME)).constant_features(interval)
    # From the version on: the comments above are about any interval.
    body = packaged_config(OHLCV_NAME).read_text("utf-8").partition("version:")[2].splitlines()
    lines = [
        f"# Features for {interval} candles that need no more than open, high, low, close and volume of one symbol.",
        "#",
        "# Every feature is an op with its parameters; `mltrain features info` shows formula, unit and lookback.",
        "# A feature is a function of its last few candles, so that training and serving agree, and no feature spans a",
        "# gap. Lengths are in bars, " + _describe_bars(step_ms) + ".",
        "# Use this file with `--features FILE`.",
        "",
        "version:" + body[0],
        f"interval: {interval}",
        *(_comment_constant(line, constant, interval) for line in body[1:]),
        "  # Exponential averages, cut off after `window` bars.",
        "  # - {name: ema_gap_60, op: gap_to_ema, params: {bars: 60, window: 180}}",
        "  # - {name: ema_12_to_26, op: ema_gap, params: {short: 12, long: 26, window: 78}}",
    ]
    enough_ms = _MIN_BARS_PER_LONGER_CANDLE * step_ms
    if every := next((name for name, ms in INTERVALS_MS.items() if ms >= enough_ms and ms % step_ms == 0), None):
        lines += [
            f"  # Longer candles, of {every}: the last ones that have closed.",
            f"  # - {{name: return_{every}, op: resample, params: {{every: {every}, value: return, bars: 1}}}}",
            f"  # - {{name: rsi_{every}, op: resample, params: {{every: {every}, value: rsi, bars: 6}}}}",
        ]
    data = ("\n".join(lines) + "\n").encode()
    parse_registry(data, where="the template")
    return data


def _describe_bars(step_ms: int) -> str:
    """Return how many bars are how long, of two lengths: "12 are an hour and 288 a day"."""
    counts = [(ms // step_ms, name) for name, ms in _SPANS if ms > step_ms and ms % step_ms == 0][:2]
    return " and ".join(f"{count:,} {'are ' if i == 0 else ''}{name}" for i, (count, name) in enumerate(counts))


def _comment_constant(line: str, constant: tuple[str, ...], interval: str) -> str:
    """Return a line of the registry, as a comment if its feature has one value only at the interval."""
    if any(f"{{name: {name}," in line for name in constant):
        return f"  # The same at every {interval} candle: {line.strip()}"
    return line
