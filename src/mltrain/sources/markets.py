"""The two markets of the exchange, spot and USD-M futures: hosts, paths, intervals, request weights and limits.

Facts: https://developers.binance.com/docs/binance-spot-api-docs/rest-api and
https://developers.binance.com/docs/derivatives/usds-margined-futures/general-info
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SPOT: Final = "spot"
USDM: Final = "usdm"

#: Request weight of a page of USD-M candles: of fewer than so many rows, and the weight of such a page.
_USDM_PAGE_WEIGHTS: Final = ((100, 1), (500, 2), (1001, 5))
_USDM_LARGEST_WEIGHT: Final = 10


@dataclass(frozen=True, slots=True)
class Market:
    """A market of the exchange.

    Attributes:
        name: "spot" or "usdm".
        title: The market in messages.
        rest_url: Address of its public REST host.
        api: Path of its endpoints on that host, with slashes at both ends.
        archive_folder: Folder of its files in the archive, below `/data/`.
        page_candles: Number of candles that mltrain requests at once.
        max_page_candles: The most candles that one answer holds.
        weight_limit: Request weight allowed per minute, until exchangeInfo states the real limit.
        time_weight: Request weight of the time.
        info_weight: Request weight of exchangeInfo.
        info_by_symbol: Whether exchangeInfo can be requested of some symbols only.
        has_seconds: Whether there are candles of one second.
        has_funding: Whether positions pay funding.
    """

    name: str
    title: str
    rest_url: str
    api: str
    archive_folder: str
    page_candles: int
    max_page_candles: int
    weight_limit: int
    time_weight: int
    info_weight: int
    info_by_symbol: bool
    has_seconds: bool
    has_funding: bool

    def page_weight(self, limit: int) -> int:
        """Return the request weight of a page of at most `limit` candles.

        >>> [MARKETS["usdm"].page_weight(limit) for limit in (99, 499, 1000, 1500)], MARKETS["spot"].page_weight(1000)
        ([1, 2, 5, 10], 2)
        """
        if self.name == SPOT:
            return 2
        return next((weight for below, weight in _USDM_PAGE_WEIGHTS if limit < below), _USDM_LARGEST_WEIGHT)


MARKETS: Final[Mapping[str, Market]] = {
    SPOT: Market(
        SPOT,
        title="the spot market",
        rest_url="https://data-api.binance.vision",
        api="/api/v3/",
        archive_folder="spot",
        page_candles=1000,
        max_page_candles=1000,
        weight_limit=6000,
        time_weight=1,
        info_weight=20,
        info_by_symbol=True,
        has_seconds=True,
        has_funding=False,
    ),
    USDM: Market(
        USDM,
        title="the market of USD-M futures",
        rest_url="https://fapi.binance.com",
        api="/fapi/v1/",
        archive_folder="futures/um",
        # The most candles per weight: 90 days of 1m candles of three symbols take 1,560 of the 1,680 that are used in
        # a minute; pages of 1,500, which cost five times as much, take 2,600.
        page_candles=499,
        max_page_candles=1500,
        weight_limit=2400,
        time_weight=1,
        info_weight=1,
        info_by_symbol=False,
        has_seconds=False,
        has_funding=True,
    ),
}
