"""Find the open times of the candles in a table: which column holds them, in which unit and zone.

Pure. Times may be numbers (seconds, ms, µs or ns, distinguished value by value), datetimes, dates, or text; a time
without a zone is read as UTC, or in the zone that the user gives. A column of numbers since 1970 wins over any other.
Columns that contradict each other without one, and times that could be read in two ways, are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import polars as pl

from mltrain.candles.time_text import read_time_texts
from mltrain.candles.time_zones import local_to_utc, utc_to_local
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.times import DAY_MS, HOUR_MS, LAST_MS, SECOND_MS, format_ms, grid_offset_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.candles.cells import Cells

#: Names of columns of times, in lower case, with one _ for anything but letters and digits; the first wins.
OPEN_NAMES: Final = (
    *("ts", "open_time", "opentime", "timestamp", "datetime", "date", "time", "unix", "open_timestamp"),
    *("unix_timestamp", "unix_time", "epoch", "window_start", "start", "start_time", "starttime", "time_open"),
    *("timeopen", "time_period_start", "candle_begin_time", "begin", "kline_open_time", "date_time", "t"),
)
_CLOSE_NAMES: Final = ("close_time", "closetime", "close_timestamp", "kline_close_time", "time_close", "timeclose")
#: Names that pandas gives to an index: times only if no other column has them.
INDEX_NAMES: Final = ("index", "index_level_0", "unnamed_0", "level_0")
_UTC_WORDS: Final = ("utc", "gmt", "etc")
_UNIT_WORDS: Final = ("ms", "s", "us", "ns", "unix", "msec", "sec")
_OTHER_ZONES: Final = (
    *("local", "est", "edt", "et", "cst", "cdt", "mst", "mdt", "pst", "pdt", "cet", "cest", "bst", "eet", "eest"),
    *("msk", "jst", "kst", "ist", "sgt", "hkt", "aest", "aedt", "exchange", "server"),
)
_ZONE_ABOVE: Final = re.compile(
    r"\b(?:Africa|America|Asia|Atlantic|Australia|Europe|Indian|Pacific|US)/[A-Za-z_]+"
    r"|\b(?:UTC|GMT)\s*[+-]\s*(?!0+(?::?00)?\b)[0-9]{1,2}(?::?[0-9]{2})?"
    r"|\b(?:EST|EDT|CST|CDT|MST|MDT|PST|PDT|CET|CEST|BST|EET|EEST|MSK|JST|KST|IST|SGT|HKT|AEST|AEDT)\b"
    r"|(?i:\b(?:local|exchange|server) time\b)"
)
_COMPACT: Final = r"^(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])$"
_TIME_OF_DAY: Final = r"^[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?$"
# A smaller number, if another column has times too, is a row number, or a time of the day as HHMMSS.
_FIRST_EPOCH: Final = 1e8
_UTC_HINT: Final = "convert the times to UTC, or add a column of seconds or ms since 1970"
_ZONE_HINT: Final = f"pass their zone, such as --timezone Europe/Berlin; or {_UTC_HINT}"
_ZONELESS_NOTE: Final = "its times state no zone and were read as UTC (--timezone ZONE reads them in another)"
_ORDER_HINT: Final = "write dates like 2026-01-05"


@dataclass(frozen=True, slots=True)
class OpenTimes:
    """The open times of a table's rows, and how they were found.

    Attributes:
        ms: Open times, ms UTC, Int64, without a null.
        columns: The columns that they were read from, by the file's names.
        means: Whether these columns state open or close times.
        unit: Their unit, as for `understood.FileLayout`.
        zone: Their zone; "" if the file states none, and the user gave none.
        is_number: Whether they are numbers since 1970.
        is_day: Whether they are days without a time.
        notes: What was decided although the file does not state it.
    """

    ms: pl.Series
    columns: tuple[str, ...]
    means: Literal["open", "close"]
    unit: str
    zone: str
    is_number: bool
    is_day: bool
    notes: tuple[str, ...] = ()


def fold(name: str) -> str:
    """Return a column name in lower case, with one _ between words: "Open time" and "openTime" are "open_time".

    A second column of one name, to which the readers append `_duplicated_` and a number, has the name of the first.
    """
    name = re.sub(r"_duplicated_[0-9]+$", "", name)
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def split_zone(name: str) -> tuple[str, str]:
    """Return a folded column name without words for zone or unit, and the zone: "UTC", another one, or "".

    >>> split_zone("gmt_time"), split_zone("time_est"), split_zone("timestamp_ms")
    (('time', 'UTC'), ('time', 'est'), ('timestamp', ''))
    """
    words = name.split("_")
    rest = [word for word in words if word not in {*_UTC_WORDS, *_OTHER_ZONES}]
    other = next((word for word in words if word in _OTHER_ZONES), None)
    zone = other or ("UTC" if len(rest) < len(words) else "")
    kept = [word for word in rest if word not in _UNIT_WORDS] or [word for word in rest if word == "unix"]
    # "Etc/UTC" alone names a column of times.
    return "_".join(kept) or ("time" if zone else name), zone


def is_time_name(name: str) -> bool:
    """Return whether a column is called as columns of open times are."""
    return _base_name(name) in OPEN_NAMES


def _base_name(name: str) -> str:
    folded = fold(name)
    return folded if folded in OPEN_NAMES else split_zone(folded)[0]


def time_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that may hold times of candles, the likeliest first; index columns if there is no other."""
    ranked = sorted((OPEN_NAMES.index(_base_name(name)), i) for i, name in enumerate(names) if is_time_name(name))
    found = [names[i] for _, i in ranked]
    found += [name for name in names if fold(name) in _CLOSE_NAMES]
    return found or [name for name in names if _is_index(name)][:1]


