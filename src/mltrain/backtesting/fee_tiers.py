"""Fees of exchanges, from the packaged fees.yml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from mltrain.backtesting.costs import Market
from mltrain.config.loading import MAX_FILE_BYTES, packaged_config
from mltrain.documents.records import Limits, read_record, record
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show
from mltrain.storage.reading import read_file

FILE: Final = "fees.yml"


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
    if name not in tiers:
        raise UsageError(f"there are no packaged fees {show(name)}", hint=did_you_mean(name, tiers))
    return tiers[name]
