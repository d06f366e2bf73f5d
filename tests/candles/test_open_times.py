"""Open times are found in the right column, unit and zone, or refused."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from mltrain.candles.cells import Cells
from mltrain.candles.open_times import find_open_times, fold
from mltrain.errors import InputError
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS, format_ms


def find(step_ms=HOUR_MS, above="", zone=None, **columns):
    frame = pl.DataFrame(columns)
    return find_open_times(Cells(frame, "a.csv", "line", 2, above=above), step_ms, timezone=zone)


def times_of(found):
    return [format_ms(ms) for ms in found.ms]


#: Texts of one column, what they are, and the unit and zone that are reported.
FIFTH, THIRTEENTH = "2026-01-05T00:00:00Z", "2026-01-13T01:00:00Z"
TEXTS = {
    "German": (["05.01.2026 00:00", "13.01.2026 01:00"], [FIFTH, THIRTEENTH], "day-first", ""),
    "British": (["05/01/2026 00:00", "13/01/2026 01:00"], [FIFTH, THIRTEENTH], "day-first", ""),
    "American": (["01/05/2026 00:00", "01/13/2026 01:00"], [FIFTH, THIRTEENTH], "month-first", ""),
    "one date": (["05/05/2026 00:00"], ["2026-05-05T00:00:00Z"], "day-first", ""),
    "AM": (["2019-05-18 12-AM"], ["2019-05-18T00:00:00Z"], "", ""),
    "PM": (["2019-05-18 01:00 PM"], ["2019-05-18T13:00:00Z"], "", ""),
    "points": (["2019.01.01 00:00", "2019.01.01 01:00:00"], ["2019-01-01T00:00:00Z", "2019-01-01T01:00:00Z"], "", ""),
    "Tokyo": (["2024-01-21T23:00:00+09:00"], ["2024-01-21T14:00:00Z"], "", "+09:00"),
    "GMT+1": (["05.05.2026 01:00:00.000 GMT+0100"], ["2026-05-05T00:00:00Z"], "day-first", "+01:00"),
    "two offsets": (
        ["2026-03-29T00:00+01:00", "2026-03-29T03:00+02:00"],
        ["2026-03-28T23:00:00Z", "2026-03-29T01:00:00Z"], "", "+01:00 and +02:00",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("texts", "times", "order", "zone"), TEXTS.values(), ids=TEXTS)
def test_dates_of_many_countries_are_read(texts, times, order, zone):
    """The order of day and month is proven by a row, and the zone is reported as stated."""
    found = find(Date=texts)

    assert times_of(found) == times
    assert (found.unit, found.zone) == (f"{order} text".strip(), zone)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["05/01/2026 00:00", "06/01/2026 00:00"], "line 2: Date is '05/01/2026 00:00': day or month first[?] no row"),
        (["13/01/2026", "01/13/2026"], "line 2: Date is '13/01/2026': day and month change"),
        (["2026-01-05T00:00+01:00", "2026-01-05T01:00"], "column Date: some times state an offset from UTC, others no"),
        (["2026-01-05 00:00 EST"], "line 2: ts is '2026-01-05 00:00 EST': not an open time"),
        (["05/01/26"], "line 2: ts is '05/01/26': not an open time"),
        (["2026-01-05 12"], "line 2: ts is '2026-01-05 12': not an open time"),
    ],
)
def test_times_with_two_readings_are_refused(texts, message):
    """A month for a day would move candles by months."""
    with pytest.raises(InputError, match=f"^a.csv: {message}"):
        find(Date=texts)


def test_dates_as_one_number_are_no_seconds():
    """20260105 is a day, not August 1970, as a number and as text."""
    expected = ["2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"]

    assert times_of(find(DAY_MS, date=[20260105, 20260106])) == expected
    assert times_of(find(DAY_MS, date=["20260105", "20260106"])) == expected


def test_date_and_time_in_two_columns_are_joined():
    """As MetaTrader writes them; in Parquet the date may be typed."""
    found = find(**{"<DATE>": ["2019.01.01", "2019.01.01"], "<TIME>": ["00:00:00", "01:00:00"]})
    typed = find(date=[dt.date(2019, 1, 1)] * 2, time=[dt.time(0), dt.time(1)])

    digits = find(date=["20190101"] * 2, time=["000000", "010000"])
    assert times_of(found) == times_of(typed) == times_of(digits) == ["2019-01-01T00:00:00Z", "2019-01-01T01:00:00Z"]
    assert found.columns == ("<DATE>", "<TIME>")


@pytest.mark.parametrize("times", [[0, 10_000], ["morning", "noon"]])
def test_a_time_of_the_day_in_another_form_is_refused(times):
    """All candles of a day would be read as of midnight."""
    with pytest.raises(InputError, match="column 'time' has the time of the day in a form that is not read"):
        find(date=["2019-01-01"] * 2, time=times)


def test_numbers_win_over_text_and_a_difference_is_noted():
    """The text may be in local time."""
    unix = [1_767_571_200, 1_767_574_800]
    same = find(date=["2026-01-05 00:00", "2026-01-05 01:00"], unix=unix)
    local = find(date=["2026-01-05 09:00", "2026-01-05 10:00"], unix=unix)
    day = find(date=["2026-01-05", "2026-01-05"], unix=unix)

    assert times_of(same) == times_of(local) == times_of(day) == ["2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z"]
    assert same.notes == day.notes == ()
    assert local.notes == ("date differs from unix in 2 of 2 rows (first by 9 h): unix was taken",)


@pytest.mark.parametrize(
    "columns",
    [
        {"date": ["2026-01-05 00:00"], "datetime": ["2026-01-05 09:00"]},
        {"open_time": [1_767_571_200_000], "timestamp": [1_767_571_260_000]},
        {"date": ["2026-01-05"], "datetime": ["2026-01-06 09:00"]},
    ],
)
def test_columns_that_disagree_without_a_decision_are_refused(columns):
    """Neither of two texts, nor of two numbers, is better."""
    with pytest.raises(InputError, match=r"^a.csv: line 2: .* two columns of times that disagree"):
        find(**columns)


@pytest.mark.parametrize(
    ("columns", "above", "message"),
    [
        ({"Local time": ["2026-01-05 00:00"]}, "", "column 'Local time' is not in UTC, by its name"),
        ({"time_est": ["2026-01-05 00:00"]}, "", "column 'time_est' is not in UTC"),
        ({"time": ["2026-01-05 00:00"]}, "# Europe/Berlin", "it names the time zone 'Europe/Berlin'"),
        ({"time": ["2026-01-05 00:00"]}, "times in UTC+2", "it names the time zone 'UTC[+]2'"),
        ({"time": ["2026-01-05 00:00"], "timezone": ["Asia/Tokyo"]}, "", "column 'timezone' names 'Asia/Tokyo'"),
    ],
)
def test_a_file_that_names_another_zone_is_refused(columns, above, message):
    """Times without a zone are read as UTC only if nothing contradicts it."""
    with pytest.raises(InputError, match=message):
        find(above=above, **columns)


def test_a_zone_that_is_stated_needs_no_other():
    """UTC above the names, in a name, or numbers in a file of local times."""
    assert find(above="times in UTC+00:00", time=["2026-01-05 00:00"]).zone == ""
    assert find(**{"Gmt time": ["2026-01-05 00:00"]}).zone == "UTC"
    assert find(**{"Etc/UTC": ["2026-01-05 00:00"]}).zone == "UTC"
    assert find(above="Europe/Berlin", unix=[1_767_571_200]).zone == "UTC"


def local_hours(start, hours, change):
    """Return hourly times as a clock shows them that is moved by an hour at `change`."""
    first = dt.datetime.fromisoformat(start)
    moved, step = change
    moments = [first + dt.timedelta(hours=i) for i in range(hours)]
    return [
        str(moment + dt.timedelta(hours=step if moment >= dt.datetime.fromisoformat(moved) else 0))
        for moment in moments
    ]


def test_the_end_of_summer_time_is_refused_and_its_beginning_noted():
    """2025-10-26 and 2025-03-30 in Europe; a row that is there twice is no change of the clock."""
    autumn = local_hours("2025-10-25 00:00", 60, ("2025-10-26 03:00", -1))
    spring = local_hours("2025-03-29 00:00", 60, ("2025-03-30 02:00", 1))

    for texts in (autumn, autumn[::-1]):
        with pytest.raises(InputError, match="its times go back by an hour on 2025-10-26") as err:
            find(time=texts, close=list(range(60)))
        assert "UTC" in err.value.hint
    (note,) = find(time=spring).notes
    assert note.startswith("an hour is missing after 2025-03-30T01:00:00Z, a Sunday")
    twice = ["2025-10-26 02:00:00", *local_hours("2025-10-25 00:00", 60, ("2026-01-01", 0))]
    assert find(time=sorted(twice)).notes == (
        "its times state no zone and were read as UTC (--timezone ZONE reads them in another)",
    )


def test_summer_time_is_looked_for_in_each_symbol():
    """Where rows of one symbol follow those of another, their times go back."""
    hour = [str(dt.datetime(2025, 10, 26) + dt.timedelta(minutes=i)) for i in range(60)]  # noqa: DTZ001
    autumn = local_hours("2025-10-25 00:00", 60, ("2025-10-26 03:00", -1))
    rising = local_hours("2025-10-25 00:00", 60, ("2030-01-01", 0))

    assert len(find(MINUTE_MS, time=hour * 2, symbol=["A"] * 60 + ["B"] * 60).notes) == 1
    with pytest.raises(InputError, match="its times go back by an hour on 2025-10-26"):
        find(
            time=[each for pair in zip(rising, autumn, strict=True) for each in pair],
            symbol=["A", "B"] * 60,
            close=[i // 2 for i in range(120)],
        )


#: Columns of times that state no zone, read as of Berlin: an hour ahead of UTC in winter.
BERLIN = {
    "text": {"time": ["2026-01-05 01:00", "2026-01-05 02:00"]},
    "typed": {"time": [dt.datetime(2026, 1, 5, 1), dt.datetime(2026, 1, 5, 2)]},  # noqa: DTZ001
    "two columns": {"date": ["2026.01.05"] * 2, "time": ["01:00", "02:00"]},
    "a day besides": {"date": ["2026-01-05"] * 2, "datetime": ["2026-01-05 01:00", "2026-01-05 02:00"]},
    "stated besides": {
        "date": ["2026-01-05T00:00Z", "2026-01-05T01:00Z"],
        "time": ["2026-01-05 01:00", "2026-01-05 02:00"],
    },
    "an index": {"": ["2026-01-05 01:00", "2026-01-05 02:00"]},
    "closes": {"close_time": ["2026-01-05 02:00", "2026-01-05 03:00"]},
    "named": {"Local time": ["2026-01-05 01:00", "2026-01-05 02:00"]},
    "a column of the zone": {"time": ["2026-01-05 01:00", "2026-01-05 02:00"], "tz": ["Europe/Berlin"] * 2},
}  # fmt: skip


@pytest.mark.parametrize("columns", BERLIN.values(), ids=BERLIN)
def test_times_without_a_zone_are_read_in_the_users(columns):
    """In every form; the file's own words for that zone do not contradict it, and no warning is needed."""
    found = find(zone="Europe/Berlin", **columns)

    assert times_of(found) == ["2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z"]
    assert found.notes == ()
    if "2026-01-05T00:00Z" not in columns.get("date", ()):
        assert found.zone == "Europe/Berlin by --timezone"


