"""A loaded version, ready to score.

A `LoadedModel` never changes. It is replaced as a whole (`mltrain.serving.live_model`), so a call that holds one gets
the answer of one version.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.artifact import MODEL_FILE, NETWORK_FILE, WEIGHTS_FILE
from mltrain.artifact.bundle import MAX_BUNDLE_BYTES, Bundle
from mltrain.candles.frame import TS_DTYPE
from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.serving.checked_features import open_newest_features
from mltrain.serving.fast_row import open_fast_row
from mltrain.serving.scorer import BoosterScorer, NetworkScorer
from mltrain.training.lightgbm_import import import_lightgbm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.artifact.sequence_bundle import SequenceBundle
    from mltrain.features.newest import NewestFeatures
    from mltrain.serving.rows import FeatureRows
    from mltrain.serving.scorer import Scorer
    from mltrain.store.versions import StoredVersion
    from mltrain.training.calibration import Calibrator

RESULT_SCHEMA: Final = {
    "ts": TS_DTYPE,
    "symbol": pl.String(),
    "p": pl.Float64(),
    "raw": pl.Float64(),
    "refused": pl.String(),
    "permit": pl.String(),
}

_PROBE_SCORES: Final = 257


class OtherCodeWarning(UserWarning):
    """The model was trained with other feature code than this installation has."""


class CalibrationMap:
    """A calibrator prepared for speed: `np.interp` for arrays, a binary search for a single score."""

    __slots__ = ("_probabilities", "_scores", "_search_is_exact", "_slopes", "_table")

    def __init__(self, calibrator: Calibrator) -> None:
        knots = calibrator.knots
        self._table = None if knots is None else (np.array(knots.scores), np.array(knots.probabilities))
        self._scores: list[float] = [] if self._table is None else self._table[0].tolist()
        self._probabilities: list[float] = [] if self._table is None else self._table[1].tolist()
        pairs = zip(self._scores, self._scores[1:], self._probabilities, self._probabilities[1:], strict=False)
        self._slopes: list[float] = [(after - before) / (high - low) for low, high, before, after in pairs]
        self._search_is_exact = self._is_search_exact()

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map raw scores to calibrated probabilities, both in [0, 1], shape (n,), as `Calibrator.apply` does."""
        return raw if self._table is None else np.interp(raw, *self._table)

    def apply_one(self, raw: float) -> float:
        """Map one raw score to its calibrated probability, both in [0, 1], with the same bits as `apply`."""
        if self._table is None:
            return raw
        return self._search(raw) if self._search_is_exact else float(self.apply(np.array([raw]))[0])

    def _search(self, raw: float) -> float:
        """Map one raw score by a binary search for its knots, which is faster than `np.interp`."""
        left = bisect_right(self._scores, raw) - 1
        if left < 0:
            return self._probabilities[0]
        if left >= len(self._slopes):
            return self._probabilities[-1]
        return self._slopes[left] * (raw - self._scores[left]) + self._probabilities[left]

    def _is_search_exact(self) -> bool:
        """Return whether `_search` gives the bits of `np.interp`, whose compiler may fuse multiply and add."""
        if self._table is None:
            return True
        scores = self._table[0]
        near = [scores, np.nextafter(scores, 0), np.nextafter(scores, 1), (scores[1:] + scores[:-1]) / 2]
        probes = np.concatenate([np.linspace(0, 1, _PROBE_SCORES), *near])
        return np.array([self._search(raw) for raw in probes.tolist()]).tobytes() == self.apply(probes).tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that is ready to score, with its card.

    Attributes:
        version: The version's name; empty: the model was not published.
        bundle: The contents of the model's files.
        card: The Model Card; empty: the model was not published.
        scorer: Turns features into raw scores.
        calibration: Maps raw scores to probabilities.
        names: Names of the features, in column order.
        lookback_bars: Consecutive candles that a prediction needs, the newest included.
        newest: Computes the features of the newest candles.
        folder: The version's folder; None: the model was not published.
        valid_until_ms: The time from which it should no longer be served, ms UTC; None: there is no limit.
    """

    version: str
    bundle: Bundle | SequenceBundle
    card: Mapping[str, Any]
    scorer: Scorer
    calibration: CalibrationMap
    names: tuple[str, ...]
    lookback_bars: int
    newest: NewestFeatures
    folder: Path | None
    valid_until_ms: int | None

    @property
    def path(self) -> str:
        """How one row is scored: by LightGBM's single-row call, by `Booster.predict`, or by a network in NumPy."""
        return self.scorer.path

    @property
    def window(self) -> int:
        """Consecutive bars whose features a score needs, its own included."""
        return self.scorer.window

    def score(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return raw scores and calibrated probabilities of up, in [0, 1], shapes (n,), of finite rows of features."""
        scores = self.scorer.score(x)
        return scores, self.calibration.apply(scores)

    def score_one(self, row: NDArray[np.float32]) -> tuple[float, float]:
        """Return raw score and calibrated probability of up, in [0, 1], of one finite row of features, shape (f,)."""
        raw = self.scorer.score_one(row)
        return raw, self.calibration.apply_one(raw)

    def score_bars(
        self, symbol: str, ts_ms: NDArray[np.int64], x: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return raw scores and calibrated probabilities of up of bars, as `Scorer.score_bars`, both shape (m,)."""
        scores = self.scorer.score_bars(symbol, ts_ms, x, ends)
        return scores, self.calibration.apply(scores)


def load_version(version: StoredVersion) -> LoadedModel:
    """Load model and card of a stored version; raise InputError if a hash does not match the manifest."""
    with version.in_use():
        bundle = read_bundle(version)
        card_json = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
    where = str(version.folder / CARD_FILE)
    card = parse_json(card_json, where=where, max_bytes=MAX_CARD_BYTES)
    if not isinstance(card, dict):
        raise InputError(f"{where} is not a mapping", hint="run `mltrain card validate`")
    return load_bundle(bundle, version=version.name, card=card, folder=version.folder)


def read_bundle(version: StoredVersion) -> Bundle | SequenceBundle:
    """Return the model in the files of a version; raise InputError if they are damaged."""
    if any(entry.path == MODEL_FILE for entry in version.manifest.files):
        data = version.read(MODEL_FILE, max_bytes=MAX_BUNDLE_BYTES)
        return Bundle.from_bytes(data, where=str(version.folder / MODEL_FILE))
    from mltrain.artifact.sequence_bundle import MAX_NETWORK_BYTES, MAX_WEIGHTS_BYTES, SequenceBundle

    network = version.read(NETWORK_FILE, max_bytes=MAX_NETWORK_BYTES)
    weights = version.read(WEIGHTS_FILE, max_bytes=MAX_WEIGHTS_BYTES)
    return SequenceBundle.from_files(network, weights, where=str(version.folder))


def load_bundle(
    bundle: Bundle | SequenceBundle,
    *,
    version: str = "",
    card: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> LoadedModel:
    """Create the scorer of a bundle, and prepare everything else that scoring needs.

    A model that was not published has no version, no card and no folder.

    Raises:
        InputError: LightGBM rejects the model text.

    Warns:
        OtherCodeWarning: The model was trained with other feature code than this installation has.
        SlowPathWarning: LightGBM's single-row call, or the formula of a feature, is not exact here, and is not used.
    """
    scorer = _open_scorer(bundle, version)
    if bundle.ops_sha256 != ops_sha256():
        warnings.warn(
            f"{version or 'the model'}: the feature code has changed since this model was trained: its features may "
            "differ from those that it learned from; train again, or install the mltrain that its card names",
            OtherCodeWarning,
            stacklevel=4,
        )
    names = bundle.feature_set.names
    return LoadedModel(
        version=version,
        bundle=bundle,
        card=card or {},
        scorer=scorer,
        calibration=CalibrationMap(bundle.calibrator),
        names=names,
        lookback_bars=bundle.feature_set.lookback_bars + scorer.window - 1,
        newest=open_newest_features(bundle.feature_set),
        folder=folder,
        valid_until_ms=ModelCard.from_json(dict(card or {})).valid_until_ms,
    )


def _open_scorer(bundle: Bundle | SequenceBundle, version: str) -> Scorer:
    """Return the scorer of a bundle; raise InputError if LightGBM rejects its model text."""
    if not isinstance(bundle, Bundle):
        return NetworkScorer(bundle)
    lightgbm = import_lightgbm()
    try:
        booster = lightgbm.Booster(model_str=bundle.model_text)
    except lightgbm.basic.LightGBMError as err:
        raise InputError(f"{version or 'the model'}: LightGBM rejects the model text: {err}") from err
    return BoosterScorer(booster, open_fast_row(booster, len(bundle.feature_set.names), bundle.model_text))


def score_rows(loaded: LoadedModel, parts: list[FeatureRows]) -> pl.DataFrame:
    """Score rows of features, one part per symbol; return the columns of RESULT_SCHEMA, null where a row is refused."""
    refused = [reason for part in parts for reason in part.refused]
    accepted = [position for position, reason in enumerate(refused) if reason is None]
    raw: list[float | None] = [None] * len(refused)
    p: list[float | None] = [None] * len(refused)
    if accepted:
        raw_scores, probabilities = _score_accepted(loaded, parts)
        for position, raw_score, probability in zip(accepted, raw_scores.tolist(), probabilities.tolist(), strict=True):
            raw[position], p[position] = raw_score, probability
    ts_ms = [ts for part in parts for ts in part.ts_ms]
    symbols = [part.symbol for part in parts for _ in part.ts_ms]
    # Series instead of lists, from which a frame takes as long as the features.
    permits = [part.permit if reason is None else None for part in parts for reason in part.refused]
    columns: dict[str, list[Any]] = {"symbol": symbols, "p": p, "raw": raw, "refused": refused, "permit": permits}
    series = [pl.Series(name, values, RESULT_SCHEMA[name]) for name, values in columns.items()]
    return pl.DataFrame([pl.Series("ts", ts_ms, pl.Int64()).cast(TS_DTYPE), *series])


def _score_accepted(loaded: LoadedModel, parts: list[FeatureRows]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return raw scores and probabilities of the rows that are not refused, in order."""
    accepted = [np.flatnonzero([reason is None for reason in part.refused]) for part in parts]
    if loaded.window == 1:
        # All symbols in one call, because each call of the booster has a fixed cost.
        return loaded.score(np.concatenate([part.x[rows] for part, rows in zip(parts, accepted, strict=True)]))
    scored = [
        loaded.score_bars(part.symbol, part.bars_ms, part.x, part.x.shape[0] - len(part.refused) + rows)
        for part, rows in zip(parts, accepted, strict=True)
        if rows.size
    ]
    raw, p = (np.concatenate(columns) for columns in zip(*scored, strict=True))
    return raw, p
