"""`Model` and `load`: scores and refusals, features, which versions are loaded, and following the pointer."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mltrain
from mltrain.candles.frame import TS_DTYPE
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.computation import compute_features
from mltrain.serving import live_model
from mltrain.serving.live_model import SwapFailedWarning
from mltrain.serving.loaded_model import OtherCodeWarning
from mltrain.serving.model import check_round_trip, load, model_from_bundle, open_model
from mltrain.store.promotion import roll_back
from mltrain.times import MINUTE_MS
from mltrain.training.calibration import Calibrator
from mltrain.training.lightgbm_import import import_lightgbm

END_MS = 1_760_529_600_000
# The lookback of volatility_30: thirty returns.
LOOKBACK = 31


@pytest.fixture(scope="module")
def model(bundle):
    return model_from_bundle(bundle)


@pytest.fixture(scope="module")
def alone(bundle):
    """Return the model as if it had been trained on a single symbol."""
    return model_from_bundle(replace(bundle, symbols=("BTCUSDT",)))


def one(table):
    (row,) = table.to_dicts()
    return row


class TestCandles:
    """`predict_candles`: probabilities of candles, or reasons for refusing them."""

    def test_the_newest_candle_of_each_symbol_is_scored(self, model, candles):
        """Each symbol has one row, in the given order, with a probability and no reason."""
        table = model.predict_candles(candles)

        assert table.schema == {
            "ts": TS_DTYPE,
            "symbol": pl.String,
            "p": pl.Float64,
            "raw": pl.Float64,
            "refused": pl.String,
            "permit": pl.String,
        }
        assert table["symbol"].to_list() == list(candles)
        assert table["ts"].to_list() == [frame["ts"][-1] for frame in candles.values()]
        assert table["refused"].to_list() == [None, None]
        assert table["p"].is_between(0, 1).all()

    def test_the_scores_are_those_of_training(self, model, bundle, candles, samples):
        """Training rows scored from candles have the scores of booster and calibrator, bit for bit."""
        booster = import_lightgbm().Booster(model_str=bundle.model_text)
        keys = pl.DataFrame({"time": samples.ts_ms, "symbol": [samples.symbols[i] for i in samples.symbol_ix]})
        scored = model.predict_candles(candles, rows="all").with_columns(time=pl.col("ts").dt.timestamp("ms"))
        rows = keys.join(scored, on=["time", "symbol"], how="left", maintain_order="left")
        expected = booster.predict(samples.x, num_threads=1)

        assert samples.y.size > 1_000
        assert rows["raw"].to_numpy().tobytes() == expected.tobytes()
        assert rows["p"].to_numpy().tobytes() == bundle.calibrator.apply(expected).tobytes()

    def test_the_newest_row_is_the_last_of_all(self, model, candles):
        """The newest candle, scored from its lookback, has the values that it has in the batch."""
        last = model.predict_candles(candles)
        every = model.predict_candles(candles, rows="all")

        assert last.equals(every.group_by("symbol", maintain_order=True).last().select(last.columns))

    def test_only_the_lookback_is_read(self, model, candles):
        """Exactly `lookback_bars` candles give the result of the whole history."""
        short = {symbol: frame.tail(LOOKBACK) for symbol, frame in candles.items()}

        assert model.lookback_bars == LOOKBACK
        assert model.predict_candles(short).equals(model.predict_candles(candles))

    def test_one_bar_less_than_the_lookback_is_refused(self, model, candles):
        """With too few candles the row has a reason, and neither score nor probability."""
        row = one(model.predict_candles({"BTCUSDT": candles["BTCUSDT"].tail(LOOKBACK - 1)}))

        assert (row["refused"], row["p"], row["raw"]) == ("too-few-bars", None, None)

    def test_the_warm_up_of_all_rows_is_refused(self, model, candles):
        """In a batch exactly the rows with a complete lookback are scored."""
        refused = model.predict_candles({"BTCUSDT": candles["BTCUSDT"]}, rows="all")["refused"].to_list()

        assert refused == ["too-few-bars"] * (LOOKBACK - 1) + [None] * (len(refused) - LOOKBACK + 1)

    @pytest.mark.parametrize("back", [1, 2, LOOKBACK - 1])
    def test_a_gap_in_the_window_is_refused(self, model, candles, without, back):
        """A candle missing anywhere inside the lookback, its edges included, refuses the row."""
        gapped = without(candles["BTCUSDT"], back)

        assert one(model.predict_candles({"BTCUSDT": gapped}))["refused"] == "hole"

    def test_a_gap_before_the_window_harms_nothing(self, model, candles, without):
        """A candle missing just before the lookback changes nothing."""
        gapped = without(candles["BTCUSDT"], LOOKBACK)
        expected = model.predict_candles({"BTCUSDT": candles["BTCUSDT"]})

        assert model.predict_candles({"BTCUSDT": gapped}).equals(expected)

    def test_all_rows_behind_a_gap_are_refused(self, model, candles, without):
        """Behind a gap the lookback has to fill again."""
        gapped = without(candles["BTCUSDT"], 100)
        refused = model.predict_candles({"BTCUSDT": gapped}, rows="all")["refused"].to_list()

        assert refused[-100:] == ["hole"] * (LOOKBACK - 1) + [None] * (100 - LOOKBACK + 1)

    def test_a_gap_in_the_leader_is_refused(self, model, candles, without):
        """A feature of the leader needs the leader's candles."""
        table = model.predict_candles({"ETHUSDT": candles["ETHUSDT"], "BTCUSDT": without(candles["BTCUSDT"], 1)})

        assert table["refused"].to_list() == ["leader-hole", "hole"]

    def test_a_leader_that_is_late_is_refused(self, model, candles):
        """If the leader's newest candle is missing, no older one replaces it."""
        late = {"BTCUSDT": candles["BTCUSDT"].head(-1), "ETHUSDT": candles["ETHUSDT"]}

        assert model.predict_candles(late)["refused"].to_list() == [None, "leader-hole"]

    @pytest.mark.parametrize("lead", [1, 0, -1, -5], ids=lambda n: f"the leader {n} candles ahead")
    @pytest.mark.parametrize("bars", [LOOKBACK, LOOKBACK + 40, LOOKBACK - 3])
    def test_scored_together_is_scored_one_by_one(self, model, candles, lead, bars):
        """A leader has the same row alone and with others, whether they end at the same time or not."""
        ends = {"BTCUSDT": 200 + max(0, lead), "ETHUSDT": 200 - min(0, lead)}
        here = {symbol: frame[: ends[symbol]].tail(bars) for symbol, frame in candles.items()}
        together = {row["symbol"]: row for row in model.predict_candles(here).to_dicts()}
        alone = model.predict_candles({"BTCUSDT": here["BTCUSDT"]}).to_dicts()
        table = compute_features(model._current().bundle.feature_set, "ETHUSDT", here).tail(1)
        whole = bars >= LOOKBACK and table["leader_return_3"].null_count() == 0

        assert together["BTCUSDT"] == alone[0]
        assert (together["BTCUSDT"]["refused"] is None) == (bars >= LOOKBACK)
        assert (together["ETHUSDT"]["refused"] is None) == whole
        if whole:
            assert together["ETHUSDT"]["p"] == model.predict_proba(table.drop("ts"))[0, 1]

    def test_a_missing_leader_is_an_error_that_names_it(self, model, candles):
        """Without any candles of the leader, there is an error instead of refused rows."""
        with pytest.raises(InputError, match=r"BTCUSDT.*leader_return_3"):
            model.predict_candles({"ETHUSDT": candles["ETHUSDT"]})

    def test_a_leader_that_the_model_does_not_know_is_only_read(self, bundle, candles):
        """A symbol that is only a leader gets no row."""
        model = model_from_bundle(replace(bundle, symbols=("ETHUSDT",)))

        assert model.predict_candles(candles)["symbol"].to_list() == ["ETHUSDT"]

    def test_an_unknown_symbol_is_refused(self, model, candles):
        """A symbol that the model was not trained on is refused; the others are scored."""
        table = model.predict_candles({"DOGEUSDT": candles["ETHUSDT"], **candles})

        assert table["refused"].to_list() == ["unknown-symbol", None, None]

    @pytest.mark.parametrize(
        ("now_ms", "bar", "refused"),
        [
            (END_MS, -1, None),
            (END_MS + 2 * MINUTE_MS - 1, -1, None),
            (END_MS + 2 * MINUTE_MS, -1, "stale"),
            (END_MS + 10**12, -1, "stale"),
            (END_MS - 1, -2, None),
            (END_MS - MINUTE_MS, -2, None),
            (END_MS - MINUTE_MS - 1, -3, None),
        ],
    )
    def test_the_clock_decides_what_is_closed_and_what_is_stale(self, model, candles, now_ms, bar, refused):
        """A candle counts once its close time is reached, and is stale two bars later."""
        row = one(model.predict_candles({"BTCUSDT": candles["BTCUSDT"]}, now_ms=now_ms))

        assert row["ts"] == candles["BTCUSDT"]["ts"][bar]
        assert row["refused"] == refused

    def test_an_open_candle_is_never_read(self, model, candles):
        """The values of a candle that has not closed yet, a leader's too, change nothing."""
        now_ms = END_MS - 1
        wild = {
            symbol: pl.concat([frame.head(-1), frame.tail(1).with_columns(pl.col("open", "high", "low", "close") * 3)])
            for symbol, frame in candles.items()
        }

        assert model.predict_candles(wild, now_ms=now_ms).equals(model.predict_candles(candles, now_ms=now_ms))

    def test_max_age_bars_decides_what_is_stale(self, model, candles):
        """With a larger `max_age_bars` an older candle is scored."""
        late = {"now_ms": END_MS + 5 * MINUTE_MS}
        given = {"BTCUSDT": candles["BTCUSDT"]}

        assert one(model.predict_candles(given, **late))["refused"] == "stale"
        assert one(model.predict_candles(given, **late, max_age_bars=6))["refused"] is None

    def test_no_candle_at_all_is_refused(self, model, candles):
        """An empty frame, or one whose candles are all still open, has no time and no probability."""
        empty = one(model.predict_candles({"BTCUSDT": candles["BTCUSDT"].head(0)}))
        early = one(model.predict_candles({"BTCUSDT": candles["BTCUSDT"]}, now_ms=END_MS // 2))

        refused = {"ts": None, "symbol": "BTCUSDT", "p": None, "raw": None, "refused": "too-few-bars", "permit": None}
        assert empty == early == refused

    def test_no_symbols_give_an_empty_table(self, model):
        """Without symbols the table has its columns and no rows."""
        table = model.predict_candles({})

        assert table.shape == (0, 6)

    def test_one_frame_with_a_symbol_column_is_the_same(self, model, candles):
        """Candles of several symbols in one frame give the result of a mapping."""
        stacked = pl.concat([frame.with_columns(symbol=pl.lit(symbol)) for symbol, frame in candles.items()])

        assert model.predict_candles(stacked).equals(model.predict_candles(candles))

    def test_one_frame_without_symbols_is_enough_for_a_model_of_one(self, alone, model, candles):
        """If the model knows one symbol, a frame needs no column `symbol`."""
        assert alone.predict_candles(candles["BTCUSDT"]).equals(model.predict_candles({"BTCUSDT": candles["BTCUSDT"]}))
        with pytest.raises(InputError, match="name no symbol"):
            model.predict_candles(candles["BTCUSDT"])

    def test_a_symbol_column_must_name_symbols(self, model, candles):
        """A null in the column `symbol` is an error."""
        frame = candles["BTCUSDT"].with_columns(symbol=pl.lit(None, pl.String))

        with pytest.raises(InputError, match="symbol"):
            model.predict_candles(frame)

    def test_columns_that_no_feature_reads_may_be_missing(self, model, candles):
        """Candles without trades and taker volumes are enough for a model that does not read them."""
        optional = ("quote_volume", "trades", "taker_buy_base", "taker_buy_quote")
        short = {symbol: frame.drop(optional) for symbol, frame in candles.items()}

        assert model.predict_candles(short).equals(model.predict_candles(candles))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: f.drop("close"), "close"),
            (lambda f: f.drop("ts"), "ts"),
            (lambda f: f.reverse(), "ts|sorted|order"),
            (lambda f: f.with_columns(pl.col("ts").dt.replace_time_zone(None)), "ts"),
            (lambda f: f.with_columns(pl.lit(None, TS_DTYPE).alias("ts")), "ts"),
            (lambda f: f.with_columns(close=pl.lit(float("nan"))), "close"),
            (lambda f: f.with_columns(high=pl.lit(0.5)), "high"),
            (lambda f: f.with_columns(volume=pl.lit(-1.0)), "volume"),
            (lambda f: f.gather_every(5), "1m|5m"),
        ],
    )
    @pytest.mark.parametrize("rows", ["last", "all"])
    def test_impossible_candles_are_an_error_that_names_the_field(self, model, candles, change, message, rows):
        """Impossible candles are an error that names the field, not refused rows."""
        with pytest.raises(InputError, match=message):
            model.predict_candles({"BTCUSDT": change(candles["BTCUSDT"])}, rows=rows)

    @settings(max_examples=25)
    @given(gone=st.sets(st.integers(0, 79), max_size=4))
    def test_a_row_is_scored_exactly_where_its_window_is_whole(self, model, candles, without, gone):
        """Whichever candles are missing, exactly the rows with a complete lookback have a probability."""
        given_bars = without(candles["BTCUSDT"].tail(80), *gone)
        table = model.predict_candles({"BTCUSDT": given_bars}, rows="all")
        times = table["ts"].dt.timestamp("ms").to_list()
        there = set(times)
        whole = [all(t - i * MINUTE_MS in there for i in range(LOOKBACK)) for t in times]

        assert [reason is None for reason in table["refused"]] == whole
        assert [p is not None for p in table["p"]] == whole


