"""The pages in a browser: no requests, no errors, and everything is visible and legible.

`MLTRAIN_TEST_PICTURES=DIR` saves a screenshot of every page in every width and scheme. `MLTRAIN_AXE` names an
`axe.min.js`, with whose rules the pages are checked (docs/report.md has the command). `MLTRAIN_TEST_REPORT` names a
report that replaces the one of real candles.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.program import QUICK, call

pytestmark = pytest.mark.browser
CHECKS = Path(__file__).with_name("check_page.js").read_text("utf-8")
WIDTHS = (400, 800, 1400)
PAGES = ("report", "real", "models", "diff", "backtest")
SERIOUS = ("serious", "critical")
REGISTRY = """
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: volatility_30, op: realised_volatility, params: {bars: 30}}
  - {name: rsi_7, op: rsi, params: {bars: 7}}
"""


@pytest.fixture(scope="session")
def pages(chrome, trained_dir, tmp_path_factory):  # noqa: ARG001 (skips without a browser)
    """Return the folder of the pages of a simulated training, and of a backtest in sample with a grid."""
    folder = tmp_path_factory.mktemp("pages")
    # A backtest logs its look in the data folder, which other tests share.
    shutil.copytree(trained_dir, folder / "traded", symlinks=True)
    (folder / "grid.yml").write_text("policy: [threshold, hysteresis]\nenter: [0.51, 0.55, 0.6]\n")
    done = call(
        *("backtest", "best", "--in-sample", "--policy", "hysteresis", "--grid", folder / "grid.yml"),
        *("--market", "perp", "--funding", "1"),
        data_dir=folder / "traded",
    )
    assert done.code == 0, done.err
    (report,) = (folder / "traded" / "backtests").glob("*/report.html")
    report.rename(folder / "backtest.html")
    for words in (
        ["card", "report", "--output", folder / "report.html"],
        ["models", "--html", "--output", folder / "models.html"],
        ["card", "diff", "best", "latest", "--html", "--output", folder / "diff.html"],
    ):
        done = call(*words, data_dir=trained_dir)
        assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def real(pages, real_data):
    """Return the path of the report of a training on real candles."""
    named = os.environ.get("MLTRAIN_TEST_REPORT")
    if named:
        return Path(named)
    (pages / "few.yml").write_text(REGISTRY)
    for words in (
        ["snapshot", "--source", "files", "--from", real_data / "spot_1m", "--symbols", "BTCUSDT", "--days", "4"],
        ["train", "--trials", "6", "--workers", "1", "--config", QUICK, "--features", pages / "few.yml"],
        ["card", "report", "latest", "--output", pages / "real.html"],
    ):
        done = call(*words, data_dir=pages / "data")
        assert done.code in {0, 4}, done.err
    return pages / "real.html"


@pytest.fixture
def page(request, pages):
    name = request.param
    return request.getfixturevalue("real") if name == "real" else pages / f"{name}.html"


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_a_page_is_legible_at_every_width(chrome, page):
    """At 400, 800 and 1400 px, light and dark, figures are visible, contrast is 4.5:1 or more, headings in order."""
    for dark in (False, True):
        for width in WIDTHS:
            chrome.open(page, width=width, dark=dark)
            found = chrome.run(CHECKS)

            assert found["wrong"] == [], (width, dark)
            assert found["figures"] >= 5
            assert found["texts"] > 30
            assert found["least"] >= 4.5
            if folder := os.environ.get("MLTRAIN_TEST_PICTURES"):
                chrome.open(page, width=width, dark=dark)
                chrome.picture(Path(folder) / f"{page.stem}-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_a_page_requests_nothing_and_the_console_is_empty(chrome, page):
    """The browser reads only the file itself, and logs no message."""
    chrome.open(page)
    chrome.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    assert chrome.requested() == [page.resolve().as_uri()]
    assert chrome.complaints() == []


def test_the_checks_find_faults(chrome, tmp_path):
    """A failing script, an image from another host, low contrast and a wide figure are all found."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><html lang=en><body style='background:#fff'><h1>a</h1><h3>b</h3><p style='color:#aaa'>pale</p>"
        "<img src='http://127.0.0.1:9/x.png' alt=x><svg role=img aria-labelledby=q width=3000 height=50></svg>"
        "<script>console.error('no'); throw new Error('x')</script></body></html>"
    )
    chrome.open(bad, width=400)
    wrong = " / ".join(chrome.run(CHECKS)["wrong"])

    assert "http://127.0.0.1:9/x.png" in chrome.requested()
    assert len(chrome.complaints()) >= 2
    assert all(fault in wrong for fault in ("wider than the window", "outside of the window", "contrast 2.3", "H3 b"))


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_axe_finds_nothing_serious(chrome, page):
    """The rules of axe-core find nothing serious or critical, light and dark."""
    named = os.environ.get("MLTRAIN_AXE")
    if named is None:
        pytest.skip("no axe-core: set MLTRAIN_AXE to an axe.min.js")
    for dark in (False, True):
        chrome.open(page, dark=dark)
        chrome.run("document.querySelectorAll('details').forEach((element) => (element.open = true))")
        chrome.run(Path(named).read_text("utf-8"))
        found = chrome.run("axe.run().then((r) => r.violations.map((v) => [v.impact, v.id, v.nodes[0].html]))")

        assert [v for v in found if v[0] in SERIOUS] == []
