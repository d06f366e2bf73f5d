"""What a caller passes to a model: tables of every kind, times, clocks, and a pickle of the model itself."""

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
    """Return a function that loads the model with a clock that stands."""
    folder = publish().folder
    return lambda seconds: load(folder, allow_no_go=True, clock=lambda: seconds)


class TestTables:
    """Every entry point converts by the same function."""

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
    def test_what_are_no_candles_is_named(self, model, given):
        """In the words of the caller's own argument."""
        with pytest.raises(UsageError, match="candles is"):
            model.predict_candles(given)
        with pytest.raises(UsageError, match=r"candles\['BTCUSDT'\] is"):
            model.predict_candles({"BTCUSDT": given})
        with pytest.raises(UsageError, match="frame is"):
            model.explain(given)
        with pytest.raises(UsageError, match="candles is"):
            model.stream().warm_up(given)

    def test_a_mapping_has_symbols_for_keys(self, model, candles):
        """A number is none."""
        with pytest.raises(UsageError, match="candles has the key 5"):
            model.predict_candles({5: candles["BTCUSDT"]})

    def test_no_candles_are_refused_not_raised(self, bundle):
        """An empty list holds too few of them."""
        alone = model_from_bundle(replace(bundle, symbols=("BTCUSDT",)))

        assert alone.predict_candles([])["refused"].to_list() == ["too-few-bars"]

    def test_features_in_every_form(self, model, samples):
        """By name from any table, by position from lists; the order of a dict's keys says nothing."""
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
    def test_what_are_no_features_is_named(self, model, given):
        """Both for many rows and for one."""
        with pytest.raises(UsageError, match="x is"):
            model.predict_proba(given)
        with pytest.raises(UsageError, match="features is"):
            model.predict_one(given)

    def test_a_candle_in_every_form(self, model, candles):
        """A stream takes a frame of one row, a kline row, text for numbers and times, and the same bits come out."""
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
    def test_what_is_no_candle_is_named(self, model, given):
        """And leaves the stream as it was."""
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


def test_pandas_features_leave_a_time_index_out(model, samples):
    """A frame of features, a row of it, and a frame of one row, all indexed by time as notebooks have them."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: it is no dependency of mltrain")
    times = pandas.date_range("2025-10-15", periods=4, freq="min", tz="UTC")
    frame = pandas.DataFrame(samples.x[:4], columns=list(samples.names), index=times)
    expected = model.predict_proba(samples.x[:4])

    assert np.array_equal(model.predict_proba(frame), expected)
    assert model.predict_one(frame.iloc[-1]) == model.predict_one(frame.tail(1)) == expected[-1, 1]
    assert model.predict_one(frame.iloc[-1][::-1]) == expected[-1, 1]
    assert model.explain(frame)["p"].to_list() == expected[:, 1].tolist()


class TestWords:
    """`rows`, `now_ms` and `max_age_bars`."""

    @pytest.mark.parametrize("rows", ["newest", "", None, 1])
    def test_rows(self, model, candles, rows):
        """Anything but the two words is refused; it used to mean "all"."""
        for call in (model.predict_candles, model.explain):
            with pytest.raises(UsageError, match=r'rows is .*: expected "last" or "all"'):
                call(candles, rows=rows)

    @pytest.mark.parametrize("now_ms", [END_S, int(END_S), END_MS * 1000, "now", dt.datetime.now(dt.UTC)])
    def test_now_ms(self, model, candles, now_ms):
        """Seconds and microseconds are told by their size, everywhere."""
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
        """A whole number of bars."""
        with pytest.raises(UsageError, match="max_age_bars is"):
            model.predict_candles(candles, max_age_bars=bars)


class TestClock:
    """Where the newest candle is asked for, the clock that `load` was given judges it."""

    def test_the_machine_judges_by_default(self, publish, candles):
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
        """Its rows are all there, whatever the clock shows, which is not even read."""

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
        """A candle counts once it has closed, and is stale two bars later."""
        (row,) = at(seconds).predict_candles({"BTCUSDT": candles["BTCUSDT"]}).to_dicts()

        assert (row["ts"], row["refused"]) == (candles["BTCUSDT"]["ts"][bar], refused)

    def test_what_is_passed_goes_before_the_clock(self, at, candles):
        """`now_ms` is the caller's own word."""
        assert at(time.time()).predict_candles(candles, now_ms=END_MS)["refused"].to_list() == [None, None]

    def test_no_clock_no_judgement(self, publish, candles):
        """For a replay."""
        model = load(publish().folder, allow_no_go=True, clock=None)

        assert model.predict_candles(candles)["refused"].to_list() == [None, None]

    def test_an_open_candle_is_not_taken_by_a_stream(self, at, candles):
        """Nor is one scored that is old."""
        row = candles["BTCUSDT"].row(-1, named=True)
        for seconds, reason in ((END_S - 1, "open"), (END_S + 120, "stale")):
            stream = at(seconds).stream(["BTCUSDT"])
            stream.warm_up({"BTCUSDT": candles["BTCUSDT"].head(-1)})
            with pytest.raises(RefusedError) as caught:
                stream.push("BTCUSDT", row)

            assert caught.value.reason == reason

    @pytest.mark.parametrize("clock", [5, "now", END_MS])
    def test_a_clock_can_be_called(self, publish, clock):
        """`time.time()` for `time.time` is told at once."""
        with pytest.raises(UsageError, match="clock is"):
            load(publish().folder, allow_no_go=True, clock=clock)

    @pytest.mark.parametrize("shown", [END_MS, 5.0, None, "now", float("nan")])
    def test_a_clock_returns_seconds(self, at, candles, shown):
        """Milliseconds, and the seconds since the machine started, are not."""
        with pytest.raises(UsageError, match="clock returned"):
            at(shown).predict_candles(candles)


