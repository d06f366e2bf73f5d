"""Candle files return what was written, and a damaged byte names its day."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.candle_file import Block, encode_candles, find_damaged_blocks, read_candles, read_unchecked
from mltrain.candles.checks import check_candles
from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.errors import InputError
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, INTERVALS_MS, TimeRange, floor_to_grid

DAY_OF_CLOCK = CLOCK_MS // DAY_MS * DAY_MS


def make_frame(steps, interval, *, seed=0, bare=False):
    """Return candles at these steps after a candle's open time."""
    start_ms = floor_to_grid(DAY_OF_CLOCK, INTERVALS_MS[interval])
    rng = np.random.default_rng(seed)
    price, spread = rng.uniform(0.01, 1e5, len(steps)), rng.uniform(0, 0.009, (3, len(steps)))
    columns = {
        "ts": pl.Series([start_ms + s * INTERVALS_MS[interval] for s in steps], dtype=pl.Int64).cast(TS_DTYPE),
        "open": price + spread[0],
        "high": price + 0.009,
        "low": price - spread[1],
        "close": price + spread[2],
        "volume": rng.exponential(5, len(steps)),
    }
    if not bare:
        columns["quote_volume"] = rng.exponential(1e6, len(steps))
        columns["trades"] = rng.integers(0, 1 << 40, len(steps))
    return check_candles(pl.DataFrame(columns), symbol="BTCUSDT", interval=interval, where="a test")


