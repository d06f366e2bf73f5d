"""Bodies that a hostile client may send to `POST /v1/predict`: from a seed, so that each can be made again."""

from __future__ import annotations

import copy
import json
import random

#: Values to put in the place of another one: of every type, at every edge.
VALUES = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, -1e308, 5e-324, 2**53, 2**63 - 1, -(2**63), 10**11, 10**14, 10**17,
    "", " ", "1", "1,5", "1e5", "nan", "inf", "-inf", "Infinity", "0x10", "١٢٣", "\x00", "\ufeff", "🙂", "a" * 5_000,
    "2025-10-15T12:00:00Z", "2025-10-15", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "12/10/2025",
    "'; DROP TABLE candles; --", "<script>alert(1)</script>", "../../etc/passwd", "%s%s%n", "{{7*7}}", "${jndi:x}",
    [], [[]], [1], {}, {"a": 1}, {"ts": 1}, [None], [[None] * 12], {"$ref": "#"}, ["BTCUSDT"] * 50,
]  # fmt: skip
NAMES = [
    *("ts", "open", "close", "high", "low", "volume", "symbol", "time", "date", "timestamp", "open_time", "close_time"),
    *("candles", "inputs", "now_ms", "symbols", "index", "", " ", "p", "__class__", "constructor", "funding", "🙂"),
    *("quote_volume", "Volume BTC", "Volume USD", "tick_volume", "level_0", "Unnamed: 0", "trades", "amount", "\x00"),
]
SYMBOLS = ["BTCUSDT", "ETHUSDT", "XRPUSDT", "", "btcusdt", "BTC/USDT", "\x00", "🙂" * 50, "A" * 400, "..", "open"]
#: Bytes in the place of others.
SNIPPETS = [
    *(b"", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"NaN"),
    *(
        b"Infinity",
        b"-",
        b"1e999",
        b"9" * 30,
        b"[" * 200,
        b'{"a":' * 70,
        b"//",
        b"\r\n",
        b'"candles":{},',
        b"\xef\xbb\xbf",
    ),
]


def places(value, at=()):
    """Yield the place of every value in a document, the root last."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))
    yield at


def parent_of(document, at):
    """Return the container of the value at a place."""
    for key in at[:-1]:
        document = document[key]
    return document


def change(document, rng):
    """Change a document in one place: another value, key, order or number of rows."""
    found = [at for at in places(document) if at]
    if not found:
        return rng.choice(VALUES)
    at = rng.choice(found)
    container, key = parent_of(document, at), at[-1]
    kind = rng.randrange(7)
    if kind <= 2:
        container[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 3:
        del container[key]
    elif kind == 4 and isinstance(container, dict):
        container[rng.choice([*NAMES, *SYMBOLS])] = container.pop(key)
    elif kind == 5 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(rng.choice([container[key], *VALUES])))
    elif isinstance(container, list):
        rng.shuffle(container)
    else:
        container[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
    return document


def large(rng, size):
    """Return a body of about so many bytes whose cost is not that of its size, if anything goes wrong."""
    many = max(2, size // 12)
    return rng.choice([
        lambda: b"[" * size,
        lambda: b'{"candles":' + b"[" * 60 + b"[]," * (size // 4) + b"[]" + b"]" * 60 + b"}",
        lambda: b'{"candles":{"BTCUSDT":[' + b",".join(b'{"k%d":1}' % n for n in range(many)) + b"]}}",
        lambda: b'{"candles":{' + b",".join(b'"S%d":[]' % n for n in range(many)) + b"}}",
        lambda: b'{"candles":{"BTCUSDT":[' + b",".join(b"[%d]" % n for n in range(many)) + b"]}}",
        lambda: b'{"candles":{"BTCUSDT":[' + b",".join([b"[" + b",".join([b"1"] * 12) + b"]"] * (size // 26)) + b"]}}",
        lambda: b'{"candles":[' + b",".join(b'{"symbol":"S%d","ts":1,"open":1}' % n for n in range(size // 35)) + b"]}",
        lambda: b'{"symbols":[' + b",".join(b'"S%d"' % n for n in range(many)) + b"]}",
        lambda: b'{"now_ms":' + b"9" * size + b"}",
        lambda: b'{"candles":"' + b"\\u0041" * (size // 6) + b'"}',
        lambda: b'{"candles":{"' + b"A" * size + b'":[]}}',
        lambda: b" " * size,
    ])()  # fmt: skip


def make_body(number, sound, *, seed=1, large_bytes=20_000):
    """Return the body of this number.

    Args:
        number: Any number from 0.
        sound: A document that is answered, from which most bodies are made.
        seed: Another one gives other bodies.
        large_bytes: About the size of the large ones, one in twenty.
    """
    rng = random.Random(seed * 1_000_003 + number)  # noqa: S311 (chance, not secrets)
    if number % 20 == 0:
        return large(rng, rng.randrange(large_bytes // 2, large_bytes))
    document = copy.deepcopy(sound)
    if number % 4:
        for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
            document = change(document, rng)
    body = bytearray(json.dumps(document).encode())
    if number % 4 == 0 or number % 7 == 0:
        for _ in range(rng.choice([1, 1, 2, 5])):
            start = rng.randrange(len(body) + 1)
            body[start : start + rng.choice([0, 1, 1, 5, 300])] = rng.choice(SNIPPETS)
    return bytes(body)
