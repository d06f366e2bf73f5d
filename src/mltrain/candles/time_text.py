"""Read times in text: ISO 8601 and its relatives, and dates that begin with the day or the month.

Pure. A time without a zone is read as UTC. Whether a date such as 05/01/2026 begins with the day is decided for a whole
column: some row must prove it by a number above 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import polars as pl

from mltrain.times import MINUTE_MS

Order: TypeAlias = Literal["day-first", "month-first", "either", "contradictory", "none"]

_CLOCK: Final = (
    r"(?:(?:T|[\s,]+)(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>\.[0-9]{1,9})?)?)?"
    r"(?:[\s-]?(?P<half>[AaPp])[Mm])?)?"
)
_ZONE: Final = r"\s*(?P<utc>Z|UTC|GMT)?(?:(?P<sign>[+-])(?P<zone_hours>[0-9]{1,2}):?(?P<zone_minutes>[0-9]{2})?)?$"
_DATES: Final = {
    "year": r"^(?P<year>[0-9]{4})[-/.](?P<month>[0-9]{1,2})[-/.](?P<day>[0-9]{1,2})",
    "compact": r"^(?P<year>(?:19|20)[0-9]{2})(?P<month>[0-9]{2})(?P<day>[0-9]{2})",
    # Named as if the day came first.
    "day": r"^(?P<day>[0-9]{1,2})[-/.](?P<month>[0-9]{1,2})[-/.](?P<year>[0-9]{4})",
}
_MONTHS: Final = 12
_NOON: Final = 12


@dataclass(frozen=True, slots=True)
class TimeTexts:
    """A column of times in text, as read.

    Attributes:
        ms: The times in ms UTC, Int64, null where a text is not a time or, unless rounded up, lies between two ms.
        order: How dates with the year last were read, "none" if there are none; "either" and "contradictory" if the
            column does not prove it: such dates are null in `ms`.
        offsets: The different offsets from UTC that the texts state, in minutes, sorted.
        zoneless: Whether some text states no zone.
        has_clock: Whether some text has a time of the day.
    """

    ms: pl.Series
    order: Order
    offsets: tuple[int, ...]
    zoneless: bool
    has_clock: bool


def read_time_texts(texts: pl.Series, *, round_up: bool = False) -> TimeTexts:
    """Read a column of text, stripped; a null stays null. A time between two ms is null, or rounded up."""
    frame = pl.DataFrame({"text": texts})
    parts = {name: frame.select(_extract(pattern)).unnest("text") for name, pattern in _DATES.items()}
    order = _find_order(parts["day"])
    if order == "month-first":
        parts["day"] = parts["day"].rename({"day": "month", "month": "day"})
    elif order != "day-first":
        del parts["day"]
    ms = pl.Series("ms", [None] * texts.len(), dtype=pl.Int64)
    found: list[pl.DataFrame] = []
    for part in parts.values():
        read = part.select(_to_ms(round_up=round_up).alias("ms"), _offset().alias("offset"), "utc", "sign", "hour")
        ms = ms.fill_null(read["ms"])
        found.append(read.filter(pl.col("ms").is_not_null()))
    rows = pl.concat(found)
    has_zone = rows["utc"].is_not_null() | rows["sign"].is_not_null()
    return TimeTexts(
        ms=ms,
        order=order,
        offsets=tuple(sorted(rows.filter(has_zone)["offset"].unique().to_list())),
        zoneless=not has_zone.all(),
        has_clock=bool(rows["hour"].is_not_null().any()),
    )


def _extract(date: str) -> pl.Expr:
    """Return the named parts of texts whose date has this form, as a struct `text`; all null where it has another."""
    return pl.col("text").str.extract_groups(date + _CLOCK + _ZONE)


def _find_order(parts: pl.DataFrame) -> Order:
    """Return whether dates with the year last begin with the day, by the numbers above 12 in either place."""
    first, second = (parts[name].cast(pl.Int64).drop_nulls() for name in ("day", "month"))
    if first.is_empty():
        return "none"
    is_day, is_month = bool((first > _MONTHS).any()), bool((second > _MONTHS).any())
    if is_day and is_month:
        return "contradictory"
    # 05/05/2026 is the same day in both orders.
    if is_day or (not is_month and (first == second).all()):
        return "day-first"
    return "month-first" if is_month else "either"


def _to_ms(*, round_up: bool) -> pl.Expr:
    """Return the time in ms UTC of the parts that `_extract` found; null, or rounded up, between two ms."""
    hour, half = pl.col("hour").cast(pl.Int64), pl.col("half").str.to_lowercase()
    # Noon is 12 PM, midnight 12 AM; an hour without minutes needs AM or PM.
    hour_of_day = (
        pl.when(half.is_null() & pl.col("minute").is_not_null() & (hour < 24))
        .then(hour)
        .when(half.is_not_null() & hour.is_between(1, _NOON))
        .then(hour % _NOON + pl.when(half == "p").then(_NOON).otherwise(0))
        .when(hour.is_null())
        .then(0)
    )
    date = pl.concat_str(
        pl.col("year"), pl.lit("-"), pl.col("month").str.zfill(2), pl.lit("-"), pl.col("day").str.zfill(2)
    )
    midnight_ms = date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).dt.timestamp("ms")
    minute, second = (pl.col(name).fill_null("0").cast(pl.Int64) for name in ("minute", "second"))
    valid = pl.when((minute < 60) & (second < 60))
    nanos = pl.col("fraction").fill_null(".0").str.slice(1).str.pad_end(9, "0").cast(pl.Int64)
    whole_ms = nanos // 1_000_000
    fraction_ms = whole_ms + 1 if round_up else None
    fraction_ms = pl.when(nanos % 1_000_000 == 0).then(whole_ms).otherwise(fraction_ms)
    clock_ms = valid.then(((hour_of_day * 60 + minute) * 60 + second) * 1000) + fraction_ms
    return midnight_ms + clock_ms - _offset() * MINUTE_MS


def _offset() -> pl.Expr:
    """Return the offset from UTC in minutes, 0 where a text states none."""
    minutes = pl.col("zone_hours").cast(pl.Int64) * 60 + pl.col("zone_minutes").fill_null("0").cast(pl.Int64)
    return pl.when(pl.col("sign") == "-").then(-minutes).otherwise(minutes).fill_null(0)