class TestFeatures:
    """`predict_proba`, `predict` and `predict_one`: features by name or in order."""

    def test_both_classes_sum_to_one(self, model, samples):
        """The columns are down and up; `predict` returns the more probable class, down if they are equal."""
        proba = model.predict_proba(samples.x)

        assert proba.shape == (samples.y.size, 2)
        assert np.abs(proba.sum(axis=1) - 1).max() < 1e-12
        assert model.predict(samples.x).tolist() == (proba[:, 1] > 0.5).astype(int).tolist()
        assert model.classes_.tolist() == [0, 1]

    def test_a_frame_by_name_is_the_array_in_order(self, model, samples):
        """Features by name, by position, as float32 or float64, and as lists give the same bits."""
        frame = pl.DataFrame(samples.x, schema=list(samples.names))
        expected = model.predict_proba(samples.x)

        assert np.array_equal(model.predict_proba(frame), expected)
        assert np.array_equal(model.predict_proba(frame.cast(pl.Float64)), expected)
        assert np.array_equal(model.predict_proba(samples.x.astype(np.float64)), expected)
        assert np.array_equal(model.predict_proba(np.asfortranarray(samples.x)), expected)
        assert np.array_equal(model.predict_proba(samples.x.tolist()), expected)

    def test_one_row_is_a_row_of_many(self, model, samples):
        """One row, by name in any order or by position, has the probability that it has in a matrix."""
        row = samples.x[7]
        named = dict(zip(reversed(samples.names), row.tolist()[::-1], strict=True))
        expected = model.predict_proba(samples.x)[7, 1]

        assert model.predict_one(named) == model.predict_one(row) == model.predict_one(row.tolist()) == expected

    def test_no_rows_give_no_rows(self, model, samples):
        """An empty matrix gives an empty result."""
        assert model.predict_proba(samples.x[:0]).shape == (0, 2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: f.drop("return_5"), "'return_5' missing"),
            (lambda f: f.rename({"return_5": "return_6"}), "'return_5' missing, 'return_6' unknown"),
            (lambda f: f.with_columns(extra=pl.lit(1.0)), "'extra' unknown"),
            (lambda f: f.select(reversed(f.columns)), "out of order: expected return_1, got leader_return_3"),
            (lambda f: f.with_columns(pl.col("return_1").cast(pl.Int64)), "return_1 is Int64"),
            (lambda f: f.with_columns(pl.col("return_1").cast(pl.String)), "return_1 is String"),
            (lambda f: f.with_columns(return_1=pl.lit(None, pl.Float32)), "return_1 of row 0 is nan"),
            (lambda f: f.with_columns(return_1=pl.lit(float("inf"))), "return_1 of row 0 is inf"),
            (lambda f: f.with_columns(return_1=pl.lit(1e39)), "return_1 of row 0 is inf"),
        ],
    )
    def test_a_frame_must_be_exactly_the_models(self, model, samples, change, message):
        """Missing, unknown, reordered, wrongly typed and non-finite columns are errors that name the column."""
        with pytest.raises(InputError, match=message):
            model.predict_proba(change(pl.DataFrame(samples.x, schema=list(samples.names))))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x[:, :-1], "5 features, the array 4 columns"),
            (lambda x: x[0], "shape \\(5,\\)"),
            (lambda x: x.astype(np.int64), "int64"),
            (lambda x: x.astype(object), "object"),
            (lambda x: x.tolist()[0], "list of rows"),
            (lambda x: [*x.tolist(), [0.0]], "list of rows"),
            (lambda x: np.where(x > 10, x, np.nan), "is nan"),
        ],
    )
    def test_an_array_must_have_the_models_shape(self, model, samples, change, message):
        """Another width, dimension or type is an error before LightGBM reads the array."""
        with pytest.raises(InputError, match=message):
            model.predict_proba(change(samples.x[:3]))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: {k: v for k, v in d.items() if k != "return_5"}, "'return_5' missing"),
            (lambda _: {}, "'return_5' missing"),
            (lambda d: d | {"extra": 1.0}, "'extra' unknown"),
            (lambda d: d | {"return_5": "0.1"}, "return_5 must be numbers"),
            (lambda d: d | {"return_5": True}, "return_5 must be numbers"),
            (lambda d: d | {"return_5": None}, "return_5 must be numbers"),
            (lambda d: list(d.values())[:-1], "5 features"),
            (lambda d: [list(d.values())], "one dimension"),
            (lambda _: [], "5 features"),
        ],
    )
    def test_one_row_must_be_exactly_the_models(self, model, samples, change, message):
        """Missing, unknown and wrongly typed features of one row are errors that name them."""
        row = dict(zip(samples.names, samples.x[0].tolist(), strict=True))

        with pytest.raises(InputError, match=message):
            model.predict_one(change(row))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
    def test_a_row_that_is_not_finite_is_refused_with_its_reason(self, model, samples, value):
        """NaN, infinities and values beyond float32 are refused, although LightGBM would accept them."""
        row = dict(zip(samples.names, samples.x[0].tolist(), strict=True)) | {"return_1": value}

        with pytest.raises(RefusedError, match="return_1") as caught:
            model.predict_one(row)

        assert caught.value.reason == "not-finite"

    def test_the_calibrator_is_applied(self, bundle, samples):
        """Without a calibrator the probability is the raw score, with one its calibrated value."""
        plain = model_from_bundle(replace(bundle, calibrator=Calibrator("none", None)))
        raw, p = plain.score(samples.x)
        _, calibrated = model_from_bundle(bundle).score(samples.x)

        assert np.array_equal(raw, p)
        assert np.array_equal(calibrated, bundle.calibrator.apply(raw))
        assert not np.allclose(calibrated, raw)


