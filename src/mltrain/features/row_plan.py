"""Compute formulas for the newest row of one or many symbols, in NumPy.

A plan is made once for a registry. It finds out which rows of which intermediate result are needed, computes each one
once, and joins all windows of a kind at once. Then it is run for every row.

Windows are joined in the order of `mltrain.features.windows`, from blocks of 1, 2, 4, ... rows: five rows as
((a + b) + (c + d)) + e. Continued by values that change no result (-0.0 in a sum), these are the beginning of a full
binary tree of eight. So windows of all lengths are rows of one matrix, which is halved until one column is left.
"""

from __future__ import annotations

from functools import partial
from operator import getitem, itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from mltrain.features.formula import Applied, Column, Folded, Formula, Merged, Shifted, Windowed
from mltrain.features.windows import fold_windows, merge_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mltrain.features.formula import Floats, Kernel, Merge, State

    # The newest and the oldest row, counted from the newest one of all: (0, 4) are the newest five rows.
    Rows: TypeAlias = tuple[int, int]
    # A function, which results it is called with, and the number of its result; a slice: it returns several.
    _Step: TypeAlias = tuple[Callable[..., Any], Callable[[list[Any]], Sequence[Any]], int | slice]

# Joining another value with this one changes nothing.
_NEUTRAL: Final[dict[np.ufunc, float]] = {np.add: -0.0, np.minimum: np.inf, np.maximum: -np.inf}
# Of the matrix of the windows of several symbols, so that it fits into the second-level cache of the processor.
_MATRIX_VALUES: Final = 1 << 16
# Rows of the smallest one, a power of four.
_SMALLEST_MATRIX: Final = 64
_NEWEST: Final = (0, 0)


