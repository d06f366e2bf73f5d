"""The report of a backtest: every figure as in the result, safe for any text, small, and honest in the odd cases."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.backtesting.bars import Bars
from mltrain.backtesting.costs import Costs
from mltrain.backtesting.engine import Fill, simulate
from mltrain.backtesting.fee_tiers import FeeTier, read_fee_tiers
from mltrain.backtesting.grid import compare_policies
from mltrain.backtesting.overfitting import expected_best_sharpe
from mltrain.backtesting.performance import daily_equity, daily_returns, measure
from mltrain.backtesting.policies import Policy, find_answered, target_weights
from mltrain.backtesting.result import (
    BacktestRequest,
    BacktestResult,
    Benchmark,
    JudgedRows,
    Luck,
    WalkForwardStep,
)
from mltrain.report.backtest_page import MAX_DAYS_SHOWN, build_heat_map, draft_backtest_report, split_verdict
from mltrain.report.backtest_plots import STRETCHES, draw_costs, draw_grid, measure_best_by_luck, thin_out
from mltrain.report.backtest_texts import build_command, describe_tiers, list_limits
from mltrain.times import DAY_MS, HOUR_MS, format_minutes
from mltrain.training.bootstrap import Interval
from support.pages import HOSTILE, Page
from support.program import call

# 2025-10-01T00:00:00Z, a Wednesday.
START_MS = 1_759_276_800_000
NAME = "2025-09-20-2025-11-30"
SIGN = Policy(name="sign", side="both")
PERP = Costs(market="perp", taker_bps=2, maker_bps=1, spread_bps=1, slippage_bps=0.5, impact=0.01, participation=0.5)
SECTIONS = ("verdict", "equity", "costs", "returns", "trades", "options", "benchmarks", "luck", "limits", "lineage")


def make_bars(days, *, step_ms=HOUR_MS, skill=0.03, seed=1):
    """Return bars of two symbols whose probabilities know a little of the next move."""
    rng = np.random.default_rng(seed)
    t = days * DAY_MS // step_ms
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.004, (t, 2)), axis=0))
    open_ = np.vstack([close[:1], close[:-1]])
    rises = np.sign(np.vstack([close[1:] / close[:-1] - 1, np.zeros((1, 2))]))
    return Bars(
        symbols=("BTCUSDT", "ETHUSDT"),
        step_ms=step_ms,
        ts_ms=START_MS + np.arange(t) * step_ms,
        open=open_,
        high=np.maximum(open_, close) * 1.001,
        low=np.minimum(open_, close) * 0.999,
        close=close,
        volume=np.full((t, 2), 1e5),
        quote_volume=np.full((t, 2), 1e7),
        p=np.clip(0.5 + skill * rises + rng.normal(0, 0.1, (t, 2)), 0.01, 0.99),
        refused=np.zeros((t, 2), np.bool_),
        exists=np.ones((t, 2), np.bool_),
        mark=close,
        last=np.full(2, t - 1),
    )


def run(days=30, *, policy=SIGN, costs=PERP, grid=(), luck=None, bars=None, **request):
    """Return result, bars and simulation of a policy on made-up bars."""
    bars = make_bars(days) if bars is None else bars
    targets = target_weights(bars, [policy], statistics=None, cost=costs.taker_cost)
    funding = {s: np.array([[START_MS + k * 8 * HOUR_MS, 1e-4] for k in range(3 * days)]) for s in bars.symbols}
    simulation = simulate(bars, targets, costs, equity=10_000.0, answered=find_answered(bars), funding=funding)
    rows = ()
    if grid:
        rows, _ = compare_policies(bars, grid, costs, start=10_000.0, statistics=None, funding=funding)
    asked = BacktestRequest(
        version="2025-09-20",
        version_sha256="a" * 64,
        snapshot="2025-10-31T00-00-00Z",
        snapshot_sha256="b" * 64,
        start_ms=int(bars.ts_ms[0]),
        end_ms=int(bars.ts_ms[-1]) + bars.step_ms,
        in_sample=False,
        policy=policy,
        tuned=False,
        costs=costs,
        fees=None,
        funding="1 bps per 8 hours",
        equity=10_000.0,
        seed=42,
        grid=tuple(grid),
        capacity=False,
        walk_forward_days=None,
        train_days=None,
        search_trials=None,
        mltrain="0.2.0",
        package_sha256="c" * 64,
        ops_sha256="d" * 64,
    )
    result = BacktestResult(
        request=replace(asked, **request),
        symbols=bars.symbols,
        interval="1h",
        bars=int(bars.exists.sum()),
        refused=17,
        learned_until_ms=START_MS - HOUR_MS,
        judged=None,
        performance=measure(bars, simulation, costs, start=10_000.0, draws=200, level=0.9, seed=42),
        benchmarks=(
            Benchmark("equal weight", -0.0123, -1.234, 0.0987),
            Benchmark("hold BTCUSDT", 0.0456, None, 0.0654),
        ),
        luck=luck or Luck(max(1, len(rows)), 3, 0.8765, None),
        grid=rows,
        steps=(),
        capacity=None,
    )
    return result, bars, simulation


@pytest.fixture(scope="module")
def ran():
    return run()


@pytest.fixture(scope="module")
def page(ran):
    return Page(draft_backtest_report(*ran)(NAME))


def draw(ran, **changes):
    """Return the page of a run with changes of its result."""
    result, bars, simulation = ran
    return draft_backtest_report(replace(result, **changes), bars, simulation)(NAME)


def ids(page):
    return [a["id"] for _, a in page.elements if "id" in a]


class TestContent:
    """What the page says."""

    def test_it_has_every_figure_of_the_result(self, ran, page):
        """Each number of the performance, with its interval, as the result has it."""
        result = ran[0]
        figures = result.performance
        fall, trades = figures.drawdown, figures.trades
        wanted = [
            f"{figures.net_return:+.2%}",
            f"{figures.gross_return:+.2%}",
            f"{figures.daily_return.value:+.4%}",
            f"{figures.daily_return.low:+.4%} to {figures.daily_return.high:+.4%}",
            f"{figures.sharpe.value:.2f}",
            f"{figures.sharpe.low:.2f} to {figures.sharpe.high:.2f}",
            f"{figures.sortino:.2f}",
            f"{figures.calmar:,.2f}",
            f"{fall.share:.2%}",
            f"{format_minutes(fall.peak_ms)} to {format_minutes(fall.trough_ms)}",
            f"{figures.exposure:.1%}",
            f"{figures.turnover:,.2f}",
            f"{trades.number:,}",
            f"{trades.hits:,}",
            f"{trades.hit_rate:.1%}",
            f"{trades.mean_bars:.1f} bars of 1h",
            f"{figures.traded:,.0f}",
            f"{figures.break_even_bps.value:.3f}",
            f"{figures.break_even_bps.low:.3f} to {figures.break_even_bps.high:.3f}",
            f"{figures.probabilistic_sharpe:.3f}",
            *(f"{cost.amount:,.2f}" for cost in figures.costs),
            *(f"{cost.turnover_bps:.3f}" for cost in figures.costs),
            *("-1.23%", "-1.23", "9.87%", "+4.56%", "6.54%"),
            "0.876",
        ]

        assert [text for text in wanted if text not in page.text] == []
        assert len({text for text in wanted if text != "0"}) > 30

    def test_the_verdict_comes_first(self, ran, page):
        """The words of the verdict are in the first section, before any figure."""
        text = page.text.lower()

        assert ran[0].verdict in text
        assert text.index(ran[0].verdict) < text.index("net return")
        assert [name for name in ids(page) if name in SECTIONS] == list(SECTIONS)

    def test_it_has_every_option_and_hash(self, page):
        """Policy, costs, fills and what the result depends on."""
        for text in (
            *(
                "sign, max-weight 1, both",
                "maker 1 bps, taker 2 bps",
                "1 bps per 8 hours",
                "at most 50% of a bar's volume",
            ),
            *("a" * 64, "b" * 64, "c" * 64, "d" * 64, "2025-10-31T00-00-00Z", "10,000.00", "42"),
        ):
            assert text in page.text

    @pytest.mark.parametrize(
        ("changed", "limit"),
        [
            ({"fill": "maker"}, "its place in the queue"),
            ({}, "at the open of the next candle"),
            ({"delay_bars": 2}, "2 bars later than that"),
            ({"impact": 0.0}, "Market impact is left out"),
            ({}, "square-root law with the factor 0.01"),
            ({"participation": None}, "Orders of any size"),
            ({}, "At most 50% of a candle's volume"),
            ({"market": "spot"}, "no short positions"),
            ({}, "no margin call inside a candle"),
        ],
    )
    def test_the_limits_are_those_of_its_options(self, ran, changed, limit):
        """Each assumption is named if it was made."""
        result = ran[0]
        request = replace(result.request, costs=replace(PERP, **changed))

        assert any(limit in line for line in list_limits(replace(result, request=request)))

    def test_it_says_which_bars_the_gates_have_judged(self, ran):
        """With their dates in the verdict, and marked in the figure of the equity."""
        judged = JudgedRows(240, START_MS + DAY_MS, START_MS + 6 * DAY_MS)
        text = Page(draw(ran, judged=judged)).text
        outside = Page(draw(ran, judged=JudgedRows(3, START_MS - DAY_MS, START_MS + 99 * DAY_MS))).text

        assert "240 of the 1,440 bars are from the version's own holdout (2025-10-02 00:00 to 2025-10-07 00:00)" in text
        assert "holdout starts" in text
        assert "holdout ends" in text
        assert "holdout starts" not in outside
        assert "holdout ends" not in outside
        assert "no new evidence" in outside

    def test_a_walk_forward_lists_its_models(self, ran):
        """How often, on which days, and the hash of each."""
        result = ran[0]
        request = replace(result.request, walk_forward_days=10, train_days=90, search_trials=5)
        steps = (WalkForwardStep(START_MS, START_MS + 10 * DAY_MS, 4_321, "e" * 64),)
        text = Page(draw(ran, request=request, steps=steps)).text

        assert "fitted again every 10 days on the 90 days before, with a search of 5 trials before each fit" in text
        assert "2025-10-01 00:00 2025-10-11 00:00 4,321 " + "e" * 64 in text
        assert "--walk-forward 10 --train-days 90 --search 5" in text

    def test_a_tuned_policy_and_a_capacity_are_named(self, ran):
        """What was chosen on out-of-fold scores, and the equity at which nothing is left."""
        request = replace(ran[0].request, tuned=True, capacity=True)

        assert "chosen on out-of-fold scores" in Page(draw(ran, request=request)).text
        assert "1,234,567" in Page(draw(ran, request=request, capacity=1_234_567.0)).text
        assert "Capacity none" in Page(draw(ran, request=request)).text


class TestForm:
    """How the page is built."""

    def test_it_is_the_same_every_time(self, ran):
        """Twice the same bytes; the name is the only thing that comes later."""
        assert draw(ran) == draw(ran)
        assert draft_backtest_report(*ran)("2025-09-20-2025-12-01.2") == draw(ran).replace(
            NAME.encode(), b"2025-09-20-2025-12-01.2"
        )

    def test_it_is_self_contained_and_can_be_read_aloud(self, page):
        """No scripts, nothing is loaded; each figure has a title, a description and a caption; headings descend."""
        figures = [a for a in page.all("svg") if a.get("role") == "img"]
        levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        addresses = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]

        assert not page.all("script", "iframe", "object", "embed", "form", "img")
        assert all(a == "data:," or a.removeprefix("#") in ids(page) for a in addresses)
        assert len(ids(page)) == len(set(ids(page)))
        assert len(figures) == 5
        assert all(set(a["aria-labelledby"].split()) <= set(ids(page)) for a in figures)
        assert len(page.all("figcaption")) == len(page.all("figure")) == 5
        assert all(b <= a + 1 for a, b in pairwise(levels))
        assert not re.search(r"\bnan\b", page.text.lower())

    def test_nothing_becomes_markup(self, ran):
        """Hostile symbols, file names, exchanges and names of benchmarks are shown as text."""
        result, bars, simulation = ran
        request = replace(
            result.request,
            version=HOSTILE,
            snapshot=HOSTILE,
            funding=HOSTILE,
            mltrain=HOSTILE,
            fees=FeeTier(HOSTILE, "perp", 1, 2, HOSTILE, HOSTILE),
        )
        hostile = replace(
            result,
            request=request,
            symbols=(HOSTILE, "ETHUSDT"),
            interval=HOSTILE,
            benchmarks=(Benchmark(HOSTILE, 0.0, None, 0.0),),
        )
        found = Page(draft_backtest_report(hostile, bars, simulation)(NAME))

        assert not found.all("script", "img")
        assert found.text.count("alert(1)") > 10
        assert not any(key.startswith("on") for _, a in found.elements for key in a)

    def test_it_stays_small_on_ninety_days_of_minutes(self, ran):
        """Of 129,600 bars with 60,000 fills, a few hundred points are drawn."""
        result, _, simulation = ran
        bars = make_bars(90, step_ms=60_000)
        t = bars.ts_ms.size
        fills = tuple(Fill(bar, bar - 1, False, bar % 2, 1.0, 100.0, 100.01, 0.02) for bar in range(1, t, 2))
        equity = 10_000 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 1e-4, (t, 1)), axis=0))
        large = replace(simulation, equity=equity, fills=fills)

        assert t == 129_600
        assert len(draft_backtest_report(result, bars, large)(NAME)) < 200_000

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 400), st.integers(0, 2**32))
    def test_a_thinned_curve_keeps_its_ends_and_extremes(self, jumps, repeats, seed):
        """Its highest and its lowest value, first and last, in the order of time, and not too many others."""
        values = np.random.default_rng(seed).normal(size=len(jumps) * repeats) + np.repeat(jumps, repeats)
        kept = thin_out(values)

        assert {0, values.size - 1} <= set(kept.tolist())
        assert values[kept].min() == values.min()
        assert values[kept].max() == values.max()
        assert (np.diff(kept) > 0).all()
        assert kept.size <= 2 * STRETCHES + 2


class TestOddCases:
    """Pages of results that are not as usual."""

    def test_nothing_traded(self):
        """Each figure that needs trades is replaced by the reason, and nothing is green."""
        ran = run(policy=Policy(name="threshold", enter=1.0, exit=0.5, side="both"))
        data = draft_backtest_report(*ran)(NAME)
        text = Page(data).text

        assert ran[0].verdict.endswith("so nothing was traded")
        assert text.count("is not shown: nothing was traded.") == 4
        assert "Nothing was traded: every return is zero." in text
        assert 'class="verdict nogo"' in data.decode()
        assert not re.search(r"\bnan\b", text.lower())

    def test_ruined(self):
        """The verdict says so, and the moment is marked."""
        ran = run(policy=replace(SIGN, max_weight=150.0), costs=replace(PERP, participation=None, impact=0.0))
        text = Page(draft_backtest_report(*ran)(NAME)).text

        assert ran[0].performance.ruined_ms is not None
        assert "Ruined: the account was empty before the end" in text
        assert f"The account was empty at {format_minutes(ran[0].performance.ruined_ms)}" in text

    def test_in_sample_is_on_every_section(self):
        """The banner, each heading, the title and the verdict say so; it is never green, and no gate accepts it."""
        ran = run(bars=make_bars(30, skill=0.2), in_sample=True)
        data = draft_backtest_report(*ran)(NAME).decode()
        other = draft_backtest_report(replace(ran[0], request=replace(ran[0].request, in_sample=False)), *ran[1:])(NAME)

        assert ran[0].verdict.startswith("profitable")
        assert data.count("IN SAMPLE</span></h2>") == len(SECTIONS)
        assert "<title>IN SAMPLE: " in data
        assert '<p class="banner">IN SAMPLE' in data
        assert '<p class="word">In sample: profitable</p>' in data
        assert 'class="verdict nogo"' in data
        assert "accepts it" not in data
        assert b"IN SAMPLE<" not in other
        assert b'class="verdict go"' in other

    def test_one_day_has_no_intervals(self):
        """The break-even is not drawn, the verdict does not claim a gain, and the page says that a day is few."""
        ran = run(1)
        text = Page(draft_backtest_report(*ran)(NAME)).text

        assert ran[0].performance.traded > 0
        assert "Not proven" in text
        assert "1 day is few" in text
        assert "one day has no interval" in text
        assert "it needs 5 days that differ" in text

    @pytest.mark.parametrize(
        ("days", "caption", "rows"),
        [(MAX_DAYS_SHOWN, "by UTC day", 15), (MAX_DAYS_SHOWN + 1, "by UTC month", 2)],
    )
    def test_returns_are_shown_by_day_or_by_month(self, days, caption, rows):
        """Short runs by day; and the rows together are the return of the whole run."""
        result, bars, simulation = run(days)
        day_ms, equity = daily_equity(bars, simulation.equity[:, 0])
        heat = build_heat_map(day_ms, daily_returns(equity, 10_000.0))
        total = np.prod([1 + float(cells[-1][0]) / 100 for _, cells in heat.rows]) - 1

        assert caption in heat.caption
        assert len(heat.rows) == rows
        assert total == pytest.approx(result.performance.net_return, abs=0.02)

    def test_each_day_is_in_its_place(self):
        """The first of October 2025 was a Wednesday; the largest return has the deepest colour."""
        heat = build_heat_map(START_MS + np.arange(6) * DAY_MS, np.array([0.01, 0.0, -0.04, 0.02, 0.001, 0.03]))

        assert heat.heads == ("Week of", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Week")
        assert heat.rows == (
            (
                "29 Sep",
                (
                    *(("", ""), ("", ""), ("+1.00", "c1 shade1"), ("0", ""), ("-4.00", "c2 shade4")),
                    *(("+2.00", "c1 shade2"), ("+0.10", "c1 shade1"), ("-1.00", "total")),
                ),
            ),
            ("06 Oct", (("+3.00", "c1 shade3"), *([("", "")] * 6), ("+3.00", "total"))),
        )

    def test_months_are_in_their_place(self):
        """The months of a year that ends inside the run; each is compounded."""
        day_ms = START_MS + np.arange(120) * DAY_MS
        heat = build_heat_map(day_ms, np.where(day_ms == START_MS + 31 * DAY_MS, 0.05, 0.0))

        assert [name for name, _ in heat.rows] == ["2025", "2026"]
        assert [text for text, _ in heat.rows[0][1]] == [*([""] * 9), "0", "+5.00", "0", "+5.00"]
        assert [text for text, _ in heat.rows[1][1]] == ["0", *([""] * 11), "0"]

    @pytest.mark.parametrize(
        ("verdict", "word", "sentence"),
        [
            ("ruined: the account was empty", "Ruined:", "the account was empty"),
            ("not tradable at fees of 1 bps", "Not tradable", "at fees of 1 bps"),
            ("not proven at fees of 1 bps", "Not proven", "at fees of 1 bps"),
            ("profitable after fees of 1 bps", "Profitable", "after fees of 1 bps"),
            ("in sample: profitable after fees", "In sample: profitable", "after fees"),
        ],
    )
    def test_a_verdict_is_split_after_its_first_words(self, verdict, word, sentence):
        """The first words are large on the page."""
        assert split_verdict(verdict) == (word, sentence)


class TestFigures:
    """What the figures show."""

    def test_the_bars_of_the_costs_lead_from_gross_to_net(self, ran):
        """Each cost begins where the bar above ends, and the last one ends where the net return begins."""
        result = ran[0]
        svg = draw_costs(result).svg
        bars = [
            (float(x), float(x) + float(w))
            for x, w in re.findall(r'<rect [^>]*x="([\d.]+)%"[^>]* width="([\d.]+)%"', svg)
        ]
        costs = [cost for cost in result.performance.costs if cost.amount]
        gross, *steps, net = bars
        level = gross[1] if result.performance.gross_return > 0 else gross[0]
        for cost, (left, right) in zip(costs, steps, strict=True):
            begin, end = (right, left) if cost.amount > 0 else (left, right)
            assert begin == pytest.approx(level, abs=0.003)
            level = end

        assert [cost.name for cost in costs] == ["fees", "spread", "slippage", "impact", "funding"]
        assert level == pytest.approx(net[1] if result.performance.net_return > 0 else net[0], abs=0.003)

    @pytest.mark.parametrize(
        ("interval", "sentence"),
        [
            ((3.0, 2.0, 4.0), "None of the 4 perpetual fee tiers costs less than {}."),
            ((-1.0, -2.0, 4.0), "The trades lose even without fees: none of the 4 perpetual fee tiers is low enough."),
            ((5.5, 4.5, 9.0), "{} cost less than {}; less than the lower end of its interval: a maker."),
            ((5.5, 3.5, 9.0), "{} cost less than {}; less than the lower end of its interval: none."),
            ((5.5, 5.1, 9.0), "{} cost less than {}, and less than the lower end of its interval."),
            (
                (99, 98, 100),
                "All 4 perpetual fee tiers cost less than {}, and less than the lower end of its interval.",
            ),
        ],
    )
    def test_it_says_which_fees_lie_below_the_break_even_cost(self, ran, interval, sentence):
        """A taker pays spread and slippage too; the tiers of another market are left out."""
        result = ran[0]
        costs = replace(PERP, impact=0.0)
        figures = replace(
            result.performance,
            break_even_bps=Interval(*interval),
            costs=tuple(replace(cost, turnover_bps=0.0) for cost in result.performance.costs),
        )
        # With half the spread of 1 bps and 0.5 bps of slippage, a taker pays 6 and 11.
        tiers = {
            "a": FeeTier("A", "perp", 4.0, 5.0, "2026-01-01", "x"),
            "b": FeeTier("B", "perp", 5.0, 10.0, "2026-01-01", "x"),
            "c": FeeTier("C", "spot", 0.0, 0.0, "2026-01-01", "x"),
        }
        given = replace(result, performance=figures, request=replace(result.request, costs=costs))

        limit = f"the break-even cost of {interval[0]:.2f} bps per side"
        names = "a maker, b maker (2 of 4 perpetual fee tiers)"

        texts = [limit] if sentence.count("{}") == 1 else [names, limit]

        assert describe_tiers(given, tiers) == sentence.format(*texts)

    def test_every_packaged_tier_of_the_market_is_in_the_figure(self, page):
        """Taker and maker of each; those of the other market are not."""
        for name, tier in read_fee_tiers().items():
            for side in ("taker", "maker"):
                assert (f"{name} {side}" in page.words) == (tier.market == "perp")

    def test_a_grid_has_a_dot_for_each_policy(self):
        """Over the option in which they differ most, with the policy of the backtest marked, and the line of luck."""
        grid = [Policy(name="threshold", enter=e, exit=0.5, side="both") for e in (0.5, 0.52, 0.55, 0.6, 1.0)]
        ran = run(policy=grid[1], grid=grid)
        result = ran[0]
        figure = draw_grid(result)
        sharpes = [row.sharpe / np.sqrt(365) for row in result.grid if row.sharpe is not None]
        text = Page(draft_backtest_report(*ran)(NAME)).text

        assert len(sharpes) == 4
        assert figure.svg.count('class="dot c1"') == 4
        assert figure.svg.count('class="hollow bad"') == 1
        assert ">enter</text>" in figure.svg
        assert "their returns do not vary: 1." in figure.reading
        # Five policies, three looks.
        wanted = expected_best_sharpe(float(np.var(sharpes)), 15) * np.sqrt(365)
        assert measure_best_by_luck(result) == pytest.approx(wanted, rel=1e-12)
        assert f"{wanted:.2f}" in figure.svg
        assert "the best of 15 tries without skill" in figure.reading
        assert all(str(policy) in text for policy in grid)

    def test_policies_without_a_common_number_are_drawn_by_rank(self):
        """Names alone differ: from the best on, each name in a colour."""
        grid = [SIGN, replace(SIGN, side="long"), Policy(name="threshold", enter=0.55, exit=0.5, side="both")]
        figure = draw_grid(run(grid=grid)[0])

        assert ">policies, the best first</text>" in figure.svg
        assert [name for css, name in figure.legend if css.startswith("dot")] == ["sign", "threshold"]

    def test_a_grid_that_never_trades_has_no_figure(self):
        """There is no Sharpe ratio to draw."""
        grid = [Policy(name="threshold", enter=1.0, exit=0.5, side="both")]

        assert draw_grid(run(policy=grid[0], grid=grid)[0]).why == "the daily returns of no policy vary."


class TestCommand:
    """The command that runs the backtest again."""

    def test_it_names_the_fee_tier_if_it_is_a_packaged_one(self, ran):
        """By its name; given fees are written out; a file of funding rates is left to the user."""
        result, tiers = ran[0], read_fee_tiers()
        tier = tiers["okx-swap"]
        costs = replace(PERP, taker_bps=tier.taker_bps, maker_bps=tier.maker_bps, participation=None)
        packaged = replace(result.request, costs=costs, fees=tier, funding="rates.csv, SHA-256 " + "f" * 64)
        words = shlex.split(build_command(replace(result, request=packaged), tiers))
        given = shlex.split(build_command(result, tiers))

        assert words[words.index("--fees") + 1] == "okx-swap"
        assert "--taker-bps" not in words
        assert words[words.index("--funding") + 1] == "FILE"
        assert words[words.index("--participation") + 1] == "none"
        assert given[given.index("--taker-bps") + 1] == "2"
        assert given[given.index("--funding") + 1] == "1"
        assert "--fees" not in given

    def test_it_gives_the_same_result(self, data_dir):
        """Taken from the page and run, it finds the same figures; only the number of looks grows."""
        first = call(
            *("backtest", "best", "--policy", "hysteresis", "--enter", "0.55", "--exit", "0.51", "--market", "perp"),
            *(
                "--funding",
                "0.7",
                "--taker-bps",
                "0.15",
                "--spread-bps",
                "0.3",
                "--participation",
                "0.25",
                "--seed",
                "7",
            ),
            *("--impact", "0.001", "--delay-bars", "1", "--equity", "5000", "--json"),
            data_dir=data_dir,
        )
        assert first.code == 0, first.err
        document = json.loads(first.out)
        text = (data_dir / "backtests" / document["backtest"] / "report.html").read_text("utf-8")
        command = build_command_of(text)
        again = call(*shlex.split(command)[1:], "--json", data_dir=data_dir)
        assert again.code == 0, again.err
        results = [document["result"], json.loads(again.out)["result"]]
        for result in results:
            result["luck"].pop("looks")
            # Fees that were given as numbers have no tier.
            result["request"].pop("fees")

        assert document["backtest"] in text
        assert results[0] == results[1]


def build_command_of(text):
    """Return the second command of a page's lineage."""
    return " ".join(Page(text.encode()).text.partition("hash of every file. ")[2].partition(" Run it again")[0].split())
