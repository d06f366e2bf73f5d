"""Symbols whose candles are shifted in time are found, with the lag; aligned symbols raise no alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.errors import LeakageError
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.guards.alignment import CHECK, DETAIL, check_alignment, find_shift, sum_products
from mltrain.guards.evidence import Findings, check_guards
from mltrain.guards.future_info import future_info
from mltrain.times import DAY_MS, MINUTE_MS, interval_ms
from mltrain.training.label import make_labels
from support.markets import simulate, without

START_MS = 20_250 * DAY_MS
NAMES = tuple(f"S{number:02}USDT" for number in range(12))


def frame(moves, *, step_ms=MINUTE_MS, start_ms=START_MS):
    """Return candles (times and closes only) with these log returns."""
    ts = start_ms + np.arange(len(moves)) * step_ms
    return pl.DataFrame({"ts": pl.Series(ts).cast(pl.Datetime("ms", "UTC")), "close": 100 * np.exp(np.cumsum(moves))})


def correlated(bars, count=2, *, rho=0.7, seed=0, step_ms=MINUTE_MS):
    """Return symbols with heavy tails and volatile days, each pair with about this correlation."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(4, (count + 1, bars)) * 5e-4
    moves *= np.exp(np.repeat(rng.normal(0, 0.5, bars // 500 + 1), 500)[:bars])
    return [frame(rho**0.5 * moves[0] + (1 - rho) ** 0.5 * own, step_ms=step_ms) for own in moves[1:]]


def shifted(candles, bars, *, step_ms=MINUTE_MS, share=(0.0, 1.0)):
    """Shift the times of the candles in this share of the rows, and drop duplicate times."""
    row = pl.int_range(pl.len())
    moved = row.is_between(share[0] * candles.height, share[1] * candles.height, closed="left")
    ts = pl.col("ts") + pl.when(moved).then(bars * step_ms).otherwise(0).cast(pl.Duration("ms"))
    return candles.with_columns(ts).unique("ts", keep="last").sort("ts")


def registry(*leaders, interval="1m"):
    """Return one feature without a leader, and two for each of these leaders."""
    led = [
        FeatureSpec(f"{op}_{leader}", op, {"bars": 1}, leader)
        for leader in leaders
        for op in ("leader_return", "leader_lead")
    ]
    return FeatureSet(
        version=1,
        interval=interval,
        label=LabelSpec(kind="direction", horizon_bars=1, ties="drop"),
        features=(FeatureSpec("return_1", "log_return", {"bars": 1, "lag": 0}), *led),
    )


def check(features, candles):
    findings = Findings("future_info")
    check_alignment(findings, features, candles)
    return findings.build_result({CHECK: DETAIL})


@given(
    seed=st.integers(0, 1_000),
    bars=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    start=st.integers(-4, 4),
    missing=st.sets(st.integers(0, 11), max_size=4),
)
@settings(max_examples=40)
def test_correlations_are_those_of_pairs_of_bars(seed, bars, start, missing):
    """The sums at each lag are those over all pairs of bars that have a return, also with gaps and different starts."""
    rng = np.random.default_rng(seed)
    step_ms = DAY_MS // 6
    one = frame(rng.standard_normal(bars[0]), step_ms=step_ms)
    other = frame(rng.standard_normal(bars[1]), step_ms=step_ms, start_ms=START_MS + start * step_ms)
    one = one.filter(~pl.int_range(pl.len()).is_in(sorted(missing)))
    sums = sum_products(one, other, step_ms)
    if not sums.start_ms.size:
        return

    a, b = naive_returns(one, other, step_ms), naive_returns(other, one, step_ms, reach=6)
    for lag in range(-6, 7):
        pairs = [(a[ts], b[ts + lag * step_ms]) for ts in a if ts + lag * step_ms in b]
        expected = [sum(f(x, y) for x, y in pairs) for f in (np.multiply, sq_first, sq_second, sq_both)]
        np.testing.assert_allclose(sums.by_lag[:, :, lag + 6].sum(axis=1), expected, atol=1e-9)


def sq_first(x, _):
    return x**2


def sq_second(_, y):
    return y**2


def sq_both(x, y):
    return x**2 * y**2


def naive_returns(candles, other, step_ms, *, reach=0):
    """Return a symbol's clipped returns by time, over the time of the other one's candles and `reach` bars more."""
    ts, close = candles["ts"].cast(int).to_list(), candles["close"].to_list()
    both = [max(ts[0], other["ts"].cast(int)[0]), min(ts[-1], other["ts"].cast(int)[-1])] if ts else [0, 0]
    # Of the symbol that stays in place, up to the end of the last part; of the other one, a day more on both sides.
    end = both[0] + (192 + reach) * step_ms
    returns = {
        t: np.log(y / x)
        for s, t, x, y in zip(ts, ts[1:], close, close[1:], strict=False)
        if t - s == step_ms and both[0] - reach * step_ms <= t < end
    }
    sizes = [abs(r) for r in returns.values() if r]
    if not sizes:
        return {}
    most = np.quantile(sizes, 0.98)
    clipped = {t: max(-1.0, min(1.0, r / most)) for t, r in returns.items()}
    mean = sum(clipped.values()) / len(clipped)
    return {t: r - mean for t, r in clipped.items()}


@pytest.mark.parametrize("interval", ["1m", "5m", "1h"])
@pytest.mark.parametrize("bars", [1, -1, 2, 7, -12, 24])
def test_a_shift_is_found_with_its_lag(bars, interval):
    """A shift of either symbol is found, at any interval, with its lag and both correlations."""
    step_ms = interval_ms(interval)
    leader, follower = correlated(4_000, step_ms=step_ms)
    found = find_shift(sum_products(leader, shifted(follower, bars, step_ms=step_ms), step_ms))

    assert (found.lag_bars, found.start_ms) == (bars, None)
    assert found.correlation == pytest.approx(0.7, abs=0.08)
    assert abs(found.at_zero) < 0.1
    assert find_shift(sum_products(leader, follower, step_ms)) is None


@pytest.mark.parametrize("minutes", [*range(3, 61, 19), 61, 719, 1_440])
def test_minutes_up_to_a_day_are_found(minutes):
    """Shifts from one minute to one day are found."""
    leader, follower = correlated(6_000)

    assert find_shift(sum_products(leader, shifted(follower, minutes), MINUTE_MS)).lag_bars == minutes
    assert find_shift(sum_products(shifted(leader, minutes), follower, MINUTE_MS)).lag_bars == -minutes


@pytest.mark.parametrize("share", [(0.0, 0.5), (0.5, 1.0), (0.4, 0.6)])
@pytest.mark.parametrize("days", [1, 3, 14, 60])
def test_a_shift_in_a_part_of_the_history_is_not_averaged_away(days, share):
    """An hour (summer time) in half of the candles is found, or in a fifth if that is about a day."""
    if share == (0.4, 0.6) and days < 14:
        return
    leader, follower = correlated(days * 1440)
    found = find_shift(sum_products(leader, shifted(follower, 60, share=share), MINUTE_MS))

    assert found.lag_bars == 60
    if days >= 14:
        low, high = (START_MS + part * days * DAY_MS for part in share)
        assert low - DAY_MS < found.start_ms < high
        assert found.parts[0] == pytest.approx(found.parts[1] * (share[1] - share[0]), abs=1)


def test_a_single_jump_neither_raises_an_alarm_nor_hides_a_shift():
    """A jump in one symbol half an hour before one in the other raises no alarm; a shift is found despite jumps."""
    rng = np.random.default_rng(3)
    quiet = rng.standard_normal((2, 3_000)) * 1e-4
    quiet[0, 1_000], quiet[1, 1_030] = 0.5, 0.5
    leader, follower = correlated(3_000)
    jump = pl.when(pl.int_range(pl.len()) == 2_000).then(pl.col("close") * 1.5).otherwise(pl.col("close"))

    assert find_shift(sum_products(frame(quiet[0]), frame(quiet[1]), MINUTE_MS)) is None
    found = find_shift(sum_products(leader.with_columns(jump), shifted(follower.with_columns(jump), 5), MINUTE_MS))
    assert found.lag_bars == 5


@pytest.mark.parametrize("bars", [2, 20, 150, 400, 1_500])
@pytest.mark.parametrize("rho", [0.0, 0.1, 0.9])
def test_honest_markets_of_any_length_pass(bars, rho):
    """A few hundred candles correlate by chance at some lag, which raises no alarm."""
    for seed in range(20):
        one, other = correlated(bars, rho=rho, seed=seed)
        assert find_shift(sum_products(one, other, MINUTE_MS)) is None


def test_a_market_that_trades_rarely_passes():
    """A price that stays for minutes, so that the follower moves late and in jumps, raises no alarm."""
    for seed in range(5):
        leader, follower = correlated(8_000, rho=0.8, seed=seed)
        trades = np.random.default_rng(seed).random(8_000) < 0.2
        stale = follower.with_columns(
            pl.when(pl.Series(trades)).then(pl.col("close")).forward_fill().fill_null(100.0).alias("close")
        )
        assert find_shift(sum_products(leader, stale, MINUTE_MS)) is None


def test_prices_that_do_not_move_pass():
    """Constant and steadily rising prices, and candles of different years, raise no alarm."""
    leader, _ = correlated(2_000)
    still, rising = frame(np.zeros(2_000)), frame(np.full(2_000, 1e-4))
    later = frame(np.ones(5), start_ms=START_MS + 500 * DAY_MS)

    for other in (still, rising, later, leader[:0], leader[:1]):
        assert find_shift(sum_products(leader, other, MINUTE_MS)) is None
        assert find_shift(sum_products(other, leader, MINUTE_MS)) is None
    assert find_shift(sum_products(rising, rising, MINUTE_MS)) is None


def test_a_pair_that_a_feature_reads_fails():
    """One failure names all features that read the leader, the symbol, the lag, both correlations and a hint."""
    one, two, three = correlated(4_000, 3, step_ms=5 * MINUTE_MS)
    late = shifted(two, 1, step_ms=5 * MINUTE_MS)
    features = registry("BTCUSDT", interval="5m")
    result = check(features, {"BTCUSDT": one, "ETHUSDT": late, "SOLUSDT": three})

    (failure,) = result.failures
    assert (failure.feature, failure.symbol) == ("leader_return_BTCUSDT, leader_lead_BTCUSDT", "ETHUSDT")
    assert "0.20 at most" in failure.expected
    assert failure.expected.endswith("at lag 0")
    assert failure.got.startswith(("0.6", "0.7"))
    assert failure.got.endswith("at lag +1 (+5 min)")
    assert "BTCUSDT" in failure.why
    assert result.checks[0].case == "ETHUSDT against BTCUSDT at lag +1 (+5 min)"
    with pytest.raises(LeakageError) as caught:
        check_guards([result])
    assert "open time" in caught.value.hint


def test_a_pair_that_no_feature_reads_is_a_warning():
    """The warning names both symbols, the lag and both correlations."""
    one, two, three = correlated(4_000, 3)
    candles = {"ETHUSDT": two, "SOLUSDT": shifted(three, -3)}
    result = check(registry(), candles)

    assert result.passed
    (warning,) = result.warnings
    assert all(part in warning for part in ("ETHUSDT", "SOLUSDT", "lag -3 (-3 min)", "at lag 0", "open time"))
    assert not check(registry("BTCUSDT"), {"BTCUSDT": one, **candles}).passed


def test_many_symbols_are_compared_with_one_only():
    """Twelve symbols make 11 pairs instead of 66, and 11 per leader; a shifted symbol is found either way."""
    symbols = dict(zip(NAMES, correlated(1_500, len(NAMES)), strict=True))
    pair = check(registry(), {name: symbols[name] for name in NAMES[:2]}).checks[0].points
    points = [check(registry(*leaders), symbols).checks[0].points for leaders in ((), (NAMES[3],), NAMES[3:5])]
    symbols[NAMES[7]] = shifted(symbols[NAMES[7]], 2)
    warned = check(registry(), symbols)
    led = check(registry(NAMES[3]), symbols)

    assert points == [11 * pair, 11 * pair, 22 * pair]
    assert [NAMES[7] in warning for warning in warned.warnings] == [True]
    assert [failure.symbol for failure in led.failures] == [NAMES[7]]


def test_future_info_fails_for_any_op_that_reads_the_leader(plant):
    """A user op is enough; for a history that is shifted in its last quarter, the failure has the time."""
    leader = simulate("BTCUSDT", days=4)["BTCUSDT"]
    late = without(shifted(leader, 3, share=(0.75, 1.0)), (500, 510))
    features = plant(pl.col("leader_close") / pl.col("close"), 1, leader="BTCUSDT")

    def audit(candles):
        return future_info(
            features, candles, labels=lambda f: make_labels(f, features.label, MINUTE_MS), seed=0, points=1
        )

    (failure,) = audit({"BTCUSDT": leader, "ETHUSDT": late}).failures
    assert (failure.feature, failure.symbol) == ("suspect", "ETHUSDT")
    assert failure.time_ms == leader["ts"].cast(int)[0] + 3 * DAY_MS
    assert failure.got == "1.00 at lag +3 (+3 min), in 1 of 4 parts of the history"
    assert audit({"BTCUSDT": leader, "ETHUSDT": without(leader, (500, 510))}).passed


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "interval"), [("spot_1m", "1m"), ("spot_5m", "5m")])
def test_real_candles_pass_and_shifted_ones_fail(folder, interval, real_data):
    """Real pairs raise no alarm; shifted by one bar, an hour, or an hour in a tenth of the time, each does."""
    step_ms = interval_ms(interval)
    candles = {path.stem: pl.read_parquet(path) for path in sorted((real_data / folder).glob("*.parquet"))}
    features = registry("BTCUSDT", interval=interval)
    hour = 60 * MINUTE_MS // step_ms

    assert check(features, candles).failures == ()
    assert check(features, candles).warnings == ()
    for bars, share in ((1, (0.0, 1.0)), (-hour, (0.0, 1.0)), (hour, (0.6, 0.7))):
        late = {**candles, "ETHUSDT": shifted(candles["ETHUSDT"], bars, step_ms=step_ms, share=share)}
        result = check(features, late)
        assert {failure.symbol for failure in result.failures} == {"ETHUSDT"}
        assert f"at lag {bars:+d}" in result.failures[0].got
        # With no leader read, the same is a warning for each pair with ETHUSDT.
        warnings = check(replace(features, features=features.features[:1]), late).warnings
        assert len(warnings) == len(candles) - 1
        assert all("ETHUSDT" in warning for warning in warnings)