@pytest.mark.parametrize(
    "columns",
    [
        {"unix": [1_767_571_200, 1_767_574_800]},
        {"time": ["2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z"]},
        {"time": ["2026-01-05T02:00:00+02:00", "2026-01-05T03:00:00+02:00"]},
        {"time UTC": ["2026-01-05 00:00", "2026-01-05 01:00"]},
        {"unix": [1_767_571_200, 1_767_574_800], "date": ["2026-01-05 01:00", "2026-01-05 02:00"]},
    ],
)
def test_times_that_state_their_zone_keep_it(columns):
    """Numbers, offsets and names win over the user's zone; a text in that zone agrees with numbers."""
    found = find(zone="Europe/Berlin", **columns)

    assert times_of(found) == ["2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z"]
    assert "--timezone" not in found.zone
    assert found.notes == ()


def test_a_local_time_that_does_not_exist_or_comes_twice_is_refused_by_name():
    """The message says which, where and why; next to numbers such a text does no harm."""
    twice = ["2025-10-26 01:00", "2025-10-26 02:00", "2025-10-26 03:00"]
    why = r"^a.csv: line 3: time is 2025-10-26T02:00:00, which comes twice, because clocks go back in Europe/Berlin$"
    with pytest.raises(InputError, match=why) as err:
        find(zone="Europe/Berlin", time=twice)
    assert "--timezone" in err.value.hint
    with pytest.raises(InputError, match=r"2026-03-29T02:00:00, which does not exist, because .* \(and 1 more\)$"):
        find(zone="Europe/Berlin", date=["2026-03-29", "2026-03-29"], time=["02:00", "02:30"])
    unix = [1_761_433_200, 1_761_436_800, 1_761_440_400]
    texts = ["2025-10-26 01:00", "2025-10-26 02:00", "2025-10-26 02:00"]
    assert find(zone="Europe/Berlin", time=texts, unix=unix).notes == ()
    assert times_of(find(zone="+01:00", time=twice))[0] == "2025-10-26T00:00:00Z"