def _is_index(name: str) -> bool:
    """Return whether a column is called as pandas calls an index, or not at all."""
    return not name.strip() or fold(name) in INDEX_NAMES


def find_open_times(cells: Cells, step_ms: int | None = None, *, timezone: str | None = None) -> OpenTimes:
    """Return the open times of the rows of a table.

    Args:
        cells: The table; at least one of its columns is called as columns of times are.
        step_ms: The interval of the candles; None if it is not known: then only open times are found.
        timezone: The zone of times that state none, as `check_time_zone` returns it; None: UTC.

    Raises:
        InputError: A cell is not a time, columns contradict each other, the times have another zone than `timezone`
            that they do not state themselves, or the clocks of `timezone` skip one or show it twice.
    """
    frame = cells.frame
    names = time_columns(frame.columns)
    opens = [name for name in names if is_time_name(name)]
    if not opens:
        return _from_close_times(cells, names[0], step_ms, timezone)
    paired = _join_date_and_time(cells, opens)
    if paired is not None:
        opens = [name for name in opens if name not in paired.columns]
    read = [each for name in opens if (each := _try_column(cells, name, alone=len(opens) == 1 and paired is None))]
    read = [*([paired] if paired is not None else []), *read]
    if not read:
        # The first column again, for its error.
        read = [_read_column(cells, opens[0])]
    if timezone is not None:
        has_numbers = any(each.is_number for each in read)
        read = [each if each.is_day else _read_in_zone(cells, each, timezone, strict=not has_numbers) for each in read]
    times = _choose(cells, read, timezone)
    unread = [name for name in opens if not any(name in each.columns for each in read) and _base_name(name) == "time"]
    if times.is_day and unread:
        raise InputError(
            f"{cells.where}: column {show(unread[0])} has the time of the day in a form that is not read: "
            f"{show(str(cells.frame[unread[0]][0] if cells.frame.height else ''))}",
            hint="write it like 09:30:00",
        )
    _check_zone(cells, times, timezone)
    if timezone is not None and times.is_day:
        times = _read_in_zone(cells, times, timezone)
        _check_day_grid(cells, times, step_ms)
    times = _name_zone(times, timezone)
    if step_ms is not None:
        times = _open_from_grid(times, step_ms)
        if not (times.is_number or times.zone):
            times = replace(times, notes=(*times.notes, *_note_zoneless(cells, times)))
    return times


