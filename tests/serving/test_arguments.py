"""Arguments of a model: tables of every kind, times, clocks; and pickles of the model."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import shutil
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.registry import FeatureSchemaValidator
from mltrain.serving.model import load, model_from_bundle, open_model
from mltrain.training.calibration import Calibrator

END_MS = 1_760_529_600_000
END_S = END_MS / 1000
NOT_CANDLES = [None, 5, "BTCUSDT", object(), [1, 2]]


@pytest.fixture(scope="module")
def model(bundle):
    return model_from_bundle(bundle)


@pytest.fixture(scope="module")
def stacked(candles):
    """Return the newest candles of both symbols in one frame."""
    return pl.concat([frame.tail(60).with_columns(symbol=pl.lit(symbol)) for symbol, frame in candles.items()])


@pytest.fixture
def at(publish):
    """Return a function that loads the model with a clock that always shows the given time."""
    folder = publish().folder
    return lambda seconds: load(folder, allow_no_go=True, clock=lambda: seconds)


class TestTables:
    """Every method accepts every kind of table."""

    @pytest.mark.parametrize(
        "form",
        [
            lambda f: f.lazy(),
            lambda f: f.to_arrow(),
            lambda f: f.to_dicts(),
            lambda f: f.to_dict(as_series=False),
            lambda f: f.with_columns(pl.col("symbol").cast(pl.Categorical)),
            lambda f: f.with_columns(pl.col("ts").dt.cast_time_unit("us")),
            lambda f: {str(key[0]): part.lazy() for key, part in f.partition_by("symbol", as_dict=True).items()},
            lambda f: {str(key[0]): part.to_dicts() for key, part in f.partition_by("symbol", as_dict=True).items()},
        ],
        ids=["lazy", "arrow", "dicts", "columns", "categorical", "us", "mapping of lazy", "mapping of dicts"],
    )
    def test_candles_in_every_form(self, model, stacked, form):
        """Probabilities, explanations and streams are those of the Polars frame."""
        stream = model.stream()
        stream.warm_up(form(stacked))

        assert model.predict_candles(form(stacked)).equals(model.predict_candles(stacked))
        assert model.explain(form(stacked)).equals(model.explain(stacked))
        assert stream.predict("BTCUSDT") == model.predict_candles(stacked)["p"][0]

    @pytest.mark.parametrize("given", NOT_CANDLES)
    def test_a_wrong_type_of_candles_is_named(self, model, given):
        """The error names the argument and what was passed."""
        with pytest.raises(UsageError, match="candles is"):
            model.predict_candles(given)
        with pytest.raises(UsageError, match=r"candles\['BTCUSDT'\] is"):
            model.predict_candles({"BTCUSDT": given})
        with pytest.raises(UsageError, match="frame is"):
            model.explain(given)
        with pytest.raises(UsageError, match="candles is"):
            model.stream().warm_up(given)

    def test_a_mapping_has_symbols_for_keys(self, model, candles):
        """A key that is not a text is an error."""
        with pytest.raises(UsageError, match="candles has the key 5"):
            model.predict_candles({5: candles["BTCUSDT"]})

    def test_an_empty_list_of_candles_is_refused(self, bundle):
        """No candles are too few, and not an error."""
        alone = model_from_bundle(replace(bundle, symbols=("BTCUSDT",)))

        assert alone.predict_candles([])["refused"].to_list() == ["too-few-bars"]

    def test_features_in_every_form(self, model, samples):
        """Tables are read by name, lists by position; the order of a dict's keys does not matter."""
        x = samples.x[:4]
        frame = pl.DataFrame(x, schema=list(samples.names))
        expected = model.predict_proba(x)

        backwards = [dict(reversed(row.items())) for row in frame.to_dicts()]
        for form in (frame.lazy(), frame.to_arrow(), frame.to_dict(as_series=False), backwards, x.tolist()):
            assert np.array_equal(model.predict_proba(form), expected)
        for row in (frame.head(1), frame.head(1).lazy(), frame.head(1).to_arrow(), frame.row(0), pl.Series(x[0])):
            assert model.predict_one(row) == expected[0, 1]
        whole = [row | {"return_1": 0} for row in frame.to_dicts()]
        assert np.array_equal(model.predict_proba(whole)[0, 1], model.predict_one(whole[0]))
        assert model.explain(frame.lazy())["p"].to_list() == expected[:, 1].tolist()

    @pytest.mark.parametrize("given", [None, 5, "x", object()])
    def test_a_wrong_type_of_features_is_named(self, model, given):
        """The error names the argument, for many rows and for one."""
        with pytest.raises(UsageError, match="x is"):
            model.predict_proba(given)
        with pytest.raises(UsageError, match="features is"):
            model.predict_one(given)

    def test_a_candle_in_every_form(self, model, candles):
        """A frame of one row, a kline row, and texts for numbers and times give the same bits in a stream."""
        frame = candles["BTCUSDT"]
        row = frame.row(-1, named=True)
        ts = int(row["ts"].timestamp() * 1000)
        values = [row[name] for name in frame.columns[1:]]
        kline = [ts, *map(str, values[:5]), ts + 59_999, str(values[5]), values[6], *map(str, values[7:]), "0"]
        expected = model.predict_candles({"BTCUSDT": frame})["p"][0]
        forms = [
            *(row, frame.tail(1), frame.tail(1).lazy(), frame.tail(1).to_dicts(), kline, tuple(kline)),
            *(row | {"ts": row["ts"].isoformat()}, row | {"close": str(row["close"])}, row | {"ts": ts // 1000}),
        ]
        for form in forms:
            stream = model.stream(["BTCUSDT"])
            stream.warm_up({"BTCUSDT": frame.head(-1)})

            assert stream.push("BTCUSDT", form) == expected

    @pytest.mark.parametrize("given", [None, 5, "x", object()])
    def test_a_wrong_type_of_candle_is_named(self, model, given):
        """The error names the argument: candle, symbol or symbols."""
        stream = model.stream()
        with pytest.raises(UsageError, match="candle is"):
            stream.push("BTCUSDT", given)
        for symbol in (None, 5, ["BTCUSDT"]):
            with pytest.raises(UsageError, match="symbol is"):
                stream.push(symbol, {})
            with pytest.raises(UsageError, match="symbol is"):
                stream.predict(symbol)
        for symbols in ("BTCUSDT", 5):
            with pytest.raises(UsageError, match="symbols is"):
                model.stream(symbols)


class ArrowStream:
    """A table of a library that mltrain does not know: it has nothing but the Arrow stream interface."""

    def __init__(self, frame):
        self._table = frame.to_arrow()

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def test_an_arrow_stream_is_accepted_wherever_a_table_is(model, samples, stacked):
    """Features, candles, a stream's bars and one candle; so is a dict of arrays, for features, too."""
    features = pl.DataFrame(samples.x[:4], schema=list(samples.names))
    expected = model.predict_proba(samples.x[:4])[:, 1]
    arrays = {name: features[name].to_numpy() for name in features.columns}

    for given in (ArrowStream(features), arrays):
        assert np.array_equal(model.predict_proba(given)[:, 1], expected)
        assert model.explain(given)["p"].to_list() == expected.tolist()
    assert model.predict_one(ArrowStream(features.tail(1))) == expected[-1]
    assert model.predict_candles(ArrowStream(stacked), rows="all").equals(model.predict_candles(stacked, rows="all"))
    streams = model.stream(), model.stream()
    for stream, bars in zip(streams, (ArrowStream(stacked), stacked), strict=True):
        stream.warm_up(bars)
    one = stacked.filter(pl.col("symbol") == "BTCUSDT").tail(1).drop("symbol")
    assert streams[0].push("BTCUSDT", ArrowStream(one)) == streams[1].push("BTCUSDT", one)
    problems = [FeatureSchemaValidator().validate_features(t, strict=False) for t in (ArrowStream(features), features)]
    assert problems[0] == problems[1] != ()


def test_pandas_features_leave_a_time_index_out(model, samples):
    """In a frame, a row and a frame of one row, an index of times is not read as a feature."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: it is no dependency of mltrain")
    times = pandas.date_range("2025-10-15", periods=4, freq="min", tz="UTC")
    frame = pandas.DataFrame(samples.x[:4], columns=list(samples.names), index=times)
    expected = model.predict_proba(samples.x[:4])

    assert np.array_equal(model.predict_proba(frame), expected)
    assert model.predict_one(frame.iloc[-1]) == model.predict_one(frame.tail(1)) == expected[-1, 1]
    assert model.predict_one(frame.iloc[-1][::-1]) == expected[-1, 1]
    assert model.explain(frame)["p"].to_list() == expected[:, 1].tolist()


class TestOptions:
    """`rows`, `now_ms` and `max_age_bars`."""

    @pytest.mark.parametrize("rows", ["newest", "", None, 1])
    def test_rows(self, model, candles, rows):
        """Any value except "last" and "all" is an error."""
        for call in (model.predict_candles, model.explain):
            with pytest.raises(UsageError, match=r'rows is .*: expected "last" or "all"'):
                call(candles, rows=rows)

    @pytest.mark.parametrize("now_ms", [END_S, int(END_S), END_MS * 1000, "now", dt.datetime.now(dt.UTC)])
    def test_now_ms(self, model, candles, now_ms):
        """Seconds, microseconds and other types are errors in every method."""
        stream = model.stream()
        for call in (
            lambda: model.predict_candles(candles, now_ms=now_ms),
            lambda: model.predict_candles(candles, rows="all", now_ms=now_ms),
            lambda: model.explain(candles, now_ms=now_ms),
            lambda: stream.push("BTCUSDT", candles["BTCUSDT"].row(-1, named=True), now_ms=now_ms),
            lambda: stream.take("BTCUSDT", candles["BTCUSDT"].row(-1, named=True), now_ms=now_ms),
            lambda: stream.predict("BTCUSDT", now_ms=now_ms),
        ):
            with pytest.raises(UsageError, match="now_ms is"):
                call()

    @pytest.mark.parametrize("bars", [None, -1, 1.5, "2", True])
    def test_max_age_bars(self, model, candles, bars):
        """A value that is not a whole number of bars is an error."""
        with pytest.raises(UsageError, match="max_age_bars is"):
            model.predict_candles(candles, max_age_bars=bars)


class TestClock:
    """The clock that was passed to `load` decides whether the newest candle is closed or stale."""

    def test_the_clock_of_the_machine_is_the_default(self, publish, candles):
        """Candles of 2025 are stale today, in a table and in a stream."""
        model = load(publish().folder, allow_no_go=True)
        stream = model.stream()
        stream.warm_up(candles)

        assert model.predict_candles(candles)["refused"].to_list() == ["stale", "stale"]
        assert model.explain(candles)["refused"].to_list() == ["stale", "stale"]
        with pytest.raises(RefusedError) as caught:
            stream.predict("BTCUSDT")
        assert caught.value.reason == "stale"

    def test_a_batch_is_never_stale(self, publish, candles):
        """A batch scores old rows and does not read the clock."""

        def unread():
            raise AssertionError

        expected = open_model(publish()).predict_candles(candles, rows="all")
        model = load(publish().folder, allow_no_go=True, clock=unread)

        assert model.predict_candles(candles, rows="all").equals(expected)
        assert "stale" not in expected["refused"].to_list()

    @pytest.mark.parametrize(
        ("seconds", "bar", "refused"),
        [(END_S, -1, None), (END_S + 119.999, -1, None), (END_S + 120, -1, "stale"), (END_S - 0.001, -2, None)],
    )
    def test_a_clock_counts_as_now_ms_does(self, at, candles, seconds, bar, refused):
        """A candle counts once its close time is reached, and is stale two bars later."""
        (row,) = at(seconds).predict_candles({"BTCUSDT": candles["BTCUSDT"]}).to_dicts()

        assert (row["ts"], row["refused"]) == (candles["BTCUSDT"]["ts"][bar], refused)

    def test_now_ms_overrides_the_clock(self, at, candles):
        """With `now_ms` the clock is not used."""
        assert at(time.time()).predict_candles(candles, now_ms=END_MS)["refused"].to_list() == [None, None]

    def test_without_a_clock_nothing_is_stale(self, publish, candles):
        """With `clock=None` old candles are scored, as in a replay."""
        model = load(publish().folder, allow_no_go=True, clock=None)

        assert model.predict_candles(candles)["refused"].to_list() == [None, None]

    def test_an_open_candle_is_not_taken_by_a_stream(self, at, candles):
        """By the model's clock a stream refuses open and stale candles."""
        row = candles["BTCUSDT"].row(-1, named=True)
        for seconds, reason in ((END_S - 1, "open"), (END_S + 120, "stale")):
            stream = at(seconds).stream(["BTCUSDT"])
            stream.warm_up({"BTCUSDT": candles["BTCUSDT"].head(-1)})
            with pytest.raises(RefusedError) as caught:
                stream.push("BTCUSDT", row)

            assert caught.value.reason == reason

    @pytest.mark.parametrize("clock", [5, "now", END_MS])
    def test_a_clock_must_be_callable(self, publish, clock):
        """`time.time()` in place of `time.time` is an error when loading."""
        with pytest.raises(UsageError, match="clock is"):
            load(publish().folder, allow_no_go=True, clock=clock)

    @pytest.mark.parametrize("shown", [END_MS, 5.0, None, "now", float("nan")])
    def test_a_clock_returns_seconds(self, at, candles, shown):
        """A clock that returns milliseconds, or seconds since the machine started, is an error."""
        with pytest.raises(UsageError, match="clock returned"):
            at(shown).predict_candles(candles)


class TestPickle:
    """A pickle of a model holds the path and the options that it was loaded with."""

    def test_by_its_version(self, publish, candles, samples):
        """A pickle or copy scores the same bits, keeps the clock, and is small."""
        model = load(publish().folder, allow_no_go=True)
        data = pickle.dumps(model)
        for other in (pickle.loads(data), copy.deepcopy(model), copy.copy(model)):
            assert other.version == model.version
            assert np.array_equal(other.predict_proba(samples.x), model.predict_proba(samples.x))
            assert other.predict_candles(candles)["refused"].to_list() == ["stale", "stale"]
        assert len(data) < 1_000

    def test_options_are_kept(self, publish, candles):
        """A model without a clock has none after unpickling, also if it came from `open_model`."""
        version = publish()
        for model in (load(version.folder, allow_no_go=True, clock=None), open_model(version)):
            other = pickle.loads(pickle.dumps(model))

            assert other.predict_candles(candles)["refused"].to_list() == [None, None]

    def test_a_follower_follows(self, store, publish, promote, bundle, monkeypatch):
        """Unpickled, a model that follows the pointer loads what the pointer names then, and follows it."""
        first, second = publish(), publish(model=replace(bundle, calibrator=Calibrator("none", None)))
        promote(first)
        monkeypatch.chdir(store.models)
        data = pickle.dumps(load("best_lgbm.pkl"))
        monkeypatch.chdir(store.models.parent)
        promote(second)
        other = pickle.loads(data)
        found = [other.version]
        promote(first)

        assert [*found, other.version] == [second.name, first.name]

    def test_every_check_is_made_again(self, publish):
        """Unpickling a version that is missing or changed is an error."""
        version = publish()
        data = pickle.dumps(load(version.folder, allow_no_go=True))
        path = version.folder / "lgbm.pkl"
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InputError, match=r"lgbm\.pkl"):
            pickle.loads(data)
        shutil.rmtree(version.folder)

        with pytest.raises(InputError, match="2025-10-15"):
            pickle.loads(data)

    def test_a_version_that_load_rejects_cannot_be_unpickled(self, store, publish, promote):
        """Whether the version was promoted is checked again when unpickling."""
        version = publish(verdict="NO-GO")
        promote(version, force=True)
        data = pickle.dumps(load(version.folder))
        log = store.models / "promotions.jsonl"
        (store.models / "best_lgbm").unlink()
        log.unlink()

        with pytest.raises(InputError, match="never promoted"):
            pickle.loads(data)

    def test_an_unpublished_model_has_no_path(self, model):
        """Pickling a model that was not published is an error."""
        with pytest.raises(UsageError, match="neither pickled nor copied"):
            pickle.dumps(model)


@pytest.mark.parametrize("path", [None, 5, b"data/models/best_lgbm"])
def test_a_path_is_a_path(path):
    """A path of another type is an error."""
    with pytest.raises(UsageError, match="path is"):
        load(path)
