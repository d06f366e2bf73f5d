"""A part of what tests/chaos/serve.py sends: no body ends in a 500, and the service answers the next one."""

from __future__ import annotations

import httpx
import pytest

import mltrain as mt
from mltrain.progress import Silent
from support.hostile_bodies import make_body
from support.service import clock

BODIES = 200


@pytest.fixture(scope="module")
def sound(candles):
    """Return a document with the newest candles of both symbols, one in each form."""
    objects = (
        candles["BTCUSDT"].tail(33).with_columns(ts=candles["BTCUSDT"].tail(33)["ts"].dt.timestamp("ms")).to_dicts()
    )
    rows = candles["ETHUSDT"].tail(33).with_columns(ts=candles["ETHUSDT"].tail(33)["ts"].dt.timestamp("ms")).rows()
    klines = [[ts, *map(str, row[:5]), ts + 59_999, *map(str, row[5:]), "0"] for ts, *row in rows]
    return {"candles": {"BTCUSDT": objects, "ETHUSDT": klines}, "now_ms": int(clock() * 1000)}


def test_no_body_is_a_500(live_dir, sound):
    """Each is answered with rows, or with a message and the code of its cause."""
    shown, codes = Silent(), {}
    with (
        mt.serve(bind="127.0.0.1:0", data_dir=live_dir, clock=clock, max_body_mb=0.05, progress=shown) as service,
        httpx.Client(base_url=service.url, trust_env=False) as client,
    ):
        expected = client.post("/v1/predict", json=sound).json()["rows"]
        for number in range(BODIES):
            body = make_body(number, sound)
            answer = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
            codes.setdefault(answer.status_code, []).append(number)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["message"], number
                assert len(error["message"]) < 2_000, number
        assert client.post("/v1/predict", json=sound).json()["rows"] == expected

    assert shown.warnings == [], "".join(shown.warnings)
    assert set(codes) == {200, 400, 422}, {code: numbers[:5] for code, numbers in codes.items()}
    assert [row["refused"] for row in expected] == [None, None]
