from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest

from mltrain.errors import InputError
from mltrain.serving.latency_bench import BATCH_ROWS, WARM_UP, measure
from mltrain.serving.model import model_from_bundle

MS = 1_000_000


class Clock:
    """A clock whose every second reading is so many ns later than the one before it, by a given series."""

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
    """A model that keeps what it is asked, and asks the real one."""

    def __init__(self, model):
        self.model = model
        self.symbols, self.feature_set, self.lookback_bars = model.symbols, model.feature_set, model.lookback_bars
        self.tables, self.rows, self.batches = [], [], []

    def predict_candles(self, candles):
        """Score candles."""
        self.tables.append(self.model.predict_candles(candles))

    def predict_one(self, row):
        """Score a row."""
        self.rows.append(self.model.predict_one(row))

    def predict_proba(self, x):
        """Score a batch, for nothing."""
        self.batches.append(x.shape)


@pytest.fixture(scope="module")
def model(bundle):
    return model_from_bundle(bundle)


def test_percentiles_are_those_of_the_clock(model, candles):
    """One to a hundred ms give their mean and percentiles, in ms; the warm-up, however slow, does not count."""
    clock = Clock([10_000 * MS] * WARM_UP + [ms * MS for ms in range(100, 0, -1)])
    latency = measure(model, candles, samples=100, clock=clock)

    assert asdict(latency.candles) == pytest.approx(
        {"mean": 50.5, "p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100.0}
    )
    assert latency.samples == 100


def test_each_kind_of_call_has_its_own_figures(model, candles):
    """What comes after the candles' calls is one row's: its warm-up and samples, then the batches."""
    clock = Clock([2 * MS] * (WARM_UP + 30) + [MS // 2] * (WARM_UP + 30) + [10 * MS] * 100)
    latency = measure(model, candles, samples=30, clock=clock)

    assert set(asdict(latency.candles).values()) == {2.0}
    assert set(asdict(latency.one_row).values()) == {0.5}
    assert latency.batch_rows_per_s == pytest.approx(BATCH_ROWS / 0.010)


def test_what_is_timed_is_what_is_served(model, candles):
    """Every timed call from candles is one symbol's, at another moment, and none is refused; rows agree with them."""
    recorder = Recorder(model)
    measure(recorder, candles, samples=25, clock=Clock([]))
    answers = [table.to_dicts()[0] for table in recorder.tables]

    assert len(answers) == len(recorder.rows) == WARM_UP + 25
    assert {answer["symbol"] for answer in answers} == {"BTCUSDT"}
    assert len({answer["ts"] for answer in answers}) == WARM_UP + 25
    assert [answer["p"] for answer in answers] == recorder.rows
    assert set(recorder.batches) == {(BATCH_ROWS, 5)}


def test_a_symbol_that_cannot_be_scored_makes_room_for_the_next(model, candles, without):
    """Where the first symbol has no whole window the second is timed, its leader's candles with it."""
    recorder = Recorder(model)
    gapped = {"BTCUSDT": without(candles["BTCUSDT"], *range(0, 1_000, 20)), "ETHUSDT": candles["ETHUSDT"]}
    measure(recorder, gapped, samples=2, clock=Clock([]))

    assert {table["symbol"][0] for table in recorder.tables} == {"ETHUSDT"}
    assert all(table["refused"][0] is None for table in recorder.tables)


def test_the_machine_is_told(model, candles):
    """Figures without the processor and its load mean little."""
    latency = measure(model, candles, samples=1, clock=Clock([]))

    assert latency.cpu
    assert latency.load_average is None or latency.load_average >= 0


@pytest.mark.parametrize("rows", [0, 10])
def test_too_few_candles_are_an_error(model, candles, rows):
    """Without one row to score there is nothing to time."""
    with pytest.raises(InputError, match="cannot measure"):
        measure(model, {symbol: frame.head(rows) for symbol, frame in candles.items()}, samples=1, clock=Clock([]))


def test_a_missing_leader_is_an_error(model, candles):
    """As in serving, the leader's candles are needed."""
    with pytest.raises(InputError, match="BTCUSDT"):
        measure(model, {"ETHUSDT": candles["ETHUSDT"]}, samples=1, clock=Clock([]))


def test_the_real_clock_runs(model, candles):
    """With the machine's own clock every figure is above zero, and the percentiles are in order."""
    latency = measure(model, candles, samples=5)

    for figures in (latency.candles, latency.one_row):
        assert 0 < figures.p50 <= figures.p95 <= figures.p99 <= figures.max
    assert latency.batch_rows_per_s > 0


def test_the_histogram_counts_every_call(model, candles):
    """Bins of equal ratio from the shortest call to the longest, each call in one of them."""
    clock = Clock([MS] * WARM_UP + [ms * MS for ms in (1, 1, 1, 2, 4, 64)])
    bins = measure(model, candles, samples=6, clock=clock).histogram

    assert sum(b.calls for b in bins) == 6
    assert (bins[0].from_ms, bins[0].calls, bins[-1].to_ms, bins[-1].calls) == (1.0, 3, 64.0, 1)
    assert all(a.to_ms == b.from_ms for a, b in itertools.pairwise(bins))
    assert sum(b.calls for b in measure(model, candles, samples=3, clock=Clock([])).histogram) == 3


@pytest.mark.parametrize(
    ("load", "preempted", "told"),
    [
        (0.4, 0, None),
        (None, None, None),
        (1.9, 0, "load 1.90 on 2 cores"),
        (0.1, 50, "interrupted 50 times in 200 calls"),
    ],
)
def test_a_noisy_machine_is_said(model, candles, load, preempted, told):
    """Other work shows in the figures, so it is named."""
    calm = measure(model, candles, samples=100, clock=Clock([]))

    assert replace(calm, load_average=load, preempted=preempted).noise(cores=2) == told
