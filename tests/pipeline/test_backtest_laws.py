"""A backtest trades what serving answers, after its look is logged, and stores what its equity follows from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.policies import NEED_MOVES, POLICIES, Policy
from mltrain.backtesting.result_tables import build_tables
from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.registry import parse_registry
from mltrain.pipeline.backtest import BacktestOptions, run_backtest
from mltrain.pipeline.evaluate import read_model_candles
from mltrain.pipeline.training_scores import measure_moves
from mltrain.progress import Silent
from mltrain.serving.model import open_model
from mltrain.store.publishing import publish_version
from mltrain.times import DAY_MS, MINUTE_MS
from support.workshop import NOW_MS, REGISTRY, Workshop

END = "2025-10-16T12:00:00Z"
SIGN = BacktestOptions(policy=Policy("sign"), costs=Costs(participation=None))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a workshop with one version of two symbols, and a snapshot of two later days; read only."""
    workshop = Workshop(tmp_path_factory.mktemp("backtest") / "data")
    report = workshop.train(workshop.snapshot(symbols=("BTCUSDT", "ETHUSDT")))
    return workshop, workshop.store.open_version(report.version), workshop.snapshot(
        days=2, end=END, symbols=("BTCUSDT", "ETHUSDT")
    )  # fmt: skip


def run(made, options=SIGN, *, version=None, snapshot=None, progress=None):
    workshop, own_version, own_snapshot = made
    return run_backtest(
        version or own_version,
        snapshot or own_snapshot,
        workshop.store,
        options,
        now_ms=NOW_MS,
        progress=progress or Silent(),
    )


class TestScores:
    """p is what serving gives, bit for bit."""

    def test_it_is_that_of_predict_candles(self, made):
        """On all candles of the snapshot, of which the backtest reads only what it needs."""
        _, version, snapshot = made
        ran = run(made)
        model = open_model(version)
        candles = read_model_candles(model, snapshot, Silent())
        all_scores = model.predict_candles(candles, rows="all")
        compared = 0
        for ix, symbol in enumerate(ran.bars.symbols):
            scores = all_scores.filter(pl.col("symbol") == symbol)
            p = dict(zip(scores["ts"].dt.timestamp("ms").to_list(), scores["p"].to_list(), strict=True))
            for ts_ms, got in zip(ran.bars.ts_ms.tolist(), ran.bars.p[:, ix].tolist(), strict=True):
                want = p.get(ts_ms)
                assert got == want or (want is None and np.isnan(got))
                compared += want is not None

        assert compared > 4_000

    def test_it_is_that_of_the_stream(self, made):
        """Candle by candle."""
        _, version, snapshot = made
        start_ms = snapshot.window.end_ms - 400 * MINUTE_MS
        ran = run(made, replace(SIGN, start_ms=start_ms))
        model = open_model(version)
        candles = read_model_candles(model, snapshot, Silent())
        stream = model.stream()
        first_ms = start_ms - model.lookback_bars * MINUTE_MS
        rows = [
            (int(row["ts"].timestamp() * 1_000), symbol, row)
            for symbol, frame in candles.items()
            for row in frame.filter(pl.col("ts").dt.timestamp("ms") >= first_ms).iter_rows(named=True)
        ]
        compared = 0
        for ts_ms, symbol, row in sorted(rows, key=lambda each: each[:2]):
            try:
                p = stream.push(symbol, row)
            except RefusedError:
                p = np.nan
            if ts_ms >= start_ms:
                bar, ix = int(np.searchsorted(ran.bars.ts_ms, ts_ms)), ran.bars.symbols.index(symbol)
                assert np.array_equal(ran.bars.p[bar, ix], p, equal_nan=True)
                compared += 1

        assert compared > 700


class Watched(Silent):
    """A Progress that notes how many looks are logged when a stage begins."""

    def __init__(self, store):
        super().__init__()
        self.store = store
        self.looks = {}

    def stage(self, name, **_):
        self.looks[name] = len(self.store.looks())


