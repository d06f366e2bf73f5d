"""Read frames of features that were computed elsewhere, and compare them with a registry."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.tables import read_cells
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.storage.descriptors import real_path
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mltrain.features.spec import FeatureSet, Registry

# Ten million rows of the default features.
MAX_FRAME_BYTES: Final = 1 << 30

# Columns that a frame may have in addition to the features.
KEYS: Final = ("ts", "symbol")

_PARQUET: Final = b"PAR1"


def read_feature_frame(path: Path) -> pl.DataFrame:
    """Read a frame of features from a Parquet or a CSV file.

    CSV has no types: every column that contains only numbers is read as Float32, and an empty field as null.

    Raises:
        InputError: There is no such file, or it is neither Parquet nor CSV, damaged or too large.
        MachineError: The file cannot be read.
    """
    data = read_file(real_path(path), max_bytes=MAX_FRAME_BYTES, what="frame of features")
    # A file that is not called .csv is read as Parquet.
    is_csv = path.suffix.lower() == ".csv" and not data.startswith(_PARQUET)
    frame = read_cells(data, name=".csv" if is_csv else ".parquet", where=str(path)).frame
    if not is_csv:
        return frame
    # Polars calls the second column `a` `a_duplicated_0`.
    names = {name.rpartition("_duplicated_")[0] for name in frame.columns} - {""}
    if duplicates := sorted(names.intersection(frame.columns)):
        raise InputError(f"{path}: two columns of one name: {', '.join(map(show, duplicates))}")
    numbers = frame.with_columns(pl.exclude(KEYS).str.strip_chars().cast(pl.Float32, strict=False))
    # A column with a text that is not a number stays as it is.
    return frame.with_columns(
        column for column in numbers.get_columns() if column.null_count() == frame[column.name].null_count()
    )


def find_problems(feature_set: FeatureSet | Registry, frame: pl.DataFrame) -> tuple[str, ...]:
    """Describe columns that are missing, extra, reordered, not Float32, not finite, constant or all null."""
    columns = [name for name in frame.columns if name not in KEYS]
    return (*_find_name_problems(feature_set.names, columns), *_find_value_problems(feature_set, frame))


def _find_name_problems(expected: tuple[str, ...], columns: list[str]) -> list[str]:
    """Describe columns that are missing, not in the registry, or out of order."""
    missing = [name for name in expected if name not in columns]
    extra = [name for name in columns if name not in expected]
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    if extra:
        shown = [name if name.isidentifier() and name.isascii() else show(name) for name in extra]
        problems.append(f"not in the registry: {', '.join(shown)}")
    moved = list(_describe_moves(expected, [name for name in columns if name in expected]))
    if moved:
        problems.append(f"out of order: {', '.join(moved)}")
    return problems


def _describe_moves(expected: Sequence[str], actual: Sequence[str]) -> Iterator[str]:
    """Describe the smallest set of moves that puts columns in the expected order."""
    places = {name: i for i, name in enumerate(name for name in expected if name in actual)}
    order = list(places)
    stays = _find_longest_rising([places[name] for name in actual])
    for name in actual:
        if places[name] not in stays:
            place = places[name]
            yield f"{name} belongs before {order[1]}" if place == 0 else f"{name} belongs after {order[place - 1]}"


def _find_longest_rising(numbers: Sequence[int]) -> set[int]:
    """Return a longest rising subsequence of distinct numbers.

    >>> sorted(_find_longest_rising([3, 0, 1, 2]))
    [0, 1, 2]
    """
    # The smallest last number of a rising subsequence of each length.
    ends: list[int] = []
    before: dict[int, int | None] = {}
    for number in numbers:
        at = bisect_left(ends, number)
        before[number] = ends[at - 1] if at else None
        ends[at : at + 1] = [number]
    chain: set[int] = set()
    last = ends[-1] if ends else None
    while last is not None:
        chain.add(last)
        last = before[last]
    return chain


def _find_value_problems(feature_set: FeatureSet | Registry, frame: pl.DataFrame) -> list[str]:
    """Describe columns that are not Float32, not finite, constant or all null."""
    problems = []
    for spec in feature_set.features:
        if spec.name not in frame.columns:
            continue
        column = frame[spec.name]
        values = column.drop_nulls()
        if frame.height and not values.len():
            problems.append(f"{spec.name} is null in every row")
        elif column.dtype != pl.Float32:
            problems.append(f"{spec.name} is {column.dtype}, not Float32{_describe_first_text(column)}")
        elif bad := int((~values.is_finite()).sum()):
            problems.append(f"{spec.name} is NaN or infinite in {bad} of {frame.height} rows")
        # A leader's features are 0 on the leader itself.
        elif values.len() > 1 and values.min() == values.max() and not (spec.leader is not None and values[0] == 0):
            problems.append(f"{spec.name} is {values[0]:g} in every row")
    return problems


def _describe_first_text(column: pl.Series) -> str:
    """Describe the first text in a column that is not a number, in parentheses; empty if there is none."""
    if column.dtype != pl.String:
        return ""
    rows = (column.str.strip_chars().cast(pl.Float32, strict=False).is_null() & column.is_not_null()).arg_true()
    return f" (row {rows[0]} is {show(column[int(rows[0])])})" if rows.len() else ""
