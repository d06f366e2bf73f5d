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
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
import polars as pl
from numpy.lib.mixins import NDArrayOperatorsMixin

from mltrain.features.op import LEADER_PREFIX
from mltrain.times import LAST_MS

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
_merge = lru_cache(maxsize=_MAX_FORMULAS)(Merged)


@lru_cache(maxsize=_MAX_FORMULAS)
def _apply(function: Callable[..., Any], inputs: tuple[Operand, ...], _signs: tuple[float, ...]) -> Applied:
    return Applied(function, inputs)


def apply(function: Callable[..., Any], *inputs: Operand) -> Formula:
    """Return the formula of a function of values of the same row, formulas or numbers."""
    operands = tuple(value if isinstance(value, Formula) else float(value) for value in inputs)
    # Without the signs, the cache would take -0.0 for 0.0.
    return _apply(function, operands, tuple(math.copysign(1, x) for x in operands if isinstance(x, float)))


def merge_states(leaf: tuple[Formula, ...], bars: int, merge: Merge) -> tuple[Formula, ...]:
    """Return the parts of the state of the last `bars` rows, merged from the states of single rows."""
    merged = _merge(leaf, bars, merge)
    return tuple(apply(operator.itemgetter(part), merged) for part in range(len(leaf)))


def _call_on_each(function: Callable[[float], float], undefined: np.ufunc) -> Callable[[Floats], Floats]:
    """Return a function of Python's, which calls the C library as Polars does, for arrays; NumPy has other bits.

    Where it is undefined, such as the logarithm of 0, Python raises ValueError, and the value is that of `undefined`.
    """

    def call_once(value: float) -> float:
        try:
            return function(value)
        except ValueError:
            return float(undefined(value))

    @wraps(function)
    def call(values: Floats) -> Floats:
        # A newest row of one symbol.
        if values.size == 1:
            return np.array([[call_once(values.item())]])
        numbers = values.ravel().tolist()
        try:
            found = np.fromiter(map(function, numbers), np.float64, values.size)
        except ValueError:
            found = np.fromiter(map(call_once, numbers), np.float64, values.size)
        return found.reshape(values.shape)

    return call


_log, _sin, _cos = (_call_on_each(*both) for both in ((math.log, np.log), (math.sin, np.sin), (math.cos, np.cos)))


def _as_float(values: NDArray[Any]) -> Floats:
    return values.astype(np.float64)


# The functions below have the bits of Polars also for NaN, which is above all numbers and equals itself, and for -0.0.


def _is_greater(first: Floats, second: Floats) -> NDArray[np.bool_]:
    return ~np.less_equal(first, second) & ~np.isnan(second)


def _is_above(values: Floats, number: float) -> NDArray[np.bool_]:
    above: NDArray[np.bool_] = ~np.less_equal(values, number)
    return above


def _is_less(first: Floats, second: Floats) -> NDArray[np.bool_]:
    return _is_greater(second, first)


def _is_equal(first: Floats, second: Floats) -> NDArray[np.bool_]:
    return np.equal(first, second) | (np.isnan(first) & np.isnan(second))


def _raise_to(values: Floats, bound: Floats) -> Floats:
    return np.where(values < bound, bound, values)


def _lower_to(values: Floats, bound: Floats) -> Floats:
    return np.where(values > bound, bound, values)


def _larger(first: Floats, second: Floats) -> Floats:
    return np.where((first > second) | np.isnan(second), first, second)


def _smaller(first: Floats, second: Floats) -> Floats:
    return np.where((first < second) | np.isnan(second), first, second)


def _compare(value: Formula, other: Operand) -> Formula:
    """Record whether a value is greater than another one; a number is never NaN, which saves two steps of four."""
    return apply(_is_greater if isinstance(other, Formula) or math.isnan(other) else _is_above, value, other)


def _add(value: Formula, summand: Operand) -> Formula:
    return value if summand == 0 else apply(np.add, value, summand)


def _subtract(value: Formula, subtrahend: Operand) -> Formula:
    return value if subtrahend == 0 else apply(np.subtract, value, subtrahend)


def _subtract_from(value: Formula, minuend: Operand) -> Formula:
    return apply(np.negative, value) if minuend == 0 else apply(np.subtract, minuend, value)


def _divide(value: Formula, divisor: Operand) -> Formula:
    """Divide; by a number as Polars does, which multiplies by its reciprocal."""
    if isinstance(divisor, Formula):
        return apply(np.divide, value, divisor)
    return apply(np.multiply, value, _invert(divisor))