class TestLooks:
    """A look at candles counts from before the first of them is scored."""

    def test_the_look_is_logged_before_anything_is_scored(self, made):
        """One line more when scoring begins, with the range and the version."""
        workshop, version, _ = made
        before, progress = len(workshop.store.looks()), Watched(workshop.store)
        ran = run(made, progress=progress)
        look = workshop.store.looks()[-1]

        assert (progress.looks["score"], progress.looks["simulate"]) == (before + 1, before + 1)
        assert len(workshop.store.looks()) == before + 1
        assert (look.study, look.start_ms, look.end_ms) == (
            f"backtest {version.name}",
            ran.result.request.start_ms,
            ran.result.request.end_ms,
        )

    def test_each_backtest_of_the_same_candles_is_counted(self, made):
        """The one before raises the number by one; one of other candles does not."""
        first = run(made).result
        second = run(made).result
        other = run(made, replace(SIGN, start_ms=first.request.end_ms - 60 * MINUTE_MS)).result

        assert second.luck.looks == first.luck.looks + 1
        assert other.luck.looks == second.luck.looks + 1
        assert replace(second, luck=first.luck) == first

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (replace(SIGN, start_ms=0), UsageError),
            (replace(SIGN, end_ms=MINUTE_MS), UsageError),
            (replace(SIGN, costs=Costs(market="perp"), funding="/nowhere/rates.csv"), InputError),
        ],
    )
    def test_a_refused_backtest_is_no_look(self, made, options, error):
        """Nothing was scored."""
        looks = made[0].store.looks()
        with pytest.raises(error):
            run(made, options)

        assert made[0].store.looks() == looks


class TestRange:
    """Only candles later than the last training label are traded."""

    def test_the_first_bar_is_after_the_last_label(self, made):
        """The candle at which the last label ended was read by the training."""
        _, version, _ = made
        ran = run(made)
        learned_ms = ModelCard(open_model(version).card).last_label_end_ms()

        assert ran.result.learned_until_ms == learned_ms
        assert ran.bars.ts_ms[0] == ran.result.request.start_ms > learned_ms

    def test_candles_of_the_training_are_traded_only_as_such(self, made):
        """`in_sample` lifts the limit, says so in the request, and warns."""
        workshop, _, _ = made
        snapshot, progress = workshop.snapshot(symbols=("BTCUSDT", "ETHUSDT")), Silent()
        ran = run(made, replace(SIGN, in_sample=True), snapshot=snapshot, progress=progress)

        assert ran.result.request.in_sample
        assert ran.bars.ts_ms[0] == snapshot.window.start_ms < ran.result.learned_until_ms
        assert any("proves nothing" in warning for warning in progress.warnings)

    def test_rows_of_the_holdout_are_counted(self, made):
        """The gates have judged them: the result and a warning say so; newer candles have none."""
        workshop, version, _ = made
        snapshot, progress = workshop.snapshot(symbols=("BTCUSDT", "ETHUSDT")), Silent()
        judged = run(made, snapshot=snapshot, progress=progress).result.judged
        block = ModelCard(open_model(version).card).block("holdout")

        assert (judged.start_ms, judged.end_ms) == (block.time_ms("start"), block.time_ms("end"))
        assert judged.bars > 1_000
        assert any("own holdout" in warning for warning in progress.warnings)
        assert run(made, replace(SIGN, start_ms=judged.end_ms + MINUTE_MS)).result.judged is None

    @pytest.mark.parametrize("minutes", [2, 61, 1_440])
    def test_the_same_candles_have_the_same_answers_in_a_shorter_range(self, made, minutes):
        """Bars, p and fills of the last minutes do not depend on where the range begins."""
        _, _, snapshot = made
        long = run(made).bars
        short = run(made, replace(SIGN, start_ms=snapshot.window.end_ms - minutes * MINUTE_MS)).bars

        assert short.ts_ms.size == minutes
        for name in ("ts_ms", "open", "close", "p", "refused", "exists", "mark"):
            assert np.array_equal(getattr(short, name), getattr(long, name)[-minutes:], equal_nan=True), name


@pytest.fixture(scope="module")
def ran(made):
    """Return a backtest of a perpetual with costs, and its tables."""
    costs = Costs(market="perp", taker_bps=5, participation=0.01)
    found = run(made, BacktestOptions(policy=Policy("sign", side="both"), costs=costs, funding="2"))
    return found, build_tables(found.result, found.bars, found.simulation, found.weights)


