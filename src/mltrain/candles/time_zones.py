"""Convert times without a zone from the user's time zone to UTC, and back.

Pure. The rules of the zones are those that Polars brings along, so that a machine without a zone database reads the
same. A local time that clocks skip or show twice has no conversion.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show
from mltrain.times import HOUR_MS, MINUTE_MS

if TYPE_CHECKING:
    import polars as pl

_OFFSET: Final = re.compile(r"([+-])(0[0-9]|1[0-4]):([0-5][0-9])")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}")


def check_time_zone(zone: str) -> str:
    """Return the name of a time zone unchanged, such as "Europe/Berlin" or "+03:00"; raise a UsageError for another.

    >>> check_time_zone("+03:00")
    '+03:00'
    """
    import polars as pl

    if _OFFSET.fullmatch(zone):
        return zone
    if _NAME.fullmatch(zone):
        try:
            pl.Series([0]).cast(pl.Datetime("ms")).dt.replace_time_zone(zone)
        except pl.exceptions.PolarsError:
            pass
        else:
            return zone
    import zoneinfo

    raise UsageError(
        f"{show(zone)} is not a time zone",
        hint=did_you_mean(zone, zoneinfo.available_timezones()) or "write it like Europe/Berlin or +03:00",
    )


def local_to_utc(local_ms: pl.Series, zone: str, *, twice: bool = False) -> pl.Series:
    """Return local times as ms UTC, Int64; null where the zone's clocks skip a time, or show it twice.

    Args:
        local_ms: What the clocks showed, as ms since 1970-01-01 00:00 on them, Int64, between 1970 and 9999.
        zone: A name that `check_time_zone` accepts.
        twice: Return the earlier instant for a time that the clocks show twice.
    """
    import polars as pl

    if (offset_ms := _fixed_offset_ms(zone)) is not None:
        return local_ms - offset_ms
    local = local_ms.cast(pl.Datetime("ms"))
    instants = local.dt.replace_time_zone(zone, ambiguous="earliest" if twice else "null", non_existent="null")
    return instants.to_physical()


def utc_to_local(utc_ms: pl.Series, zone: str) -> pl.Series:
    """Return what the clocks of a zone show at times in ms UTC, as ms since 1970-01-01 00:00 on them, Int64."""
    import polars as pl

    if (offset_ms := _fixed_offset_ms(zone)) is not None:
        return utc_ms + offset_ms
    instants = utc_ms.cast(pl.Datetime("ms", "UTC"))
    return instants.dt.convert_time_zone(zone).dt.replace_time_zone(None).to_physical()


def _fixed_offset_ms(zone: str) -> int | None:
    """Return how far a zone such as "+03:00" is ahead of UTC; None for a name."""
    match = _OFFSET.fullmatch(zone)
    if match is None:
        return None
    ahead_ms = int(match[2]) * HOUR_MS + int(match[3]) * MINUTE_MS
    return -ahead_ms if match[1] == "-" else ahead_ms
