"""Load a version from disk and return checked, calibrated probabilities.

The features are computed by the code that training used, from the registry stored in the model, on the last candles
that they need. A row that must not be scored is refused with a reason, never guessed: a gap or too few candles in the
lookback, a stale candle, an unknown symbol, columns with other names or in another order, a value that is not finite.

While serving is halted (`mltrain.killswitch`) every answer is refused.

With a ledger, each answer is recorded before it is given (`mltrain.serving.answers`). A batch (`rows="all"`),
`predict_proba` and `explain` are not recorded: nobody acts on them.

The clock that is passed to `load` decides whether the newest candle is stale; a batch (`rows="all"`) never is.

A model that was loaded through the pointer to the live version follows it (`mltrain.serving.live_model`): each call
first checks where the pointer leads, so a promotion or a rollback takes effect without a restart. A version that fails
its checks never replaces one that works.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import polars as pl

from mltrain.candles.conversion import as_frame, is_columns
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.user_ops import import_user_ops
from mltrain.killswitch.gate import HALTED, HaltGate
from mltrain.names import describe
from mltrain.serving.answers import Recorder, Scored
from mltrain.serving.explanation import explain_matrix, explain_rows
from mltrain.serving.inputs import (
    check_finite,
    check_finite_row,
    read_candles_by_symbol,
    read_mapping_or_array,
    read_matrix,
    read_named_matrix,
    read_named_row,
    read_positional_row,
)
from mltrain.serving.known_inputs import read_given_inputs
from mltrain.serving.live_model import Follower, pointer_state
from mltrain.serving.loaded_model import OtherCodeWarning, load_bundle, load_version, score_rows
from mltrain.serving.rows import EXPIRED, MAX_AGE_BARS, ScoringRequest, read_now, read_rows
from mltrain.serving.stream import Stream
from mltrain.serving.validity import ExpiredWarning, ValidityCheck
from mltrain.store.pointer import Pointer, pointer_at
from mltrain.store.signature import check_signature
from mltrain.store.store import PROMOTIONS, open_path
from mltrain.training.metrics import predict_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from sklearn.utils import Tags

    from mltrain.artifact.bundle import Bundle
    from mltrain.artifact.sequence_bundle import SequenceBundle
    from mltrain.features.label_spec import LabelSpec
    from mltrain.features.spec import FeatureSet
    from mltrain.killswitch.gate import Permit
    from mltrain.killswitch.halts import HaltState, Mode
    from mltrain.serving.answers import AnswerLog
    from mltrain.serving.live_model import PointerState
    from mltrain.serving.loaded_model import LoadedModel
    from mltrain.serving.rows import FeatureRows, WhichRows
    from mltrain.store.versions import StoredVersion

__all__ = ["ExpiredWarning", "Model", "OtherCodeWarning", "check_round_trip", "load", "model_from_bundle", "open_model"]

# Every models folder has this file, since its first version.
LOCK: Final = ".lock"

# Random rows of features on which a written and a loaded model are compared.
_PROBE_ROWS: Final = 64


class Model:
    """A trained classifier: candles or features in, calibrated probabilities out.

    `mltrain.load` creates it. It has the interface of a fitted scikit-learn classifier (`predict_proba`, `predict`,
    `classes_`, `feature_names_in_`), works inside `FrozenEstimator` and with
    `CalibrationDisplay.from_estimator`, and is safe for several threads.

    A pickle or a copy (`pickle`, `joblib`, `copy.deepcopy`) is loaded again from the path, with the same options and
    all checks; a model that follows the live version still follows it.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        pointer: Path | None = None,
        state: PointerState = None,
        key: Path | None = None,
        models: Path | None = None,
        allow_reduce: bool = False,
        strict_age: bool = False,
        clock: Callable[[], float] | None = None,
        log: AnswerLog | None = None,
        origin: Callable[[], Model] | None = None,
    ) -> None:
        self._clock = clock
        self._gate = HaltGate(models)
        self._validity = ValidityCheck(strict=strict_age)
        self._begin = partial(self._gate.begin, allow_reduce=allow_reduce)
        self._finish = partial(self._gate.finish, allow_reduce=allow_reduce)
        # Loads the same model again, for pickles and copies; None: the model was not published.
        self._origin = origin
        # Returns the model to use now: another one than `loaded` once the pointer to the live version has moved.
        self._current = Follower(loaded, pointer=pointer, state=state, key=key).current
        self._names_at_load = loaded.names
        self._recorder = None if log is None else Recorder(log, self._current, self._gate.check)

    def __repr__(self) -> str:
        loaded = self._current()
        return f"<mltrain.Model {loaded.version or 'unpublished'} of {', '.join(loaded.bundle.symbols)}>"

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that this is a binary classifier."""
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_class=False),
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn that no fit is needed."""
        return True

    def __sklearn_clone__(self) -> Model:
        """Return the model itself, as a `FrozenEstimator` does: it never changes, and cannot be fitted again."""
        return self

    def fit(self, x: object, y: object = None) -> NoReturn:
        """Refuse: a model is trained by `mltrain.train`, not here; scikit-learn expects every estimator to have `fit`.

        Args:
            x: Not read.
            y: Not read.

        Raises:
            UsageError: Always.
        """
        del x, y
        raise UsageError(
            "a loaded model cannot be fitted again",
            hint="wrap it as sklearn.frozen.FrozenEstimator(model), or train another one with mltrain.train",
        )

    def __reduce__(self) -> tuple[Callable[[], Model], tuple[()]]:
        if self._origin is None:
            raise UsageError("a model that was not published has no path: it can be neither pickled nor copied")
        return self._origin, ()

    @property
    def version(self) -> str:
        """The version's name; empty: the model was not published."""
        return self._current().version

    @property
    def folder(self) -> Path | None:
        """The version's folder; None: the model was not published."""
        return self._current().folder

    @property
    def card(self) -> dict[str, Any]:
        """The version's Model Card v2; empty: the model was not published."""
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
        """Interval of the candles, such as "1m"."""
        return self._current().bundle.interval

    @property
    def label(self) -> LabelSpec:
        """The label that the probability refers to."""
        return self._current().bundle.label

    @property
    def lookback_bars(self) -> int:
        """Consecutive candles that a prediction needs, the newest included."""
        return self._current().lookback_bars

    @property
    def window(self) -> int:
        """Consecutive bars whose features a score needs, its own included: 1 for boosted trees."""
        return self._current().window

    @property
    def path(self) -> str:
        """How one row is scored: by LightGBM's "single-row fast call", or by "Booster.predict" if the scores differ.

        A network scores with "NumPy".
        """
        return self._current().path

    def permit(self, symbol: str | None = None) -> Permit:
        """Return how answers for a symbol may be used now.

        Args:
            symbol: The symbol; None: the strictest of all.

        Returns:
            None: without restriction; "reduce": only to reduce positions.

        Raises:
            RefusedError: Serving is halted (halted).
        """
        return self._gate.check(symbol)

    def is_expired(self, now_ms: int | None = None) -> bool:
        """Return whether answers are refused because the card's `valid_until` has passed.

        Without `strict_age` they never are: there is one warning about each version.

        Args:
            now_ms: The time, ms UTC; None: read the clock that was passed to `load`; without a clock nothing expires.
        """
        return self._validity.is_refused(self._current(), read_now(now_ms, self._clock))

    @property
    def classes_(self) -> NDArray[np.int64]:
        """The labels, in the order of the columns of `predict_proba`: 0 is down, 1 is up."""
        return np.array([0, 1])

    @property
    def feature_names_in_(self) -> NDArray[np.str_]:
        """Names of the features, in column order."""
        return np.array(self._current().names)

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        return len(self._current().names)

    def predict_candles(
        self,
        candles: object,
        *,
        inputs: Mapping[str, object] | None = None,
        rows: WhichRows = "last",
        now_ms: int | None = None,
        max_age_bars: int = MAX_AGE_BARS,
    ) -> pl.DataFrame:
        """Return the calibrated probability of up after the newest candle of each symbol, or after every candle.

        Args:
            candles: Candles by symbol, leaders included; or one table, which needs a column `symbol` if the model
                knows several symbols. A table is a Polars frame (lazy ones are collected), a pandas frame (a time index
                becomes `ts`), an Arrow table, a list of dicts, or a list of Binance kline rows. The columns are those
                of `mltrain.candles.frame.CANDLE_SCHEMA`; an optional one is needed only if a feature reads it.
            inputs: The values of the model's own inputs, if it reads any, by the input's name: each a table, in any of
                these forms, with the columns that the registry names, and `symbol` unless the values are for all.
            rows: "last": the newest closed candle of each symbol; "all": every candle.
            now_ms: The time, ms UTC: candles that close later are left out, and a newest candle that is older than
                `max_age_bars` is refused. None: with "last" the clock that was passed to `load` (without a clock
                every candle counts as closed and none as stale); with "all" no clock is read.
            max_age_bars: Bars after its close at which the newest candle is stale.

        Returns:
            `ts` (open time, UTC), `symbol`, `p` (probability of up, in [0, 1]), `raw` (score before calibration, in
            (0, 1)), `refused`: null, or why the row has neither `p` nor `raw`: halted, unknown-symbol, stale, expired,
            too-few-bars, hole, input-missing, input-stale, leader-hole or not-finite; and `permit`: null, or "reduce"
            where the answer may be used only to reduce positions. Symbols and times are in the given order.

        Raises:
            UsageError: An argument is not one of these, or `now_ms` is not a time in ms.
            InputError: A candle is impossible or out of order, a column or a leader that a feature reads is missing, or
                the table of an input is not as declared.
        """
        tables = read_candles_by_symbol(candles, self.symbols)

        def score() -> tuple[LoadedModel, pl.DataFrame]:
            state = self._gate.state()
            loaded = self._current()
            parts = self._compute_rows(
                loaded, tables, inputs=inputs, rows=rows, now_ms=now_ms, max_age_bars=max_age_bars
            )
            return loaded, score_rows(loaded, self._apply_halts(parts, state))

        if self._recorder is None or rows == "all":
            return score()[1]
        return self._recorder.table(score, tables)

    def explain(
        self,
        frame: object,
        *,
        inputs: Mapping[str, object] | None = None,
        rows: WhichRows = "last",
        now_ms: int | None = None,
        max_age_bars: int = MAX_AGE_BARS,
    ) -> pl.DataFrame:
        """Return what each feature contributed to the raw scores, in log odds.

        Args:
            frame: Candles in any form that `predict_candles` takes; or a table of features, with exactly the model's
                columns in order.
            inputs: As in `predict_candles`; ignored for features, like the options below.
            rows: As in `predict_candles`.
            now_ms: As in `predict_candles`.
            max_age_bars: As in `predict_candles`.

        Returns:
            For candles the columns of `predict_candles`, for features `p` and `raw`; then `log_odds` (of `raw`),
            `base`, and a column `contribution_<feature>` for each feature: log_odds = base + the contributions, and
            raw = 1 / (1 + exp(-log_odds)). Null in refused rows.

        Raises:
            RefusedError: A feature's value is null or not finite; or, for features, as for `predict_one`.
        """
        state = self._gate.state()
        loaded = self._current()
        are_features = isinstance(frame, Mapping) and set(frame) == set(loaded.names)
        if not isinstance(frame, Mapping) or is_columns(frame) or are_features:
            features = as_frame(frame, "frame", index=False)
            if not {"ts", "open"} & set(features.columns) and set(loaded.names) & set(features.columns):
                began_s = self._begin(None)
                self._check_age(loaded)
                x = check_finite(read_named_matrix(features, loaded.names), loaded.names)
                raw, p = loaded.score(x)
                explained = pl.DataFrame({"p": p, "raw": raw}).hstack(explain_matrix(loaded, x))
                self._finish(began_s, None)
                return explained
        tables = read_candles_by_symbol(frame, loaded.bundle.symbols, "frame")
        parts = self._compute_rows(loaded, tables, inputs=inputs, rows=rows, now_ms=now_ms, max_age_bars=max_age_bars)
        return explain_rows(loaded, self._apply_halts(parts, state))

    def predict_one(self, features: object) -> float:
        """Return the calibrated probability of up, in [0, 1], for one row of features.

        Args:
            features: Exactly the model's features by name (a mapping, a frame of one row, or a row of a pandas frame),
                or their values in the model's order.

        Raises:
            UsageError: `features` is not a row of features.
            InputError: A feature is missing, unknown or not a number.
            RefusedError: A value is not finite (not-finite); serving is halted (halted), or restricted to reducing
                positions and the model was not loaded with `allow_reduce` (reduced), for all symbols or for one; or the
                version's card is no longer valid and the model was loaded with `strict_age` (expired).
        """
        if self._recorder is None:
            return self._score_one(features).p
        return self._recorder.answer(lambda: self._score_one(features))

    def _score_one(self, features: object) -> Scored:
        """Return the scores of one row of features; arguments and errors as in `predict_one`."""
        began_s = self._begin(None)
        loaded = self._current()
        self._check_age(loaded)
        given = read_mapping_or_array(features)
        if isinstance(given, Mapping):
            row = read_named_row(given, loaded.names)
        else:
            self._check_positions(loaded)
            row = read_positional_row(given, loaded.names)
        raw, p = loaded.score_one(check_finite_row(row, loaded.names))
        self._finish(began_s, None)
        return Scored(loaded, raw, p)

    def stream(self, symbols: Iterable[str] | None = None) -> Stream:
        """Return a stream that takes candles one by one; see `mltrain.serving.stream` for its rules.

        Args:
            symbols: The symbols to score; None: all that the model knows. The bars of leaders are always held, too.

        Raises:
            UsageError: `symbols` is not a list of names.
            RefusedError: A symbol is unknown to the model.
        """
        return Stream(
            self._current,
            self.symbols if symbols is None else symbols,
            begin=self._begin,
            finish=self._finish,
            recorder=self._recorder,
            clock=self._clock,
            validity=self._validity,
        )

    def predict_proba(self, x: object) -> NDArray[np.float64]:
        """Return the calibrated probabilities of down and up for rows of features.

        Args:
            x: Features: an array (n, f) or a list of rows in the model's order; a table (Polars, pandas, Arrow) with
                exactly the model's columns in order; or a list of dicts with its names.

        Returns:
            In [0, 1], shape (n, 2), rows in order.

        Raises:
            UsageError: `x` is none of these.
            InputError: Columns are missing, unknown, out of order or not floats.
            RefusedError: A value is null or not finite, or there is no answer for a reason that `predict_one` names.
        """
        began_s = self._begin(None)
        loaded = self._current()
        self._check_age(loaded)
        matrix = read_matrix(x, loaded.names, check_positions=lambda: self._check_positions(loaded))
        _, p = loaded.score(check_finite(matrix, loaded.names))
        self._finish(began_s, None)
        return np.stack([1 - p, p], axis=1)

    def predict(self, x: object) -> NDArray[np.int64]:
        """Return 1 for each row where up is more probable than down, else 0; arguments as in `predict_proba`."""
        return predict_up(self.predict_proba(x)[:, 1]).astype(np.int64)

    def score(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return raw scores and calibrated probabilities of up, in [0, 1], shapes (n,), without checking the rows.

        The rows must be finite features in the model's order, shape (n, f). Raises RefusedError as `predict_one` does.
        """
        began_s = self._begin(None)
        loaded = self._current()
        self._check_age(loaded)
        scores = loaded.score(x)
        self._finish(began_s, None)
        return scores

    def score_bars(
        self, symbol: str, ts_ms: NDArray[np.int64], x: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return raw scores and calibrated probabilities of up of bars of a symbol, without checking them.

        Args:
            symbol: A symbol of the model.
            ts_ms: Open time of consecutive bars, ms UTC, shape (n,).
            x: Their features in the model's order, finite, shape (n, f).
            ends: Positions of the bars to score, each at least `window` - 1, shape (m,).

        Raises:
            RefusedError: As for `predict_one`.
        """
        began_s = self._begin(symbol)
        loaded = self._current()
        self._check_age(loaded)
        scores = loaded.score_bars(symbol, ts_ms, x, ends)
        self._finish(began_s, symbol)
        return scores

    def _compute_rows(
        self,
        loaded: LoadedModel,
        candles: Mapping[str, pl.DataFrame],
        *,
        inputs: Mapping[str, object] | None,
        rows: WhichRows,
        now_ms: int | None,
        max_age_bars: int,
    ) -> list[FeatureRows]:
        """Compute the features of the candles that `predict_candles` scores with these arguments."""
        request = ScoringRequest(
            feature_set=loaded.bundle.feature_set,
            symbols=loaded.bundle.symbols,
            lookback_bars=loaded.lookback_bars,
            window=loaded.window,
            rows=rows,
            now_ms=read_now(now_ms, self._clock if rows == "last" else None),
            max_age_bars=max_age_bars,
            newest=loaded.newest,
            inputs=read_given_inputs(inputs, loaded.bundle.feature_set.inputs),
        )
        parts = list(read_rows(candles, request))
        # A batch is history.
        if rows == "last" and self._validity.is_refused(loaded, request.now_ms):
            return [replace(part, refused=[reason or EXPIRED for reason in part.refused]) for part in parts]
        return parts

    def _check_age(self, loaded: LoadedModel) -> None:
        """Raise RefusedError if features must not be scored because the card's `valid_until` has passed."""
        if loaded.valid_until_ms is not None:
            self._validity.check(loaded, read_now(None, self._clock))

    def _apply_halts(self, parts: list[FeatureRows], before: HaltState) -> list[FeatureRows]:
        """Return rows of features with those refused that a halt forbids, and the others marked with their permit.

        What was in force before they were computed counts as well as what is in force now.
        """
        now = self._gate.state()
        if before.is_running and now.is_running:
            return parts
        return [_apply_mode(part, {state.mode_of(part.symbol) for state in (before, now)}) for part in parts]

    def _check_positions(self, loaded: LoadedModel) -> None:
        """Raise if a promotion has replaced the features whose order the caller knows."""
        # Identity first, because it is faster and usually enough.
        if loaded.names is not self._names_at_load and loaded.names != self._names_at_load:
            raise InputError(
                f"version {loaded.version} has other features than the version that was loaded here: "
                "an array in the old order would be scored wrongly",
                hint="pass features by name, or load the model again",
            )


def _apply_mode(part: FeatureRows, modes: set[Mode | None]) -> FeatureRows:
    """Return rows with the strictest of the modes that are in force for their symbol."""
    if "halt" in modes:
        return replace(part, refused=[HALTED] * len(part.refused))
    return replace(part, permit="reduce") if "reduce" in modes else part


def load(
    path: str | os.PathLike[str],
    *,
    allow_no_go: bool = False,
    ops: str | None = None,
    require_signature: str | os.PathLike[str] | None = None,
    allow_reduce: bool = False,
    strict_age: bool = False,
    while_halted: bool = False,
    ledger: AnswerLog | None = None,
    clock: Callable[[], float] | None = time.time,
) -> Model:
    """Load the live version's model, and follow later promotions; or load the model of one version.

    Args:
        path: `data/models/best_lgbm.pkl`, or the pointer `best_<slot>` of any slot, which is followed from then on; a
            version's folder; or the `lgbm.pkl` in it.
        allow_no_go: Accept a version that was never promoted.
        ops: The module of user ops that the model was trained with, as in an import statement. **Importing it runs its
            code**; only this argument imports it.
        require_signature: Path of a public key (PEM): accept only versions that it has signed, now and after each
            promotion. The variable MLTRAIN_REQUIRE_SIGNATURE does the same for the whole process.
        allow_reduce: Also return bare numbers while serving is restricted to reducing positions; the caller then asks
            `Model.permit`.
        strict_age: Refuse answers after the time that the version's card has as `valid_until`; otherwise there is a
            warning. The time is that of `clock`, or the `now_ms` of a call.
        while_halted: Load the model although serving is halted: its answers are refused until it is resumed.
        ledger: Records each answer and each refusal of `predict_candles` for the newest candles, of `predict_one`, and
            of a stream, before it is given: a `mltrain.Ledger`. None: nothing is recorded.
        clock: Returns seconds since 1970, UTC. In calls for the newest candle without `now_ms`, candles that close
            later are left out, and a newest candle that is too old is refused as stale. None: every candle counts as
            closed and none as stale, as in a replay.

    Returns:
        The model; each of its files has the hash in its version's manifest.

    Raises:
        UsageError: An argument has the wrong type, or the path does not name a model.
        InputError: There is no such version, it is damaged, or it was never promoted; or the module of ops fails.
        OwnOpsError: The model was trained with user ops that `ops` does not name, or whose source has changed.
        RefusedError: Serving is halted for every symbol of the model (halted), and `while_halted` was not given.
        MachineError: LightGBM's system library is missing, or the disk cannot be read.

    Warns:
        OtherCodeWarning: The model was trained with another version of the feature ops.
        ExpiredWarning: Later, at an answer after the card's `valid_until`.
        SlowPathWarning: LightGBM's single-row call, or the formula of a feature, is not exact here, and is not used.
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
    if ledger is not None and not callable(getattr(ledger, "record", None)):
        raise UsageError(
            f"ledger is {describe(ledger)}: expected a mltrain.Ledger", hint='such as mltrain.Ledger("data/ledger")'
        )
    if ops is not None:
        import_user_ops(ops)
    # Absolute, so that the pointer is followed even if the process changes its folder.
    place = Path(path).absolute()
    named = pointer_at(place)
    pointer = None if named is None else named.path
    # Read before the version: if the pointer moves during the load, the first use notices.
    state = None if pointer is None else pointer_state(pointer)
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
        allow_reduce=allow_reduce,
        strict_age=strict_age,
        # The copy refuses what the original does.
        while_halted=True,
        ledger=ledger,
        clock=clock,
    )
    model = Model(
        load_version(version),
        pointer=pointer,
        state=state,
        key=key,
        models=version.folder.parent,
        allow_reduce=allow_reduce,
        strict_age=strict_age,
        clock=clock,
        log=ledger,
        origin=origin,
    )
    if not while_halted:
        check_not_halted(model)
    return model


def check_not_halted(model: Model) -> None:
    """Raise RefusedError if serving is halted for every symbol of a model."""
    halted = 0
    for symbol in model.symbols:
        try:
            model.permit(symbol)
        except RefusedError:
            halted += 1
            if halted == len(model.symbols):
                raise


def open_model(
    version: StoredVersion, *, heed_halts: bool = False, strict_age: bool = False, ledger: AnswerLog | None = None
) -> Model:
    """Load the model of a version, promoted or not, without a clock; errors and warnings as in `load`.

    Without `heed_halts` it answers while serving is halted: for measurements, which nobody acts on. `strict_age` and
    `ledger` are as in `load`.
    """
    place = str(version.folder.absolute())
    origin = partial(load, place, allow_no_go=True, strict_age=strict_age, while_halted=True, ledger=ledger, clock=None)
    models = version.folder.absolute().parent if heed_halts else None
    return Model(load_version(version), models=models, strict_age=strict_age, log=ledger, origin=origin)


def model_from_bundle(bundle: Bundle | SequenceBundle) -> Model:
    """Return the model of a bundle that was not published; it has neither a version nor a card."""
    return Model(load_bundle(bundle))


def check_round_trip(version: StoredVersion, model: Model) -> None:
    """Load a version from disk, and raise RuntimeError unless it scores random rows like the model written there."""
    if model.window > 1:
        # Loading it has scored the probe windows.
        open_model(version)
        return
    x = np.random.default_rng(0).standard_normal((_PROBE_ROWS, model.n_features_in_), np.float32)
    x[0], x[1] = 0.0, np.finfo(np.float32).max
    # Raw scores, then probabilities.
    for written, read in zip(model.score(x), open_model(version).score(x), strict=True):
        if written.tobytes() != read.tobytes():
            raise RuntimeError(f"the model in {version.folder} does not score like the model that was written there")


def _check_servable(version: StoredVersion) -> None:
    """Raise unless the version was promoted, or is a GO that was copied out of its models folder."""
    models = version.folder.parent
    signs = (Pointer(models, version.slot).path, models / LOCK, models / PROMOTIONS)
    copied = not any(os.path.lexists(path) for path in signs)
    if version.promoted or (copied and version.verdict == "GO"):
        return
    problem = "was never promoted" if version.verdict == "GO" else f"is {version.verdict} and was never promoted"
    raise InputError(
        f"{version.name} {problem}",
        hint=f"run `mltrain promote {version.name}`, or accept it with --allow-no-go (allow_no_go=True)",
    )