class TestLoading:
    """`load`: which version a path names, and which versions are accepted."""

    def test_every_path_to_a_promoted_version_loads_it(self, store, publish, promote, candles, model):
        """The pointer, its link, the folder and the file in it load the same model."""
        version = publish()
        promote(version)
        paths = [
            store.models / "best_lgbm.pkl",
            store.models / "best_lgbm",
            version.folder,
            version.folder / "lgbm.pkl",
        ]

        for path in paths:
            loaded = load(path, clock=None)
            assert loaded.version == "2025-10-15"
            assert loaded.card["model_name"] == "lgbm-direction"
            assert loaded.predict_candles(candles).equals(model.predict_candles(candles))
        assert mltrain.load(str(paths[0])).version == "2025-10-15"

    @pytest.mark.parametrize("verdict", ["GO", "NO-GO"])
    def test_a_version_that_was_never_promoted_needs_an_option(self, publish, verdict):
        """It is loaded only with `allow_no_go`; the error names the command to promote it."""
        version = publish(verdict=verdict)

        with pytest.raises(InputError, match="never promoted") as caught:
            load(version.folder)

        assert "mltrain promote 2025-10-15" in caught.value.hint
        assert load(version.folder, allow_no_go=True).version == "2025-10-15"

    def test_a_version_that_was_live_once_is_accepted(self, publish, promote):
        """A version that was promoted and then replaced is accepted, a forced NO-GO too."""
        first, second = publish(verdict="NO-GO"), publish()
        promote(first, force=True)
        promote(second)

        assert load(first.folder).version == "2025-10-15"

    @pytest.mark.parametrize(("verdict", "accepted"), [("GO", True), ("NO-GO", False)])
    def test_a_copy_is_judged_by_its_verdict(self, publish, tmp_path, verdict, accepted):
        """Outside of a models folder, which has the log of promotions, a version is judged by its gates."""
        folder = publish(verdict=verdict).folder
        copy = tmp_path / "elsewhere" / folder.name
        copy.parent.mkdir()
        folder.rename(copy)

        if accepted:
            assert load(copy).version == folder.name
        else:
            with pytest.raises(InputError, match="NO-GO"):
                load(copy)

    @pytest.mark.parametrize("name", ["lgbm.pkl", "model_card.json", "manifest.json"])
    def test_a_changed_byte_is_refused(self, publish, promote, name):
        """A version with a changed byte in any file is an error."""
        version = publish()
        promote(version)
        path = version.folder / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)

        with pytest.raises(InputError):
            load(version.folder, allow_no_go=True)

    @pytest.mark.parametrize("name", ["lgbm.pkl", "model_card.json", "manifest.json"])
    def test_a_missing_file_is_refused(self, publish, name):
        """A version without one of its files is an error."""
        version = publish()
        (version.folder / name).unlink()

        with pytest.raises(InputError, match=r"manifest\.json|does not exist"):
            load(version.folder, allow_no_go=True)

    def test_a_model_linked_in_from_elsewhere_is_refused(self, publish, tmp_path):
        """A symbolic link in place of the model file is an error."""
        version = publish()
        (version.folder / "lgbm.pkl").rename(tmp_path / "lgbm.pkl")
        (version.folder / "lgbm.pkl").symlink_to(tmp_path / "lgbm.pkl")

        with pytest.raises(InputError, match="symbolic link"):
            load(version.folder, allow_no_go=True)

    @pytest.mark.parametrize("target", ["2025-10-16", "../../etc", "/etc", "best_lgbm", "latest"])
    def test_an_invalid_pointer_is_refused(self, store, publish, promote, target):
        """A pointer that dangles, leaves the folder, is absolute or points to itself is an error."""
        promote(publish())
        (store.models / "best_lgbm").unlink()
        (store.models / "best_lgbm").symlink_to(target)

        with pytest.raises(InputError):
            load(store.models / "best_lgbm.pkl")

    @pytest.mark.parametrize("name", ["absent", "2025-10-14", "2025-10-15/notes.txt"])
    def test_a_path_to_nothing_is_refused(self, store, publish, name):
        """A path that names no version is an error."""
        publish()

        with pytest.raises((InputError, UsageError)):
            load(store.models / name, allow_no_go=True)

    def test_other_feature_code_is_a_warning(self, publish, bundle):
        """A model whose ops have another source than those that run warns: its features may have changed."""
        version = publish(model=replace(bundle, ops_sha256="0" * 64))

        with pytest.warns(OtherCodeWarning, match="feature code"):
            load(version.folder, allow_no_go=True)

    def test_what_was_written_reads_back(self, publish, bundle, model):
        """The check passes for the model that was published, and fails for another one."""
        version = publish()
        other = model_from_bundle(replace(bundle, calibrator=Calibrator("none", None)))

        check_round_trip(version, model)
        with pytest.raises(RuntimeError, match="does not score"):
            check_round_trip(version, other)


