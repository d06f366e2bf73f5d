"""The request weight of the simulated exchange: counts each minute, and refuses or bans a client above the limit.

A state machine; the caller passes the time. Above the limit, requests are refused with 429 until the minute is over. A
client that goes on is banned with 418, for longer, as by the real exchange, but not for a request that it may have sent
before it could read the 429.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MINUTE_S: Final = 60
# The shortest ban of the real exchange.
BAN_S: Final = 120
# How long after a 429 a request may arrive that was sent before it.
GRACE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Charge:
    """The decision on one request.

    Attributes:
        weight_used: Weight used in the present minute, this request included.
        status: 200, 429 or 418.
        retry_after_s: Whole seconds until requests are allowed again; 0 for 200.
    """

    weight_used: int
    status: int = 200
    retry_after_s: int = 0


class WeightMeter:
    """Counts the weight of one client.

    Args:
        limit: Weight allowed per window.
        window_s: Length of the windows, which begin at multiples of it.
    """

    def __init__(self, limit: int, *, window_s: int = MINUTE_S) -> None:
        self._limit = limit
        self._window_s = window_s
        self._minute = -1
        self._used = 0
        self._refused_at_s = -math.inf
        self._closed_until_s = -math.inf
        self._banned = False

    def charge(self, weight: int, now_s: float) -> Charge:
        """Count a request of some weight at `now_s`, in seconds; windows start at multiples of their length."""
        minute = int(now_s // self._window_s)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += weight
        if now_s < self._closed_until_s:
            if not self._banned and now_s - self._refused_at_s > GRACE_S:
                self._banned = True
                self._closed_until_s = max(now_s + BAN_S, self._closed_until_s + BAN_S)
            return self._refuse(418 if self._banned else 429, now_s)
        self._banned = False
        if self._used <= self._limit:
            return Charge(self._used)
        self._refused_at_s = now_s
        self._closed_until_s = float((minute + 1) * self._window_s)
        return self._refuse(429, now_s)

    @property
    def used(self) -> int:
        """Weight used in the window of the last request."""
        return self._used

    def _refuse(self, status: int, now_s: float) -> Charge:
        """Return a refusal with the seconds from `now_s` until requests are allowed again."""
        return Charge(self._used, status, max(1, math.ceil(self._closed_until_s - now_s)))
