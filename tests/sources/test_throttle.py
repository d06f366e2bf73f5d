"""Laws of the throttle, which is passed the time and never waits."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.throttle import WEIGHT_SHARE, Throttle, parse_http_date
from mltrain.times import MINUTE_MS

steps = st.lists(
    st.tuples(
        # Elapsed time, in ms.
        st.integers(0, 20_000),
        # Weight of the request.
        st.sampled_from([1, 2, 20]),
        # Requests that are answered now.
        st.integers(0, 5),
        # Weight that others use at the same time.
        st.integers(0, 30),
    ),
    max_size=120,
)


@given(steps, st.integers(40, 400), st.integers(0, MINUTE_MS - 1))
def test_no_minute_of_the_exchange_passes_the_share(steps, limit, offset_ms):
    """Whatever is sent and answered, the weight sent in a minute stays within 70 % of the limit."""
    throttle = Throttle(weight_limit=limit)
    now_ms, sent, in_flight = CLOCK_MS + offset_ms, {}, []
    throttle.synchronise(now_ms)
    for passed_ms, weight, answered, _ in steps:
        now_ms += passed_ms
        if throttle.wait_ms(now_ms, weight) == 0:
            minute = now_ms // MINUTE_MS
            alone = sent.get(minute, 0) == 0
            in_flight.append((throttle.count_sent(now_ms, weight), weight, minute))
            sent[minute] = sent.get(minute, 0) + weight
            assert alone or sent[minute] <= limit * WEIGHT_SHARE
        for _ in range(min(answered, len(in_flight))):
            token, of_it, minute = in_flight.pop(0)
            throttle.count_answered(token, of_it, reported_weight=sent[minute], succeeded=True)

    assert throttle.peak_weight <= max(limit * WEIGHT_SHARE, 20)


bursts = st.lists(
    st.tuples(
        # The minute, and the offset from its beginning, in ms.
        st.integers(0, 3),
        st.sampled_from([-1001, -1000, -999, -500, -1, 0, 1, 500, 999, 1000, 1001, 20_000]) | st.integers(2000, 57_000),
        st.sampled_from([1, 2, 20]),
        # Requests of that weight that are wanted at once.
        st.sampled_from([0, 1, 4, 200]),
        # Requests that are answered then.
        st.sampled_from([0, 1, 4, 200]),
    ),
    max_size=40,
).map(lambda found: sorted((CLOCK_MS + minute * MINUTE_MS + ms, *rest) for minute, ms, *rest in found))


@settings(max_examples=200)
@given(bursts, st.integers(1, 200), st.sampled_from([-1000, -500, 0, 500, 1000]))
def test_the_share_is_kept_although_the_clocks_are_apart(bursts, limit, ahead_ms):
    """The exchange's minute may begin up to a second earlier or later, and its answers may report no weight."""
    throttle = Throttle(weight_limit=limit)
    sent, in_flight = {}, []
    throttle.synchronise(CLOCK_MS - 2000)
    for now_ms, weight, wanted, answered in bursts:
        minute = (now_ms + ahead_ms) // MINUTE_MS
        for _ in range(wanted):
            if throttle.wait_ms(now_ms, weight) == 0:
                alone = minute not in sent
                in_flight.append((throttle.count_sent(now_ms, weight), weight))
                sent[minute] = sent.get(minute, 0) + weight
                assert alone or sent[minute] <= limit * WEIGHT_SHARE
        for _ in range(min(answered, len(in_flight))):
            throttle.count_answered(*in_flight.pop(0), reported_weight=None, succeeded=True)


@given(bursts, st.integers(1, 200), st.lists(st.integers(0, 200), max_size=20))
def test_the_reported_use_of_others_counts(bursts, limit, others):
    """After an answer reports a minute's weight, that, the requests in flight and a new one keep the share."""
    throttle = Throttle(weight_limit=limit)
    in_flight, reported, seen = [], 0, None
    throttle.synchronise(CLOCK_MS - 2000)
    for now_ms, weight, wanted, answered in bursts:
        minute = (now_ms - 1000) // MINUTE_MS
        for _ in range(wanted):
            if throttle.wait_ms(now_ms, weight) == 0:
                in_flight_weight = sum(of_it for _, of_it in in_flight)
                if seen == minute and reported:
                    assert reported + in_flight_weight + weight <= limit * WEIGHT_SHARE
                in_flight.append((throttle.count_sent(now_ms, weight), weight))
        for _ in range(min(answered, len(in_flight))):
            token, of_it = in_flight.pop(0)
            used = others.pop() if others else None
            throttle.count_answered(token, of_it, reported_weight=used, succeeded=True)
            if used is not None and token == minute:
                reported, seen = max(reported, used) if seen == minute else used, minute