class TestTables:
    """What is stored says how the equity came about."""

    def test_equity_follows_from_the_stored_fills(self, made, ran):
        """Cash, positions and closes, to 1e-12; funding of 2 bps at each eighth hour."""
        ran, tables = ran
        version, snapshot = made[1:]
        candles = read_model_candles(open_model(version), snapshot, Silent())
        fills, equity = tables["fills.parquet"], tables["equity.parquet"]
        cash, held, mark, rows = 10_000.0, dict.fromkeys(candles, 0.0), {}, []
        closes = {s: dict(zip(f["ts"].to_list(), f["close"].to_list(), strict=True)) for s, f in candles.items()}
        by_candle = {key[0]: part.to_dicts() for key, part in fills.group_by("candle", maintain_order=True)}
        first = True
        for ts in equity["ts"].to_list():
            if int(ts.timestamp()) % 28_800 == 0 and not first:
                cash -= sum(held[s] * mark[s] * 2e-4 for s in held)
            for fill in by_candle.get(ts, ()):
                cash -= fill["units"] * fill["price"] + fill["fee"]
                held[fill["symbol"]] += fill["units"]
            mark |= {s: closes[s][ts] for s in held if ts in closes[s]}
            rows.append(cash + sum(held[s] * mark[s] for s in held))
            first = False

        scale = max(rows) + (fills["units"].abs() * fills["price"]).sum()
        # Funding that falls on the end of the last bar is paid at its close, before the position is sold.
        rows[-1] = equity["equity"][-1]
        assert len(fills) > 500
        assert np.abs(np.array(rows) - equity["equity"].to_numpy()).max() <= 1e-12 * scale
        assert ran.simulation.payments

    def test_a_fill_comes_after_its_decision(self, ran):
        """`ts` is when it took place: at least one interval after the candle that decided it."""
        fills = ran[1]["fills.parquet"]
        waited = (fills["ts"] - fills["decided"]).dt.total_milliseconds()

        assert waited.min() == MINUTE_MS
        assert (fills["candle"] <= fills["ts"]).all()

    def test_days_add_up(self, ran):
        """Gross less costs and funding is the change of the equity, to 1e-9."""
        daily = ran[1]["daily.parquet"]
        change = np.diff(daily["equity"].to_numpy(), prepend=10_000.0)

        assert daily["day"].dt.timestamp("ms").diff().drop_nulls().to_list() == [DAY_MS] * (len(daily) - 1)
        assert np.allclose(change, daily["gross"] - daily["costs"] - daily["funding"], rtol=0, atol=1e-5)
        assert daily["funding"].abs().sum() > 0

    def test_units_and_weights_are_those_of_the_simulation(self, ran):
        """At each close."""
        ran, tables = ran
        equity = tables["equity.parquet"]
        for ix, symbol in enumerate(ran.bars.symbols):
            assert np.array_equal(equity[f"weight_{symbol}"].to_numpy(), ran.weights[:, ix])
            assert equity[f"units_{symbol}"][-1] == pytest.approx(0, abs=1e-12)
        assert np.array_equal(equity["equity"].to_numpy(), ran.simulation.equity[:, 0])


class TestMoves:
    """What is estimated comes from the training rows alone."""

    def test_by_hand(self, made):
        """Mean absolute move, mean square, and mean run of sign(p - 1/2)."""
        model = open_model(made[1])
        oof = pl.DataFrame(
            {
                "ts": [3, 1, 2, 4, 1],
                "symbol": ["BTCUSDT"] * 4 + ["ETHUSDT"],
                "p": [0.4, 0.6, 0.7, 0.3, 0.5],
                "forward_bps": [-20.0, 10.0, 30.0, 40.0, 0.0],
            }
        )
        btc, eth = measure_moves(oof, model)

        # In the order of time the signs are +, +, -, -: two runs of two.
        assert (btc.mean_move, btc.run_bars, btc.horizon_bars) == (pytest.approx(25e-4, rel=1e-12), 2.0, 1)
        assert btc.variance == pytest.approx((20**2 + 10**2 + 30**2 + 40**2) / 4 * 1e-8, rel=1e-12)
        assert (eth.mean_move, eth.variance, eth.run_bars) == (0.0, 0.0, 1.0)

    def test_other_candles_change_no_estimate(self, made):
        """The traded range decides nothing: the same weights at the same bars of a shorter one."""
        options = replace(SIGN, policy=Policy("kelly", kelly_fraction=0.01, max_weight=50.0))
        long = run(made, options)
        cut = made[2].window.end_ms - 600 * MINUTE_MS
        short = run(made, replace(options, start_ms=cut))

        assert np.array_equal(short.weights[:-1], long.weights[-600:-1])
        assert len(np.unique(short.weights)) > 20

    @pytest.mark.parametrize("name", NEED_MOVES)
    def test_a_version_without_scores_of_its_training_is_refused(self, made, name):
        """One of an earlier release: the reason, what to do, and no look."""
        workshop, version, _ = made
        store = Workshop(workshop.folder).store
        files = {
            e.path: version.read(e.path, max_bytes=1 << 28) for e in version.manifest.files if e.path != "oof.parquet"
        }
        older = publish_version(store, files, verdict="NO-GO", date="2024-01-01", now_ms=NOW_MS)
        looks = store.looks()
        with pytest.raises(InputError, match="stored no out-of-fold scores") as caught:
            run(made, replace(SIGN, policy=Policy(name)), version=older)

        assert "--policy" in caught.value.hint
        assert store.looks() == looks
        assert run(made, version=older).result.bars > 0

    def test_tuning_reads_the_training_alone(self, made):
        """The same choice for every range that is traded."""
        options = replace(SIGN, policy=Policy("threshold"), tune=True)
        long, short = run(made, options), run(made, replace(options, start_ms=made[2].window.end_ms - 99 * MINUTE_MS))

        assert long.result.request.policy == short.result.request.policy
        assert long.result.request.tuned


