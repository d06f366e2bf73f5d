"""The simulated exchange's request weight: what a minute has cost, and who is sent away for how long.

A state machine that is told the time. Above the limit a request is refused with 429 until the minute is over; whoever
keeps asking then is banned with 418, for longer, as the real exchange does. Nobody is banned for a request that may
have been on its way before the 429 could be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MINUTE_S: Final = 60
BAN_S: Final = 120  # the shortest ban of the real exchange
GRACE_S: Final = 0.5  # how long a request may have been on its way when a 429 is answered


@dataclass(frozen=True, slots=True)
class Charge:
    """What the meter says to one request.

    Attributes:
        weight_used: What the present minute has cost, this request included.
        status: 200, 429 or 418.
        retry_after_s: Whole seconds until a request is welcome again; 0 for 200.
    """

    weight_used: int
    status: int = 200
    retry_after_s: int = 0


class Meter:
    """Counts the weight of one client.

    Args:
        limit: The most that a minute may cost.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._minute = -1
        self._used = 0
        self._refused_at_s = -math.inf
        self._closed_until_s = -math.inf
        self._banned = False

    def charge(self, weight: int, now_s: float) -> Charge:
        """Count a request of `weight`, sent at `now_s`, in seconds of which every 60th begins a minute."""
        minute = int(now_s // MINUTE_S)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += weight
        if now_s < self._closed_until_s:
            return self._refuse_again(now_s)
        self._banned = False
        if self._used <= self._limit:
            return Charge(self._used)
        self._refused_at_s = now_s
        self._closed_until_s = float((minute + 1) * MINUTE_S)
        return self._refuse(429, now_s)

    def _refuse_again(self, now_s: float) -> Charge:
        if not self._banned and now_s - self._refused_at_s <= GRACE_S:
            return self._refuse(429, now_s)
        if not self._banned:
            self._banned = True
            self._closed_until_s = max(now_s + BAN_S, self._closed_until_s + BAN_S)
        return self._refuse(418, now_s)

    def _refuse(self, status: int, now_s: float) -> Charge:
        return Charge(self._used, status, max(1, math.ceil(self._closed_until_s - now_s)))
