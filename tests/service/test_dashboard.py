"""Laws of the page for people: it shows the state, to a browser on this machine only, and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil

import httpx
import numpy as np
import pytest

import mltrain as mt
from mltrain.killswitch.switch import halt, resume
from mltrain.monitoring.ledger import LEDGER, Ledger, LedgerRow, format_at
from mltrain.report.svg import Figure, Missing
from mltrain.report.texts import DASH
from mltrain.service.dashboard import LiveCalibration
from mltrain.service.scoring import Scoring
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import format_ms
from support.pages import HOSTILE, Page
from support.service import clock
from support.small_model import END_MS

CODE = "c" * 64
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory, live_dir, bundle, card):
    """Return a data folder with a live version, one that is NO-GO and has a report, and a damaged one."""
    copy = tmp_path_factory.mktemp("dashboard") / "data"
    shutil.copytree(live_dir, copy, symlinks=True)
    files = {"lgbm.pkl": bundle.to_bytes(), "model_card.json": card, "report.html": b"<html>the report</html>"}
    publish_version(Store(copy), files, verdict="NO-GO", date="2025-10-15", now_ms=END_MS)
    (copy / "models" / "2025-10-16").mkdir()
    return copy


@pytest.fixture(scope="module")
def client(folder):
    with (
        mt.serve(bind="127.0.0.1:0", data_dir=folder, clock=clock) as running,
        httpx.Client(base_url=running.url, trust_env=False) as opened,
    ):
        yield opened


def read_page(client, path="/"):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.content)


def make_row(bar, p, close, **changes):
    """Return a row of the ledger for a candle, `bar` minutes after the version was trained."""
    ts_ms = END_MS + bar * MINUTE_MS
    options = {"refused": None, "permit": None, "version": "2025-10-15", "symbol": "BTCUSDT"} | changes
    return LedgerRow(
        at=format_at(ts_ms + MINUTE_MS + 250), ts=format_ms(ts_ms), code_sha256=CODE, p=p, raw=p,
        high=close, low=close, close=close, source_at=None, latency_ms=1.0, **options,
    )  # fmt: skip


def test_the_page_shows_what_is_served(client, candles):
    """Version, verdicts, the newest answers and links to reports are there."""
    assert "No symbol was answered yet." in read_page(client).text
    rows = {
        symbol: frame.tail(40).with_columns(ts=frame.tail(40)["ts"].dt.timestamp("ms")).to_dicts()
        for symbol, frame in candles.items()
    }
    answer = client.post("/v1/predict", json={"candles": {**rows, "XRPUSDT": rows["BTCUSDT"]}}).json()
    replay = {**{s: r[:-9] for s, r in rows.items()}}
    client.post("/v1/predict", json={"candles": replay, "now_ms": END_MS - 9 * MINUTE_MS})
    page = read_page(client)

    assert "Serving Every symbol is answered." in page.text
    for row in answer["rows"][:2]:
        assert f"{row['symbol']} 2025-10-15 11:59:00 {row['p']:.4f} {row['raw']:.4f}" in page.text
    assert "XRPUSDT" not in page.text
    assert "2025-10-15 live lgbm GO" in page.text
    assert "2025-10-15.2 lgbm NO-GO" in page.text
    assert "There is no ledger in this data folder." in page.text
    assert "0 answers have an outcome" in page.text
    assert [a["href"] for a in page.all("a") if a["href"].startswith("/reports")] == ["/reports/2025-10-15.2"]
    assert client.get("/reports/2025-10-15.2").text == "<html>the report</html>"


@pytest.mark.parametrize(
    "version", ["2025-10-15", "2025-10-16", "2025-10-17", "best_lgbm", "%2e%2e%2fhalt.json", "x" * 999]
)
def test_a_report_that_is_none_is_404(client, version):
    """A version without a report, a damaged or unknown one, and anything that is no name."""
    assert client.get(f"/reports/{version}").status_code == 404


def test_the_policy_allows_nothing_but_the_pages_own_style(client):
    """No script, no other address, no form, no frame; the hash is that of the style in the page."""
    answer = client.get("/")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = Page(answer.content)

    assert answer.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    assert page.all("script", "form", "iframe", "object", "button", "input") == []
    assert not any("style" in attributes for _, attributes in page.elements)
    assert all(a["href"].startswith(("#", "/")) for a in page.all("a"))
    assert answer.headers["x-frame-options"] == "DENY"
    assert client.get("/reports/2025-10-15.2").headers["content-security-policy"].startswith("default-src 'none'; ")


def test_a_browser_reads_it_again_only_if_it_is_asked_to(client):
    """The address says how often; nonsense is ignored."""
    for path, expected in (
        ("/", []), ("/?refresh=10", ["10"]), ("/?refresh=0", ["2"]), ("/?refresh=999999", ["3600"]),
        ("/?refresh=x", []), ("/?refresh=-1", []), ("/?refresh=" + "9" * 99, []),
    ):  # fmt: skip
        metas = read_page(client, path).all("meta")
        assert [m["content"] for m in metas if m.get("http-equiv") == "refresh"] == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example:8000"},
        {"x-forwarded-for": "10.0.0.7"},
        {"forwarded": "for=10.0.0.7"},
        {"via": "1.1 proxy"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/reports/2025-10-15.2", "/?refresh=10"])
def test_the_page_is_for_this_machine(client, headers, path):
    """By another name, or through a proxy, it is 403."""
    answer = client.get(path, headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) in {(403, "not-local"), (403, "host")}


def test_a_halt_is_shown_and_stops_the_answers(folder, client, candles):
    """From the halt on, every row is refused and the service is not ready; a resume needs no restart."""
    body = {
        "candles": {
            symbol: frame.tail(40).with_columns(ts=frame.tail(40)["ts"].dt.timestamp("ms")).to_dicts()
            for symbol, frame in candles.items()
        }
    }

    def ask():
        return [(row["refused"], row["permit"]) for row in client.post("/v1/predict", json=body).json()["rows"]]

    models = folder / "models"
    halt(models, why=HOSTILE, by="ada@desk", now_ms=END_MS)
    assert ask() == [("halted", None)] * 2
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["halted"])
    page = read_page(client)
    assert "Halted 2 of 2 symbols get no answer." in page.text
    assert HOSTILE in page.text
    assert 'mltrain_halted_symbols{mode="halt"} 2.0' in client.get("/metrics").text
    resume(models, why="a test", by="ada@desk", now_ms=END_MS)
    assert ask() == [(None, None)] * 2
    halt(models, why="calm", by="ada@desk", now_ms=END_MS, mode="reduce", symbols=["ETHUSDT"])
    assert ask() == [(None, None), (None, "reduce")]
    assert client.get("/readyz").status_code == 200
    assert "Restricted" in read_page(client).text
    resume(models, why="a test", by="ada@desk", now_ms=END_MS)
    assert "Serving" in read_page(client).text


def test_the_ledger_is_shown_newest_first(folder, client):
    """Its newest rows, whatever they hold; a damaged line is one message."""
    with Ledger(folder / LEDGER) as ledger:
        ledger.append([make_row(bar, 0.5 + bar / 100, 100.0) for bar in range(15)])
        ledger.append([make_row(15, None, 100.0, refused="stale", symbol=HOSTILE)])
    page = read_page(client)
    named = " ".join(HOSTILE.split())
    assert f"2025-10-15 12:16:00.250 {named} 2025-10-15 12:15:00 2025-10-15 {DASH} stale" in page.text
    assert page.text.index("0.6400") < page.text.index("0.6300") < page.text.index("0.5400")
    assert "0.5300" not in page.text
    file = folder / LEDGER / "2025-10-15.jsonl"
    sound = file.read_bytes()
    file.write_bytes(sound.replace(b"0.64", b"0.46"))
    assert "2025-10-15.jsonl" in read_page(client).text
    file.write_bytes(sound)
    assert "0.6400" in read_page(client).text
    shutil.rmtree(folder / LEDGER)


@pytest.mark.parametrize("skill", [True, False])
def test_calibration_compares_answers_with_outcomes(live_dir, tmp_path, skill):
    """Probabilities that come true lie on the diagonal; turned around they do not. It is read step by step."""
    rng = np.random.default_rng(1)
    p = rng.choice([0.3, 0.5, 0.7], 3_000)
    up = rng.random(p.size) < (p if skill else 1 - p)
    closes = np.append(100.0, 100.0 * np.exp(np.cumsum(np.where(up, 0.001, -0.001))))
    model = mt.load(live_dir / "models" / "best_lgbm")
    calibration = LiveCalibration(tmp_path, Scoring(model, clock=clock).describe(), model.label)
    assert isinstance(calibration.draw(), Missing)
    with Ledger(tmp_path) as ledger:
        rows = [make_row(bar, float(p[bar]) if bar < p.size else 0.5, float(close)) for bar, close in enumerate(closes)]
        ledger.append([*rows[:1_000], make_row(1_000, 0.99, 1.0, version="2024-01-01"), *rows[1_000:2_000]])
        first = calibration.draw()
        ledger.append(rows[2_000:])
        second = calibration.draw()

    assert isinstance(first, Figure)
    assert isinstance(second, Figure)
    assert first.reading.startswith(("1,999 answers", "1,998 answers"))
    error = float(re.search("calibration error ([0-9.]+)", second.reading)[1])
    assert error < 0.03 if skill else error > 0.2


def test_there_is_no_page_without_a_dashboard(live_dir):
    """`--no-dashboard` leaves it out."""
    with mt.serve(bind="127.0.0.1:0", data_dir=live_dir, clock=clock, dashboard=False) as running:
        for path in ("/", "/reports/2025-10-15"):
            assert httpx.get(f"{running.url}{path}", trust_env=False).status_code == 404
