"""Expressions over candles with two forms: one for Polars, one for NumPy.

Polars computes features of whole tables. For a single row its fixed costs, some 30 us per expression, are many times
the cost of the numbers. So a `NumpyExpr` is a Polars expression that also has a `Formula`: the same computation,
recorded step by step, which `mltrain.features.row_plan` runs in NumPy for the newest candles alone. Both forms give the
same bits: every step is exact by IEEE 754, or done by the function that Polars calls too, and sums are added up in the
same order.

Any method that has no formula here returns a plain Polars expression, and so does arithmetic with one.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.lib.mixins import NDArrayOperatorsMixin

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    State: TypeAlias = tuple[Floats, ...]
    Merge: TypeAlias = Callable[[State, int, State, int], State]
    # (bars, one array of n values per input) -> n - bars + 1 values
    Kernel: TypeAlias = Callable[..., Floats]
    Operand: TypeAlias = "Formula | float"

_MAX_FORMULAS: Final = 1 << 16


class Formula(NDArrayOperatorsMixin):
    """One float64 per candle, recorded instead of computed.

    NumPy's functions and operators on formulas return formulas. Rows are counted from the newest, so leaving out the
    first rows, as windows do during their warm-up, changes nothing. Equal formulas are one object, because the
    functions below that make them are cached.
    """

    __slots__ = ()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # Any: the signature that NumPy calls.
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Record a ufunc, such as an addition."""
        if method != "__call__" or kwargs or ufunc.nout != 1:
            return NotImplemented
        return apply(ufunc, *inputs)

    def __array_function__(self, func: Any, _types: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Record one of the other functions that work row by row."""
        if kwargs:
            return NotImplemented
        if func is np.clip:
            values, low, high = args
            return apply(np.minimum, apply(np.maximum, values, low), high)
        return apply(func, *args) if func in {np.where, np.zeros_like} else NotImplemented

    def __getitem__(self, rows: slice) -> Formula:
        """Leave out the first rows."""
        if rows.stop is not None or rows.step is not None:
            raise TypeError(
                f"a formula has no rows {rows.start}:{rows.stop}:{rows.step}: only its first can be left out"
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Column(Formula):
    """A column of the candles, or an input; `ts` in ms UTC."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Shifted(Formula):
    """The value of `of` a number of bars earlier."""

    of: Formula
    bars: int


@dataclass(frozen=True, slots=True, eq=False)
class Applied(Formula):
    """A function of the values of the same row."""

    function: Callable[..., Any]
    inputs: tuple[Operand, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Folded(Formula):
    """The last `bars` values joined in the order of `mltrain.features.windows`: their sum, minimum or maximum."""

    of: Formula
    bars: int
    join: np.ufunc


@dataclass(frozen=True, slots=True, eq=False)
class Merged(Formula):
    """The state of the last `bars` rows, merged from those of single rows; a tuple, of which formulas read one part."""

    leaf: tuple[Formula, ...]
    bars: int
    merge: Merge


@dataclass(frozen=True, slots=True, eq=False)
class Windowed(Formula):
    """The result of a kernel for the last `bars` rows, for kernels that cannot be recorded."""

    kernel: Kernel
    bars: int
    inputs: tuple[Formula, ...]


column = lru_cache(maxsize=_MAX_FORMULAS)(Column)
shift = lru_cache(maxsize=_MAX_FORMULAS)(Shifted)
fold = lru_cache(maxsize=_MAX_FORMULAS)(Folded)
run_kernel = lru_cache(maxsize=_MAX_FORMULAS)(Windowed)
_apply = lru_cache(maxsize=_MAX_FORMULAS)(Applied)
_merge = lru_cache(maxsize=_MAX_FORMULAS)(Merged)


def apply(function: Callable[..., Any], *inputs: Operand) -> Formula:
    """Return the formula of a function of values of the same row, formulas or numbers."""
    return _apply(function, tuple(value if isinstance(value, Formula) else float(value) for value in inputs))


def merge_states(leaf: tuple[Formula, ...], bars: int, merge: Merge) -> tuple[Formula, ...]:
    """Return the parts of the state of the last `bars` rows, merged from the states of single rows."""
    merged = _merge(leaf, bars, merge)
    return tuple(apply(operator.itemgetter(part), merged) for part in range(len(leaf)))


def _call_on_each(function: Callable[[float], float]) -> Callable[[Floats], Floats]:
    """Return a function of Python's, which calls the C library as Polars does, for arrays; NumPy has other bits."""

    @wraps(function)
    def call(values: Floats) -> Floats:
        return np.fromiter(map(function, values.ravel().tolist()), np.float64, values.size).reshape(values.shape)

    return call


def _as_float(values: NDArray[Any]) -> Floats:
    return values.astype(np.float64)


_log, _sin, _cos = (_call_on_each(function) for function in (math.log, math.sin, math.cos))


def _divide(value: Formula, divisor: Operand) -> Formula:
    """Divide; by a number as Polars does, which multiplies by its reciprocal."""
    return apply(np.divide, value, divisor) if isinstance(divisor, Formula) else apply(np.multiply, value, 1 / divisor)


def _recorded(name: str, record: Callable[..., Formula]) -> Any:  # noqa: ANN401 -- it stands for a Polars method
    """Return a method of Polars' expressions that also records the formula, if its arguments are operands of one."""
    method = getattr(pl.Expr, name)

    @wraps(method)
    def call(self: NumpyExpr, *args: Any, **kwargs: Any) -> pl.Expr:  # noqa: ANN401
        expr: pl.Expr = method(self, *args, **kwargs)
        operands = [_operand(value) for value in args]
        is_recorded = not kwargs and len(args) == record.__code__.co_argcount - 1 and None not in operands
        return with_formula(expr, record(self.formula, *operands)) if is_recorded else expr

    return call


def _operand(value: object) -> Operand | None:
    """Return the formula of an expression, or a number; None if it has no formula."""
    if isinstance(value, NumpyExpr):
        return value.formula
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class NumpyExpr(pl.Expr):
    """A Polars expression that has a formula, too.

    Attributes:
        formula: The same computation for NumPy.
    """

    formula: Formula

    __add__ = _recorded("__add__", lambda a, b: apply(np.add, a, b))
    __radd__ = _recorded("__radd__", lambda a, b: apply(np.add, b, a))
    __sub__ = _recorded("__sub__", lambda a, b: apply(np.subtract, a, b))
    __rsub__ = _recorded("__rsub__", lambda a, b: apply(np.subtract, b, a))
    __mul__ = _recorded("__mul__", lambda a, b: apply(np.multiply, a, b))
    __rmul__ = _recorded("__rmul__", lambda a, b: apply(np.multiply, b, a))
    __truediv__ = _recorded("__truediv__", _divide)
    __rtruediv__ = _recorded("__rtruediv__", lambda a, b: apply(np.divide, b, a))
    __mod__ = _recorded("__mod__", lambda a, b: apply(np.remainder, a, b))
    __gt__ = _recorded("__gt__", lambda a, b: apply(np.greater, a, b))
    __lt__ = _recorded("__lt__", lambda a, b: apply(np.less, a, b))
    __eq__ = _recorded("__eq__", lambda a, b: apply(np.equal, a, b))
    __and__ = _recorded("__and__", lambda a, b: apply(np.logical_and, a, b))
    __hash__ = object.__hash__
    abs = _recorded("abs", lambda a: apply(np.abs, a))
    sqrt = _recorded("sqrt", lambda a: apply(np.sqrt, a))
    log = _recorded("log", lambda a: apply(_log, a))
    sin = _recorded("sin", lambda a: apply(_sin, a))
    cos = _recorded("cos", lambda a: apply(_cos, a))

    def shift(self, n: Any = 1, *, fill_value: Any = None) -> pl.Expr:  # noqa: ANN401
        """Return the values `n` bars earlier."""
        expr = super().shift(n, fill_value=fill_value)
        if not isinstance(n, int) or n < 0 or fill_value is not None:
            return expr
        return with_formula(expr, shift(self.formula, n) if n else self.formula)

    def clip(self, lower_bound: Any = None, upper_bound: Any = None) -> pl.Expr:  # noqa: ANN401
        """Return the values, limited to two bounds."""
        expr, formula = super().clip(lower_bound, upper_bound), self.formula
        for bound, limit in ((lower_bound, np.maximum), (upper_bound, np.minimum)):
            operand = _operand(bound)
            if bound is not None and operand is None:
                return expr
            formula = formula if operand is None else apply(limit, formula, operand)
        return with_formula(expr, formula)

    def cast(self, dtype: Any, *, strict: bool = True, wrap_numerical: bool = False) -> pl.Expr:  # noqa: ANN401
        """Return the values as another type."""
        expr = super().cast(dtype, strict=strict, wrap_numerical=wrap_numerical)
        return with_formula(expr, apply(_as_float, self.formula)) if dtype == pl.Float64 else expr


def with_formula(expr: pl.Expr, formula: Formula) -> NumpyExpr:
    """Return a Polars expression with its formula, which gives the same bits."""
    both = NumpyExpr.__new__(NumpyExpr)
    both.__dict__.update(expr.__dict__)
    both.formula = formula
    return both


def col(name: str) -> pl.Expr:
    """Return a column of numbers: of the candles, of their leader's (`leader_...`), or an input."""
    return with_formula(pl.col(name), column(name))


def open_times_ms() -> pl.Expr:
    """Return the open times, ms UTC."""
    return with_formula(pl.col("ts").dt.epoch("ms"), column("ts"))


def where(condition: pl.Expr, value: pl.Expr | float, otherwise: pl.Expr | float) -> pl.Expr:
    """Return `value` where the condition is true, else `otherwise`."""
    expr = pl.when(condition).then(value).otherwise(otherwise)
    return _with_function(expr, np.where, condition, value, otherwise)


def maximum(first: pl.Expr, second: pl.Expr) -> pl.Expr:
    """Return the larger of two values of the same row."""
    return _with_function(pl.max_horizontal(first, second), np.maximum, first, second)


def minimum(first: pl.Expr, second: pl.Expr) -> pl.Expr:
    """Return the smaller of two values of the same row."""
    return _with_function(pl.min_horizontal(first, second), np.minimum, first, second)


def _with_function(expr: pl.Expr, function: Callable[..., Any], *inputs: object) -> pl.Expr:
    """Return an expression with the formula of a function of its inputs, if all of them have one."""
    operands = [operand for value in inputs if (operand := _operand(value)) is not None]
    return expr if len(operands) < len(inputs) else with_formula(expr, apply(function, *operands))