def _invert(number: float) -> float:
    return 1 / number if number else math.copysign(math.inf, number)


def _recorded(
    name: str,
    record: Callable[..., Formula],
    returns: Callable[[pl.Expr, Formula], pl.Expr],
    accepts: Callable[[object], Operand | None] | None = None,
) -> Any:  # noqa: ANN401 -- it stands for a Polars method
    """Return a method of Polars' expressions that also records the formula, if its arguments are operands of one.

    Args:
        name: The method's name.
        record: Returns the formula of the result from those of the expression and of the arguments.
        returns: Adds the formula to the result.
        accepts: Returns an argument as a formula or number; None if it has no formula. Default: `_operand`.
    """
    method = getattr(pl.Expr, name)

    @wraps(method)
    def call(self: NumpyExpr, *args: Any, **kwargs: Any) -> pl.Expr:  # noqa: ANN401
        expr: pl.Expr = method(self, *args, **kwargs)
        operands = [(accepts or _operand)(value) for value in args]
        is_recorded = not kwargs and len(args) == record.__code__.co_argcount - 1 and None not in operands
        return returns(expr, record(self.formula, *operands)) if is_recorded else expr

    return call


def _operand(value: object) -> Operand | None:
    """Return the formula of an expression of floats, or a number; None if it has no formula."""
    return value.formula if isinstance(value, FloatExpr) else _number(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _integer(value: object) -> float | None:
    # Sums of a time and a larger number may not be exact as floats.
    return _number(value) if isinstance(value, int) and abs(value) <= LAST_MS else None


def _positive_integer(value: object) -> float | None:
    number = _integer(value)
    return number if number is not None and number > 0 else None


def _fraction(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _condition(value: object) -> Formula | None:
    return value.formula if isinstance(value, BooleanExpr) else None


def float_formula(expr: pl.Expr) -> Formula | None:
    """Return the formula of an expression, its values as floats; None if it has no formula."""
    if isinstance(expr, FloatExpr):
        return expr.formula
    return apply(_as_float, expr.formula) if isinstance(expr, NumpyExpr) else None


def with_formula(expr: pl.Expr, formula: Formula) -> FloatExpr:
    """Return a Polars expression of type Float64 with its formula, which gives the same bits."""
    return _with_formula(FloatExpr, expr, formula)


def _with_integers(expr: pl.Expr, formula: Formula) -> IntegerExpr:
    return _with_formula(IntegerExpr, expr, formula)


def _with_booleans(expr: pl.Expr, formula: Formula) -> BooleanExpr:
    return _with_formula(BooleanExpr, expr, formula)


def _with_formula(kind: type[_Expr], expr: pl.Expr, formula: Formula) -> _Expr:
    both = kind.__new__(kind)
    both.__dict__.update(expr.__dict__)
    both.formula = formula
    return both


class NumpyExpr(pl.Expr):
    """A Polars expression that has a formula, too; a subclass for each type of values, because operators differ.

    A copy, as `copy` and `pickle` make it, is a plain Polars expression.

    Attributes:
        formula: The same computation for NumPy.
    """

    formula: Formula

    __hash__ = object.__hash__

    def __reduce__(self) -> Any:  # noqa: ANN401
        """Return how to copy the expression without its formula, which has functions that cannot be pickled."""
        return object.__new__, (pl.Expr,), self.__getstate__()

    def cast(self, dtype: Any, *, strict: bool = True, wrap_numerical: bool = False) -> pl.Expr:  # noqa: ANN401
        """Return the values as another type."""
        expr = super().cast(dtype, strict=strict, wrap_numerical=wrap_numerical)
        formula = float_formula(self) if dtype == pl.Float64 else None
        return expr if formula is None else with_formula(expr, formula)


_Expr = TypeVar("_Expr", bound=NumpyExpr)


class BooleanExpr(NumpyExpr):
    """A condition."""

    __and__ = _recorded("__and__", lambda a, b: apply(np.logical_and, a, b), _with_booleans, _condition)
    __hash__ = object.__hash__


class IntegerExpr(NumpyExpr):
    """Times in ms, which are exact as floats."""

    __add__ = _recorded("__add__", lambda a, b: apply(np.add, a, b), _with_integers, _integer)
    __sub__ = _recorded("__sub__", lambda a, b: apply(np.subtract, a, b), _with_integers, _integer)
    __mod__ = _recorded("__mod__", lambda a, b: apply(np.remainder, a, b), _with_integers, _positive_integer)
    __mul__ = _recorded("__mul__", lambda a, b: apply(np.multiply, a, b), with_formula, _fraction)
    __truediv__ = _recorded("__truediv__", _divide, with_formula, _number)
    __gt__ = _recorded("__gt__", lambda a, b: apply(np.greater, a, b), _with_booleans, _integer)
    __lt__ = _recorded("__lt__", lambda a, b: apply(np.less, a, b), _with_booleans, _integer)
    __eq__ = _recorded("__eq__", lambda a, b: apply(np.equal, a, b), _with_booleans, _integer)
    __hash__ = object.__hash__


class FloatExpr(NumpyExpr):
    """Numbers of type Float64."""

    __add__ = _recorded("__add__", _add, with_formula)
    __radd__ = _recorded("__radd__", _add, with_formula)
    __sub__ = _recorded("__sub__", _subtract, with_formula)
    __rsub__ = _recorded("__rsub__", _subtract_from, with_formula)
    __mul__ = _recorded("__mul__", lambda a, b: apply(np.multiply, a, b), with_formula)
    __rmul__ = _recorded("__rmul__", lambda a, b: apply(np.multiply, b, a), with_formula)
    __truediv__ = _recorded("__truediv__", _divide, with_formula)
    __rtruediv__ = _recorded("__rtruediv__", lambda a, b: apply(np.divide, b, a), with_formula)
    __gt__ = _recorded("__gt__", _compare, _with_booleans)
    __lt__ = _recorded("__lt__", lambda a, b: apply(_is_less, a, b), _with_booleans)
    __eq__ = _recorded("__eq__", lambda a, b: apply(_is_equal, a, b), _with_booleans)
    __hash__ = object.__hash__
    abs = _recorded("abs", lambda a: apply(np.abs, a), with_formula)
    sqrt = _recorded("sqrt", lambda a: apply(np.sqrt, a), with_formula)
    log = _recorded("log", lambda a: apply(_log, a), with_formula)
    sin = _recorded("sin", lambda a: apply(_sin, a), with_formula)
    cos = _recorded("cos", lambda a: apply(_cos, a), with_formula)

    def shift(self, n: Any = 1, *, fill_value: Any = None) -> pl.Expr:  # noqa: ANN401
        """Return the values `n` bars earlier."""
        expr = super().shift(n, fill_value=fill_value)
        if not isinstance(n, int) or n < 0 or fill_value is not None:
            return expr
        return with_formula(expr, shift(self.formula, n) if n else self.formula)

    def clip(self, lower_bound: Any = None, upper_bound: Any = None) -> pl.Expr:  # noqa: ANN401
        """Return the values, limited to two bounds."""
        expr, formula = super().clip(lower_bound, upper_bound), self.formula
        for bound, limit in ((lower_bound, _raise_to), (upper_bound, _lower_to)):
            operand = _operand(bound)
            if bound is not None and operand is None:
                return expr
            formula = formula if operand is None else apply(limit, formula, operand)
        return with_formula(expr, formula)


def col(name: str) -> pl.Expr:
    """Return a column of numbers as Float64: of the candles, of their leader's (`leader_...`), or an input."""
    expr = pl.col(name)
    if name.removeprefix(LEADER_PREFIX) == "trades":
        expr = expr.cast(pl.Float64)
    return with_formula(expr, column(name))


def open_times_ms() -> pl.Expr:
    """Return the open times, ms UTC, as Int64."""
    return _with_integers(pl.col("ts").dt.epoch("ms"), column("ts"))


def where(condition: pl.Expr, value: pl.Expr | float, otherwise: pl.Expr | float) -> pl.Expr:
    """Return `value` where the condition is true, else `otherwise`; numbers are Float64."""
    values = [value if (number := _number(value)) is None else number for value in (value, otherwise)]
    expr = pl.when(condition).then(values[0]).otherwise(values[1])
    return _with_function(expr, np.where, _condition(condition), *map(_operand, values))


def maximum(first: pl.Expr, second: pl.Expr) -> pl.Expr:
    """Return the larger of two values of the same row."""
    return _with_function(pl.max_horizontal(first, second), _larger, _operand(first), _operand(second))


def minimum(first: pl.Expr, second: pl.Expr) -> pl.Expr:
    """Return the smaller of two values of the same row."""
    return _with_function(pl.min_horizontal(first, second), _smaller, _operand(first), _operand(second))


def _with_function(expr: pl.Expr, function: Callable[..., Any], *operands: Operand | None) -> pl.Expr:
    """Return an expression with the formula of a function, if all its operands have one and it is not constant."""
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands) or not any(isinstance(operand, Formula) for operand in known):
        return expr
    return with_formula(expr, apply(function, *known))
