"""A model's own inputs in serving: the numbers of training, in a batch, for single candles and in a stream."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from mltrain.artifact.bundle import Bundle
from mltrain.candles.frame import times_ms
from mltrain.candles.input_tables import InputTable
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.input_join import join_inputs
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.serving.latency_bench import measure_latency
from mltrain.serving.model import model_from_bundle
from mltrain.times import MINUTE_MS
from mltrain.training.booster import normalise_model_text
from mltrain.training.calibration import Calibrator, Knots
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.samples import build_samples
from support.markets import simulate, without
from support.own_columns import FUNDING, MOOD, known, make_inputs

LEADER, SYMBOL = "BTCUSDT", "ETHUSDT"
FEATURES = FeatureSet(
    1,
    "1m",
    LabelSpec(kind="direction", horizon_bars=1, ties="drop"),
    (
        FeatureSpec("return_1", "log_return", {"bars": 1}),
        FeatureSpec("lead_1", "leader_return", {"bars": 1}, LEADER),
        FeatureSpec("funding", "input_value", {"input": "funding", "lag": 1}),
        FeatureSpec("funding_change", "input_change", {"input": "funding", "bars": 5}),
        FeatureSpec("leader_funding", "input_value", {"input": "leader_funding"}, LEADER),
        FeatureSpec("mood", "input_zscore", {"input": "mood", "bars": 20}),
    ),
    (FUNDING, MOOD),
)


@pytest.fixture(scope="module")
def market():
    """Return candles of two symbols with gaps, and inputs with pauses, late beginnings and times between closes."""
    candles = simulate(LEADER, SYMBOL, days=1, seed=4)
    candles[SYMBOL] = without(candles[SYMBOL], (400, 402), (900, 900))
    candles[LEADER] = without(candles[LEADER], (930, 934))
    return candles, make_inputs(candles, 3)


@pytest.fixture(scope="module")
def trained(market):
    """Return a model, and the rows that it was trained on."""
    candles, inputs = market
    samples = build_samples(FEATURES, join_inputs(FEATURES, candles, inputs))[0]
    lightgbm = import_lightgbm()
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 15, "min_data_in_leaf": 5}
    data = lightgbm.Dataset(samples.x, samples.y, feature_name=list(samples.names))
    text = normalise_model_text(lightgbm.train(params, data, 20).model_to_string())
    calibrator = Calibrator("sigmoid", Knots((0.05, 0.5, 0.95), (0.2, 0.45, 0.8)))
    return model_from_bundle(Bundle(text, calibrator, FEATURES, (LEADER, SYMBOL), ops_sha256())), samples


@pytest.fixture
def model(trained):
    return trained[0]


def as_given(inputs):
    """Return inputs as a caller's tables, whose columns have the declared names."""
    specs = {spec.name: spec for spec in FEATURES.inputs}
    return {
        name: table.to_frame().rename({"known_at": specs[name].known_at, "value": specs[name].column})
        for name, table in inputs.items()
    }


