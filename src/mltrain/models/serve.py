"""Serving: from a version on disk to checked, calibrated probabilities.

The features are computed by the code that training used, from the registry stored in the model, on the last candles
that they need. Whatever must not be scored is refused with a reason, never guessed: a hole or too few candles in the
window, a stale candle, an unknown symbol, columns by any other name or order, a value that is not finite.

A model that was loaded through the pointer to the best version follows it: each use first looks where the pointer
leads, so that a promotion or a rollback is served without a restart. Nothing here ever falls back to another version.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import polars as pl

from mltrain.candles.frame import TS_DTYPE
from mltrain.documents import parse_json
from mltrain.errors import InputError, RefusedError
from mltrain.features.ops import ops_sha256
from mltrain.features.own import use_ops
from mltrain.files import read_pointer
from mltrain.learn.backend import import_lightgbm
from mltrain.learn.metrics import predict_up
from mltrain.models.bundle import MAX_BUNDLE_BYTES, Bundle
from mltrain.models.card import CARD_FILE, MAX_CARD_BYTES
from mltrain.models.rows import NOT_FINITE, Question, read_rows
from mltrain.models.store import BEST, LINKS, open_path
from mltrain.models.versions import MODEL_FILE
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from mltrain.features.registry import FeatureSet, LabelSpec
    from mltrain.models.rows import FeatureRows, WhichRows
    from mltrain.models.versions import StoredVersion

MAX_AGE_BARS: Final = 2  # so long after its close a candle should have had a successor, with a bar to spare
LOCK: Final = ".lock"  # every models folder has one, since its first version

_PROBE_ROWS: Final = 64
_RESULT_SCHEMA: Final = {
    "ts": TS_DTYPE,
    "symbol": pl.String(),
    "p": pl.Float64(),
    "raw": pl.Float64(),
    "refused": pl.String(),
}


class OtherCodeWarning(UserWarning):
    """The feature code that runs is not the code that the model was trained with."""


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """One version, loaded: never changed, only replaced whole."""

    version: str
    bundle: Bundle
    card: Mapping[str, Any]
    booster: Any
    lookback_bars: int


class Model:
    """A trained classifier: candles or features in, calibrated probabilities out.

    `mltrain.load` makes it. It has the face of a fitted scikit-learn classifier (`predict_proba`, `predict`,
    `classes_`, `feature_names_in_`), and may be used from several threads.
    """

    def __init__(self, served: _Served, *, pointer: Path | None = None) -> None:
        self._served = served
        self._pointer = pointer
        self._names_at_load = served.bundle.feature_set.names

    def __repr__(self) -> str:
        served = self._served
        return f"<mltrain.Model {served.version or 'unpublished'} of {', '.join(served.bundle.symbols)}>"

    @property
    def version(self) -> str:
        """The version's name; empty for a model that was not published."""
        return self._current().version

    @property
    def card(self) -> dict[str, Any]:
        """The version's Model Card v2; empty for a model that was not published."""
        return dict(self._current().card)

    @property
    def feature_set(self) -> FeatureSet:
        """The registry that the model was trained with."""
        return self._current().bundle.feature_set

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that the model was trained on."""
        return self._current().bundle.symbols

    @property
    def interval(self) -> str:
        """Length of its candles, such as "1m"."""
        return self._current().bundle.interval

    @property
    def label(self) -> LabelSpec:
        """What the probability is of."""
        return self._current().bundle.label

    @property
    def lookback_bars(self) -> int:
        """Candles in a row that a prediction needs, the newest included."""
        return self._current().lookback_bars

    @property
    def classes_(self) -> NDArray[np.int64]:
        """The labels, in the order of the columns of `predict_proba`: 0 is down, 1 is up."""
        return np.array([0, 1])

    @property
    def feature_names_in_(self) -> NDArray[np.str_]:
        """The features' names, in column order."""
        return np.array(self._current().bundle.feature_set.names)

    @property
    def n_features_in_(self) -> int:
        """How many features there are."""
        return len(self._current().bundle.feature_set.names)

    def predict_candles(
        self,
        candles: Mapping[str, pl.DataFrame] | pl.DataFrame,
        *,
        rows: WhichRows = "last",
        now_ms: int | None = None,
        max_age_bars: int = MAX_AGE_BARS,
    ) -> pl.DataFrame:
        """Score candles.

        Args:
            candles: Candles by symbol, those of leaders too; or one frame, with a column `symbol` where the model
                knows several. Columns as in `mltrain.candles.frame.CANDLE_SCHEMA`; the optional ones are needed only
                where a feature reads them.
            rows: "last": the newest closed candle of each symbol; "all": every candle.
            now_ms: The source's clock, ms UTC: candles that close later are left out, and a newest one that is older
                than `max_age_bars` is refused; None: every candle is closed, and none too old.
            max_age_bars: How many bars after its close the newest candle counts as stale.

        Returns:
            `ts`, `symbol`, `p` (probability of up), `raw` (before calibration), and `refused`: null, or why a row has
            no `p` and no `raw`: unknown-symbol, stale, too-few-bars, hole, leader-hole or not-finite. In the order of
            symbols and times given.

        Raises:
            InputError: A candle is impossible or out of order, or a column or a leader that a feature reads is missing.
        """
        served = self._current()
        question = Question(
            feature_set=served.bundle.feature_set,
            symbols=served.bundle.symbols,
            lookback_bars=served.lookback_bars,
            rows=rows,
            now_ms=now_ms,
            max_age_bars=max_age_bars,
        )
        return _score_rows(served, list(read_rows(_by_symbol(candles, served.bundle.symbols), question)))

    def predict_one(self, features: Mapping[str, float] | ArrayLike) -> float:
        """Return the probability of up for one row of features.

        Args:
            features: By name, exactly the model's; or their values in its order.

        Raises:
            InputError: A feature is missing, unknown or no number.
            RefusedError: A value is not finite.
        """
        served = self._current()
        if isinstance(features, Mapping):
            x = _row_by_name(features, served.bundle.feature_set.names)
        else:
            x = self._row_in_order(features, served)
        _, p = _score(served, _finite(x[None, :], served.bundle.feature_set.names))
        return float(p[0])

    def predict_proba(self, x: NDArray[np.floating[Any]] | pl.DataFrame) -> NDArray[np.float64]:
        """Return the probabilities of down and up.

        Args:
            x: Features: an array (n, f) in the model's order, or a frame with exactly the model's columns in order.

        Returns:
            Shape (n, 2), rows in order.

        Raises:
            InputError: Columns are missing, unknown, out of order or of another type.
            RefusedError: A value is null or not finite.
        """
        served = self._current()
        names = served.bundle.feature_set.names
        matrix = _matrix_by_name(x, names) if isinstance(x, pl.DataFrame) else self._matrix_in_order(x, served)
        _, p = _score(served, _finite(matrix, names))
        return np.stack([1 - p, p], axis=1)

    def predict(self, x: NDArray[np.floating[Any]] | pl.DataFrame) -> NDArray[np.int64]:
        """Return 1 where up is more probable than down, else 0; see `predict_proba`."""
        return predict_up(self.predict_proba(x)[:, 1]).astype(np.int64)

    def score(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return raw scores and probabilities of rows in the model's order, shapes (n,), for those who know their rows.

        Args:
            x: Features as training made them, shape (n, f), finite.
        """
        return _score(self._current(), x)

    def _current(self) -> _Served:
        """Return the version to serve, which is another one where the pointer has moved since the last use."""
        if self._pointer is not None:
            target = read_pointer(self._pointer)
            if target != self._served.version:
                self._served = _read_version(open_path(self._pointer))
        return self._served

    def _matrix_in_order(self, x: object, served: _Served) -> NDArray[np.float32]:
        """Return positional features as a matrix; positions mean nothing once other features are served."""
        names = served.bundle.feature_set.names
        if names != self._names_at_load:
            raise InputError(
                f"version {served.version} has other features than the one that was loaded here: "
                "an array in the old order would score wrongly",
                hint="pass features by name, or load the model again",
            )
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind != "f":
            what = f"an array of {x.dtype} with shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise InputError(
                f"features must be a Polars frame or an array of floats with shape (n, {len(names)}), not {what}"
            )
        if x.shape[1] != len(names):
            raise InputError(f"the model has {len(names)} features, the array {x.shape[1]} columns")
        return _to_float32(x)

    def _row_in_order(self, features: object, served: _Served) -> NDArray[np.float32]:
        row: NDArray[Any] = np.asarray(features)
        if row.ndim != 1:
            raise InputError(f"one row of features has one dimension, not shape {row.shape}")
        return self._matrix_in_order(row[None, :], served).ravel()


def load(path: str | os.PathLike[str], *, allow_no_go: bool = False, ops: str | None = None) -> Model:
    """Load a model.

    Args:
        path: `data/models/best_lgbm.pkl` (or `best_lgbm`), which is followed from then on; a version's folder; or the
            `lgbm.pkl` in it.
        allow_no_go: Take a version that was never promoted, too.
        ops: The module of ops of your own that the model was trained with, as you would import it. **Importing it runs
            its code**; nothing but this argument has it imported.

    Returns:
        The model, every byte of it checked against the hash that its version's manifest names.

    Raises:
        UsageError: The path names something else.
        InputError: There is no such version, it is damaged, or it was never promoted; the module fails.
        OwnOpsError: The model was trained with a module of ops that was not named, or whose source was another.
        MachineError: LightGBM's system library is missing, or the disk refused.

    Warns:
        OtherCodeWarning: The model was trained with other feature code than runs now.
    """
    if ops is not None:
        use_ops(ops)
    place = Path(path).absolute()  # the pointer is followed even where the process changes its folder
    version = open_path(place)
    if not allow_no_go:
        _check_servable(version)
    pointer = place.parent / BEST if place.name in {BEST, *LINKS} else None
    return Model(_read_version(version), pointer=pointer)


def open_model(version: StoredVersion) -> Model:
    """Load the model of a version, promoted or not.

    Raises:
        InputError: It is damaged.
        MachineError: LightGBM's system library is missing, or the disk refused.

    Warns:
        OtherCodeWarning: The model was trained with other feature code than runs now.
    """
    return Model(_read_version(version))


def model_of_bundle(bundle: Bundle) -> Model:
    """Return the model of a bundle that was not published; it has no version and no card.

    Raises:
        InputError: LightGBM refuses the model text.
        MachineError: LightGBM's system library is missing.
    """
    return Model(_serve("", bundle, {}))


def check_round_trip(version: StoredVersion, model: Model) -> None:
    """Load a version back from disk and compare its probabilities with those of the model that was written.

    Raises:
        InputError: It does not read back.
        RuntimeError: It reads back, and scores otherwise: a bug.
    """
    probe = np.random.default_rng(0).standard_normal((_PROBE_ROWS, model.n_features_in_), np.float32)
    probe[0], probe[1] = 0.0, np.finfo(np.float32).max
    for written, read in zip(model.score(probe), open_model(version).score(probe), strict=True):
        if written.tobytes() != read.tobytes():
            raise RuntimeError(f"the model in {version.folder} does not score as the one that was written there")


def _check_servable(version: StoredVersion) -> None:
    """Refuse a version that nobody promoted; one that was copied out of its models folder has its verdict alone."""
    alone = not any(os.path.lexists(version.folder.parent / name) for name in (BEST, LOCK))
    if version.promoted or (alone and version.verdict == "GO"):
        return
    what = "was never promoted" if version.verdict == "GO" else f"is {version.verdict} and was never promoted"
    raise InputError(
        f"{version.name} {what}",
        hint=f"run `mltrain promote {version.name}`, or take it as it is with --allow-no-go (allow_no_go=True)",
    )


def _read_version(version: StoredVersion) -> _Served:
    """Read a version: the very bytes that are parsed are those whose hashes were checked."""
    with version.held():
        data = version.read(MODEL_FILE, max_bytes=MAX_BUNDLE_BYTES)
        card_data = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
    where = str(version.folder / CARD_FILE)
    card = parse_json(card_data, where=where, max_bytes=MAX_CARD_BYTES)
    if not isinstance(card, dict):
        raise InputError(f"{where} is not a mapping", hint="run `mltrain card validate`")
    return _serve(version.name, Bundle.from_bytes(data, where=str(version.folder / MODEL_FILE)), card)


def _serve(version: str, bundle: Bundle, card: Mapping[str, Any]) -> _Served:
    lightgbm = import_lightgbm()
    try:
        booster = lightgbm.Booster(model_str=bundle.model_text)
    except lightgbm.basic.LightGBMError as err:
        raise InputError(f"{version or 'the model'}: LightGBM refuses the model text: {err}") from err
    if bundle.ops_sha256 != ops_sha256():
        warnings.warn(
            f"{version}: the feature code has changed since this model was trained: its features may differ from those "
            "that it learned from; train again, or install the mltrain that its card names",
            OtherCodeWarning,
            stacklevel=4,
        )
    return _Served(version, bundle, card, booster, bundle.feature_set.lookback_bars)


def _score(served: _Served, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return raw scores and probabilities of finite rows in the model's order."""
    if not x.shape[0]:
        return np.empty(0), np.empty(0)
    raw = cast("NDArray[np.float64]", served.booster.predict(x, num_threads=1))
    return raw, served.bundle.calibrator.apply(raw)


def _score_rows(served: _Served, parts: list[FeatureRows]) -> pl.DataFrame:
    """Score what was not refused, all symbols in one call."""
    refused = [reason for part in parts for reason in part.refused]
    good = [number for number, reason in enumerate(refused) if reason is None]
    raw: list[float | None] = [None] * len(refused)
    p: list[float | None] = [None] * len(refused)
    if good:
        scores = _score(served, np.concatenate([part.x for part in parts])[good])
        for number, *both in zip(good, *(column.tolist() for column in scores), strict=True):
            raw[number], p[number] = both
    ts_ms = [ts for part in parts for ts in part.ts_ms]
    symbols = [part.symbol for part in parts for _ in part.ts_ms]
    columns = {"ts": ts_ms, "symbol": symbols, "p": p, "raw": raw, "refused": refused}
    return pl.DataFrame(columns, schema=_RESULT_SCHEMA)


def _by_symbol(
    candles: Mapping[str, pl.DataFrame] | pl.DataFrame, symbols: tuple[str, ...]
) -> Mapping[str, pl.DataFrame]:
    """Return candles by symbol, whichever way they were given."""
    if not isinstance(candles, pl.DataFrame):
        return candles
    if "symbol" in candles.columns:
        if candles["symbol"].dtype != pl.String or candles["symbol"].null_count():
            raise InputError("the candles' column symbol must name a symbol in every row")
        return {str(key[0]): part for key, part in candles.partition_by("symbol", as_dict=True).items()}
    if len(symbols) > 1:
        raise InputError(
            f"whose candles are these? The model knows {', '.join(symbols)}",
            hint="add a column `symbol`, or pass a mapping of symbol to candles",
        )
    return {symbols[0]: candles}


def _check_names(found: Iterable[str], names: tuple[str, ...], what: str) -> None:
    """Refuse names that are not exactly the model's, in any order."""
    have = list(found)
    problems = [f"{show(name)} missing" for name in names if name not in set(have)]
    problems += [f"{show(str(name))} unknown" for name in have if name not in set(names)]
    if problems:
        raise InputError(f"{what}: {', '.join(problems)}")


def _row_by_name(features: Mapping[str, float], names: tuple[str, ...]) -> NDArray[np.float32]:
    _check_names(features, names, "features")
    wrong = [n for n in names if isinstance(features[n], bool) or not isinstance(features[n], float | int | np.number)]
    if wrong:
        raise InputError(f"features: {', '.join(wrong)} must be numbers")
    return _to_float32(np.array([features[name] for name in names], np.float64))


def _matrix_by_name(frame: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.float32]:
    _check_names(frame.columns, names, "columns")
    if tuple(frame.columns) != names:
        at = next(i for i, name in enumerate(names) if frame.columns[i] != name)
        raise InputError(
            f"columns are out of order: {frame.columns[at]} stands where {names[at]} belongs",
            hint="select them as `frame.select(model.feature_names_in_)`",
        )
    wrong = [f"{name} is {dtype}" for name, dtype in frame.schema.items() if not dtype.is_float()]
    if wrong:
        raise InputError(f"columns must be Float32 or Float64: {', '.join(wrong)}")
    return _to_float32(frame.select(pl.all().fill_null(float("nan"))).to_numpy(order="c"))


def _to_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as that
        return np.ascontiguousarray(x, np.float32)


def _finite(x: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the rows as they are, once every value has proved finite."""
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise RefusedError(
            f"feature {names[column]} of row {row} is {x[row, column]}: nothing is filled in for it", reason=NOT_FINITE
        )
    return x