frames = st.sampled_from(list(INTERVALS_MS)).flatmap(
    lambda interval: st.builds(
        lambda steps, seed, bare: (interval, make_frame(sorted(steps), interval, seed=seed, bare=bare)),
        st.sets(st.integers(0, 200 * DAY_MS // INTERVALS_MS[interval] - 1), min_size=1, max_size=60),
        st.integers(0, 1000),
        st.booleans(),
    )
)


@pytest.fixture(scope="module")
def written():
    """Return six days of simulated minutes, the first and the last not whole, and their file."""
    frame = SimSource(seed=5).candles("BTCUSDT", TimeRange(CLOCK_MS - 5 * DAY_MS, CLOCK_MS))
    return frame, encode_candles(frame, INTERVALS_MS["1m"])


def ranges(file):
    """Return the half-open range of bytes of each block."""
    ends = [block.end for block in file.blocks]
    return list(zip([4, *ends[:-1]], ends, strict=True))


@given(frames)
@settings(max_examples=60)
def test_candles_are_read_as_they_were_written(made):
    """For any interval, any gaps, with and without the optional columns."""
    interval, frame = made
    file = encode_candles(frame, INTERVALS_MS[interval])
    found = read_candles(file.data, rows=frame.height, symbol="BTCUSDT", interval=interval, where="a test")

    assert found.equals(frame)
    assert found.schema == frame.schema


@given(frames)
@settings(max_examples=60)
def test_blocks_part_the_bytes_and_the_days(made):
    """Blocks cover all bytes before the footer and all candles; each begins and ends at midnight UTC."""
    interval, frame = made
    file = encode_candles(frame, INTERVALS_MS[interval])
    ts_ms = times_ms(frame)
    counts = [int(((ts_ms >= b.from_ms) & (ts_ms < b.to_ms)).sum()) for b in file.blocks]

    assert file.data[:4] == file.data[-4:] == b"PAR1"
    assert [b.end for b in file.blocks] == sorted({b.end for b in file.blocks})
    assert 4 < file.blocks[0].end <= file.blocks[-1].end < len(file.data)
    assert all(b.from_ms % DAY_MS == b.to_ms % DAY_MS == 0 for b in file.blocks)
    assert all(b.to_ms <= c.from_ms for b, c in pairwise(file.blocks))
    assert min(counts) > 0
    assert sum(counts) == frame.height
    assert len(file.blocks) <= 128
    assert find_damaged_blocks(file.data, file.blocks) == ()


@given(frames)
@settings(max_examples=30)
def test_equal_candles_are_equal_bytes(made):
    """The layout of the frame in memory makes no difference."""
    interval, frame = made
    pieces = pl.concat([frame[i : i + 1] for i in range(frame.height)], rechunk=False)

    assert encode_candles(pieces, INTERVALS_MS[interval]) == encode_candles(frame, INTERVALS_MS[interval])


def test_minutes_lie_day_by_day(written):
    """With one-minute candles, every UTC day is one block."""
    _, file = written
    first = DAY_OF_CLOCK - 5 * DAY_MS

    assert [(b.from_ms, b.to_ms) for b in file.blocks] == [
        (day, day + DAY_MS) for day in range(first, DAY_OF_CLOCK + 1, DAY_MS)
    ]


def test_a_day_has_the_same_bytes_among_any_other_days(written):
    """Other candles on one day change no other day's digest, so a restated day can be named."""
    frame, file = written
    other = frame.with_columns(
        volume=pl.when(pl.col("ts").dt.date() == pl.date(2025, 10, 11)).then(7.25).otherwise(pl.col("volume"))
    )
    digests = [b.digest for b in encode_candles(other, INTERVALS_MS["1m"]).blocks]

    assert [d == b.digest for d, b in zip(digests, file.blocks, strict=True)] == [True, False, *[True] * 4]


@pytest.mark.parametrize("k", range(6))
def test_a_flipped_byte_names_exactly_its_day(written, k):
    """The first byte, the last one, and any between are found without parsing."""
    _, file = written
    begin, end = ranges(file)[k]
    places = [begin, end - 1, *np.random.default_rng(k).integers(begin, end, 10).tolist()]

    for at in places:
        bad = bytearray(file.data)
        bad[at] ^= 1 << at % 8
        assert find_damaged_blocks(bytes(bad), file.blocks) == (file.blocks[k],)


@pytest.mark.parametrize("k", range(6))
def test_a_cut_names_the_day_it_falls_into_and_all_after(written, k):
    """The cut may be at the last byte of a day, at its first, or inside."""
    _, file = written
    begin, end = ranges(file)[k]

    for at in (begin, (begin + end) // 2, end - 1):
        assert find_damaged_blocks(file.data[:at], file.blocks) == file.blocks[k:]


def test_inserted_bytes_damage_their_day_and_all_after_it(written):
    """Moved bytes are damaged bytes."""
    _, file = written
    begin, end = ranges(file)[2]
    at = (begin + end) // 2
    bad = file.data[:at] + b"\0" + file.data[at:]

    assert find_damaged_blocks(bad, file.blocks) == file.blocks[2:]


def test_swapped_days_are_both_damaged(written):
    """Each block is intact but in the wrong position."""
    _, file = written
    parts = [file.data[begin:end] for begin, end in ranges(file)]
    bad = b"".join([file.data[:4], parts[0], parts[2], parts[1], *parts[3:], file.data[file.blocks[-1].end :]])
    named = find_damaged_blocks(bad, file.blocks)

    assert len(bad) == len(file.data)
    assert named == file.blocks[1:3]


@pytest.mark.parametrize("change", ["head", "foot", "longer"])
def test_damage_outside_the_candles_names_no_day(written, change):
    """Only the hash of the whole file covers it."""
    _, file = written
    bad = {"head": b"XAR1" + file.data[4:], "foot": file.data[:-9] + b"123456789", "longer": file.data + b"\0"}[change]

    assert find_damaged_blocks(bad, file.blocks) == ()


def test_without_blocks_no_day_is_named(written):
    """A manifest may list none."""
    assert find_damaged_blocks(written[1].data, ()) == ()


def test_blocks_beyond_the_bytes_are_damaged(written):
    """A block that ends after the file is damaged, not an error."""
    _, file = written
    far = Block(0, DAY_MS, 1 << 62, "0" * 16)

    assert find_damaged_blocks(b"", (*file.blocks, far)) == (*file.blocks, far)


def test_long_files_have_few_blocks():
    """Twenty years of days or a year of hours keep the manifest small."""
    daily = make_frame(range(7000), "1d")
    hourly = make_frame(range(24 * 366), "1h")

    for frame, interval in ((daily, "1d"), (hourly, "1h")):
        blocks = encode_candles(frame, INTERVALS_MS[interval]).blocks
        assert len(blocks) <= 128
        assert sum(b.to_ms - b.from_ms for b in blocks) >= times_ms(frame)[-1] - times_ms(frame)[0]


def test_another_number_of_rows_is_refused(written):
    """It is refused before any value is read; the message has both numbers."""
    frame, file = written

    for rows in (0, frame.height - 1, frame.height + 1):
        with pytest.raises(InputError, match=f"expected {rows} rows of candles, got {frame.height} rows of"):
            read_unchecked(file.data, rows=rows, where="x")