class TestFollowing:
    """A model loaded through the pointer uses the version that the pointer names now."""

    @pytest.fixture
    def two(self, publish, promote, bundle):
        """Return two versions that score differently; the first is live."""
        versions = publish(), publish(model=replace(bundle, calibrator=Calibrator("none", None)))
        promote(versions[0])
        return versions

    def test_a_promotion_takes_effect_without_a_restart(self, store, two, promote, candles):
        """The next call after a promotion uses the new version, and after a rollback the old one."""
        model = load(store.models / "best_lgbm.pkl", clock=None)
        before = model.predict_candles(candles)
        promote(two[1])
        after = model.predict_candles(candles)
        promoted = model.version
        roll_back(store, "2025-10-15", why="a test", by="pytest", now_ms=END_MS)

        assert promoted == "2025-10-15.2"
        assert after.equals(open_model(two[1]).predict_candles(candles))
        assert not after.equals(before)
        assert model.predict_candles(candles).equals(before)
        assert model.version == "2025-10-15"

    def test_a_relative_path_is_followed_from_any_folder(self, store, two, promote, monkeypatch):
        """The pointer is followed after the process has changed its folder."""
        monkeypatch.chdir(store.models)
        model = load("best_lgbm.pkl")
        monkeypatch.chdir(store.models.parent)
        promote(two[1])

        assert model.version == "2025-10-15.2"

    def test_a_version_that_was_named_stays(self, two, promote):
        """A version that was loaded by its own path is not replaced by a promotion."""
        model = load(two[0].folder)
        promote(two[1])

        assert model.version == "2025-10-15"

    def test_a_damaged_successor_leaves_the_old_version_in_use(self, store, two, promote, candles):
        """The old version stays in use, with one warning; the next promotion is followed again."""
        model = load(store.models / "best_lgbm.pkl", clock=None)
        before = model.predict_candles(candles)
        promote(two[1])
        (two[1].folder / "model_card.json").rename(two[1].folder / "aside")

        with pytest.warns(SwapFailedWarning, match=r"2025-10-15 stays in use.*2025-10-15\.2") as caught:
            answers = [model.predict_candles(candles) for _ in range(3)]

        assert len(caught) == 1
        assert all(answer.equals(before) for answer in answers)
        assert model.version == "2025-10-15"
        (two[1].folder / "aside").rename(two[1].folder / "model_card.json")
        promote(two[0])
        promote(two[1])
        assert model.version == "2025-10-15.2"

    OTHERS = {  # noqa: RUF012 (read only)
        "label": lambda b: replace(b, feature_set=replace(b.feature_set, label=replace(b.label, horizon_bars=5))),
        "interval": lambda b: replace(b, feature_set=replace(b.feature_set, interval="5m")),
        "symbols": lambda b: replace(b, symbols=("BTCUSDT",)),
    }

    @pytest.mark.parametrize("what", OTHERS)
    def test_a_version_with_another_meaning_is_not_followed(
        self, store, publish, promote, bundle, candles, monkeypatch, what
    ):
        """The old version stays in use, with one warning per version; one with the same meaning is followed again."""
        monkeypatch.setattr(live_model, "RETRY_S", 0.0)
        first, other = publish(), publish(model=self.OTHERS[what](bundle))
        same = publish(model=replace(bundle, calibrator=Calibrator("none", None)))
        promote(first)
        model = load(store.models / "best_lgbm.pkl")
        before = model.predict_candles(candles)

        promote(other)
        with pytest.warns(SwapFailedWarning, match=f"2025-10-15.2, which is no drop-in replacement.*{what}") as caught:
            answers = [model.predict_candles(candles) for _ in range(3)]
        assert len(caught) == 1
        for version in (first, other):
            promote(version)
            # A warning would be an error.
            answers.append(model.predict_candles(candles))
        assert all(answer.equals(before) for answer in answers)
        assert model.version == "2025-10-15"
        assert load(store.models / "best_lgbm.pkl").version == "2025-10-15.2"
        promote(same)
        assert model.version == "2025-10-15.3"

    def test_more_symbols_are_followed_and_fewer_are_not(self, store, publish, promote, bundle, candles):
        """A new version is compared with the version in use, not with the one loaded first."""
        few = replace(bundle, symbols=("ETHUSDT",))
        promote(publish(model=few))
        model = load(store.models / "best_lgbm.pkl")
        promote(publish())
        assert set(model.predict_candles(candles)["symbol"]) == {"BTCUSDT", "ETHUSDT"}
        promote(publish(model=few))

        with pytest.warns(SwapFailedWarning, match="without BTCUSDT"):
            assert model.symbols == ("BTCUSDT", "ETHUSDT")

    def test_a_missing_pointer_leaves_the_old_version_in_use(self, store, two, candles):
        """If the pointer is deleted, the old version stays in use, with a warning."""
        model = load(store.models / "best_lgbm.pkl", clock=None)
        before = model.predict_candles(candles)
        (store.models / "best_lgbm").unlink()

        with pytest.warns(SwapFailedWarning, match="2025-10-15 stays in use"):
            after = model.predict_candles(candles)

        assert two
        assert after.equals(before)

    def test_a_failed_version_is_tried_again(self, store, two, promote, monkeypatch):
        """After RETRY_S a version that failed is loaded without another promotion: the machine may have failed."""
        monkeypatch.setattr(live_model, "RETRY_S", 0.0)
        model = load(store.models / "best_lgbm.pkl", clock=None)
        promote(two[1])
        (two[1].folder / "model_card.json").rename(two[1].folder / "aside")
        with pytest.warns(SwapFailedWarning):
            assert model.version == "2025-10-15"
        (two[1].folder / "aside").rename(two[1].folder / "model_card.json")

        assert model.version == "2025-10-15.2"

    def test_positions_are_refused_once_the_features_are_others(self, store, publish, promote, bundle, samples):
        """After a promotion to other columns an array is an error; features by name are scored."""
        promote(publish())
        model = load(store.models / "best_lgbm")
        text = bundle.model_text.replace("return_1 return_5", "return_5 return_1")
        first, second, *rest = bundle.feature_set.features
        swapped = replace(bundle.feature_set, features=(second, first, *rest))
        promote(publish(model=replace(bundle, model_text=text, feature_set=swapped)))

        with pytest.raises(InputError, match="other features"):
            model.predict_proba(samples.x)
        with pytest.raises(InputError, match="other features"):
            model.predict_one(samples.x[0])
        assert 0 < model.predict_one(dict(zip(samples.names, samples.x[0].tolist(), strict=True))) < 1

    def test_threads_share_a_model(self, store, two, promote, candles):
        """While the pointer moves, each answer of several threads is that of one version."""
        model = load(store.models / "best_lgbm.pkl", clock=None)
        allowed = [open_model(version).predict_candles(candles) for version in two]
        answers, errors = [], []

        def score():
            try:
                answers.extend(model.predict_candles(candles) for _ in range(20))
            except Exception as err:  # noqa: BLE001 -- any exception fails the test
                errors.append(err)

        threads = [threading.Thread(target=score) for _ in range(4)]
        for thread in threads:
            thread.start()
        promote(two[1])
        for thread in threads:
            thread.join()

        assert errors == []
        assert len(answers) == 80
        assert all(any(answer.equals(table) for table in allowed) for answer in answers)


def test_features_are_those_of_training(model, candles):
    """`feature_names_in_` and `n_features_in_` are the registry's."""
    table = compute_features(model.feature_set, "ETHUSDT", candles)

    assert table.columns == ["ts", *model.feature_names_in_]
    assert model.n_features_in_ == 5


def test_the_repr_names_version_and_symbols(model):
    """The repr of a model names its version and symbols."""
    assert repr(model) == "<mltrain.Model unpublished of BTCUSDT, ETHUSDT>"
