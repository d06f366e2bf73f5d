"""The bundle: read back as it was written, refused if hostile or damaged."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.artifact import bundle as bundle_module
from mltrain.artifact import plain_pickle
from mltrain.artifact.bundle import Bundle
from mltrain.artifact.plain_pickle import write_plain
from mltrain.errors import InputError
from mltrain.storage.hashing import sha256_bytes
from mltrain.training.calibration import Calibrator
from mltrain.training.lightgbm_import import import_lightgbm

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


def read(data):
    return Bundle.from_bytes(data, where="lgbm.pkl")


def rewritten(bundle, change):
    """Return the canonical bytes of a bundle with a changed document and a matching hash, as an attacker makes them."""
    document = pickle.loads(bundle.to_bytes())
    change(document)
    document["hashes"]["model_text"] = sha256_bytes(str(document["model_text"]).encode())
    return write_plain(document)


def test_a_bundle_is_read_back(bundle):
    """`Bundle.from_bytes(b.to_bytes()) == b`, and its bytes are the same again."""
    again = read(bundle.to_bytes())

    assert again == bundle
    assert again.to_bytes() == bundle.to_bytes()


def test_a_bundle_without_calibration_is_read_back(bundle):
    """The method "none" has no knots, before and after."""
    plain = replace(bundle, calibrator=Calibrator("none", None))

    assert read(plain.to_bytes()) == plain


def test_any_pickle_gives_plain_data(bundle, samples):
    """Without mltrain the file is a dict that says how to use it, and its model text works in LightGBM alone."""
    document = pickle.loads(bundle.to_bytes())
    booster = import_lightgbm().Booster(model_str=document["model_text"])

    assert next(iter(document)) == "plain data: use mltrain.load"
    assert all(type(value) in {str, int, list, dict} for value in document.values())
    assert booster.feature_name() == list(bundle.feature_set.names)
    assert booster.predict(samples.x[:3]).shape == (3,)


def test_the_file_names_no_global_and_refers_to_nothing(bundle):
    """No opcode of the file imports, calls or reads a memo."""
    names = {opcode.name for opcode, _, _ in pickletools.genops(bundle.to_bytes())}

    assert names <= plain_pickle._OPCODES
    assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "PERSID"}
    assert not {name for name in names if "GET" in name or "PUT" in name or "EXT" in name or name == "MEMOIZE"}


def test_equal_models_are_equal_bytes(model_text, calibrator, feature_set, bundle):
    """A bundle made of copies of the parts is the same file."""
    copied = Bundle(
        model_text="".join(list(model_text)),
        calibrator=copy.deepcopy(calibrator),
        feature_set=copy.deepcopy(feature_set),
        symbols=tuple("".join(list(symbol)) for symbol in bundle.symbols),
        ops_sha256="".join(list(bundle.ops_sha256)),
    )

    assert copied.to_bytes() == bundle.to_bytes()


@settings(max_examples=200)
@given(document=st.dictionaries(st.text(max_size=6), VALUES, max_size=5))
def test_equal_documents_are_equal_bytes(document):
    """Shared objects and the order of nested keys do not change the bytes."""

    def copied_values(value):
        if isinstance(value, dict):
            return {"".join(list(k)): copied_values(v) for k, v in reversed(value.items())}
        if isinstance(value, list):
            return [copied_values(v) for v in value]
        return "".join(list(value)) if isinstance(value, str) else value

    shared = {}

    def shared_values(value):
        if isinstance(value, dict):
            return {shared.setdefault(k, k): shared_values(v) for k, v in value.items()}
        if isinstance(value, list):
            return [shared_values(v) for v in value]
        return shared.setdefault(value, value) if isinstance(value, str) else value

    copied = {"".join(list(key)): copied_values(value) for key, value in document.items()}

    assert write_plain(copied) == write_plain({k: shared_values(v) for k, v in document.items()})
    assert pickle.loads(write_plain(document)) == document


class Canary:
    """Runs code when unpickled: writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile_streams(canary):
    """Yield streams that, unpickled, would write the canary or exhaust the memory."""
    call = f"(S'{canary}'\nS'w'\n".encode()
    name = str(canary).encode()
    text = b"X" + struct.pack("<I", len(name)) + name
    yield "REDUCE", pickle.dumps(Canary(canary), 4)
    yield "GLOBAL and REDUCE", b"cbuiltins\nopen\n" + call + b"tR."
    yield "INST", call.replace(b"(", b"(", 1) + b"ibuiltins\nopen\n."
    yield "OBJ", b"(cbuiltins\nopen\n" + call[1:] + b"o."
    yield "STACK_GLOBAL", b"\x80\x04\x8c\x08builtins\x8c\x04open\x93" + text + b"X\x01\x00\x00\x00w\x86R."
    yield "NEWOBJ", b"\x80\x02cbuiltins\nopen\n" + text + b"\x85\x81."
    yield "NEWOBJ_EX", b"\x80\x04\x8c\x08builtins\x8c\x04open\x93" + text + b"\x85}\x92."
    yield "BUILD", b"\x80\x02}(X\x0c\x00\x00\x00__setstate__cbuiltins\nopen\nu" + text + b"b."
    yield "EXT1", b"\x80\x02\x82\x01" + text + b"\x85R."
    yield "EXT4", b"\x80\x02\x84\x01\x00\x00\x00."
    yield "PERSID", b"P" + name + b"\n."
    yield "BINPERSID", b"\x80\x02" + text + b"Q."
    yield "NEXT_BUFFER", b"\x80\x05\x97."
    yield "BINBYTES8 of 2**62 bytes", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x."
    yield "a memo index of 2**31", b"\x80\x04}r" + struct.pack("<I", 2**31 - 1) + b"."
    yield "lists in lists", b"\x80\x04" + b"]" * 900_000 + b"a" * 899_999 + b"."
    yield "a memo that grows exponentially", b"\x80\x04]\x94" + b"(h\x00h\x00h\x00h\x00e\x94" * 40 + b"."


