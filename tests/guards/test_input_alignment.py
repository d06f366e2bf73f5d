"""Planted wrong times of inputs are caught by the input's name; honest inputs of many kinds raise no alarm."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mltrain.candles.input_tables import InputSpec, InputTable
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.guards.evidence import Findings, check_guards
from mltrain.guards.input_alignment import (
    CHECK,
    MIN_ROWS,
    SIGNED_LIMIT,
    Market,
    check_input_alignment,
    judge_alignment,
)
from mltrain.times import DAY_MS, HOUR_MS, WEEK_MS
from support.input_markets import (
    DAYS,
    HONEST,
    HOURS,
    LEAKS,
    MINUTES,
    as_known,
    at_each_close,
    every,
    make_market,
    make_persistent,
    per,
    returns,
    volume,
)

INPUT = InputSpec("flows", "flows.csv", "net", "published", WEEK_MS)
LABEL = LabelSpec(kind="direction", horizon_bars=1, ties="drop")


def features_of(interval, *inputs):
    specs = tuple(FeatureSpec(f"{spec.name}_now", "input_value", {"input": spec.name}) for spec in inputs)
    return FeatureSet(1, interval, LABEL, specs, inputs)


def audit(market, known, *, interval, symbol="BTCUSDT"):
    """Check one input of one symbol; return the result of a guard."""
    findings = Findings("future_info")
    table = InputTable(by_symbol={symbol: known})
    check_input_alignment(findings, features_of(interval, INPUT), {symbol: market.frame}, {"flows": table})
    return findings.build_result({CHECK: ""})


@pytest.mark.parametrize("name", LEAKS)
def test_a_wrong_time_is_caught(name):
    """The failure names input, symbol, column of times and file, the correlation and after which time."""
    size, make = LEAKS[name]
    market = make_market(0, *size)

    result = audit(market, as_known(*make(market)), interval=size[1])

    (failure,) = result.failures
    assert (failure.feature, failure.symbol) == ("flows", "BTCUSDT")
    assert "column published of flows.csv" in failure.why
    assert "after it is known" in failure.got
    assert "features show" in failure.hint
    assert result.checks[0].worst > SIGNED_LIMIT
    assert result.checks[0].case.startswith("flows of BTCUSDT")


def test_there_are_fifty_honest_inputs():
    """And their kinds differ."""
    assert len(HONEST) == 50


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_input_raises_no_alarm(name):
    """Neither a failure nor a warning, on a market that differs from input to input."""
    size, make = HONEST[name]
    # A few markets, each shared by many inputs.
    market = make_market(1 + list(HONEST).index(name) % 4, *size)

    result = audit(market, as_known(*make(market)), interval=size[1])

    assert result.failures == ()
    assert result.warnings == ()


def test_an_input_with_few_values_is_named():
    """Too few values, or too few periods of their length, are a warning: silence would look like a pass."""
    market = make_market(0, *HOURS)
    few = as_known(*per(WEEK_MS * 2, returns)(market))
    late = as_known(market.close_ms[:: WEEK_MS // HOUR_MS][:MIN_ROWS] + 400 * DAY_MS, np.arange(MIN_ROWS))

    for known, values in ((few, few.values.size), (late, 0)):
        result = audit(market, known, interval="1h")

        assert result.passed
        assert result.warnings[0].startswith("too few values to judge")
        assert f"flows of BTCUSDT ({values})" in result.warnings[0]


def test_the_message_says_what_and_since_when():
    """A daily return at the day's start: correlated with the day after it is known."""
    market = make_market(0, *HOURS)
    result = audit(market, as_known(*per(DAY_MS, returns, early_ms=DAY_MS)(market)), interval="1h")

    with pytest.raises(Exception, match=r"flows of BTCUSDT: .*with the return of bars 1 to 24 \(up to 1d\)"):
        check_guards([result])


