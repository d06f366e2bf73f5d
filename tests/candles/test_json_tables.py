"""JSON in any form that programs and exchanges write becomes the same candles."""

from __future__ import annotations

import json

import pytest

from mltrain.candles.layouts import read_rows
from mltrain.errors import InputError
from mltrain.times import HOUR_MS

# Times in ms, open, high, low, close, volume, quote volume.
CANDLES = [[1_767_571_200_000 + i * HOUR_MS, 100 + i, 110.5 + i, 90 + i, 105 + i, 2, 200 + 2 * i] for i in range(3)]


def read(document):
    return read_rows(json.dumps(document).encode(), name="BTC.json", where="BTC.json", step_ms=HOUR_MS)


def rows(order, *, unit=1, last=(), text=True):
    """Return the candles as rows with their values in this order, newest first."""
    found = [[row[0] // unit, *row[1:]] for row in CANDLES[::-1]]
    return [[str(row[i]) if text else row[i] for i in order] + list(last) for row in found]


OHLCV = (0, 1, 2, 3, 4, 5)
OBJECT_KEYS = ("openTime", "open", "high", "low", "close", "volume")
DERIBIT = dict(zip(("ticks", *OBJECT_KEYS[1:], "cost"), zip(*CANDLES, strict=True), strict=True))
FORMS = {
    "objects": [dict(zip(OBJECT_KEYS, row[:6], strict=True)) for row in CANDLES],
    "OKX": {"code": "0", "msg": "", "data": rows((*OHLCV, 6, 6), last=["1"])},
    "OKX swap": {"code": "0", "msg": "", "data": [[*r[:5], "77", *r[5:]] for r in rows((*OHLCV, 6), last=["1"])]},
    "KuCoin": {"code": "200000", "data": rows((0, 1, 4, 2, 3, 5, 6), unit=1000)},
    "Bitget": {"code": "00000", "msg": "success", "data": rows((*OHLCV, 6, 6))},
    "Bybit": {"retCode": 0, "result": {"category": "spot", "symbol": "BTCUSDT", "list": rows((*OHLCV, 6))}},
    "Kraken": {
        "error": [],
        "result": {"XXBTZUSD": [[*r[:5], "101", r[5], 3] for r in rows(OHLCV, unit=1000)], "last": 1},
    },
    "Deribit": {"jsonrpc": "2.0", "id": 1, "result": {**DERIBIT, "status": "ok"}},
}  # fmt: skip


@pytest.mark.parametrize("document", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_candles(document):
    """The order of columns is that of the exchange's documentation."""
    found = read(document).rows.sort("ts")

    assert found["ts"].dt.timestamp("ms").to_list() == [row[0] for row in CANDLES]
    for i, name in enumerate(("open", "high", "low", "close", "volume"), start=1):
        assert found[name].to_list() == [row[i] for row in CANDLES], name


def test_the_symbol_of_an_answer_is_kept():
    """Kraken and Bybit name it."""
    assert read(FORMS["Kraken"]).layout.symbols == ("XXBTZUSD",)
    assert read(FORMS["Bybit"]).layout.symbols == ("BTCUSDT",)


def test_a_candle_that_had_not_ended_is_left_out():
    """OKX says so of each."""
    document = {"code": "0", "msg": "", "data": rows((*OHLCV, 6, 6), last=["1"])}
    document["data"][0][-1] = "0"
    found = read(document)

    assert found.rows.height == 2
    assert found.layout.notes == ("1 candle left out that had not ended, by 'confirm'",)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"code": "0", "data": rows((*OHLCV, 6))}, "JSON, but not a list of rows"),
        ({"code": "200000", "data": rows((*OHLCV, 6, 6))}, "JSON, but not a list of rows"),
        ({"retCode": 0, "result": {"category": "inverse", "list": rows((*OHLCV, 6))}}, "JSON, but not a list of rows"),
        ({"code": "0", "data": [*rows((*OHLCV, 6, 6), last=["1"]), [1, 2]]}, "row 4 is not a list of 9 values, as ans"),
        ([{"open": 1, "book": {"bids": []}}], "row 1: 'book' is not one value"),
        ([{}], "row 1: no values"),
        ({"error": ["EQuery:Unknown asset pair"]}, "JSON, but not a list of rows"),
    ],
)
def test_other_answers_are_refused(document, message):
    """An order of columns that is not known, and answers without candles."""
    with pytest.raises(InputError, match=f"^BTC.json: {message}"):
        read(document)


def test_a_key_that_is_there_twice_is_refused():
    """One of its values would be lost."""
    data = b'[{"ts":1,"open":1,"open":2}]'

    with pytest.raises(InputError, match="row 1: a key is there twice"):
        read_rows(data, name="a.json", where="a.json", step_ms=HOUR_MS)