def read_instants(cells: Cells, name: str, *, timezone: str | None) -> OpenTimes:
    """Return the times in a column that need not be open times of candles.

    Args:
        cells: The table.
        name: The column: numbers since 1970, datetimes, dates (their midnights) or text.
        timezone: The zone of times that state none, as `check_time_zone` returns it; None: such times are refused.

    Returns:
        The times; one between two ms is rounded up, so that nothing seems known earlier than it was.

    Raises:
        InputError: A cell is not a time, some or all times state no zone although `timezone` is None, or the clocks of
            `timezone` skip one or show it twice.
    """
    times = _read_column(cells, name, shown=name, problem="not a time", instants=True)
    if times.is_number or times.zone:
        return times
    if timezone is None:
        first = format_ms(times.ms[0])[:-1] if times.ms.len() else "none"
        raise InputError(
            f"{cells.where}: the times in column {show(name)} state no zone (the first is {first})",
            hint="name their zone, such as `timezone: UTC` or `timezone: Europe/Berlin`",
        )
    return _read_in_zone(cells, times, timezone, setting="timezone")


def _read_in_zone(
    cells: Cells, times: OpenTimes, timezone: str, *, strict: bool = True, setting: str = "--timezone"
) -> OpenTimes:
    """Return times that state no zone as times in `timezone`, the value of `setting`; any others unchanged.

    Without `strict`, a time that has no conversion is null, and otherwise an InputError.
    """
    # Polars cannot convert times of other years; `check_candles` refuses them.
    if times.is_number or times.zone or not times.ms.is_between(0, LAST_MS).all():
        return times
    ms = local_to_utc(times.ms, timezone)
    rows = ms.is_null().arg_true()
    if strict and rows.len():
        row = rows[0]
        is_twice = local_to_utc(times.ms[row : row + 1], timezone, twice=True).null_count() == 0
        why = "comes twice, because clocks go back" if is_twice else "does not exist, because clocks go forward"
        more = f" (and {rows.len() - 1} more)" if rows.len() > 1 else ""
        raise InputError(
            f"{cells.name_row(row)}: {' '.join(times.columns)} is {format_ms(times.ms[row])[:-1]}, which {why} in "
            f"{timezone}{more}",
            hint=f"pass the right zone with {setting}, such as UTC or +01:00; for times that were stored by a clock "
            f"with summer time, {_UTC_HINT}",
        )
    return replace(times, ms=ms.alias("ts"))


def _name_zone(times: OpenTimes, timezone: str | None) -> OpenTimes:
    """Return times with the user's zone if they state none."""
    return replace(times, zone=times.zone or (f"{timezone} by --timezone" if timezone is not None else ""))


def _check_day_grid(cells: Cells, times: OpenTimes, step_ms: int | None) -> None:
    """Raise an InputError for days of another zone if candles of `step_ms` do not open at their midnights."""
    if step_ms is not None and times.ms.len() and ((times.ms - grid_offset_ms(step_ms)) % step_ms != 0).any():
        raise InputError(
            f"{cells.where}: {' '.join(times.columns)} holds days, which begin at {format_ms(times.ms[0])[11:]} in "
            f"this zone: {interval_name(step_ms)} candles open on the grid of UTC",
            hint="leave out --timezone if these days are UTC; candles of other days cannot be used",
        )


def _from_close_times(cells: Cells, name: str, step_ms: int | None, timezone: str | None) -> OpenTimes:
    """Return open times by the close times in a column, or by the times in the index of a pandas frame."""
    times = _read_column(cells, name)
    if _is_index(name):
        if times.is_number and bool((times.ms < _FIRST_EPOCH * 1000).any()):
            raise InputError(
                f"{cells.where}: no column of times: {show(name)} numbers the rows",
                hint="the open time of a candle belongs in a column called ts, in UTC",
            )
    elif step_ms is None:
        raise InputError(f"{cells.where}: {show(name)} is a close time: expected open times, in a column called ts")
    _check_zone(cells, times, timezone)
    if timezone is not None:
        times = _name_zone(_read_in_zone(cells, times, timezone), timezone)
    if step_ms is not None:
        times = _open_from_grid(times, step_ms)
        if fold(name) in _CLOSE_NAMES and times.means == "open":
            times = replace(times, ms=times.ms - step_ms, means="close")
    return times


