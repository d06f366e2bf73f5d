"""Both forms of an expression give the same bits: the Polars query on a table, and the formula on the newest rows."""

from __future__ import annotations

import copy
import itertools
import operator
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from mltrain.features import windows
from mltrain.features.computation import evaluate
from mltrain.features.formula import NumpyExpr, col, column, maximum, minimum, open_times_ms, where
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.ops.catalogue import OPS
from mltrain.features.row_plan import RowPlan
from support.op_cases import ALL_CASES, KINDS, LEADER_OF, market, with_input

REAL_ROWS = 2_500


def as_columns(frame):
    """Return the columns of a frame as floats, times in ms."""
    times = frame["ts"].to_physical().to_numpy().astype(np.float64)
    return {name: frame[name].to_numpy().astype(np.float64) for name in frame.columns if name != "ts"} | {"ts": times}


def at_every_prefix(expr, frame, lookback):
    """Return the formula at each row with a whole lookback, from the rows of the lookback alone."""
    plan = RowPlan([expr.formula])
    columns = as_columns(frame)
    return plan.compute({name: sliding_window_view(columns[name], lookback) for name in plan.rows})[:, 0]


def in_polars(expr, frame):
    return evaluate(frame, [expr.cast(pl.Float64)]).to_series().to_numpy()


def same_bits(first, second):
    return np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()


def with_leader(frame, leader):
    leader = leader.drop("ts").rename(lambda name: LEADER_PREFIX + name)
    return pl.concat([with_input(frame), with_input(leader, LEADER_PREFIX)], how="horizontal")


@pytest.fixture(scope="module")
def real(real_data):
    """Return real candles of BTCUSDT, and of ETHUSDT as the leader, whose trades and takers are made of the volume."""
    first, second = (
        pl.read_parquet(real_data / "spot_1m" / f"{symbol}.parquet")[30_000 : 30_000 + REAL_ROWS]
        for symbol in ("BTCUSDT", "ETHUSDT")
    )
    bought, paid = pl.col("volume") * (pl.col("ts").dt.minute() % 5) / 4, (pl.col("high") + pl.col("close")) / 2
    second = second.with_columns(
        quote_volume=pl.col("volume") * paid,
        trades=(pl.col("volume") * 10).cast(pl.Int64),
        taker_buy_base=bought,
        taker_buy_quote=bought * paid,
    )
    return with_leader(first, second)


@pytest.mark.real_data
def test_every_op_at_every_prefix_of_real_candles(real):
    """The formula of each op has the bits of the query, at each candle, from the candles of its lookback alone."""
    compared = set()
    for name, params in ALL_CASES:
        window = OPS[name](**params)
        expected = in_polars(window.expr, real)[window.lookback_bars - 1 :]

        assert isinstance(window.expr, NumpyExpr), f"{name} has no formula"
        assert same_bits(at_every_prefix(window.expr, real, window.lookback_bars), expected), (name, params)
        compared.add(name)

    assert compared == set(OPS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_op_on_every_market(kind):
    """The same on the worst candles: ties, no trades, no moves, huge and tiny values."""
    frame = with_leader(market(kind), market(LEADER_OF[kind]))
    for name, params in ALL_CASES:
        window = OPS[name](**params)
        expected = in_polars(window.expr, frame)[window.lookback_bars - 1 :]

        assert same_bits(at_every_prefix(window.expr, frame, window.lookback_bars), expected), (name, params)


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 0.1, 3.0, 7.5, 1e-8, 1e8, 1e300, -2.5])
COLUMNS = ("close", "open", "volume")


@st.composite
def expressions(draw, depth=3):
    """Draw an expression of the operators and functions that have formulas."""
    if depth == 0:
        return col(draw(st.sampled_from(COLUMNS)))
    first, second = draw(expressions(depth - 1)), draw(st.one_of(expressions(depth - 1), NUMBERS))
    either = col("open") if isinstance(second, float) else second
    makers = {
        "add": lambda: first + second,
        "radd": lambda: 2.0 + first,
        "sub": lambda: first - second,
        "rsub": lambda: 1 - first,
        "mul": lambda: first * second,
        "div": lambda: first / (second or 1.0) if isinstance(second, float) else first / second,
        "rdiv": lambda: 1.0 / first,
        "abs": first.abs,
        "sqrt": lambda: first.abs().sqrt(),
        "log": (first.abs() + 1e-9).log,
        "sin": first.sin,
        "cos": first.cos,
        "clip": lambda: first.clip(-1, 1),
        "clip_above": lambda: first.clip(lower_bound=0),
        "clip_between": lambda: first.clip(minimum(first, either), maximum(first, either)),
        "shift": lambda: first.shift(draw(st.integers(0, 4))),
        "greater": lambda: (first > second).cast(pl.Float64),
        "less": lambda: (first < second).cast(pl.Float64),
        "equal": lambda: (first == second).cast(pl.Float64),
        "and": lambda: ((first > 0) & (first < second)).cast(pl.Float64),
        "where": lambda: where(first > 0, first, second),
        "maximum": lambda: maximum(first, either),
        "sum": lambda: windows.window_sum(first, draw(st.integers(1, 9))),
        "mean": lambda: windows.window_mean(first, draw(st.integers(1, 9))),
        "zscore": lambda: windows.window_zscore(first, draw(st.integers(2, 9))),
        "max": lambda: windows.window_max(first, draw(st.integers(1, 9))),
        "ratio": lambda: windows.window_ratio(first, either, draw(st.integers(1, 9))),
        "run": lambda: windows.window_run((first > 0).cast(pl.Float64), draw(st.integers(1, 9))),
    }
    return makers[draw(st.sampled_from(sorted(makers)))]()


