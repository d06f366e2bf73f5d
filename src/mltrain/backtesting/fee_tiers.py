"""Fees of exchanges, from the packaged fees.yml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, get_args

from mltrain.backtesting.costs import Market
from mltrain.config.loading import MAX_FILE_BYTES, packaged_config
from mltrain.documents.records import Limits, read_record, record
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show
from mltrain.sources.markets import USDM
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from mltrain.sources.source_spec import SourceSpec

FILE: Final = "fees.yml"
#: Fees for candles whose exchange is not known.
USUAL_FEES: Final[Mapping[Market, str]] = {"spot": "binance", "perp": "binance-usdm"}


@record
@dataclass(frozen=True, slots=True)
class FeeTier:
    """The fees of an exchange's regular tier.

    Attributes:
        exchange: Name of the exchange.
        market: "spot" or "perp".
        maker_bps: Fee of a limit order, in bps of its value.
        taker_bps: Fee of an order that takes the price, in bps of its value.
        as_of: The day on which they were looked up, such as "2026-01-01".
        source: Where they are published.
    """

    exchange: str
    market: Market
    maker_bps: Annotated[float, Limits(0, 10_000)]
    taker_bps: Annotated[float, Limits(0, 10_000)]
    as_of: str
    source: str

    def __str__(self) -> str:
        return (
            f"{self.exchange}, regular tier as of {self.as_of}: maker {self.maker_bps:g}, taker {self.taker_bps:g} bps"
        )


@record
@dataclass(frozen=True, slots=True)
class _FeeFile:
    """The content of fees.yml."""

    format: Annotated[int, Limits(1, 1)]
    fees: Mapping[str, FeeTier]


def read_fee_tiers() -> dict[str, FeeTier]:
    """Return the packaged fee tiers by name."""
    path = packaged_config(FILE)
    data = read_file(path, max_bytes=MAX_FILE_BYTES, what="fees")
    return dict(read_record(parse_yaml(data, where=str(path)), _FeeFile).fees)


def usual_fee_tier(exchange: str, market: Market) -> FeeTier | None:
    """Return the packaged fees of an exchange, by its lower-case name such as "kraken"; None if there are none."""
    tiers = read_fee_tiers()
    return next((t for name, t in tiers.items() if name.split("-")[0] == exchange and t.market == market), None)


def find_fee_tier(name: str) -> FeeTier:
    """Return the packaged fee tier of that name; raise a UsageError that suggests similar ones if there is none."""
    tiers = read_fee_tiers()
    if not isinstance(name, str) or name not in tiers:
        raise UsageError(f"there are no packaged fees {show(name)}", hint=did_you_mean(name, tiers))
    return tiers[name]


def choose_fee_tier(source: SourceSpec, *, fees: str | None, market: Market | None) -> tuple[FeeTier, bool]:
    """Return the fee tier for candles of a source, and whether it is that of their exchange or was named.

    Args:
        source: Where the candles are from.
        fees: Name of a packaged tier; None: that of the source's exchange or, if it is not known, the usual one.
        market: The market that is traded; None: that of `fees`, or else of the source.

    Raises:
        UsageError: There is no such tier or market, or the tier is of the other market.
    """
    if market is not None and market not in get_args(Market):
        raise UsageError(f"market is {show(str(market))}: expected one of {', '.join(get_args(Market))}")
    if fees is not None:
        tier = find_fee_tier(fees)
        if market not in {None, tier.market}:
            raise UsageError(f"the fees {fees} are those of a {tier.market} market, not of --market {market}")
        return tier, True
    chosen: Market = market or ("perp" if source.market == USDM else "spot")
    # The exchange of files and of the simulated market is not known.
    known = usual_fee_tier(source.exchange or ("binance" if source.uses_network else ""), chosen)
    return known or find_fee_tier(USUAL_FEES[chosen]), known is not None
