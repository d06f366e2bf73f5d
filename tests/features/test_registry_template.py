"""The registry to start from fits its interval, and everything in its comments works."""

from __future__ import annotations

from pathlib import Path

import pytest

from mltrain.errors import UsageError
from mltrain.features.registry import load_registry, parse_registry
from mltrain.features.registry_template import write_template
from mltrain.times import INTERVALS_MS


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_it_is_the_packaged_registry_at_the_interval(interval):
    """The same features and label, so the same hash; it states the interval."""
    data = write_template(interval)

    packaged = load_registry(Path("features-ohlcv.yml"), interval=interval)
    assert parse_registry(data, where="x").registry_sha256 == packaged.registry_sha256
    assert f"\ninterval: {interval}\n".encode() in data
    assert max(map(len, data.decode().splitlines())) <= 120


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_its_suggestions_can_be_taken(interval):
    """Without the # each suggested feature is valid at the interval; constant ones are named as such."""
    text = write_template(interval).decode()
    taken = parse_registry(text.replace("  # - {", "  - {").encode(), where="x")

    suggested = set(taken.names) - set(parse_registry(text.encode(), where="x").names)
    # There is no longer candle than a week.
    assert len(suggested) == (2 if interval in {"3d", "1w"} else 4)
    assert ("The same at every 1d candle: - {name: day_sin" in text) is (interval == "1d")


def test_lengths_are_given_in_bars():
    """An hour and a day of five-minute candles; days and weeks of longer ones."""
    assert b"Lengths are in bars, 12 are an hour and 288 a day." in write_template("5m")
    assert b"Lengths are in bars, 6 are a day and 42 a week." in write_template("4h")
    assert b"Lengths are in bars, 10 are 30 days." in write_template("3d")


def test_an_unknown_interval_is_refused():
    """With the nearest one."""
    with pytest.raises(UsageError, match="7m"):
        write_template("7m")
