"""The file of the parameters: what comes back, and what is refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from mltrain.errors import InputError
from mltrain.tft.architecture import Architecture
from mltrain.tft.weights import decode_weights, encode_weights

SMALL = Architecture(window=5, features=3, symbols=2, hidden=4, heads=2)


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SMALL.shapes().items()}


DATA = encode_weights(draw())
HEADER_BYTES = 8 + struct.unpack("<Q", DATA[:8])[0]


def test_parameters_come_back():
    """Bit for bit, and in any order."""
    found = decode_weights(DATA, SMALL, where="a file")

    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in draw().items()}
    assert encode_weights(dict(reversed(found.items()))) == DATA


@given(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_header_is_refused(position, by):
    """Length, names, types, shapes and offsets."""
    changed = bytearray(DATA)
    changed[position] ^= by
    with pytest.raises(InputError, match="its header is not that"):
        decode_weights(bytes(changed), SMALL, where="a file")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DATA[:-1],
        DATA + b"\0",
        DATA[:HEADER_BYTES],
        struct.pack("<Q", 1 << 62) + DATA[8:],
        encode_weights({**draw(), "more": np.zeros(1, np.float32)}),
        save({name: value.astype(np.float16) for name, value in draw().items()}),
        save(draw(), metadata={"format": "pt"}),
        encode_weights({name: value for name, value in draw().items() if name != "logit.bias"}),
    ],
)
def test_another_file_is_refused(data):
    """Cut, longer, of other names or types, with metadata."""
    with pytest.raises(InputError):
        decode_weights(data, SMALL, where="a file")


def test_a_repeated_key_is_refused():
    """Parsers differ on which of them counts."""
    header = json.loads(DATA[8:HEADER_BYTES])
    text = json.dumps(header, separators=(",", ":"))
    text = text.replace("{", '{"logit.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},', 1).encode()
    with pytest.raises(InputError):
        decode_weights(struct.pack("<Q", len(text)) + text + DATA[HEADER_BYTES:], SMALL, where="a file")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_parameter_that_is_not_finite_is_refused(value):
    """By name."""
    parameters = draw()
    parameters["attend.query"][1, 2] = value
    with pytest.raises(InputError, match=r"attend\.query is not finite"):
        decode_weights(encode_weights(parameters), SMALL, where="a file")