def events(inputs):
    """Return every value of every input as (known since, name, symbol or None, value), by time."""
    parts = [
        (name, symbol, each)
        for name, table in inputs.items()
        for symbol, each in (table.by_symbol.items() if table.for_all is None else [(None, table.for_all)])
    ]
    rows = [
        (at, name, symbol, value)
        for name, symbol, each in parts
        for at, value in zip(each.known_ms.tolist(), each.values.tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: row[0])


def outcome(call):
    """Return a probability, or the reason of the refusal."""
    try:
        return call()
    except RefusedError as err:
        return err.reason


def test_every_candle_is_scored_as_in_training(trained, market):
    """The booster on the matrix and the batch give the same bits; rows without a feature are refused with a reason."""
    model, samples = trained
    candles, inputs = market
    raw = import_lightgbm().Booster(model_str=model._current().bundle.model_text).predict(samples.x, num_threads=1)
    keys = zip(samples.ts_ms.tolist(), samples.symbol_ix.tolist(), strict=True)
    expected = {(ts_ms, samples.symbols[ix]): score for (ts_ms, ix), score in zip(keys, raw.tolist(), strict=True)}
    batch = model.predict_candles(candles, inputs=as_given(inputs), rows="all")
    scored = {(int(row["ts"].timestamp() * 1000), row["symbol"]): row for row in batch.to_dicts()}

    assert {key: scored[key]["raw"] for key in expected} == expected
    assert set(batch["refused"].drop_nulls()) == {"hole", "too-few-bars", "input-missing", "input-stale", "leader-hole"}
    assert batch.equals(model.predict_candles(candles, inputs=inputs, rows="all"))


def test_the_stream_and_single_candles_agree_with_the_batch(model, market):
    """Values and candles pushed in the order of time give every probability and every refusal of the batch."""
    candles, inputs = market
    # Until after the last gap: every reason of a refusal, and all probabilities.
    candles = {LEADER: candles[LEADER], SYMBOL: candles[SYMBOL][:1000]}
    batch = model.predict_candles(candles, inputs=inputs, rows="all").filter(pl.col("symbol") == SYMBOL)
    stream, waiting, leaders = model.stream([SYMBOL]), events(inputs), iter(candles[LEADER].to_dicts())
    leader, bars = next(leaders), model.lookback_bars

    for i, row in enumerate(batch.to_dicts()):
        close_ms = int(row["ts"].timestamp() * 1000) + MINUTE_MS
        while waiting and waiting[0][0] <= close_ms:
            at, name, symbol, value = waiting.pop(0)
            stream.push_input(name, value, known_at=at, symbol=symbol)
        while leader is not None and leader["ts"] <= row["ts"]:
            stream.take(LEADER, leader)
            leader = next(leaders, None)
        pushed = outcome(lambda i=i: stream.push(SYMBOL, candles[SYMBOL].row(i, named=True)))
        assert pushed == (row["refused"] or row["p"]), row
        # One call takes a millisecond; all of them would add nothing.
        if i % 7 == 0:
            given = {
                SYMBOL: candles[SYMBOL][max(0, i - bars + 1) : i + 1],
                LEADER: candles[LEADER].filter(pl.col("ts") <= row["ts"]).tail(bars),
            }
            last = model.predict_candles(given, inputs=inputs)
            # Another candle is missing where fewer are passed.
            mine = last.filter(pl.col("symbol") == SYMBOL).row(0, named=True)
            assert mine == row


def test_a_stream_goes_on_after_a_restart(model, market):
    """Bars and values that a stream returned give another one the same answer."""
    candles, inputs = market
    first, second = model.stream(), model.stream()
    first.warm_up(candles, inputs=as_given(inputs))
    second.warm_up({symbol: first.candles(symbol) for symbol in candles}, inputs=first.inputs())

    assert outcome(lambda: second.predict(SYMBOL)) == outcome(lambda: first.predict(SYMBOL))
    # Only what a bar that is held may still use, and the newest value before it.
    assert sum(frame.height for frame in first.inputs().values()) < sum(table.rows for table in inputs.values())


def test_the_age_counts_to_the_millisecond(model, market):
    """A value known since a close is used at it, one known a millisecond later is not; nor one too old by one."""
    candles, inputs = market
    start = {SYMBOL: candles[SYMBOL][790:850], LEADER: candles[LEADER]}
    last_ms = int(times_ms(start[SYMBOL])[-1]) + MINUTE_MS
    first_ms = int(times_ms(start[SYMBOL])[0])

    def refused(*times):
        own = known(sorted(times), np.arange(len(times)) / 1e4)
        both = {"funding": InputTable(by_symbol={SYMBOL: own, LEADER: own}), "mood": inputs["mood"]}
        rows = model.predict_candles(start, inputs=both)
        return rows.filter(pl.col("symbol") == SYMBOL)["refused"].item()

    age_ms = FUNDING.max_age_ms
    assert refused(first_ms) == "input-stale"
    assert refused(last_ms - 6 * MINUTE_MS) is None
    assert refused(last_ms - 5 * MINUTE_MS) is None
    assert refused(last_ms - 5 * MINUTE_MS + 1) == "input-missing"
    assert refused(last_ms - age_ms) is None
    assert refused(last_ms - age_ms - 1) == "input-stale"
    # Known to the last candle, but too old for one inside the lookback.
    assert refused(last_ms - 5 * MINUTE_MS - age_ms - 1, last_ms - MINUTE_MS) == "input-stale"


def test_inputs_that_are_not_passed_refuse_every_row(model, market):
    """A model never guesses an input: without values, each row that has a whole lookback says so."""
    candles, _ = market

    rows = model.predict_candles(candles, rows="all")

    assert set(rows["refused"]) == {"hole", "too-few-bars", "input-missing"}
    assert outcome(lambda: _warmed(model, candles).predict(SYMBOL)) == "input-missing"


def _warmed(model, candles):
    stream = model.stream()
    stream.warm_up(candles)
    return stream


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected a mapping"),
        ({"fundin": pl.DataFrame()}, "reads no input 'fundin': its inputs are funding"),
        ({"funding": 3}, r"inputs\['funding'\]"),
    ],
)
def test_wrong_inputs_are_usage_errors(model, market, inputs, message):
    """The argument must be a mapping of the model's inputs to tables."""
    with pytest.raises(UsageError, match=message):
        model.predict_candles(market[0], inputs=inputs)


