"""How fast an exchange may be asked: the weight budget of each minute, and the waits that it orders.

Pure: a state machine that is told the time (the exchange's, in ms) and decides; it never sleeps and asks nobody. All
workers of a download share one, so that a wait ordered to one stops every one of them.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from mltrain.times import MINUTE_MS

WEIGHT_SHARE: Final = 0.70  # of the limit: what others behind the same address may need is left to them
DEFAULT_WEIGHT_LIMIT: Final = 6000  # a minute, of Binance's spot market; exchangeInfo tells the real one

# The exchange's minute may begin a little later than ours, or earlier, as its time was old when it came.
_MARGIN_MS: Final = 1000
_BANNED_MS: Final = 120_000  # the shortest ban that Binance documents; for a 418 without a usable Retry-After
_SHORTEST_MS: Final = 1000  # an order to wait for no time, again and again, would never end
_BANNED: Final = 418
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class Throttle:
    """Decides when the next request may go.

    Attributes:
        peak_weight: The most that the exchange said was used in a minute, 0 where it never said.
        waited_ms: How long it was told to wait, all in all.

    Args:
        weight_limit: What the exchange allows a minute.
        max_wait_ms: How long an ordered wait may be, together with those before it since the last success.
    """

    def __init__(self, *, weight_limit: int = DEFAULT_WEIGHT_LIMIT, max_wait_ms: int = 120_000) -> None:
        self.peak_weight = 0
        self.waited_ms = 0
        self.weight_limit = weight_limit
        self._max_wait_ms = max_wait_ms
        self._minute = 0
        self._used = 0  # in this minute, sent and not yet answered ones included
        self._in_flight = 0
        self._early = 0  # sent in the margin: ours count the old minute, the exchange perhaps the new one
        self._released_ms = 0
        self._patience_ms = max_wait_ms

    def wait_ms(self, now_ms: int, weight: int) -> int:
        """Return how long a request of that weight must wait before it asks again; 0: it may go now."""
        if now_ms < self._released_ms:
            return self._released_ms - now_ms
        self._turn_minute(now_ms)
        # A budget smaller than one request would wait for ever: one alone may always go.
        if self._used == 0 or self._used + weight <= self.weight_limit * WEIGHT_SHARE:
            return 0
        return (self._minute + 1) * MINUTE_MS + _MARGIN_MS - now_ms

    def sent(self, now_ms: int, weight: int) -> int:
        """Count a request that goes out now; return the minute to hand back to `answered`."""
        self._turn_minute(now_ms)
        self._used += weight
        self._in_flight += weight
        if _is_near_turn(now_ms):
            self._early += weight
        return self._minute

    def answered(self, minute: int, weight: int, *, used: int | None, succeeded: bool) -> None:
        """Take a request off the list of those on their way.

        Args:
            minute: What `sent` returned.
            weight: Its weight.
            used: What the answer says is used of this minute; None where it says nothing, or none came.
            succeeded: Whether the exchange did what it was asked: its patience is then as new.
        """
        self._in_flight -= weight
        if succeeded:
            self._patience_ms = self._max_wait_ms
        if used is not None and used >= 0:
            self.peak_weight = max(self.peak_weight, used)
            if minute == self._minute:  # an answer from the minute before tells of that one
                self._used = max(self._used, used + self._in_flight)

    def stop(self, now_ms: int, status: int, retry_after: str | None) -> bool:
        """Obey an answer 429 or 418: nothing more goes out before its time.

        Args:
            now_ms: The exchange's time.
            status: 429 (too many requests) or 418 (banned).
            retry_after: The header as it came; None where there is none.

        Returns:
            Whether that is within the patience; `released_ms` tells when the exchange would answer again.
        """
        wait = _parse_retry_after(retry_after, now_ms)
        if wait is None:
            wait = _BANNED_MS if status == _BANNED else MINUTE_MS - now_ms % MINUTE_MS + _MARGIN_MS
        release = now_ms + max(wait, _SHORTEST_MS)
        longer = release - max(now_ms, self._released_ms)
        if longer > 0:
            self._released_ms = release
            self._patience_ms -= longer
            self.waited_ms += longer
        return self._patience_ms >= 0

    def synchronise(self, now_ms: int, *, shift_ms: int = 0) -> None:
        """Take the time that the exchange has told for the present one; what was sent so far counts in this minute.

        Args:
            now_ms: The exchange's time.
            shift_ms: How far that is ahead of what it was taken for; an ordered wait stays as long as it was.
        """
        self._released_ms += shift_ms
        self._minute = (now_ms - _MARGIN_MS) // MINUTE_MS
        self._early = self._used if _is_near_turn(now_ms) else 0

    @property
    def released_ms(self) -> int:
        """When the exchange answers again, its time in ms; in the past where nothing is forbidden."""
        return self._released_ms

    @property
    def used(self) -> int:
        """The weight used of the present minute, as far as known."""
        return self._used

    def _turn_minute(self, now_ms: int) -> None:
        minute = (now_ms - _MARGIN_MS) // MINUTE_MS
        if minute > self._minute:
            self._minute = minute
            self._used = self._in_flight + self._early
            self._early = 0


def _is_near_turn(now_ms: int) -> bool:
    return (now_ms + _MARGIN_MS) % MINUTE_MS < 2 * _MARGIN_MS


def _parse_retry_after(text: str | None, now_ms: int) -> int | None:
    """Return how long to wait in ms, from seconds or an HTTP date (RFC 9110, 10.2.3); None where it says nothing.

    >>> [_parse_retry_after(text, 2000) for text in ("3", "Thu, 01 Jan 1970 00:00:05 GMT", "-1")]
    [3000, 3000, None]
    """
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    release = parse_http_date(text)
    return release - now_ms if release is not None and release > now_ms else None


def parse_http_date(text: str) -> int | None:
    """Return an HTTP date in ms UTC, which is its zone where it names none, too; None where it is no date.

    >>> parse_http_date("Thu, 01 Jan 1970 00:00:05 GMT"), parse_http_date("Thu, 01 Jan 1970 00:00:05 -0000")
    (5000, 5000)
    """
    try:
        moment = parsedate_to_datetime(text)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
