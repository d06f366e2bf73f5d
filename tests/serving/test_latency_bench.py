"""The latency measurement: which calls are timed, and what is computed from their durations."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest

from mltrain.errors import InputError
from mltrain.serving.latency_bench import BATCH_ROWS, WARM_UP, measure_latency
from mltrain.serving.model import model_from_bundle

MS = 1_000_000


class Clock:
    """A clock that advances by the next of given durations, ns, at every second reading."""

    def __init__(self, spent_ns):
        self.spent_ns = itertools.chain(spent_ns, itertools.repeat(MS))
        self.now_ns = 0
        self.readings = 0

    def __call__(self):
        """Return the time; every second reading ends a call."""
        self.readings += 1
        if self.readings % 2 == 0:
            self.now_ns += next(self.spent_ns)
        return self.now_ns


class Recorder:
    """A model that records its calls and passes them on to the real one."""

    def __init__(self, model):
        self.model = model
        self.symbols, self.feature_set, self.lookback_bars = model.symbols, model.feature_set, model.lookback_bars
        self.window = 1
        self.tables, self.rows, self.batches = [], [], []

    def predict_candles(self, candles, *, inputs):
        """Score candles."""
        self.tables.append(self.model.predict_candles(candles, inputs=inputs))

    def predict_one(self, row):
        """Score a row."""
        self.rows.append(self.model.predict_one(row))

    def predict_proba(self, x):
        """Record the shape of a batch without scoring it."""
        self.batches.append(x.shape)


@pytest.fixture(scope="module")
def model(bundle):
    return model_from_bundle(bundle)


def test_percentiles_are_those_of_the_clock(model, candles):
    """Durations of 1 to 100 ms give their mean and percentiles, in ms; the warm-up does not count."""
    clock = Clock([10_000 * MS] * WARM_UP + [ms * MS for ms in range(100, 0, -1)])
    latency = measure_latency(model, candles, samples=100, clock=clock)

    assert asdict(latency.candles) == pytest.approx(
        {"mean": 50.5, "p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100.0}
    )
    assert latency.samples == 100


def test_each_kind_of_call_is_measured_separately(model, candles):
    """Calls with candles, with one row and with a batch each have their own warm-up and durations."""
    clock = Clock([2 * MS] * (WARM_UP + 30) + [MS // 2] * (WARM_UP + 30) + [10 * MS] * 100)
    latency = measure_latency(model, candles, samples=30, clock=clock)

    assert set(asdict(latency.candles).values()) == {2.0}
    assert set(asdict(latency.one_row).values()) == {0.5}
    assert latency.batch_rows_per_s == pytest.approx(BATCH_ROWS / 0.010)


def test_timed_calls_are_real_predictions(model, candles):
    """Each timed call scores another candle of one symbol, none is refused, and single rows score the same."""
    recorder = Recorder(model)
    measure_latency(recorder, candles, samples=25, clock=Clock([]))
    answers = [table.to_dicts()[0] for table in recorder.tables]

    assert len(answers) == len(recorder.rows) == WARM_UP + 25
    assert {answer["symbol"] for answer in answers} == {"BTCUSDT"}
    assert len({answer["ts"] for answer in answers}) == WARM_UP + 25
    assert [answer["p"] for answer in answers] == recorder.rows
    assert set(recorder.batches) == {(BATCH_ROWS, 5)}


def test_a_symbol_that_cannot_be_scored_is_skipped(model, candles, without):
    """If the first symbol has no complete lookback, the second is timed, with its leader's candles."""
    recorder = Recorder(model)
    gapped = {"BTCUSDT": without(candles["BTCUSDT"], *range(0, 1_000, 20)), "ETHUSDT": candles["ETHUSDT"]}
    measure_latency(recorder, gapped, samples=2, clock=Clock([]))

    assert {table["symbol"][0] for table in recorder.tables} == {"ETHUSDT"}
    assert all(table["refused"][0] is None for table in recorder.tables)


def test_the_machine_is_recorded(model, candles):
    """The result names the processor and the load average."""
    latency = measure_latency(model, candles, samples=1, clock=Clock([]))

    assert latency.cpu
    assert latency.load_average is None or latency.load_average >= 0


@pytest.mark.parametrize("rows", [0, 10])
def test_too_few_candles_are_an_error(model, candles, rows):
    """Without a row that can be scored, there is an error."""
    with pytest.raises(InputError, match="cannot measure"):
        measure_latency(
            model, {symbol: frame.head(rows) for symbol, frame in candles.items()}, samples=1, clock=Clock([])
        )


def test_a_missing_leader_is_an_error(model, candles):
    """Without the leader's candles, there is an error that names it."""
    with pytest.raises(InputError, match="BTCUSDT"):
        measure_latency(model, {"ETHUSDT": candles["ETHUSDT"]}, samples=1, clock=Clock([]))


def test_the_real_clock_runs(model, candles):
    """With the machine's clock every duration is above zero, and the percentiles are in order."""
    latency = measure_latency(model, candles, samples=5)

    for figures in (latency.candles, latency.one_row):
        assert 0 < figures.p50 <= figures.p95 <= figures.p99 <= figures.max
    assert latency.batch_rows_per_s > 0


def test_the_histogram_counts_every_call(model, candles):
    """Bins of equal ratio reach from the shortest call to the longest, and count each call once."""
    clock = Clock([MS] * WARM_UP + [ms * MS for ms in (1, 1, 1, 2, 4, 64)])
    bins = measure_latency(model, candles, samples=6, clock=clock).histogram

    assert sum(b.calls for b in bins) == 6
    assert (bins[0].from_ms, bins[0].calls, bins[-1].to_ms, bins[-1].calls) == (1.0, 3, 64.0, 1)
    assert all(a.to_ms == b.from_ms for a, b in itertools.pairwise(bins))
    assert sum(b.calls for b in measure_latency(model, candles, samples=3, clock=Clock([])).histogram) == 3


@pytest.mark.parametrize(
    ("load", "preempted", "noise"),
    [
        (0.4, 0, None),
        (None, None, None),
        (1.9, 0, "load 1.90 on 2 cores"),
        (0.1, 50, "interrupted 50 times in 200 calls"),
    ],
)
def test_other_load_on_the_machine_is_named(model, candles, load, preempted, noise):
    """The load average and preemptions are reported if they may have changed the durations."""
    calm = measure_latency(model, candles, samples=100, clock=Clock([]))

    assert replace(calm, load_average=load, preempted=preempted).describe_noise(cores=2) == noise
