"""Serving: from a version on disk to checked, calibrated probabilities.

The features are computed by the code that training used, from the registry stored in the model, on the last candles
that they need. Whatever must not be scored is refused with a reason, never guessed: a gap or too few candles in the
window, a stale candle, an unknown symbol, columns by any other name or order, a value that is not finite.

The newest candle is judged by the clock that is passed to `load`; a batch (`rows="all"`) is never stale.

A model that was loaded through the pointer to the best version follows it (`mltrain.serving.follow`): each use first
looks where the pointer leads, so that a promotion or a rollback is served without a restart. A version that cannot be
served never takes the place of one that can.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.conversion import as_frame, is_columns
from mltrain.errors import InputError, UsageError
from mltrain.features.user_ops import import_user_ops
from mltrain.names import describe
from mltrain.serving.explanation import explain_matrix, explain_rows
from mltrain.serving.follow import Follower, look
from mltrain.serving.inputs import (
    candles_by_symbol,
    check_finite,
    check_finite_row,
    feature_matrix,
    feature_row,
    matrix_by_name,
    row_by_name,
    row_in_order,
)
from mltrain.serving.loaded_model import OtherCodeWarning, read_served, score_rows, serve_bundle
from mltrain.serving.rows import Question, read_now, read_rows
from mltrain.serving.stream import Stream
from mltrain.store.pointer import BEST, LINKS
from mltrain.store.signature import check_signature
from mltrain.store.store import PROMOTIONS, open_path
from mltrain.training.metrics import predict_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from mltrain.artifact.bundle import Bundle
    from mltrain.features.spec import FeatureSet, LabelSpec
    from mltrain.serving.follow import Mark
    from mltrain.serving.loaded_model import Served
    from mltrain.serving.rows import FeatureRows, WhichRows
    from mltrain.store.versions import StoredVersion

__all__ = ["MAX_AGE_BARS", "Model", "OtherCodeWarning", "check_round_trip", "load", "model_of_bundle", "open_model"]

MAX_AGE_BARS: Final = 2  # so long after its close a candle should have had a successor, with a bar to spare
LOCK: Final = ".lock"  # every models folder has one, since its first version

_PROBE_ROWS: Final = 64


class Model:
    """A trained classifier: candles or features in, calibrated probabilities out.

    `mltrain.load` makes it. It has the face of a fitted scikit-learn classifier (`predict_proba`, `predict`,
    `classes_`, `feature_names_in_`), and may be used from several threads.

    Pickled or copied (`pickle`, `joblib`, `copy.deepcopy`), it is loaded again from its path, with the same options and
    all checks; a model that follows the pointer still follows it.
    """

    def __init__(
        self,
        served: Served,
        *,
        pointer: Path | None = None,
        mark: Mark = None,
        key: Path | None = None,
        clock: Callable[[], float] | None = None,
        origin: Callable[[], Model] | None = None,
    ) -> None:
        self._clock = clock
        self._origin = origin
        self._follower = Follower(served, pointer=pointer, mark=mark, key=key)
        self._current = self._follower.current
        self._names_at_load = served.names

    def __repr__(self) -> str:
        served = self._current()
        return f"<mltrain.Model {served.version or 'unpublished'} of {', '.join(served.bundle.symbols)}>"

    def __reduce__(self) -> tuple[Callable[[], Model], tuple[()]]:
        if self._origin is None:
            raise UsageError("a model that was not published has no path, so it can be neither pickled nor copied")
        return self._origin, ()

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
    def path(self) -> str:
        """How one row is scored: LightGBM's "single-row fast call", or "Booster.predict" where that one is in doubt."""
        return self._current().path

    @property
    def classes_(self) -> NDArray[np.int64]:
        """The labels, in the order of the columns of `predict_proba`: 0 is down, 1 is up."""
        return np.array([0, 1])

    @property
    def feature_names_in_(self) -> NDArray[np.str_]:
        """The features' names, in column order."""
        return np.array(self._current().names)

    @property
    def n_features_in_(self) -> int:
        """How many features there are."""
        return len(self._current().names)

    def predict_candles(
        self,
        candles: object,
        *,
        rows: WhichRows = "last",
        now_ms: int | None = None,
        max_age_bars: int = MAX_AGE_BARS,
    ) -> pl.DataFrame:
        """Score candles.

        Args:
            candles: Candles by symbol, those of leaders too; or one table, with a column `symbol` where the model
                knows several. A table is a Polars frame (lazy ones are collected), a pandas frame (a time index is
                `ts`), an Arrow table, a list of dicts, or a list of Binance kline rows. Columns as in
                `mltrain.candles.frame.CANDLE_SCHEMA`; the optional ones are needed only where a feature reads them.
            rows: "last": the newest closed candle of each symbol; "all": every candle.
            now_ms: The time, ms UTC: candles that close later are left out, and a newest one that is older than
                `max_age_bars` is refused. None: for "last" the clock that was passed to `load` (without one
                every candle counts as closed and none as too old); for "all" no clock is read.
            max_age_bars: How many bars after its close the newest candle counts as stale.

        Returns:
            `ts`, `symbol`, `p` (probability of up), `raw` (before calibration), and `refused`: null, or why a row has
            no `p` and no `raw`: unknown-symbol, stale, too-few-bars, hole, leader-hole or not-finite. In the order of
            symbols and times given.

        Raises:
            UsageError: An argument is not one of these, or `now_ms` is not a time in ms.
            InputError: A candle is impossible or out of order, or a column or a leader that a feature reads is missing.
        """
        served = self._current()
        given = candles_by_symbol(candles, served.bundle.symbols)
        return score_rows(served, self._read(served, given, rows, now_ms, max_age_bars))

    def explain(
        self,
        frame: object,
        *,
        rows: WhichRows = "last",
        now_ms: int | None = None,
        max_age_bars: int = MAX_AGE_BARS,
    ) -> pl.DataFrame:
        """Tell what each feature contributed to the score.

        Args:
            frame: Candles, as `predict_candles` takes them, with the same options; or a table of features, exactly the
                model's columns in order.
            rows: Of candles: "last" or "all".
            now_ms: For candles: the time.
            max_age_bars: Of candles: when the newest one is stale.

        Returns:
            For candles the columns of `predict_candles`, for features `p` and `raw`; then `log_odds` (of `raw`),
            `base`, and a column `contribution_<feature>` for each feature: log_odds = base + the contributions, and
            raw = 1 / (1 + exp(-log_odds)). Null in refused rows.

        Raises:
            UsageError: As in `predict_candles`.
            InputError: As `predict_candles` or `predict_proba` does.
            RefusedError: A feature's value is null or not finite.
        """
        served = self._current()
        if not isinstance(frame, Mapping) or is_columns(frame):
            features = as_frame(frame, "frame", index=False)
            if not {"ts", "open"} & set(features.columns) and set(served.names) & set(features.columns):
                x = check_finite(matrix_by_name(features, served.names), served.names)
                raw, p = served.score(x)
                return pl.DataFrame({"p": p, "raw": raw}).hstack(explain_matrix(served, x))
        given = candles_by_symbol(frame, served.bundle.symbols, "frame")
        return explain_rows(served, self._read(served, given, rows, now_ms, max_age_bars))

    def predict_one(self, features: object) -> float:
        """Return the probability of up for one row of features.

        Args:
            features: By name, exactly the model's (a mapping, a frame of one row, or a row of a pandas frame); or their
                values in its order.

        Raises:
            UsageError: It is not a row of features.
            InputError: A feature is missing, unknown or no number.
            RefusedError: A value is not finite.
        """
        served = self._current()
        given = feature_row(features)
        if isinstance(given, Mapping):
            row = row_by_name(given, served.names)
        else:
            self._check_positions(served)
            row = row_in_order(given, served.names)
        return served.score_one(check_finite_row(row, served.names))[1]

    def stream(self, symbols: Iterable[str] | None = None) -> Stream:
        """Return a stream that takes candles one by one; see `mltrain.serving.stream` for its rules.

        Args:
            symbols: Whose candles are to be scored; None: of all that the model knows. Leaders are held, too.

        Raises:
            UsageError: `symbols` is not a list of names.
            RefusedError: The model does not know a symbol.
        """
        return Stream(self._current, self.symbols if symbols is None else symbols, clock=self._clock)

    def predict_proba(self, x: object) -> NDArray[np.float64]:
        """Return the probabilities of down and up.

        Args:
            x: Features: an array (n, f) or a list of rows in the model's order; a table (Polars, pandas, Arrow) with
                exactly the model's columns in order; or a list of dicts with its names.

        Returns:
            Shape (n, 2), rows in order.

        Raises:
            UsageError: It is none of these.
            InputError: Columns are missing, unknown, out of order or of another type.
            RefusedError: A value is null or not finite.
        """
        served = self._current()
        matrix = feature_matrix(x, served.names, positions=lambda: self._check_positions(served))
        _, p = served.score(check_finite(matrix, served.names))
        return np.stack([1 - p, p], axis=1)

    def predict(self, x: object) -> NDArray[np.int64]:
        """Return 1 where up is more probable than down, else 0; see `predict_proba`."""
        return predict_up(self.predict_proba(x)[:, 1]).astype(np.int64)

    def score(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return raw scores and probabilities of rows in the model's order, shapes (n,), for those who know their rows.

        Args:
            x: Features as training made them, shape (n, f), finite.
        """
        return self._current().score(x)

    def _read(
        self,
        served: Served,
        candles: Mapping[str, pl.DataFrame],
        rows: WhichRows,
        now_ms: int | None,
        max_age_bars: int,
    ) -> list[FeatureRows]:
        question = Question(
            feature_set=served.bundle.feature_set,
            symbols=served.bundle.symbols,
            lookback_bars=served.lookback_bars,
            rows=rows,
            now_ms=read_now(now_ms, self._clock if rows == "last" else None),
            max_age_bars=max_age_bars,
            newest=served.newest,
        )
        return list(read_rows(candles, question))

    def _check_positions(self, served: Served) -> None:
        """Refuse positional features once other ones are served: positions then mean nothing."""
        if served.names is not self._names_at_load and served.names != self._names_at_load:
            raise InputError(
                f"version {served.version} has other features than the one that was loaded here: "
                "an array in the old order would score wrongly",
                hint="pass features by name, or load the model again",
            )


def load(
    path: str | os.PathLike[str],
    *,
    allow_no_go: bool = False,
    ops: str | None = None,
    require_signature: str | os.PathLike[str] | None = None,
    clock: Callable[[], float] | None = time.time,
) -> Model:
    """Load a model.

    Args:
        path: `data/models/best_lgbm.pkl` (or `best_lgbm`), which is followed from then on; a version's folder; or the
            `lgbm.pkl` in it.
        allow_no_go: Take a version that was never promoted, too.
        ops: The module of ops of your own that the model was trained with, as you would import it. **Importing it runs
            its code**; nothing but this argument has it imported.
        require_signature: A public key (PEM): serve no version that it has not signed, now and after each promotion.
            The variable MLTRAIN_REQUIRE_SIGNATURE does the same for the whole process.
        clock: Returns seconds since 1970, UTC. In calls for the newest candle without a `now_ms`, candles that
            close later are left out, and a newest one that is too old is refused as stale. None: every candle counts
            as closed and none as stale, as for a replay.

    Returns:
        The model, every byte of it checked against the hash that its version's manifest names.

    Raises:
        UsageError: The path names something else, or the clock cannot be called.
        InputError: There is no such version, it is damaged, or it was never promoted; the module fails.
        OwnOpsError: The model was trained with a module of ops that was not named, or whose source was another.
        MachineError: LightGBM's system library is missing, or the disk refused.

    Warns:
        OtherCodeWarning: The model was trained with other feature code than runs now.
        SlowPathWarning: LightGBM's single-row call does not give its exact scores here, and is not used.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"path is {describe(path)}: expected the path of a model", hint="such as data/models/best_lgbm.pkl"
        )
    if clock is not None and not callable(clock):
        raise UsageError(f"clock is {describe(clock)}: expected a function such as time.time, or None")
    if not isinstance(ops, str | None):
        raise UsageError(f"ops is {describe(ops)}: expected the name of a module")
    if not isinstance(require_signature, str | os.PathLike | None):
        raise UsageError(f"require_signature is {describe(require_signature)}: expected the path of a public key")
    if ops is not None:
        import_user_ops(ops)
    place = Path(path).absolute()  # the pointer is followed even where the process changes its folder
    pointer = place.parent / BEST if place.name in {BEST, *LINKS} else None
    mark = None if pointer is None else look(pointer)  # before the reading: a move meanwhile is seen by the first use
    version = open_path(place)
    key = None if require_signature is None else Path(require_signature).absolute()
    if key is not None:
        check_signature(version.folder, version.manifest, key=key)
    if not allow_no_go:
        _check_servable(version)
    origin = partial(
        load,
        str(place),
        allow_no_go=allow_no_go,
        ops=ops,
        require_signature=None if key is None else str(key),
        clock=clock,
    )
    return Model(read_served(version), pointer=pointer, mark=mark, key=key, clock=clock, origin=origin)


def open_model(version: StoredVersion) -> Model:
    """Load the model of a version, promoted or not; it has no clock.

    Raises:
        InputError: It is damaged.
        MachineError: LightGBM's system library is missing, or the disk refused.

    Warns:
        OtherCodeWarning: The model was trained with other feature code than runs now.
    """
    origin = partial(load, str(version.folder.absolute()), allow_no_go=True, clock=None)
    return Model(read_served(version), origin=origin)


def model_of_bundle(bundle: Bundle) -> Model:
    """Return the model of a bundle that was not published; it has no version and no card.

    Raises:
        InputError: LightGBM refuses the model text.
        MachineError: LightGBM's system library is missing.
    """
    return Model(serve_bundle("", bundle, {}))


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
    alone = not any(os.path.lexists(version.folder.parent / name) for name in (BEST, LOCK, PROMOTIONS))
    if version.promoted or (alone and version.verdict == "GO"):
        return
    what = "was never promoted" if version.verdict == "GO" else f"is {version.verdict} and was never promoted"
    raise InputError(
        f"{version.name} {what}",
        hint=f"run `mltrain promote {version.name}`, or take it as it is with --allow-no-go (allow_no_go=True)",
    )
