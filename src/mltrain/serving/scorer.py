"""Scorers: what turns features into a raw score. A booster reads one bar, a network the window that ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np

from mltrain.errors import UsageError
from mltrain.serving.fast_row import FAST, SLOW
from mltrain.tft.variables import make_variables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.artifact.sequence_bundle import SequenceBundle
    from mltrain.serving.fast_row import FastRow

# A call for many rows costs as much as some single ones.
_FEW_ROWS: Final = 4
# Windows that are scored at once, to bound the memory.
_WINDOWS: Final = 4_096
NETWORK: Final = "NumPy"


class Scorer(Protocol):
    """Scores bars of one symbol.

    Attributes:
        window: Consecutive bars that a score needs, its own included.
        path: How a row is scored, for people.
    """

    window: int
    path: str

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores of rows of features, shape (n, f), one bar each, in [0, 1], shape (n,).

        Raises:
            UsageError: A score needs more than one bar.
        """

    def score_one(self, row: NDArray[np.float32]) -> float:
        """Return the score of one row of features, shape (f,), with the bits of `score`; errors as there."""

    def score_bars(
        self, symbol: str, ts_ms: NDArray[np.int64], x: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the scores of some of a symbol's bars, in [0, 1], shape (m,).

        Args:
            symbol: A symbol of the model.
            ts_ms: Open time of each bar, ms UTC, shape (n,).
            x: Features of each bar, shape (n, f); finite in the window of each scored one.
            ends: Positions of the bars to score, each with `window` - 1 consecutive ones before it, shape (m,).
        """


class BoosterScorer:
    """Scores with LightGBM.

    Attributes:
        booster: A lightgbm.Booster.
        fast: Scores one row through LightGBM's C API; None: the booster scores every row.
    """

    window = 1

    def __init__(self, booster: Any, fast: FastRow | None) -> None:  # noqa: ANN401 (LightGBM has no types)
        self.booster = booster
        self.fast = fast
        self.path = SLOW if fast is None else FAST

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores of rows, as `Scorer.score` says."""
        if not x.shape[0]:
            return np.empty(0)
        # Few rows take the faster way, which gives the same bits.
        if x.shape[0] <= _FEW_ROWS:
            return np.array([self.score_one(row) for row in x])
        return cast("NDArray[np.float64]", self.booster.predict(x, num_threads=1))

    def score_one(self, row: NDArray[np.float32]) -> float:
        """Return the score of a row, as `Scorer.score_one` says."""
        fast = self.fast
        return float(self.booster.predict(row[None, :], num_threads=1)[0]) if fast is None else fast.score(row)

    def score_bars(
        self, symbol: str, ts_ms: NDArray[np.int64], x: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the scores of bars, as `Scorer.score_bars` says."""
        del symbol, ts_ms
        return self.score(np.ascontiguousarray(x[ends]))


class NetworkScorer:
    """Scores with a Temporal Fusion Transformer."""

    path = NETWORK

    def __init__(self, bundle: SequenceBundle) -> None:
        self.window = bundle.architecture.window
        self._forward, self._scaler = bundle.forward(), bundle.scaler
        self._positions = {symbol: ix for ix, symbol in enumerate(bundle.symbols)}

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raise UsageError: a row of features is not enough."""
        del x
        raise self._refuse()

    def score_one(self, row: NDArray[np.float32]) -> float:
        """Raise UsageError: a row of features is not enough."""
        del row
        raise self._refuse()

    def _refuse(self) -> UsageError:
        return UsageError(
            f"this model reads the last {self.window} bars, so a row of features is not enough",
            hint="pass candles: predict_candles, or a stream",
        )

    def score_bars(
        self, symbol: str, ts_ms: NDArray[np.int64], x: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the scores of bars, as `Scorer.score_bars` says."""
        ix = self._positions[symbol]
        scores = np.empty(ends.size)
        # Bars that are not needed may be anything.
        for first in range(0, ends.size, _WINDOWS):
            part = ends[first : first + _WINDOWS]
            start = int(part.min()) - self.window + 1
            bars = slice(start, int(part.max()) + 1)
            made, _ = self._forward.select(make_variables(np.nan_to_num(x[bars]), ts_ms[bars], self._scaler), ix)
            scores[first : first + _WINDOWS] = 1 / (1 + np.exp(-self._forward.score(made, part - start, ix)))
        return scores