class RowPlan:
    """Computes f formulas for the newest row of one or many symbols; safe for several threads.

    Attributes:
        rows: By name of each column that the formulas read, how many of its newest rows.
    """

    def __init__(self, formulas: Sequence[Formula]) -> None:
        planner = _Planner(formulas)
        self.rows = {name: rows for name, (_, rows) in planner.columns.items()}
        self._columns = planner.columns
        self._steps = planner.steps
        self._first_results = planner.results
        self._newest = _reader(planner.newest)
        self._symbols_at_once = max(1, _MATRIX_VALUES // planner.largest_matrix)

    def compute(self, columns: Mapping[str, Floats]) -> Floats:
        """Return the formulas of the newest row of each of n symbols, shape (n, f).

        Args:
            columns: The newest rows of each column, shape (n, bars), at least as many as `rows` says; rows that are
                missing before the first count as NaN.
        """
        symbols, at_once = next(iter(columns.values())).shape[0], self._symbols_at_once
        if symbols <= at_once:
            return self._compute(columns)
        starts = range(0, symbols, at_once)
        parts = [{name: values[at : at + at_once] for name, values in columns.items()} for at in starts]
        return np.concatenate([self._compute(part) for part in parts])

    def _compute(self, columns: Mapping[str, Floats]) -> Floats:
        results = self._first_results.copy()
        for name, (position, rows) in self._columns.items():
            results[position] = _take_newest(columns[name], rows)
        # As in the batch: what overflows there does so here.
        with np.errstate(all="ignore"):
            for function, read, number in self._steps:
                results[number] = function(*read(results))
        return np.concatenate(self._newest(results), axis=1)


def _take_newest(values: Floats, rows: int) -> Floats:
    """Return the newest rows of a column, shape (symbols, rows), NaN where there are none."""
    if values.shape[1] >= rows:
        return values[:, values.shape[1] - rows :]
    padded = np.full((values.shape[0], rows), np.nan)
    padded[:, rows - values.shape[1] :] = values
    return padded


class _Planner:
    """Numbers all results that lead to the newest row of formulas, and lists the steps that compute them.

    Attributes:
        columns: By name of a column, the number of its result, and of its newest rows.
        results: The results before the first step: constants, and None for all others.
        steps: The steps, in order.
        newest: The number of the result of each formula.
        largest_matrix: Number of values per symbol of the largest matrix of windows.
    """

    def __init__(self, formulas: Sequence[Formula]) -> None:
        self.columns: dict[str, tuple[int, int]] = {}
        self.results: list[Any] = []
        self.steps: list[_Step] = []
        self.largest_matrix = 1
        # By formula and rows.
        self._numbers: dict[tuple[Formula, Rows], int] = {}
        order = _sort(formulas)
        self._levels = _find_levels(order)
        self._rows = self._find_rows(order, formulas)
        for level in range(max(self._levels.values()) + 1):
            here = [(f, rows) for f in order if self._levels[f] == level for rows in self._rows[f]]
            # Other formulas of the level read its windows.
            self._add_joins([(f, rows) for f, rows in here if isinstance(f, Folded) and rows[0] == rows[1]])
            for formula, rows in here:
                if (formula, rows) not in self._numbers:
                    self._add_call(formula, rows)
        self.newest = [self._find(formula, _NEWEST) for formula in formulas]

    def _find_rows(self, order: Sequence[Formula], formulas: Sequence[Formula]) -> dict[Formula, set[Rows]]:
        """Return which rows of each formula are needed for the newest row of `formulas`."""
        needed: dict[Formula, set[Rows]] = {formula: set() for formula in order}
        for formula in formulas:
            needed[formula].add(_NEWEST)
        for formula in reversed(order):
            # All rows of a series are computed once. A row of windows costs as much as a series, so that each range of
            # them is computed separately.
            if not self._levels[formula]:
                newest, oldest = zip(*needed[formula], strict=True)
                # A column is given up to its newest row.
                needed[formula] = {(0 if isinstance(formula, Column) else min(newest), max(oldest))}
            for rows in needed[formula]:
                for read, part in _list_reads(formula, rows):
                    needed[read].add(part)
        return needed

    def _add_joins(self, windows: Sequence[tuple[Folded, Rows]]) -> None:
        """Add the steps that join windows, one row of each: all of a kind and of a similar length in one step."""
        matrices: dict[tuple[np.ufunc, int], list[tuple[Folded, Rows]]] = {}
        for folded, rows in windows:
            # Few sizes, because a matrix costs as much as some thousand values.
            size = max(_SMALLEST_MATRIX, 4 ** (((folded.bars - 1).bit_length() + 1) // 2))
            matrices.setdefault((folded.join, size), []).append((folded, rows))
        for (join, size), together in matrices.items():
            read = [self._find(*part) for folded, rows in together for part in _list_reads(folded, rows)]
            numbers = [self._add_result() for _ in together]
            self._numbers.update(zip(together, numbers, strict=True))
            bars = tuple(folded.bars for folded, _ in together)
            function = partial(_join_windows, bars=bars, join=join, size=size)
            self.steps.append((function, _reader(read), slice(numbers[0], numbers[-1] + 1)))
            self.largest_matrix = max(self.largest_matrix, len(together) * size)

    def _add_call(self, formula: Formula, rows: Rows) -> None:
        """Add the step that computes rows of a formula."""
        match formula:
            case Shifted():
                return
            case Column():
                self.columns[formula.name] = (self._add_result(), rows[1] + 1)
                self._numbers[formula, rows] = self.columns[formula.name][0]
                return
            case Applied():
                read = [
                    self._find(value, rows) if isinstance(value, Formula) else self._add_result(value)
                    for value in formula.inputs
                ]
            case _:
                read = [self._find(*part) for part in _list_reads(formula, rows)]
        self._numbers[formula, rows] = self._add_result()
        self.steps.append((_function_of(formula), _reader(read), self._numbers[formula, rows]))

    def _add_result(self, value: object = None) -> int:
        """Number one more result, a constant or, if it is None, one that a step computes."""
        self.results.append(value)
        return len(self.results) - 1

    def _find(self, formula: Formula, rows: Rows) -> int:
        """Return the number of a result; that of a part of the rows of a series is added."""
        newest, oldest = rows
        while isinstance(formula, Shifted):
            newest, oldest = newest + formula.bars, oldest + formula.bars
            formula = formula.of
        if (formula, (newest, oldest)) not in self._numbers:
            ((first, last),) = self._rows[formula]
            part = (slice(None), slice(last - oldest, last - newest + 1))
            read = [self._numbers[formula, (first, last)], self._add_result(part)]
            self._numbers[formula, (newest, oldest)] = self._add_result()
            self.steps.append((getitem, _reader(read), len(self.results) - 1))
        return self._numbers[formula, (newest, oldest)]


def _reader(numbers: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    """Return a function that picks results by their numbers."""
    return itemgetter(*numbers) if len(numbers) > 1 else itemgetter(slice(numbers[0], numbers[0] + 1))


def _list_reads(formula: Formula, rows: Rows) -> Iterator[tuple[Formula, Rows]]:
    """Yield the formulas that one reads, and which rows of each it needs for `rows`."""
    newest, oldest = rows
    match formula:
        case Shifted():
            yield formula.of, (newest + formula.bars, oldest + formula.bars)
        case Folded():
            yield formula.of, (newest, oldest + formula.bars - 1)
        case Merged():
            for leaf in formula.leaf:
                yield leaf, (newest, oldest + formula.bars - 1)
        case Windowed():
            for value in formula.inputs:
                yield value, (newest, oldest + formula.bars - 1)
        case Applied():
            for operand in formula.inputs:
                if isinstance(operand, Formula):
                    yield operand, rows


def _sort(formulas: Sequence[Formula]) -> list[Formula]:
    """Return all formulas that some are made of, each after those that it reads."""
    order: dict[Formula, None] = {}
    # A list instead of recursion, because a formula may have thousands of steps.
    stack = [*reversed(formulas)]
    while stack:
        missing = [read for read, _ in _list_reads(stack[-1], _NEWEST) if read not in order]
        if missing:
            stack += reversed(missing)
        else:
            order[stack.pop()] = None
    return list(order)


def _find_levels(order: Sequence[Formula]) -> dict[Formula, int]:
    """Return of each formula how many windows are inside each other in it, itself included."""
    levels: dict[Formula, int] = {}
    for formula in order:
        below = max((levels[read] for read, _ in _list_reads(formula, _NEWEST)), default=0)
        levels[formula] = below + isinstance(formula, Folded | Merged | Windowed)
    return levels


def _function_of(formula: Formula) -> Callable[..., Any]:
    """Return the function that computes a formula from what it reads, arrays of shape (symbols, rows) or states."""
    match formula:
        case Applied():
            return formula.function
        case Folded():
            return partial(_fold_each, bars=formula.bars, join=formula.join)
        case Merged():
            return partial(_merge_each, bars=formula.bars, merge=formula.merge)
        case Windowed():
            return partial(_apply_to_each, bars=formula.bars, kernel=formula.kernel)
    raise TypeError(f"{type(formula).__name__} is not computed")


def _join_windows(*windows: Floats, bars: Sequence[int], join: np.ufunc, size: int) -> list[Floats]:
    """Return each of k windows of all symbols joined to one value, shape (symbols, 1)."""
    matrix = np.full((windows[0].shape[0], len(windows), size), _NEUTRAL[join])
    for number, (window, length) in enumerate(zip(windows, bars, strict=True)):
        matrix[:, number, :length] = window
    while matrix.shape[2] > 1:
        matrix = join(matrix[..., 0::2], matrix[..., 1::2])
    return list(matrix.transpose(1, 0, 2))


def _fold_each(values: Floats, *, bars: int, join: np.ufunc) -> Floats:
    return np.stack([fold_windows(row, bars, join) for row in values])


def _apply_to_each(*inputs: Floats, bars: int, kernel: Kernel) -> Floats:
    return np.stack([kernel(bars, *rows) for rows in zip(*inputs, strict=True)])


def _merge_each(*leaf: Floats, bars: int, merge: Merge) -> State:
    """Return the states of the windows of each symbol, merged in the order of `merge_windows`."""
    if leaf[0].shape[1] > bars:
        states = [merge_windows(rows, bars, merge) for rows in zip(*leaf, strict=True)]
        return tuple(np.stack(part) for part in zip(*states, strict=True))
    # A single window needs only half as many blocks of each length.
    block, block_bars = leaf, 1
    whole: State = ()
    whole_bars = 0
    while True:
        if bars & block_bars:
            last = tuple(part[:, -1:] for part in block)
            whole = merge(last, block_bars, whole, whole_bars) if whole else last
            whole_bars += block_bars
            block = tuple(part[:, :-1] for part in block)
        if whole_bars == bars:
            return whole
        block = merge(tuple(p[:, 0::2] for p in block), block_bars, tuple(p[:, 1::2] for p in block), block_bars)
        block_bars *= 2