@settings(max_examples=150)
@given(expr=expressions(), seed=st.integers(0, 2**32 - 1))
def test_expressions_at_random(expr, seed):
    """Nested operators, functions and windows give the same numbers, wherever Polars has one."""
    rng = np.random.default_rng(seed)
    values = {name: np.round(rng.normal(0, 3, 60), int(rng.integers(0, 4))) for name in COLUMNS}
    frame = pl.DataFrame({"ts": pl.Series(np.arange(60) * 60_000).cast(pl.Datetime("ms", "UTC")), **values})

    expected = in_polars(expr, frame)[-10:]
    found = at_every_prefix(expr, frame, 51)

    assert isinstance(expr, NumpyExpr)
    known = ~np.isnan(expected)
    assert np.array_equal(found[known], expected[known])


@pytest.mark.parametrize(
    "expr",
    [
        col("close").rolling_mean(3),
        col("close") + pl.col("open"),
        pl.col("open") + col("close"),
        col("close").shift(-1),
        col("close").shift(1, fill_value=0.0),
        col("close").log(2),
        col("close").cast(pl.Float32),
        col("close").clip(pl.col("open")),
        where(pl.col("open") > 0, col("close"), 0.0),
        (col("close") > 0) + (col("open") > 0),
        (col("close") > 0) & True,
        where(col("close") > 0, col("open") > 0, col("close") < 1),
        maximum(1.0, 2.0),
        open_times_ms() * 5_000,
        open_times_ms() % 0,
        col("close") % 7,
        open_times_ms() & 1,
        windows.window_sum(pl.col("close"), 3),
        windows.window_ratio(col("close"), pl.col("open"), 3),
    ],
    ids=str,
)
def test_what_has_no_formula_is_a_plain_expression(expr):
    """It has Polars' result, which `pl.col` alone would have, too."""
    assert not isinstance(expr, NumpyExpr)
    assert isinstance(expr, pl.Expr)


VALUES = (0.0, -0.0, 1.0, -1.0, 0.1, 0.3, 7.5, -2.5, 1e8, 1e300, 5e-324, 29.999999999999996, np.inf, -np.inf, np.nan)
LITERALS = (0, 1, -1, 3, 0.0, -0.0, 0.1, 7.5, 1e300, 5e-324, np.inf)


def _make_expressions():
    """Return expressions of two columns, and of numbers, with every operator and function that has a formula."""
    first, second = col("close"), col("open")
    functions = [operator.add, operator.sub, operator.mul, operator.truediv]
    functions += [operator.gt, operator.lt, operator.eq, maximum, minimum]
    functions += [
        lambda a, b: a.clip(lower_bound=b),
        lambda a, b: a.clip(upper_bound=b),
        lambda a, b: where(a > b, a, b),
    ]
    exprs = [function(first, other) for function in functions for other in (second, *LITERALS)]
    exprs += [function(number, first) for function in functions[:4] for number in LITERALS]
    exprs += [first.abs(), first.sqrt(), first.log(), first.sin(), first.cos(), (first > 0) & (first < second)]
    exprs += [where(first > 0, 1, 0) * -1, where(first > 0, 0.0, 1.0), where(first > 0, -0.0, 1.0)]
    exprs += [windows.window_sum(first > second, 1), windows.window_run(open_times_ms(), 1)]
    times = open_times_ms()
    exprs += [times % 7, times - 60_000, (times + 5) % 7 == 3, times > 90_000, times / 7, times * 0.1]
    return [expr.cast(pl.Float64) for expr in exprs]


def test_every_operator_on_every_value():
    """Also where a result is undefined or infinite, and where zeros have signs; formulas see no difference of types."""
    first, second = np.array(list(itertools.product(VALUES, VALUES))).T
    times = pl.Series(np.arange(first.size) * 60_000).cast(pl.Datetime("ms", "UTC"))
    frame = pl.DataFrame({"ts": times, "close": first, "open": second})
    for expr in _make_expressions():
        found, expected = at_every_prefix(expr, frame, 1), in_polars(expr, frame)

        assert np.array_equal(np.isnan(found), np.isnan(expected)), str(expr)
        known = ~np.isnan(expected)
        assert same_bits(found[known], expected[known]), str(expr)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda expr: pickle.loads(pickle.dumps(expr))])
def test_a_copy_is_a_plain_expression(copied):
    """It has no formula, and expressions of it have none either."""
    made = copied(col("close") / col("open"))
    frame = market("ordinary")

    assert not isinstance(made * 2, NumpyExpr)
    assert same_bits(in_polars(made * 2, frame), in_polars(col("close") / col("open") * 2, frame))


def test_the_open_time_in_ms():
    """Times are exact as floats."""
    frame = market("ordinary")

    assert same_bits(at_every_prefix(open_times_ms(), frame, 1), as_columns(frame)["ts"])


def test_equal_formulas_are_one_object():
    """So a plan computes what several features share only once."""
    first, second = (windows.window_sum((col("close") / col("open")).log(), 5).formula for _ in range(2))

    assert first is second
    assert first is not windows.window_sum((col("close") / col("open")).log(), 6).formula


def test_a_formula_does_not_pretend_to_be_an_array():
    """Functions and rows that cannot be recorded raise TypeError instead of giving something else."""
    close = column("close")
    for wrong in (lambda: np.add.reduce(close), lambda: np.median(close), lambda: close[:3], lambda: close[::2]):
        with pytest.raises(TypeError):
            wrong()