def _try_column(cells: Cells, name: str, *, alone: bool) -> OpenTimes | None:
    """Return the times in one of several columns; None if they are no times. An only column has to hold times."""
    try:
        times = _read_column(cells, name)
    except InputError:
        if alone:
            raise
        return None
    if not alone and times.is_number and bool((times.ms < _FIRST_EPOCH * 1000).any()):
        return None
    return times


def _join_date_and_time(cells: Cells, names: list[str]) -> OpenTimes | None:
    """Return the times in two columns, of the date and of the time of the day; None if there are no such columns."""
    dates = [name for name in names if _base_name(name) == "date"]
    clocks = [name for name in names if _base_name(name) == "time"]
    if not dates or not clocks:
        return None
    date, clock = cells.frame[dates[0]], cells.frame[clocks[0]]
    if clock.dtype == pl.Time:
        clock = clock.dt.strftime("%H:%M:%S%.f")
    if clock.dtype != pl.String:
        return None
    # 093000 and 0930, as Finam writes them.
    clock = clock.str.strip_chars().str.replace(r"^([0-9]{2})([0-9]{2})([0-9]{2})$", "$1:$2:$3")
    clock = clock.str.replace(r"^([0-9]{2})([0-9]{2})$", "$1:$2")
    if not clock.str.contains(_TIME_OF_DAY).fill_null(False).all():
        return None
    if date.dtype == pl.Date:
        if not (date.to_physical().cast(pl.Int64) * DAY_MS).is_between(0, LAST_MS).all():
            return None
        date = date.dt.strftime("%Y-%m-%d")
    both = date.cast(pl.String).str.strip_chars() + " " + clock
    joined = replace(cells, frame=pl.DataFrame({dates[0]: both}))
    return replace(_read_column(joined, dates[0]), columns=(dates[0], clocks[0]))


def _read_column(
    cells: Cells, name: str, *, shown: str = "ts", problem: str = "not an open time", instants: bool = False
) -> OpenTimes:
    """Return the times in a column; an InputError if a cell holds none, which names the column `shown`.

    With `instants`, the times need not be open times: one between two ms is rounded up, and all or none state a zone.
    """
    column = cells.frame[name]
    _, zone_word = split_zone(fold(name))
    stated = zone_word if zone_word == "UTC" else ""
    unit: str
    zone, is_day = stated, False
    # Their numbers are used: the functions of Polars abort at times outside the years that they can print.
    if isinstance(column.dtype, pl.Datetime):
        per_ms = {"ms": 1, "us": 1_000, "ns": 1_000_000}[column.dtype.time_unit]
        number = column.to_physical()
        ms = number // per_ms
        ms = ms + (number % per_ms != 0).cast(pl.Int64) if instants else ms.set(number % per_ms != 0, None)
        unit, zone = column.dtype.time_unit, column.dtype.time_zone or stated
    elif column.dtype == pl.Date:
        ms = column.to_physical().cast(pl.Int64) * DAY_MS
        unit, is_day = "dates", True
    elif column.dtype == pl.String or column.dtype.is_numeric():
        return _read_numbers_or_text(cells, column, stated, shown=shown, problem=problem, instants=instants)
    else:
        raise InputError(f"{cells.where}: column {name} is {column.dtype}, not times")
    if ms.null_count():
        cells.refuse_first(column.alias(shown), ms.is_null(), problem)
    return OpenTimes(ms.alias("ts"), (name,), "open", unit, zone, is_number=False, is_day=is_day)


