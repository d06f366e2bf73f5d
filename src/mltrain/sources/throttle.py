"""The request rate that an exchange allows: the weight budget of each minute, and the waits that it orders.

A state machine; the caller passes the exchange's time, in ms, and does the waiting. All workers of a download share one
throttle, so that a wait ordered to one of them stops all.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from mltrain.times import MINUTE_MS

# Share of the limit that is used; the rest is left to others behind the same address.
WEIGHT_SHARE: Final = 0.70
# Weight per minute of Binance's spot market, until exchangeInfo states the real limit.
DEFAULT_WEIGHT_LIMIT: Final = 6000

# The exchange's minute may begin a little later or earlier than ours, as its time was old when it arrived.
_MARGIN_MS: Final = 1000
# The shortest ban that Binance documents; for a 418 without a usable Retry-After.
_BANNED_MS: Final = 120_000
# Repeated orders to wait for no time would never end.
_SHORTEST_MS: Final = 1000
_BANNED: Final = 418
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class Throttle:
    """Decides when the next request may go.

    Attributes:
        weight_limit: Weight that the exchange allows per window, a minute unless said otherwise.
        used_weight: Weight used in the present window, requests in flight included, as far as known.
        peak_weight: Highest weight that the exchange reported for a minute; 0 without a report.
        released_ms: When the exchange answers again, by its clock, ms UTC; in the past if no wait is ordered.
        waited_ms: Total of the ordered waits.

    Args:
        weight_limit: Initial value of the attribute.
        max_wait_ms: Limit of the ordered waits since the last success, in total.
        window_ms: Length of the windows that the weight is counted in; they begin at multiples of it.
        counts_reports: Whether the weights that the answers report are those of these requests.
    """

    def __init__(
        self,
        *,
        weight_limit: int = DEFAULT_WEIGHT_LIMIT,
        max_wait_ms: int = 120_000,
        window_ms: int = MINUTE_MS,
        counts_reports: bool = True,
    ) -> None:
        self.weight_limit = weight_limit
        self.used_weight = 0
        self.peak_weight = 0
        self.released_ms = 0
        self.waited_ms = 0
        self._max_wait_ms = max_wait_ms
        self._wait_left_ms = max_wait_ms
        self._window_ms = window_ms
        self._counts_reports = counts_reports
        # Windows since 1970.
        self._minute = 0
        self._in_flight_weight = 0
        # Weight sent near the turn of the minute, which the exchange may count in the new minute.
        self._early_weight = 0

    def wait_ms(self, now_ms: int, weight: int) -> int:
        """Return how long a request of that weight must wait before it calls this again, in ms; 0: it may be sent."""
        if now_ms < self.released_ms:
            return self.released_ms - now_ms
        self._turn_minute(now_ms)
        # With a budget smaller than one request, no request could ever start: a single one is always allowed.
        if self.used_weight == 0 or self.used_weight + weight <= self.weight_limit * WEIGHT_SHARE:
            return 0
        return (self._minute + 1) * self._window_ms + _MARGIN_MS - now_ms

    def count_sent(self, now_ms: int, weight: int) -> int:
        """Count a request that is sent now, ms UTC; return the minute to pass to `count_answered`."""
        self._turn_minute(now_ms)
        self.used_weight += weight
        self._in_flight_weight += weight
        if self._is_near_turn(now_ms):
            self._early_weight += weight
        return self._minute

    def count_answered(self, minute: int, weight: int, *, reported_weight: int | None, succeeded: bool) -> None:
        """Count a request as no longer in flight.

        Args:
            minute: What `count_sent` returned.
            weight: Weight of the request.
            reported_weight: Weight used in its minute according to the answer; None without that header or answer.
            succeeded: Whether the request succeeded, which resets the limit of ordered waits.
        """
        self._in_flight_weight -= weight
        if succeeded:
            self._wait_left_ms = self._max_wait_ms
        if self._counts_reports and reported_weight is not None and reported_weight >= 0:
            self.peak_weight = max(self.peak_weight, reported_weight)
            # An answer to a request of the minute before reports that minute.
            if minute == self._minute:
                self.used_weight = max(self.used_weight, reported_weight + self._in_flight_weight)

    def stop(self, now_ms: int, status: int, retry_after: str | None) -> bool:
        """Stop all requests after an answer 429 or 418.

        Args:
            now_ms: The exchange's time, ms UTC.
            status: 429 (too many requests) or 418 (banned).
            retry_after: The header as received; None without it.

        Returns:
            Whether the ordered waits stay within their limit; `released_ms` is when the exchange answers again.
        """
        wait_ms = _parse_retry_after(retry_after, now_ms)
        if wait_ms is None:
            wait_ms = _BANNED_MS if status == _BANNED else self._window_ms - now_ms % self._window_ms + _MARGIN_MS
        released_ms = now_ms + max(wait_ms, _SHORTEST_MS)
        added_ms = released_ms - max(now_ms, self.released_ms)
        if added_ms > 0:
            self.released_ms = released_ms
            self._wait_left_ms -= added_ms
            self.waited_ms += added_ms
        return self._wait_left_ms >= 0

    def synchronise(self, now_ms: int, *, shift_ms: int = 0) -> None:
        """Set the exchange's time; the weight used so far counts in its present minute.

        Args:
            now_ms: The exchange's time, ms UTC.
            shift_ms: How far it is ahead of the time assumed before; ordered waits keep their length.
        """
        self.released_ms += shift_ms
        self._minute = (now_ms - _MARGIN_MS) // self._window_ms
        self._early_weight = self.used_weight if self._is_near_turn(now_ms) else 0

    def _turn_minute(self, now_ms: int) -> None:
        """Begin to count a new window if `now_ms`, ms UTC, is in one."""
        minute = (now_ms - _MARGIN_MS) // self._window_ms
        if minute > self._minute:
            self._minute = minute
            self.used_weight = self._in_flight_weight + self._early_weight
            self._early_weight = 0

    def _is_near_turn(self, now_ms: int) -> bool:
        """Return whether a window begins within `_MARGIN_MS` before or after a time, ms UTC."""
        return (now_ms + _MARGIN_MS) % self._window_ms < 2 * _MARGIN_MS


def _parse_retry_after(text: str | None, now_ms: int) -> int | None:
    """Return the wait in ms from seconds or an HTTP date (RFC 9110, 10.2.3); None for anything else.

    >>> [_parse_retry_after(text, 2000) for text in ("3", "Thu, 01 Jan 1970 00:00:05 GMT", "-1")]
    [3000, 3000, None]
    """
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    released_ms = parse_http_date(text)
    return released_ms - now_ms if released_ms is not None and released_ms > now_ms else None


def parse_http_date(text: str) -> int | None:
    """Parse an HTTP date, in UTC unless it names another zone, to ms UTC; None for anything else.

    >>> parse_http_date("Thu, 01 Jan 1970 00:00:05 GMT"), parse_http_date("Thu, 01 Jan 1970 00:00:05 -0000")
    (5000, 5000)
    """
    try:
        moment = parsedate_to_datetime(text)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