@given(
    st.integers(1, 100),
    st.lists(st.integers(0, 10**6) | st.none(), min_size=30, max_size=30),
    st.sampled_from([1, 2, 20, 1000]),
)
def test_a_request_goes_within_two_minutes_whatever_others_use(limit, others, weight):
    """However small the limit and whatever use is reported, a single request is never blocked forever."""
    throttle = Throttle(weight_limit=limit)
    now_ms = CLOCK_MS
    throttle.synchronise(now_ms)
    for used in others:
        waits = 0
        while wait_ms := throttle.wait_ms(now_ms, weight):
            assert 0 < wait_ms <= MINUTE_MS + 1000
            now_ms, waits = now_ms + wait_ms, waits + 1
        assert waits <= 2
        throttle.count_answered(throttle.count_sent(now_ms, weight), weight, reported_weight=used, succeeded=True)


@given(st.integers(0, 10**6), st.integers(-(10**15), 10**15), st.sampled_from(["5", "100000"]))
def test_a_corrected_clock_does_not_change_a_wait(passed_ms, shift_ms, seconds):
    """The remainder of an ordered wait does not depend on the assumed time of the exchange."""
    throttle = Throttle()
    throttle.synchronise(CLOCK_MS)
    throttle.stop(CLOCK_MS, 429, seconds)
    left_ms = throttle.released_ms - CLOCK_MS - passed_ms
    now_ms = CLOCK_MS + passed_ms + shift_ms
    throttle.synchronise(now_ms, shift_ms=shift_ms)

    assert throttle.wait_ms(now_ms, 1) == max(left_ms, 0)


