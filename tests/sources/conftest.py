"""Fixtures of the tests of sources."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture
def _no_pauses_of_ccxt(monkeypatch):
    """Let ccxt send its requests at once."""
    from ccxt.async_support.base.throttler import Throttler

    def pass_at_once(_self, _cost=None):
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    monkeypatch.setattr(Throttler, "__call__", pass_at_once)
