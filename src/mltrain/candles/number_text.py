"""Read numbers in text, with a decimal point or comma, and with thousands separators.

Pure. All numbers of a file are written in one style. Which one, its cells have to prove: where "91,529" could be 91529
as well as 91.529, the file is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What other programs write into an empty cell.
EMPTY: Final = ("", "nan", "null", "none", "na", "n/a", "#n/a", "-")

# No-break spaces, as spreadsheets group digits with.
_SPACES: Final = "\u00a0\u202f"
_EXPONENT: Final = r"(?:[eE][+-]?[0-9]+)?$"
_STYLES: Final = {
    mark: rf"^[+-]?(?:[0-9]+|[1-9][0-9]{{0,2}}(?:[{group}' {_SPACES}][0-9]{{3}})+)?(?:{mark_pattern}[0-9]*)?{_EXPONENT}"
    for mark, mark_pattern, group in ((".", r"\.", ","), (",", ",", "."))
}
# A number whose only separator may be a decimal mark or group thousands: "0.125" and "1234.125" have a decimal mark.
_AMBIGUOUS: Final = {mark: rf"^[+-]?[1-9][0-9]{{0,2}}\{mark}[0-9]{{3}}$" for mark in ".,"}


def empty_cells(column: pl.Expr) -> pl.Expr:
    """Return a column of text, stripped, with null in place of an empty cell, whatever stands for it."""
    stripped = column.str.strip_chars()
    return pl.when(~stripped.str.to_lowercase().is_in(EMPTY)).then(stripped)


def find_style(texts: Iterable[pl.Series], *, point_only: bool) -> str | None:
    """Return the decimal mark of columns of text, "." or ","; None if both are possible and give different numbers.

    Args:
        texts: Columns of numbers as text, stripped, null where empty.
        point_only: Whether only a decimal point is possible unless a cell has a comma: in a file whose fields are
            separated by commas, and in any format but CSV.
    """
    columns = [text for text in texts if text.null_count() < text.len()]
    has_comma = any(text.str.contains(",", literal=True).any() for text in columns)
    if not has_comma and point_only:
        return "."
    fits = {mark: all(text.str.contains(style).all() for text in columns) for mark, style in _STYLES.items()}
    if not (fits["."] and fits[","]):
        return "," if fits[","] else "."
    # Both fit only if each number has no separator or could be read in two ways.
    separators = [mark for mark, pattern in _AMBIGUOUS.items() if any(t.str.contains(pattern).any() for t in columns)]
    return None if separators else "."


def to_numbers(text: pl.Expr, mark: str) -> pl.Expr:
    """Return numbers as text as floats, null where a text is not a number in the style of this decimal mark."""
    groups = rf"[{',' if mark == '.' else '.'}' {_SPACES}]"
    plain = text.str.replace_all(groups, "").str.replace(mark, ".", literal=True)
    is_number = text.str.contains(_STYLES[mark]) & text.str.contains("[0-9]")
    return pl.when(is_number).then(plain).cast(pl.Float64, strict=False)