@given(st.sampled_from([418, 429]), st.text(max_size=40) | st.none())
def test_any_retry_after_is_a_wait_of_some_length(status, text):
    """The wait is never zero, which would be an endless loop, and no value crashes."""
    throttle = Throttle()
    throttle.stop(CLOCK_MS, status, text)

    assert throttle.released_ms >= CLOCK_MS + 1000


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs tzset")
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    "date", ["Wed, 15 Oct 2025 12:00:30 GMT", "Wed, 15 Oct 2025 12:00:30", "Wed Oct 15 12:00:30 2025"]
)
def test_a_date_is_utc_in_any_time_zone(monkeypatch, zone, date):
    """Also in the two obsolete forms, which name no zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = parse_http_date(date)
    time.tzset()

    assert found == CLOCK_MS + 30_000


@given(st.integers(0, 2), st.lists(st.sampled_from([1, 2, 20]), max_size=40))
def test_without_patience_any_wait_is_refused(max_wait_ms, weights):
    """With a maximum of 0 s any ordered wait is too long, and is still kept."""
    throttle = Throttle(max_wait_ms=max_wait_ms)
    throttle.synchronise(CLOCK_MS)
    assert not throttle.stop(CLOCK_MS, 429, "0")

    assert all(throttle.wait_ms(CLOCK_MS, weight) == 1000 for weight in weights)


@given(st.integers(0, 10**6), st.integers(1, 50), st.sampled_from([1, 2, 20]))
def test_the_use_of_others_counts(used, limit, weight):
    """When the exchange reports the minute as used up, requests wait for the next one."""
    throttle = Throttle(weight_limit=limit)
    now_ms = CLOCK_MS + 5000
    throttle.synchronise(now_ms)
    token = throttle.count_sent(now_ms, 1)
    throttle.count_answered(token, 1, reported_weight=used, succeeded=True)
    wait_ms = throttle.wait_ms(now_ms, weight)
    full = max(used, 1) + weight > limit * WEIGHT_SHARE

    assert (wait_ms > 0) == full
    assert wait_ms <= MINUTE_MS + 1000
    assert throttle.wait_ms(now_ms + wait_ms, weight) == 0


@given(
    st.integers(1, 100_000),
    st.sampled_from([418, 429]),
    st.lists(st.integers(0, 100_000), min_size=1, max_size=20),
)
def test_no_request_goes_during_an_ordered_wait(seconds, status, moments):
    """No request of any weight is allowed until the exact millisecond."""
    throttle = Throttle(max_wait_ms=10**9)
    throttle.synchronise(CLOCK_MS)
    throttle.stop(CLOCK_MS, status, str(seconds))
    release = CLOCK_MS + seconds * 1000

    assert throttle.released_ms == release
    for moment in moments:
        wait = throttle.wait_ms(CLOCK_MS + moment, 1)
        assert wait == max(release - CLOCK_MS - moment, 0)


@pytest.mark.parametrize(
    ("text", "status", "wait_s"),
    [
        ("7", 429, 7),
        (" 7 ", 418, 7),
        ("0", 429, 1),
        ("Wed, 15 Oct 2025 12:00:30 GMT", 429, 25),
        ("Wed, 15 Oct 2025 12:00:30 -0000", 429, 25),
        # To the next minute, and a second more.
        (None, 429, 56),
        ("", 429, 56),
        ("-5", 429, 56),
        ("soon", 429, 56),
        ("1.5", 429, 56),
        ("٣", 429, 56),
        ("9" * 40, 429, 56),
        ("Wed, 15 Oct 2015 12:00:30 GMT", 429, 56),
        ("Wed, 99 Oct 9999 12:00:30 GMT", 429, 56),
        (None, 418, 120),
        ("soon", 418, 120),
    ],
)
def test_every_form_of_retry_after_is_a_bounded_wait(text, status, wait_s):
    """Seconds and dates are obeyed; without a valid one the wait is to the end of the minute, for a ban two minutes."""
    throttle = Throttle(max_wait_ms=130_000)
    now_ms = CLOCK_MS + 5000

    assert throttle.stop(now_ms, status, text)
    assert throttle.released_ms - now_ms == wait_s * 1000


def test_patience_is_for_all_waits_until_a_success():
    """Waits add up; the same wait ordered by several answers counts once; a success resets the sum."""
    throttle = Throttle(max_wait_ms=100_000)
    now_ms = CLOCK_MS
    assert all(throttle.stop(now_ms, 429, "60") for _ in range(16))
    now_ms += 60_000
    assert throttle.stop(now_ms, 429, "40")
    now_ms += 40_000
    assert not throttle.stop(now_ms, 429, "1")
    assert throttle.waited_ms == 101_000

    throttle.count_answered(throttle.count_sent(now_ms, 2), 2, reported_weight=None, succeeded=True)
    assert throttle.stop(now_ms + 1000, 429, "100")


def test_an_answer_of_the_minute_before_counts_for_that_one():
    """A late answer does not hold up the new minute, but requests still in flight count in it."""
    throttle = Throttle(weight_limit=100)
    late_ms = CLOCK_MS + 50_000
    throttle.synchronise(late_ms)
    tokens = [throttle.count_sent(late_ms, 20) for _ in range(3)]
    new_ms = CLOCK_MS + MINUTE_MS + 2000
    throttle.wait_ms(new_ms, 2)
    throttle.count_answered(tokens[0], 20, reported_weight=70, succeeded=True)

    assert throttle.used_weight == 60
    assert throttle.peak_weight == 70
    assert throttle.wait_ms(new_ms, 10) == 0
    assert throttle.wait_ms(new_ms, 12) > 0


def test_a_budget_smaller_than_a_request_lets_one_at_a_time_go():
    """A single request is always allowed, as waiting would never help."""
    throttle = Throttle(weight_limit=10)
    now_ms = CLOCK_MS + 5000
    throttle.synchronise(now_ms)

    assert throttle.wait_ms(now_ms, 20) == 0
    throttle.count_sent(now_ms, 20)
    assert throttle.wait_ms(now_ms, 20) > 0
    assert throttle.wait_ms(now_ms, 1) > 0