@pytest.mark.parametrize("number", range(17))
def test_a_hostile_stream_is_refused_and_never_run(number, tmp_path):
    """A hostile stream is an InputError, and none of its code has run."""
    canary = tmp_path / "canary"
    _, stream = list(hostile_streams(canary))[number]

    with pytest.raises(InputError, match=r"^lgbm\.pkl: "):
        read(stream)

    assert not canary.exists()


def test_a_plain_unpickler_would_write_the_canary(tmp_path):
    """The test above proves something: `pickle.loads` of such a stream does write the file."""
    canary = tmp_path / "canary"
    pickle.loads(dict(hostile_streams(canary))["REDUCE"]).close()

    assert canary.exists()


@pytest.mark.parametrize("opcode", ["GLOBAL", "PERSID"])
def test_the_unpickler_alone_refuses_too(opcode):
    """Even without the check of opcodes, the unpickler can neither import nor fetch anything."""
    stream = {"GLOBAL": b"cbuiltins\nopen\n.", "PERSID": b"Pcanary\n."}[opcode]

    with pytest.raises(pickle.UnpicklingError):
        plain_pickle._PlainUnpickler(io.BytesIO(stream)).load()


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x04N.",
        b"\x80\x04].",
        b"\x80\x04}.",
        b"\x80\x04X\xff\xff\xff\xffab.",
        b"\x80\x04X\x02\x00\x00\x00\xff\xfe.",
        b"\x80\x04}]Ns.",
        b"\x80\x04}K\x01Ns.",
        b"\x80\x04}Na.",
        b"\x80\x04(e.",
        b"\x80\x04\x8a\xff.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff}.",
        b"\x80\xff}.",
        b"not a pickle",
        b"\x93NUMPY",
    ],
)
def test_other_streams_are_refused(stream):
    """Broken, empty and foreign streams are an InputError too."""
    with pytest.raises(InputError, match=r"^lgbm\.pkl: "):
        read(stream)


def test_a_file_over_the_size_limit_is_refused(monkeypatch):
    """The size is checked before the content."""
    monkeypatch.setattr(bundle_module, "MAX_BUNDLE_BYTES", 10)

    with pytest.raises(InputError, match="too large: 11 bytes, at most 10"):
        read(b"\x80\x04" + b"N" * 8 + b".")