def test_another_zone_than_the_users_is_refused():
    """The file names a place; a word such as local or EST is what the user explains."""
    times = {"time": ["2026-01-05 00:00"]}
    for above in ("# Asia/Tokyo", "Asia/Tokyo"):
        with pytest.raises(InputError, match="it names the time zone 'Asia/Tokyo'"):
            find(above=above, zone="Europe/Berlin", **times)
    with pytest.raises(InputError, match="column 'tz' names 'UTC'"):
        find(zone="Europe/Berlin", tz=["UTC"], **times)
    assert times_of(find(above="times in EST", zone="America/New_York", **times)) == ["2026-01-05T05:00:00Z"]


def test_days_of_another_zone_are_no_candles_of_utc():
    """A day in New York begins at 05:00 UTC in winter; days of a zone without an offset are those of UTC."""
    with pytest.raises(InputError, match="date holds days, which begin at 05:00:00Z in this zone: 1d candles open on"):
        find(DAY_MS, zone="America/New_York", date=["2026-01-05", "2026-01-06"])
    assert times_of(find(DAY_MS, zone="+00:00", date=["2026-01-05"])) == ["2026-01-05T00:00:00Z"]
    assert times_of(find(DAY_MS, zone="Europe/Berlin", time=["2026-01-05 01:00"])) == ["2026-01-05T00:00:00Z"]


