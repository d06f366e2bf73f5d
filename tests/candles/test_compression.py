"""Zip and gzip files are unpacked safely, and checksum files are read strictly."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.compression import gunzip, parse_checksum, unzip_single
from mltrain.errors import InputError

NAME = "BTCUSDT-1m-2025-04-11.csv"
PLAIN = b"1744329600000000,79607.30000000,79700.00000000,79500.00000000,79600.00000000,12.34\n" * 50
LIMIT = 1 << 20


def zipped(*members, method=zipfile.ZIP_DEFLATED, mode=0o644 | stat.S_IFREG):
    """Return a zip of (name, content) pairs."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive, warnings.catch_warnings():
        # Two members may have one name.
        warnings.simplefilter("ignore")
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return sink.getvalue()


def unzip(data, max_bytes=LIMIT):
    return unzip_single(data, where="x.zip", max_bytes=max_bytes)


@given(st.binary(max_size=3000), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_one_file_comes_out_as_it_went_in(content, method):
    """Stored or deflated, also empty, up to exactly the limit."""
    assert unzip(zipped((NAME, content), method=method), max_bytes=len(content)) == content


def patched(data, before, after):
    assert before in data
    return data.replace(before, after)


ONE = zipped((NAME, PLAIN))
LOCAL_FLAGS, CENTRAL_FLAGS = 6, ONE.index(b"PK\x01\x02") + 8


def with_bytes(data, **at):
    changed = bytearray(data)
    for place, value in at.items():
        changed[int(place[1:])] = value
    return bytes(changed)


REFUSED = {
    "nothing": (b"", "not a zip file: it begins with ''"),
    "a web page": (b"<html>404 Not Found</html>", "not a zip file: it begins with '<html>404 Not Found<"),
    "only the signature": (b"PK\x03\x04", "a damaged zip file: the list of its files, which should end it, is missing"),
    "cut short": (ONE[:-30], "a damaged zip file"),
    "no file": (zipped(), "holds 0 files, not one"),
    "two files": (zipped(("a.csv", b"1"), ("b.csv", b"2")), "holds 2 files: 'a.csv', 'b.csv', not one"),
    "one name twice": (zipped(("a.csv", b"1"), ("a.csv", b"2")), "holds 2 files: 'a.csv', 'a.csv', not one"),
    "very many files": (zipped(*((f"{i}", b"") for i in range(101))), "holds more than 100 files, not one"),
    "a folder": (zipped(("a/", b"")), "the file in it is called 'a/': not a bare file name"),
    "a path": (zipped(("a/b.csv", b"1")), "the file in it is called 'a/b.csv': not a bare file name"),
    "an absolute path": (zipped(("/etc/passwd", b"1")), "called '/etc/passwd': not a bare file name"),
    "a path upwards": (zipped(("../b.csv", b"1")), "called '../b.csv': not a bare file name"),
    "the folder above": (zipped(("..", b"1")), "called '..': not a bare file name"),
    "a path of Windows": (zipped(("..\\b.csv", b"1")), "called .*: not a bare file name"),
    "a drive": (zipped(("C:b.csv", b"1")), "called 'C:b.csv': not a bare file name"),
    "a hidden rest of a name": (
        patched(zipped(("a_b.csv", b"1")), b"a_b", b"a\0b"),
        "called 'a': not a bare file name",
    ),
    "a link": (zipped((NAME, b"/etc/passwd"), mode=0o777 | stat.S_IFLNK), "is a link or another thing"),
    "a device": (zipped((NAME, b""), mode=0o777 | stat.S_IFCHR), "is a link or another thing"),
    "a rare method": (zipped((NAME, PLAIN), method=zipfile.ZIP_LZMA), "packed by the zip method 14, not by deflate"),
    "encrypted": (with_bytes(ONE, **{f"_{LOCAL_FLAGS}": 1, f"_{CENTRAL_FLAGS}": 1}), f"'{NAME}' in it is encrypted"),
    "a bomb": (zipped((NAME, bytes(LIMIT + 1))), f"more than {LIMIT} bytes after unpacking"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_anything_but_one_plain_file_is_refused(data, message):
    """The message says what else the zip contains."""
    with pytest.raises(InputError, match=f"^x.zip: .*{message}") as err:
        unzip(data)

    assert "\n" not in err.value.message


def test_a_wrong_size_in_the_header_is_detected():
    """A header with too small a size is detected, and no more than that size is unpacked."""
    bomb = zipped((NAME, bytes(8 << 20)))
    lying = patched(bomb, (8 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    short = patched(ONE, len(PLAIN).to_bytes(4, "little"), (len(PLAIN) + 5).to_bytes(4, "little"))

    with pytest.raises(InputError, match="a damaged zip file: Bad CRC-32"):
        unzip(lying)
    with pytest.raises(InputError, match=f"'{NAME}' has {len(PLAIN)} bytes, its header says {len(PLAIN) + 5}"):
        unzip(short)


def test_a_wrong_crc_is_noticed():
    """Stored content with one changed bit."""
    data = zipped((NAME, PLAIN), method=zipfile.ZIP_STORED)

    with pytest.raises(InputError, match="a damaged zip file: Bad CRC-32 for file"):
        unzip(patched(data, PLAIN, PLAIN.replace(b"9", b"8", 1)))


@settings(max_examples=400)
@given(st.integers(0, len(ONE) - 1), st.integers(1, 255), st.booleans())
def test_damage_gives_the_file_or_one_error(place, mask, cut):
    """Any changed byte, any cut: the original content or an InputError, never other content."""
    data = ONE[:place] if cut else ONE[:place] + bytes([ONE[place] ^ mask]) + ONE[place + 1 :]

    try:
        assert unzip(data) == PLAIN
    except InputError as err:
        assert err.message.startswith("x.zip: ")  # noqa: PT017 -- both ends are allowed


@given(st.binary(max_size=400))
def test_any_bytes_after_the_signature_are_one_error(data):
    """Python's reader raises many kinds of errors."""
    with pytest.raises(InputError):
        unzip(b"PK\x05\x06" + data)


def test_gzip_is_unpacked_up_to_the_limit():
    """Complete files only, with one or several members; the limit itself is allowed."""
    packed = gzip.compress(PLAIN)

    assert gunzip(packed, where="x.gz", max_bytes=len(PLAIN)) == PLAIN
    assert gunzip(packed + packed, where="x.gz", max_bytes=LIMIT) == PLAIN + PLAIN
    for bad, message in (
        (packed[:-9], "not a whole gzip file"),
        (packed[:-8] + b"12345678", "not a whole gzip file: CRC check failed"),
        (b"ts,open", "not a whole gzip file: Not a gzipped file"),
        (packed + b"more", "not a whole gzip file"),
        (gzip.compress(bytes(LIMIT + 1)), f"more than {LIMIT} bytes after unpacking"),
    ):
        with pytest.raises(InputError, match=f"^x.gz: {message}"):
            gunzip(bad, where="x.gz", max_bytes=LIMIT)


def test_an_empty_gzip_is_empty():
    """The gzip of no bytes unpacks to no bytes; a file of no bytes is refused."""
    assert gunzip(gzip.compress(b""), where="x.gz", max_bytes=0) == b""
    with pytest.raises(InputError, match="not a whole gzip file: it is empty"):
        gunzip(b"", where="x.gz", max_bytes=0)


HASH = hashlib.sha256(b"x").hexdigest()
OTHER = hashlib.sha256(b"y").hexdigest()


def checksum(text, file_name="x.zip"):
    return parse_checksum(text.encode(), file_name=file_name, where="x.zip.CHECKSUM")


@pytest.mark.parametrize(
    "text",
    [
        f"{HASH}  x.zip",
        f"{HASH}  x.zip\n",
        f"{HASH} *x.zip\r\n",
        f"{HASH.upper()}  x.zip\n\n",
        f"{OTHER}  y.zip\n{HASH}  x.zip\n",
        f"{HASH}  x.zip\n{HASH}  x.zip\n",
    ],
)
def test_checksum_lines_are_understood(text):
    """As sha256sum prints them, for one file or several."""
    assert checksum(text) == HASH


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (f"{HASH}  y.zip", "lists 'y.zip', not 'x.zip'"),
        (f"{HASH}  ../x.zip", "line 1: .* is not a SHA-256, two spaces and a file name"),
        (f"{HASH}", "line 1: .* is not a SHA-256"),
        (f"{HASH[:-1]}  x.zip", "line 1: .* is not a SHA-256"),
        (f"{HASH}  x.zip\nrubbish", "line 2: 'rubbish' is not a SHA-256"),
        ("<html>404</html>", "line 1: '<html>404</html>' is not a SHA-256"),
        (f"{HASH}  x.zip\n{OTHER}  x.zip", "line 2: a second, different SHA-256 of 'x.zip'"),
        ("\x00" * 100, "line 1: .* is not a SHA-256"),
    ],
)
def test_other_checksum_files_are_refused(text, message):
    """With the line; never partly read."""
    with pytest.raises(InputError, match=f"^x.zip.CHECKSUM: {message}"):
        checksum(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_checksum(data):
    """They are an InputError and nothing else."""
    with pytest.raises(InputError):
        parse_checksum(data, file_name="x.zip", where="x.zip.CHECKSUM")