def test_too_many_values_are_refused(monkeypatch):
    """Opcodes are counted before anything is built."""
    monkeypatch.setattr(plain_pickle, "_MAX_OPCODES", 100)

    with pytest.raises(InputError, match="more than 100 opcodes"):
        read(b"\x80\x04" + b"]" * 200 + b".")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "written by a newer mltrain"),
        (lambda d: d.update(format=0), "format"),
        (lambda d: d.update(format=True), "format"),
        (lambda d: d.pop("calibrator"), "calibrator"),
        (lambda d: d.update(loader_module="os"), "loader_module"),
        (lambda d: d["hashes"].update(more="x"), "more"),
        (lambda d: d.update(model_text=5), "model_text"),
        (lambda d: d.update(model_text=d["model_text"][:-200]), "the part after the trees"),
        (lambda d: d.update(model_text=d["model_text"].replace("left_child=", "left_child=9", 1)), "tree 0"),
        (lambda d: d["calibrator"].update(method="magic"), "magic"),
        (lambda d: d["calibrator"].update(method="none"), "method"),
        (lambda d: d["calibrator"].update(scores=[0.5, 0.1, 0.9]), "knots"),
        (lambda d: d["calibrator"].update(probabilities=[0.2, 0.4]), "knots"),
        (lambda d: d["calibrator"].update(probabilities=[0.2, float("nan"), 0.8]), "probabilities"),
        (lambda d: d["calibrator"].update(scores="abc"), "scores"),
        (lambda d: d.update(symbols=[]), "symbols"),
        (lambda d: d.update(symbols=["BTCUSDT", "BTCUSDT"]), "symbols"),
        (lambda d: d.update(symbols=["../../etc"]), "symbols"),
        (lambda d: d.update(interval="5m"), "interval"),
        (lambda d: d["label"].update(horizon=2), "label"),
        (lambda d: d["features"]["features"].reverse(), "hash|other features"),
        (lambda d: d["features"]["features"][0].update(op="os.system"), "os.system"),
        (lambda d: d["features"]["features"][0]["params"].update(bars=-1), "bars"),
        (lambda d: d["features"].update(features={}), "features"),
        (lambda d: d.update(features=None), "mapping"),
        (lambda d: d["hashes"].update(registry="0" * 64), "hash"),
        (lambda d: d["hashes"].update(ops="zz"), "ops"),
    ],
)
def test_every_field_is_checked(bundle, change, message):
    """A missing, unknown, mistyped or meaningless field is named, even if every hash is forged."""
    with pytest.raises(InputError, match=message):
        read(rewritten(bundle, change))


def test_a_model_text_with_another_hash_is_refused(bundle):
    """A digit changed in a leaf gives a sound text whose hash differs from the one in the bundle."""
    document = pickle.loads(bundle.to_bytes())
    at = document["model_text"].index("leaf_value=") + len("leaf_value=-0.1")
    digit = "1" if document["model_text"][at] != "1" else "2"
    document["model_text"] = document["model_text"][:at] + digit + document["model_text"][at + 1 :]

    with pytest.raises(InputError, match="does not match its hash"):
        read(write_plain(document))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_only_the_canonical_form_is_read(bundle, protocol):
    """The same dict pickled by the ordinary pickler is refused at every protocol."""
    with pytest.raises(InputError):
        read(pickle.dumps(pickle.loads(bundle.to_bytes()), protocol))


def test_keys_in_another_order_are_refused(bundle):
    """The order of the keys is part of the format."""
    document = pickle.loads(bundle.to_bytes())

    with pytest.raises(InputError, match="canonical"):
        read(write_plain(dict(reversed(document.items()))))


def test_damage_is_refused_or_another_bundle(bundle):
    """Of a thousand files with bytes changed, lost or doubled, none is read as the original.

    The few that are read differ in a knot, a symbol or the ops' hash, which the SHA-256 of the file detects.
    """
    data = bundle.to_bytes()
    rng = random.Random(8)  # noqa: S311 -- damage, not secrets
    refused = 0
    for _ in range(1_000):
        at = rng.randrange(len(data))
        damaged = rng.choice(
            [
                data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
                data[:at] + data[at + 1 :],
                data[: at + 1] + data[at:],
                data[:at],
                data + data[at:],
            ]
        )
        try:
            again = read(damaged)
        except InputError:
            refused += 1
        else:
            assert again.to_bytes() == damaged

    assert refused >= 900


def test_parts_that_do_not_match_make_no_bundle(bundle, feature_set):
    """Trees over other columns than the registry's, or no symbols, are refused."""
    fewer = replace(feature_set, features=feature_set.features[:-1])

    with pytest.raises(InputError, match="other features"):
        replace(bundle, feature_set=fewer)
    with pytest.raises(InputError, match="symbols"):
        replace(bundle, symbols=())