def test_times_of_impossible_years_do_not_abort():
    """Polars cannot convert them; the rows are refused later."""
    for zone in ("Europe/Berlin", "+14:00"):
        found = find(zone=zone, time=pl.Series([2**62, -(2**62)]).cast(pl.Datetime("ms")))
        assert found.ms.to_list() == [2**62, -(2**62)]
        edge = find(zone=zone, time=pl.Series([0, 253_402_300_799_000]).cast(pl.Datetime("ms")))
        assert edge.ms[0] < 0


@pytest.mark.parametrize(
    ("name", "texts", "step_ms"),
    [
        ("time", ["2026-01-05 00:59:59.999", "2026-01-05 01:59:59.999"], HOUR_MS),
        ("time", ["2026-01-05 00:59:59", "2026-01-05 01:59:59"], HOUR_MS),
        ("close_time", ["2026-01-05 01:00:00", "2026-01-05 02:00:00"], HOUR_MS),
        ("Close time", [1_767_574_799_999, 1_767_578_399_999], HOUR_MS),
    ],
)
def test_close_times_become_open_times(name, texts, step_ms):
    """Times just before the grid are close times, whatever they are called; on the grid, the name decides."""
    found = find(step_ms, **{name: texts})

    assert found.means == "close"
    assert times_of(found) == ["2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z"]


def test_a_week_closes_before_monday():
    """Weeks begin on Mondays, not on the day of 1970-01-01."""
    found = find(WEEK_MS, time=["2026-01-11 23:59:59.999", "2026-01-18 23:59:59.999"])

    assert times_of(found) == ["2026-01-05T00:00:00Z", "2026-01-12T00:00:00Z"]


def test_an_index_is_times_only_without_another_column():
    """Pandas writes row numbers or times there."""
    rows = find(**{"": [0, 1], "date": ["2026-01-05 00:00", "2026-01-05 01:00"]})
    index = find(**{"": ["2026-01-05 00:00", "2026-01-05 01:00"]})

    assert times_of(rows) == times_of(index)
    with pytest.raises(InputError, match="no column of times: '' numbers the rows"):
        find(**{"": [0, 1]})


def test_close_times_alone_need_the_interval():
    """A table of many symbols has no interval."""
    with pytest.raises(InputError, match="'close_time' is a close time: expected open times"):
        find(None, close_time=[MINUTE_MS * 30_000_000])


@pytest.mark.parametrize(
    ("name", "folded"),
    [("openTime", "open_time"), ("Open time", "open_time"), ("<TICKVOL>", "tickvol"), ("close_duplicated_0", "close")],
)
def test_names_are_folded(name, folded):
    """Case, spaces and signs make no difference."""
    assert fold(name) == folded