def test_a_table_must_be_as_declared(model, market):
    """A missing column and a time without a zone are named."""
    times = pl.Series([dt.datetime(2025, 10, 15)])  # noqa: DTZ001 -- without a zone

    with pytest.raises(InputError, match=r"no column 'rate'.*its columns are 'published_at'"):
        model.predict_candles(market[0], inputs={"funding": pl.DataFrame({"published_at": times})})
    with pytest.raises(InputError, match="zone"):
        model.predict_candles(market[0], inputs={"funding": pl.DataFrame({"published_at": times, "rate": [1.0]})})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fundin", 1.0, 10**12), "reads no input 'fundin'"),
        (("funding", float("nan"), 10**12), "finite number"),
        (("funding", "1", 10**12), "finite number"),
        (("funding", 1.0, dt.datetime(2025, 10, 15)), "no zone"),  # noqa: DTZ001
        (("funding", 1.0, None), "known_at is"),
        (("funding", 1.0, True), "known_at is"),
    ],
)
def test_a_wrong_value_is_not_taken(model, arguments, message):
    """A push names the argument that is wrong, and changes nothing."""
    stream, (name, value, known_at) = model.stream(), arguments

    with pytest.raises(UsageError, match=message):
        stream.push_input(name, value, known_at=known_at, symbol=SYMBOL)
    assert all(frame.is_empty() for frame in stream.inputs().values())


def test_a_value_does_not_change(model):
    """The same value may be pushed twice; another one for the same time is refused, and one for all symbols, too."""
    stream = model.stream()
    for _ in range(2):
        stream.push_input("funding", 0.01, known_at="2025-10-15T12:00:00Z", symbol=SYMBOL)

    with pytest.raises(RefusedError, match="2025-10-15T12:00:00Z: another value") as caught:
        stream.push_input("funding", 0.02, known_at=dt.datetime(2025, 10, 15, 12, tzinfo=dt.UTC), symbol=SYMBOL)
    assert caught.value.reason == "changed"
    with pytest.raises(UsageError, match="for all symbols, or for each"):
        stream.push_input("funding", 0.02, known_at=10**12)
    assert stream.inputs()["funding"]["rate"].to_list() == [0.01]


def test_a_value_of_a_symbol_without_candles_is_refused(model):
    """A misspelt symbol would otherwise show only as rows without a value."""
    stream = model.stream([SYMBOL])

    with pytest.raises(RefusedError, match="unknown") as caught:
        stream.push_input("funding", 0.01, known_at="2025-10-15T12:00:00Z", symbol="BTC/USDT")
    assert caught.value.reason == "unknown-symbol"
    assert all(frame.is_empty() for frame in stream.inputs().values())
    # The leader has candles, although the stream scores another symbol.
    stream.push_input("funding", 0.01, known_at="2025-10-15T12:00:00Z", symbol=LEADER)


def test_explanations_read_inputs(model, market):
    """`explain` takes inputs as `predict_candles` does."""
    candles, inputs = market
    rows = model.explain(candles, inputs=inputs, rows="all").drop_nulls("p")
    parts = rows.select(pl.sum_horizontal(pl.col("base"), pl.col("^contribution_.*$")))[:, 0]

    assert rows.height > 100
    assert np.allclose(parts, rows["log_odds"])


def test_the_latency_of_a_model_with_inputs_is_measured(model, market):
    """The candles of a training have the inputs joined; the measured calls get their values."""
    candles, inputs = market
    latency = measure_latency(model, join_inputs(FEATURES, candles, inputs), samples=20)

    assert 0 < latency.candles.p50 <= latency.candles.max