class TestPickle:
    """A model is pickled as the path and the options that it was loaded with."""

    def test_by_its_version(self, publish, candles, samples):
        """Small, the same bits, and again judged by the same clock."""
        model = load(publish().folder, allow_no_go=True)
        data = pickle.dumps(model)
        for other in (pickle.loads(data), copy.deepcopy(model), copy.copy(model)):
            assert other.version == model.version
            assert np.array_equal(other.predict_proba(samples.x), model.predict_proba(samples.x))
            assert other.predict_candles(candles)["refused"].to_list() == ["stale", "stale"]
        assert len(data) < 1_000

    def test_options_come_along(self, publish, candles):
        """Without a clock it stays without one; what an internal caller opened does, too."""
        version = publish()
        for model in (load(version.folder, allow_no_go=True, clock=None), open_model(version)):
            other = pickle.loads(pickle.dumps(model))

            assert other.predict_candles(candles)["refused"].to_list() == [None, None]

    def test_a_follower_follows(self, store, publish, promote, bundle, monkeypatch):
        """A model of the pointer is what the pointer names when it is unpickled, and goes on following it."""
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
        """A version that is gone, or changed, is one clear error."""
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

    def test_a_version_that_may_not_be_served_may_not_be_unpickled(self, store, publish, promote):
        """What was allowed at loading is asked again."""
        version = publish(verdict="NO-GO")
        promote(version, force=True)
        data = pickle.dumps(load(version.folder))
        log = store.models / "promotions.jsonl"
        (store.models / "best_lgbm").unlink()
        log.unlink()

        with pytest.raises(InputError, match="never promoted"):
            pickle.loads(data)

    def test_an_unpublished_model_has_no_path(self, model):
        """And says so."""
        with pytest.raises(UsageError, match="neither pickled nor copied"):
            pickle.dumps(model)


@pytest.mark.parametrize("path", [None, 5, b"data/models/best_lgbm"])
def test_a_path_is_a_path(path):
    """Anything else is named."""
    with pytest.raises(UsageError, match="path is"):
        load(path)