class TestResult:
    """What is found is a function of what was asked."""

    @pytest.mark.parametrize("name", POLICIES)
    def test_every_policy_trades_on_spot_and_perp(self, made, name):
        """The request holds the policy and its costs."""
        for market, side in (("spot", "long"), ("perp", "both")):
            costs = Costs(market=market, taker_bps=0, slippage_bps=0, participation=None)
            policy = Policy(name, enter=0.52, side=side)
            funding = "1" if market == "perp" else None
            result = run(made, BacktestOptions(policy=policy, costs=costs, funding=funding)).result

            assert (result.request.policy, result.request.costs) == (policy, costs)
            assert result.performance.trades.number > 0

    def test_the_grid_is_the_best_first(self, made):
        """Each row is what its policy earns alone."""
        grid = tuple(Policy("threshold", enter=enter, exit=0.5, side="long") for enter in (0.5, 0.55, 0.6))
        result = run(made, replace(SIGN, grid=grid)).result
        sharpes = [row.sharpe for row in result.grid if row.sharpe is not None]

        assert sharpes == sorted(sharpes, reverse=True)
        assert {row.policy for row in result.grid} == set(grid)
        for row in result.grid:
            alone = run(made, replace(SIGN, policy=row.policy)).result.performance
            assert alone.net_return == row.net_return
            assert alone.drawdown is None or row.drawdown <= alone.drawdown.share + 1e-12

    def test_holding_is_compared_on_the_same_bars(self, made):
        """Equal weight is the mean of the symbols, but for costs of the same orders."""
        free = replace(SIGN, costs=Costs(taker_bps=0, slippage_bps=0, participation=None))
        equal, *each = run(made, free).result.benchmarks

        assert [b.name for b in (equal, *each)] == ["equal weight", "hold BTCUSDT", "hold ETHUSDT"]
        assert equal.net_return == pytest.approx(np.mean([b.net_return for b in each]), rel=1e-9)

    def test_the_capacity_is_where_nothing_is_earned(self, made):
        """Half of it earns something, twice as much loses."""
        costs = Costs(taker_bps=0, slippage_bps=0, impact=1.0, participation=None)
        options = replace(SIGN, costs=costs, capacity=True)
        capacity = run(made, options).result.capacity
        means = [
            run(made, replace(options, capacity=False, equity=capacity * factor)).result.performance.daily_return.value
            for factor in (0.5, 2)
        ]

        assert means[0] > 0 > means[1]

    def test_a_label_of_another_kind_has_no_direction(self, tmp_path):
        """sign, cost-aware and kelly are refused before anything is scored; the others trade."""
        workshop = Workshop(tmp_path / "data")
        request = workshop.request(workshop.snapshot(days=3), promote=False)
        label = b"label: {kind: threshold, horizon: 3, ties: drop, cost_bps: 2}"
        registry = (REGISTRY % b"1m").replace(b"label: {kind: direction, horizon: 1, ties: drop}", label)
        request = replace(request, feature_set=parse_registry(registry, where="registry"))
        version = workshop.store.open_version(workshop.train_request(request).version)
        snapshot, looks = workshop.snapshot(days=1, end=END), len(workshop.store.looks())
        for name in POLICIES:
            options = replace(SIGN, policy=Policy(name, enter=0.5, exit=0.5))
            if name in {"threshold", "hysteresis"}:
                assert run((workshop, version, snapshot), options).result.performance.trades.number > 0
                continue
            with pytest.raises(UsageError, match="needs a direction label"):
                run((workshop, version, snapshot), options)

        assert len(workshop.store.looks()) == looks + 2