def _read_numbers_or_text(
    cells: Cells, column: pl.Series, stated: str, *, shown: str, problem: str, instants: bool
) -> OpenTimes:
    """Return the times in a column of numbers or text; `stated` is the zone that its name states.

    The other arguments are those of `_read_column`.
    """
    name = column.name
    text = column.cast(pl.String).str.strip_chars().replace("", None)
    # 20260105 would be a second of August 1970.
    is_compact = bool(text.str.contains(_COMPACT).fill_null(False).all()) and text.len() > 0
    numbers = (
        pl.Series(name, [None] * text.len(), dtype=pl.Float64) if is_compact else text.cast(pl.Float64, strict=False)
    )
    if column.dtype.is_numeric() and not is_compact:
        numbers = column.cast(pl.Float64)
    ms = _numbers_to_ms(numbers, instants=instants)
    if not ms.null_count() and text.len():
        return OpenTimes(ms, (name,), "open", _find_units(numbers), "UTC", is_number=True, is_day=False)
    found = read_time_texts(text, round_up=instants)
    if found.order in {"either", "contradictory"}:
        row = (found.ms.is_null() & text.is_not_null() & ms.is_null()).arg_true()
        if row.len():
            why = "day or month first? no row has a day above 12" if found.order == "either" else "day and month change"
            raise InputError(f"{cells.name_row(row[0])}: {name} is {show(text[row[0]])}: {why}", hint=_ORDER_HINT)
    ms = ms.fill_null(found.ms)
    if ms.null_count():
        cells.refuse_first(text.alias(shown), ms.is_null(), problem)
    if found.zoneless and (found.offsets if instants else any(found.offsets)):
        raise InputError(
            f"{cells.where}: column {name}: some times state an offset from UTC, others none", hint=_UTC_HINT
        )
    zone = " and ".join(_name_offset(offset) for offset in found.offsets) or stated
    unit = "text" if found.order == "none" else f"{found.order} text"
    return OpenTimes(ms.alias("ts"), (name,), "open", unit, zone, is_number=False, is_day=not found.has_clock)


def _name_offset(minutes: int) -> str:
    """Return an offset from UTC as ISO 8601 writes it; "UTC" for none."""
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}" if minutes else "UTC"


def _numbers_to_ms(numbers: pl.Series, *, instants: bool) -> pl.Series:
    """Return times in s, ms, µs or ns, distinguished by size, as ms; where that is not whole, null or rounded up.

    Between 1973 and 5138 the four ranges do not overlap. A float holds all of these numbers exactly except ns, whose
    last digits are zeros on any grid.
    """
    time = pl.col("time")
    from_s, from_us, from_ns = time * 1e3, time / 1e3, time / 1e6
    size = time.abs()
    s_or_ms = pl.when(size < 1e11).then(from_s).when(size < 1e14).then(time)
    ms = s_or_ms.when(size < 1e17).then(from_us).otherwise(from_ns)
    whole = pl.when(((ms == ms.round()) | pl.lit(instants)) & (ms.abs() < 1e14)).then(ms.ceil())
    return pl.DataFrame({"time": numbers}).select(whole.cast(pl.Int64).alias("ts")).to_series()


def _find_units(numbers: pl.Series) -> str:
    """Return the units of times, such as "ms" or "ms and us"."""
    size = numbers.abs()
    bounds = [("s", 0, 1e11), ("ms", 1e11, 1e14), ("us", 1e14, 1e17), ("ns", 1e17, float("inf"))]
    return " and ".join(unit for unit, low, high in bounds if size.is_between(low, high, closed="left").any())


