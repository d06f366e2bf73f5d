"""Laws of the throttle, which is told the time and never waits itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import MINUTE_MS
from mltrain.candles.sim import CLOCK_MS
from mltrain.candles.throttle import WEIGHT_SHARE, Throttle

steps = st.lists(
    st.tuples(
        st.integers(0, 20_000),  # ms that pass
        st.sampled_from([1, 2, 20]),  # weight of the request
        st.integers(0, 5),  # requests that are answered now
        st.integers(0, 30),  # weight that others use meanwhile
    ),
    max_size=120,
)


@given(steps, st.integers(40, 400), st.integers(0, MINUTE_MS - 1))
def test_no_minute_of_the_exchange_passes_the_share(steps, limit, offset_ms):
    """Whatever is sent, answered and used by others known of: what we send into a minute keeps 70 % of the limit."""
    throttle = Throttle(weight_limit=limit)
    now_ms, sent, in_flight = CLOCK_MS + offset_ms, {}, []
    throttle.synchronise(now_ms)
    for passed_ms, weight, answered, _ in steps:
        now_ms += passed_ms
        if throttle.wait_ms(now_ms, weight) == 0:
            minute = now_ms // MINUTE_MS
            alone = sent.get(minute, 0) == 0
            in_flight.append((throttle.sent(now_ms, weight), weight, minute))
            sent[minute] = sent.get(minute, 0) + weight
            assert alone or sent[minute] <= limit * WEIGHT_SHARE
        for _ in range(min(answered, len(in_flight))):
            token, of_it, minute = in_flight.pop(0)
            throttle.answered(token, of_it, used=sent[minute], succeeded=True)

    assert throttle.peak_weight <= max(limit * WEIGHT_SHARE, 20)


@given(st.integers(0, 10**6), st.integers(1, 50), st.sampled_from([1, 2, 20]))
def test_what_others_use_counts_too(used, limit, weight):
    """When the exchange says that the minute is used up, nothing goes out before the next; then something does."""
    throttle = Throttle(weight_limit=limit)
    now_ms = CLOCK_MS + 5000
    throttle.synchronise(now_ms)
    token = throttle.sent(now_ms, 1)
    throttle.answered(token, 1, used=used, succeeded=True)
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
def test_nothing_goes_while_a_wait_is_ordered(seconds, status, moments):
    """Not a request of any weight, until the very millisecond."""
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
        (None, 429, 56),  # to the next minute, and a second more
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
    """Seconds and dates are obeyed; without a usable one the minute is waited out, a ban two minutes."""
    throttle = Throttle(max_wait_ms=130_000)
    now_ms = CLOCK_MS + 5000

    assert throttle.stop(now_ms, status, text)
    assert throttle.released_ms - now_ms == wait_s * 1000


def test_patience_is_for_all_waits_until_a_success():
    """Waits add up; the same wait told by many counts once; a success makes the patience new."""
    throttle = Throttle(max_wait_ms=100_000)
    now_ms = CLOCK_MS
    assert all(throttle.stop(now_ms, 429, "60") for _ in range(16))
    now_ms += 60_000
    assert throttle.stop(now_ms, 429, "40")
    now_ms += 40_000
    assert not throttle.stop(now_ms, 429, "1")
    assert throttle.waited_ms == 101_000

    throttle.answered(throttle.sent(now_ms, 2), 2, used=None, succeeded=True)
    assert throttle.stop(now_ms + 1000, 429, "100")


def test_an_answer_of_the_minute_before_tells_of_that_one():
    """A late one does not hold up the new minute; but what is still on its way counts in it."""
    throttle = Throttle(weight_limit=100)
    late_ms = CLOCK_MS + 50_000
    throttle.synchronise(late_ms)
    tokens = [throttle.sent(late_ms, 20) for _ in range(3)]
    new_ms = CLOCK_MS + MINUTE_MS + 2000
    throttle.wait_ms(new_ms, 2)
    throttle.answered(tokens[0], 20, used=70, succeeded=True)

    assert throttle.used == 60
    assert throttle.peak_weight == 70
    assert throttle.wait_ms(new_ms, 10) == 0
    assert throttle.wait_ms(new_ms, 12) > 0


def test_a_budget_smaller_than_a_request_lets_one_at_a_time_go():
    """One alone may always go: waiting would never help it."""
    throttle = Throttle(weight_limit=10)
    now_ms = CLOCK_MS + 5000
    throttle.synchronise(now_ms)

    assert throttle.wait_ms(now_ms, 20) == 0
    throttle.sent(now_ms, 20)
    assert throttle.wait_ms(now_ms, 20) > 0
    assert throttle.wait_ms(now_ms, 1) > 0