@pytest.mark.parametrize(("early_bars", "expected"), [(0, 0), (1, 1), (3, 3), (12, 12), (36, 12)])
def test_an_early_value_is_related_to_the_bars_that_it_is_early_by(early_bars, expected):
    """The window that is found ends where the value should have been known; a value in time has none."""
    market = make_market(0, *MINUTES)
    known = as_known(*per(HOUR_MS, returns, early_ms=early_bars * market.step_ms)(market))

    leak = judge_alignment(Market.from_candles(market.frame, market.step_ms), known).leak

    assert (leak is not None) == (expected > 0)
    if leak is not None:
        assert leak.quantity == "return"
        assert abs(leak.offset_bars + leak.bars - early_bars) <= max(1, expected // 2)


def test_each_symbol_is_judged_by_its_values():
    """Only the symbol whose values are early fails; values for all symbols are judged with each symbol's market."""
    first, second = make_market(0, *HOURS), make_market(1, *HOURS)
    candles = {"BTCUSDT": first.frame, "ETHUSDT": second.frame}
    early, in_time = (as_known(*per(DAY_MS, returns, early_ms=ms)(first)) for ms in (DAY_MS, 0))
    right = as_known(*per(DAY_MS, returns)(second))
    failed = []
    for table in (
        InputTable(by_symbol={"BTCUSDT": early, "ETHUSDT": right}),
        InputTable(by_symbol={"BTCUSDT": in_time, "ETHUSDT": right}),
        InputTable(for_all=early),
    ):
        findings = Findings("future_info")
        check_input_alignment(findings, features_of("1h", INPUT), candles, {"flows": table})
        failed.append([failure.symbol for failure in findings.build_result({CHECK: ""}).failures])

    assert failed == [["BTCUSDT"], [], ["BTCUSDT"]]


def test_candles_without_takers_or_with_gaps_are_judged_as_well():
    """A missing column is no quantity; a value that falls into a gap is not counted."""
    market = make_market(0, *HOURS)
    frame = market.frame.with_columns(taker_buy_base=pl.lit(None, pl.Float64))
    frame = frame.filter(~pl.int_range(pl.len()).is_between(1_000, 1_200))
    known = as_known(*per(DAY_MS, volume, early_ms=DAY_MS)(market))

    result = judge_alignment(Market.from_candles(frame, market.step_ms), known)

    assert result.leak is not None
    assert result.rows < known.values.size - 201 // 24


def test_a_flat_market_has_no_relation():
    """Prices and volumes that never move divide nothing by 0."""
    market = make_market(0, *DAYS)
    flat = market.frame.with_columns(pl.col("open", "high", "low", "close") * 0 + 1.0, pl.col("volume") * 0)
    known = as_known(*every(DAY_MS, lambda m: make_persistent(m.rng, m.returns.size, 3))(market))

    with np.errstate(all="raise", under="ignore"):
        result = judge_alignment(Market.from_candles(flat, market.step_ms), known)

    assert result.leak is None
    assert result.worst is None


@pytest.mark.parametrize(("share", "caught"), [(0.2, False), (0.4, True), (0.8, True)])
def test_the_power_is_as_documented(share, caught):
    """A value that is correlated with the next return by 0.4 is caught, one by 0.2 could be a forecast."""
    market = make_market(0, *MINUTES)
    shocks = market.returns / np.exp(market.log_volatility)
    ahead = np.append(shocks[1:], 0) / shocks.std()
    noise = np.sqrt(1 - share**2) * market.rng.normal(size=ahead.size)
    known = as_known(*at_each_close(lambda _: share * ahead + noise)(market))

    leak = judge_alignment(Market.from_candles(market.frame, market.step_ms), known).leak

    assert (leak is not None) == caught


def test_a_volume_one_bar_early_ends_abruptly():
    """It is related to the past more closely, but no forecast of a volume ends with one bar."""
    market = make_market(0, *MINUTES)
    early, in_time = (
        judge_alignment(
            Market.from_candles(market.frame, market.step_ms),
            as_known(*per(HOUR_MS, volume, early_ms=early_ms)(market)),
        ).leak
        for early_ms in (market.step_ms, 0)
    )

    assert (early.quantity, early.bars, early.offset_bars) == ("volume", 1, 0)
    assert in_time is None