def _choose(cells: Cells, read: list[OpenTimes], timezone: str | None) -> OpenTimes:
    """Return the times to use, of several columns; an InputError if they contradict each other without numbers.

    Days are those of the user's `timezone`, or of UTC.
    """
    numbers = [each for each in read if each.is_number]
    # Of texts, the one with a time of the day.
    chosen = (numbers or [each for each in read if not each.is_day] or read)[0]
    notes = []
    local_ms = chosen.ms
    if timezone is not None and not chosen.is_day and chosen.ms.is_between(0, LAST_MS).all():
        local_ms = utc_to_local(chosen.ms, timezone)
    for other in read:
        difference = other.ms - (local_ms // DAY_MS * DAY_MS if other.is_day and not chosen.is_day else chosen.ms)
        rows = (difference != 0).arg_true()
        if not rows.len():
            continue
        theirs, ours = " ".join(other.columns), " ".join(chosen.columns)
        row = rows[0]
        if other.is_number or not numbers:
            raise InputError(
                f"{cells.name_row(row)}: {theirs} is {format_ms(other.ms[row])}, but {ours} is "
                f"{format_ms(chosen.ms[row])}: two columns of times that disagree",
                hint="keep one column of open times, in UTC",
            )
        hours = abs(difference[row]) / HOUR_MS
        notes.append(
            f"{theirs} differs from {ours} in {rows.len():,} of {chosen.ms.len():,} rows (first by {hours:g} h): "
            f"{ours} was taken"
        )
    return replace(chosen, notes=tuple(notes))


def _check_zone(cells: Cells, times: OpenTimes, timezone: str | None) -> None:
    """Raise an InputError if the file names another zone than the user's, or than UTC, for times that state none.

    Words such as "local time" and "EST" are explained by any `timezone`.
    """
    if times.is_number or times.zone:
        return
    if timezone is None:
        for name in times.columns:
            _, zone = split_zone(fold(name))
            if zone not in {"", "UTC"}:
                raise InputError(f"{cells.where}: column {show(name)} is not in UTC, by its name", hint=_ZONE_HINT)
    above = _ZONE_ABOVE.search(cells.above)
    if above is not None and (timezone is None or ("/" in above[0] and above[0] != timezone)):
        raise InputError(f"{cells.where}: above its columns it names the time zone {show(above[0])}", hint=_ZONE_HINT)
    same = ["", "utc", "gmt", "etc/utc", "z", "+00:00"] if timezone is None else ["", timezone.lower()]
    for name in cells.frame.columns:
        column = cells.frame[name]
        if fold(name) in {"timezone", "time_zone", "tz"} and column.dtype == pl.String:
            others = column.filter(~column.str.to_lowercase().is_in(same))
            if others.len():
                raise InputError(f"{cells.where}: column {show(name)} names {show(others[0])}", hint=_ZONE_HINT)


def _open_from_grid(times: OpenTimes, step_ms: int) -> OpenTimes:
    """Return times that lie 1 ms or 1 s before the grid of candles of `step_ms` as open times: they are close times."""
    origin_ms = grid_offset_ms(step_ms)
    for early_ms in (1, SECOND_MS):
        if early_ms < step_ms and times.ms.len() and ((times.ms + early_ms - origin_ms) % step_ms == 0).all():
            return replace(times, ms=times.ms + early_ms - step_ms, means="close")
    return times


def _note_zoneless(cells: Cells, times: OpenTimes) -> tuple[str, ...]:
    """Return notes on times without a zone; an InputError if their steps are those of a clock with summer time.

    In a table of several symbols, the steps are those of each symbol.
    """
    if times.is_day or not times.ms.is_between(0, LAST_MS).all():
        return ()
    rows = cells.frame.with_columns(times.ms.alias("ts_ms"))
    parts = rows.partition_by("symbol", maintain_order=True) if "symbol" in rows.columns else [rows]
    return tuple(dict.fromkeys(note for part in parts for note in _note_steps(part, cells.where)))


def _note_steps(rows: pl.DataFrame, where: str) -> tuple[str, ...]:
    """Return what `_note_zoneless` does, of the rows of one symbol with their times `ts_ms`."""
    if rows.height >= 2 and rows["ts_ms"][0] > rows["ts_ms"][-1]:
        rows = rows.reverse()
    ms = rows["ts_ms"]
    steps = ms.diff().drop_nulls()
    usual = steps.median() if steps.len() else None
    if not isinstance(usual, int | float) or not 0 < usual < HOUR_MS * 2:
        return ()
    when = pl.DataFrame({"before": ms[:-1], "step": steps})
    sunday = pl.col("before").cast(pl.Datetime("ms")).dt.weekday() == 7
    month = pl.col("before").cast(pl.Datetime("ms")).dt.month()
    back = when.with_row_index().filter(sunday & month.is_in([4, 9, 10, 11]) & (pl.col("step") == usual - HOUR_MS))
    # A row that is there twice is no change of the clock.
    if any(rows.row(i) != rows.row(i + 1) for i in back["index"]):
        raise InputError(
            f"{where}: its times go back by an hour on {format_ms(back['before'][0])[:10]}, as clocks do at the "
            "end of summer time, and state no zone",
            hint=_UTC_HINT,
        )
    forward = when.filter(sunday & month.is_in([3, 9, 10]) & (pl.col("step") == usual + HOUR_MS))
    if forward.height:
        sunday_ms = forward["before"][0]
        note = f"an hour is missing after {format_ms(sunday_ms)}, a Sunday, as when summer time begins"
        return (f"{note}: {_ZONELESS_NOTE}",)
    return (_ZONELESS_NOTE,)
