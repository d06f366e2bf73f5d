"""Cut points: the rows at which an audit takes the future away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.features.computation import count_consecutive_bars
from mltrain.features.spec import inputs_read
from mltrain.times import DAY_MS, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet, FeatureSpec

# How many cut points of each kind are drawn: segments whose ends are cut points, UTC midnights, segments in which a
# feature's first value is one, unusual candles of each kind, and rows for checks of the whole history.
_SEGMENTS: Final = 6
_MIDNIGHTS: Final = 4
_FIRST_VALUES: Final = 2
_UNUSUAL: Final = 2
_FULL_HISTORY: Final = 4
# Share of the random cut points at which every feature has a value; the others may fall into a warm-up.
_SHARE_WITH_VALUES: Final = 2 / 3


@dataclass(frozen=True, slots=True)
class CutPoints:
    """The rows of one symbol at which checks take the future away.

    Attributes:
        random: Random rows, rising.
        edges: Rows on both sides of gaps and of UTC midnights, and unusual candles, rising.
        full: Rows for checks of the whole history; never the last row, so that there is a future to take away.
        segments: Some runs of candles without a gap, the longest first, as (first row, number of rows).
    """

    random: tuple[int, ...]
    edges: tuple[int, ...]
    full: tuple[int, ...]
    segments: tuple[tuple[int, int], ...]

    @property
    def shared(self) -> tuple[int, ...]:
        """The rows at which every feature is checked, rising."""
        return tuple(sorted({*self.random, *self.edges}))

    def find_first_complete(self, bars: int) -> tuple[int, ...]:
        """Return, for up to two segments, the first row at which `bars` consecutive bars end."""
        return tuple(first + bars - 1 for first, rows in self.segments if rows >= bars)[:_FIRST_VALUES]


def find_inputs_read(specs: Iterable[FeatureSpec], symbol: str) -> dict[str, tuple[str, ...]]:
    """Return the inputs that features of a symbol read, by the symbol whose values these are; empty without inputs."""
    found: dict[str, set[str]] = {}
    for spec in specs:
        for of, names in (
            (symbol, inputs_read(spec, leader=False)),
            (spec.leader or symbol, inputs_read(spec, leader=True)),
        ):
            if names:
                found.setdefault(of, set()).update(names)
    return {of: tuple(sorted(names)) for of, names in sorted(found.items())}


def count_shared_bars(
    symbol: str,
    reads: Sequence[str],
    candles: Mapping[str, pl.DataFrame],
    step_ms: int,
    *,
    inputs: Mapping[str, Sequence[str]],
) -> NDArray[np.int64]:
    """Count, at each row of a symbol, the bars in a row that end there and that all symbols in `reads` have.

    Only bars count at which the `inputs` of each symbol have a value.
    """
    ts_ms = times_ms(candles[symbol])
    present = np.ones(ts_ms.size, dtype=np.bool_)
    for other in {*reads, *inputs}:
        frame = candles[other]
        has_inputs = np.ones(frame.height, dtype=np.bool_)
        for name in inputs.get(other, ()):
            has_inputs &= np.isfinite(frame[name].to_numpy())
        if other == symbol:
            present &= has_inputs
        else:
            present &= np.isin(ts_ms, times_ms(frame)[has_inputs])
    return count_consecutive_bars(ts_ms, step_ms, present=present)


def choose_cut_points(
    feature_set: FeatureSet,
    symbol: str,
    candles: Mapping[str, pl.DataFrame],
    *,
    points: int,
    rng: np.random.Generator,
) -> CutPoints:
    """Choose the rows of one symbol at which an audit takes the future away; `points` of them are random.

    `candles` are candles by symbol, with the leaders of the features and joined with the inputs.
    """
    ts_ms = times_ms(candles[symbol])
    if not ts_ms.size:
        return CutPoints((), (), (), ())
    inputs = find_inputs_read(feature_set.features, symbol) if feature_set.inputs else {}
    step_ms = interval_ms(feature_set.interval)
    bars = count_shared_bars(symbol, (symbol, *feature_set.leaders), candles, step_ms, inputs=inputs)
    all_rows = np.arange(ts_ms.size)
    complete_rows = np.flatnonzero(bars >= feature_set.lookback_bars)
    random_complete = _draw(rng, complete_rows, round(points * _SHARE_WITH_VALUES))
    starts = np.flatnonzero(bars == 1)
    lengths = np.diff([*starts, ts_ms.size])
    segments = np.array([], dtype=np.intp)
    if starts.size:
        segments = np.unique([0, *_draw(rng, np.arange(starts.size), _SEGMENTS)])
    midnights = _draw(rng, np.flatnonzero(ts_ms % DAY_MS == 0), _MIDNIGHTS)
    edges = np.concatenate([[0], starts[segments], starts[segments] - 1, midnights, midnights - 1]).astype(np.int64)
    unusual = [_draw(rng, rows, _UNUSUAL) for rows in _find_unusual_rows(candles[symbol])]
    edges = np.concatenate([edges[edges >= 0], *unusual])
    random = np.concatenate([random_complete, _draw(rng, all_rows, points - random_complete.size)])
    longest_first = sorted(segments.tolist(), key=lambda i: -lengths[i])
    return CutPoints(
        random=tuple(np.unique(random).tolist()),
        edges=tuple(np.unique(edges).tolist()),
        full=tuple(_draw(rng, complete_rows[complete_rows < ts_ms.size - 1], _FULL_HISTORY).tolist())
        or tuple(_draw(rng, all_rows[:-1], _FULL_HISTORY).tolist()),
        segments=tuple((int(starts[i]), int(bars[starts[i] : starts[i] + lengths[i]].max())) for i in longest_first),
    )


def _find_unusual_rows(frame: pl.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Yield, for volume, range and absolute move, the rows where it is 0 (formulas divide by it) and its largest."""
    close = frame["close"].to_numpy()
    volume, price_range = frame["volume"].to_numpy(), (frame["high"] - frame["low"]).to_numpy()
    move = np.abs(np.diff(close, prepend=close[:1]))
    for sizes in (volume, price_range, move):
        yield np.flatnonzero(sizes == 0)
        yield np.array([np.argmax(sizes)])


def _draw(rng: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return up to `count` distinct rows, in random order."""
    return rng.permutation(rows)[:count] if rows.size <= 4 * count else rng.choice(rows, count, replace=False)
