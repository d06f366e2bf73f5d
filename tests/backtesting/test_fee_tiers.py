"""Packaged fees: every one is complete, dated and sourced."""

from __future__ import annotations

from datetime import date

import pytest

from mltrain.backtesting.fee_tiers import USUAL_FEES, find_fee_tier, read_fee_tiers
from mltrain.errors import UsageError

TIERS = read_fee_tiers()


@pytest.mark.parametrize("name", TIERS)
def test_every_tier_is_plausible(name):
    """A regular account pays at least as much for taking as for making, and less than 1 %."""
    tier = TIERS[name]

    assert 0 <= tier.maker_bps <= tier.taker_bps < 100
    assert tier.taker_bps > 0
    assert date(2024, 1, 1) < date.fromisoformat(tier.as_of) < date(2030, 1, 1)
    assert tier.source.startswith("https://")
    assert tier.exchange
    assert f"{tier.taker_bps:g}" in str(tier)
    assert tier.as_of in str(tier)


def test_the_usual_fees_exist():
    """Those that a snapshot without a known exchange gets, one of each market."""
    assert {market: find_fee_tier(name).market for market, name in USUAL_FEES.items()} == {
        "spot": "spot",
        "perp": "perp",
    }


@pytest.mark.parametrize("name", ["binanse", "Binance", "", "binance "])
def test_an_unknown_name_is_refused(name):
    """With a similar one, if there is one."""
    with pytest.raises(UsageError, match="no packaged fees") as caught:
        find_fee_tier(name)

    assert name != "binanse" or "binance" in caught.value.hint
