"""The page of `mltrain serve` in a browser: nothing is loaded or complained about, and everything is legible.

`MLTRAIN_TEST_PICTURES=DIR` saves a screenshot in every width and scheme.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

import mltrain as mt
from mltrain.killswitch.switch import halt
from mltrain.monitoring.ledger import LEDGER, Ledger, LedgerRow, format_at
from mltrain.times import format_ms
from support.small_model import END_MS

pytestmark = pytest.mark.browser
CHECKS = Path(__file__).with_name("check_page.js").read_text("utf-8")
WIDTHS = (400, 800, 1400)
MINUTE_MS = 60_000
BARS = 1_500


def ledger_rows():
    """Return answers for a market that does what they say."""
    rng = np.random.default_rng(1)
    p = rng.normal(0.5, 0.06, BARS).clip(0.2, 0.8)
    closes = 100 * np.exp(np.cumsum(np.where(rng.random(BARS) < p, 0.001, -0.001)))
    # The move of a bar is known at the close of the next one.
    for bar, (probability, close) in enumerate(zip(p, np.append(100.0, closes[:-1]), strict=True)):
        ts_ms = END_MS + bar * MINUTE_MS
        refused = "stale" if bar % 100 == BARS % 100 - 2 else None
        number = None if refused else float(probability)
        yield LedgerRow(
            at=format_at(ts_ms + MINUTE_MS + 250), ts=format_ms(ts_ms), symbol="BTCUSDT", version="2025-10-15",
            code_sha256="c" * 64, p=number, raw=number, refused=refused, permit=None, high=close, low=close,
            close=float(close), source_at=None, latency_ms=1.0,
        )  # fmt: skip


@pytest.fixture(scope="module")
def service(chrome, live_dir, candles, tmp_path_factory):  # noqa: ARG001 (skips without a browser)
    folder = tmp_path_factory.mktemp("page") / "data"
    shutil.copytree(live_dir, folder, symlinks=True)
    with Ledger(folder / LEDGER) as ledger:
        ledger.append(list(ledger_rows()))
    sent = {s: f.tail(40).with_columns(ts=f.tail(40)["ts"].dt.timestamp("ms")).to_dicts() for s, f in candles.items()}
    with mt.serve(bind="127.0.0.1:0", data_dir=folder, clock=lambda: END_MS / 1000 + 30) as running:
        httpx.post(f"{running.url}/v1/predict", json={"candles": sent}, trust_env=False).raise_for_status()
        yield running.url, folder


def look(chrome, url, name, dark, width):
    chrome.open(f"{url}/", width=width, dark=dark)
    if folder := os.environ.get("MLTRAIN_TEST_PICTURES"):
        chrome.picture(Path(folder) / f"dashboard-{name}-{width}-{'dark' if dark else 'light'}.png")
    assert chrome.requested() == [f"{url}/"]
    assert chrome.complaints() == []
    return chrome.run(CHECKS)


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_legible_at_every_width(chrome, service, dark):
    """Its own style is applied under its policy, contrast is 4.5:1 or more, and the console is empty."""
    url, _ = service
    for width in WIDTHS:
        found = look(chrome, url, "serving", dark, width)
        assert found["wrong"] == [], width
        assert found["figures"] == 1
        assert found["texts"] > 100
        assert found["least"] >= 4.5
    assert chrome.run("getComputedStyle(document.querySelector('.verdict')).borderRadius") == "10px"


def test_a_halt_is_legible(chrome, service):
    """In both schemes, at both ends of the widths."""
    url, folder = service
    halt(folder / "models", why="the spread is ten times the usual one", by="ada@desk", now_ms=END_MS)
    for dark in (False, True):
        for width in WIDTHS[::2]:
            found = look(chrome, url, "halted", dark, width)
            assert found["wrong"] == []
            assert found["least"] >= 4.5
    assert chrome.run("document.querySelector('.word').textContent") == "Halted"


def test_the_page_is_read_again_as_often_as_its_address_says(chrome, service):
    """Without a script."""
    url, _ = service
    chrome.open(f"{url}/?refresh=2")
    while len(chrome.requested()) < 2:
        # An answer brings the events before it; the page itself may be gone.
        chrome.send("Target.getTargets")

    assert set(chrome.requested()) == {f"{url}/?refresh=2"}
    assert chrome.complaints() == []
