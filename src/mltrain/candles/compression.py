"""Compressed files: unpack the one file inside a zip or gzip, and read published checksums.

Bytes in, bytes out; nothing is written to disk. A zip must hold exactly one regular file under a bare name, and no more
is unpacked than the caller allows.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from gzip import GzipFile
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator

# A zip with more entries is not opened: the list of 20 million would fill the memory.
_MAX_MEMBERS: Final = 100
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
# Flags of both kinds of encryption.
_ENCRYPTED: Final = 0x41
# Not LZMA, which may allocate 4 GB before its first byte.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# A line of sha256sum, in text or binary mode.
_CHECKSUM_LINE: Final = re.compile(r"([0-9a-fA-F]{64}) [ *]([^/\\]+)")


def unzip_single(data: bytes, *, where: str, max_bytes: int) -> bytes:
    """Return the bytes of the only file in a zip, after checking its CRC.

    Args:
        data: The bytes of the zip.
        where: The zip's name in messages, usually the path.
        max_bytes: The largest size of the file in it.

    Raises:
        InputError: `data` is not a zip, is damaged, or does not hold exactly one regular file under a bare name; or
            the file is encrypted, packed by an unusual method, or larger than `max_bytes`.
    """
    if not data.startswith(b"PK"):
        raise InputError(f"{where}: not a zip file: it begins with {show(_decode(data[:20]))}")
    if data.count(_ENTRY_SIGNATURE) > _MAX_MEMBERS:
        raise InputError(f"{where}: holds more than {_MAX_MEMBERS} files, not one")
    with _translate_zip_errors(where), zipfile.ZipFile(io.BytesIO(data)) as archive:
        member = _check_single_member(archive, where, max_bytes)
        with archive.open(member) as file:
            # read() without a size would unpack everything, however much that is.
            plain = file.read(member.file_size + 1)
    if len(plain) != member.file_size:
        raise InputError(f"{where}: {show(member.filename)} has {len(plain)} bytes, its header says {member.file_size}")
    return plain


def _check_single_member(archive: zipfile.ZipFile, where: str, max_bytes: int) -> zipfile.ZipInfo:
    """Return the header of the only file in a zip; raise an InputError unless it may be unpacked."""
    members = archive.infolist()
    if len(members) != 1:
        names = ", ".join(show(member.filename) for member in members[:3])
        raise InputError(
            f"{where}: holds {len(members)} files{': ' if names else ''}{names}, not one",
            hint="unpack it, and keep the candle files that you need",
        )
    (member,) = members
    name = show(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if re.search(r"[/\\:\0]", member.orig_filename) or member.filename in {"", ".", ".."}:
        raise InputError(f"{where}: the file in it is called {name}: not a bare file name")
    if kind not in {0, stat.S_IFREG}:
        raise InputError(f"{where}: {name} in it is a link or another thing that is no regular file")
    if member.flag_bits & _ENCRYPTED:
        raise InputError(f"{where}: {name} in it is encrypted", hint="unpack it with its password")
    if member.compress_type not in _METHODS:
        method = f"the zip method {member.compress_type}"
        raise InputError(f"{where}: {name} in it is packed by {method}, not by deflate", hint="unpack it")
    if member.file_size > max_bytes:
        raise _too_large(where, max_bytes)
    return member


@contextmanager
def _translate_zip_errors(where: str) -> Iterator[None]:
    """Raise an InputError in place of the many kinds of errors that zipfile raises for damaged files."""
    try:
        yield
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
        # NotImplementedError is a RuntimeError.
        *(RuntimeError, ValueError, OverflowError, IndexError),
    ) as err:
        reason = str(err)[:200]
        # zipfile says this of any file that is cut short, because it looks at the end first.
        if reason == "File is not a zip file":
            reason = "the list of its files, which should end it, is missing"
        raise InputError(f"{where}: a damaged zip file: {reason}", hint="download it again") from err


def gunzip(data: bytes, *, where: str, max_bytes: int) -> bytes:
    """Return the unpacked content of a gzip file, after checking its CRC.

    Args:
        data: The bytes of the gzip file.
        where: The file's name in messages, usually the path.
        max_bytes: The largest size after unpacking.

    Raises:
        InputError: `data` is not a gzip file, is damaged, or holds more than `max_bytes`.
    """
    # Python's gzip unpacks an empty file to nothing, without an error.
    if not data:
        raise InputError(f"{where}: not a whole gzip file: it is empty")
    try:
        plain = GzipFile(fileobj=io.BytesIO(data)).read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(f"{where}: not a whole gzip file: {err}") from err
    if len(plain) > max_bytes:
        raise _too_large(where, max_bytes)
    return plain


def parse_checksum(text: bytes, *, file_name: str, where: str) -> str:
    """Return the SHA-256 of the file `file_name` that a checksum file states, in lower-case hexadecimal.

    Args:
        text: Lines as `sha256sum` prints them: the hash, two spaces (or a space and a star), the name.
        file_name: The bare name of the file.
        where: The checksum file's name in messages, usually its path.

    Raises:
        InputError: A line has another form, no line names `file_name`, or two lines give a name different hashes.

    >>> parse_checksum(b"AB" * 32 + b"  BTCUSDT-1m-2025-04-11.zip", file_name="BTCUSDT-1m-2025-04-11.zip", where="demo")
    'abababababababababababababababababababababababababababababababab'
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(_decode(text).splitlines(), start=1):
        match = _CHECKSUM_LINE.fullmatch(line.rstrip())
        if match is None:
            if line.strip():
                raise InputError(f"{where}: line {number}: {show(line)} is not a SHA-256, two spaces and a file name")
            continue
        sha256, name = match[1].lower(), match[2]
        if hashes.setdefault(name, sha256) != sha256:
            raise InputError(f"{where}: line {number}: a second, different SHA-256 of {show(name)}")
    if file_name not in hashes:
        listed = ", ".join(show(name) for name in list(hashes)[:3])
        raise InputError(f"{where}: lists {listed}, not {show(file_name)}" if hashes else f"{where}: is empty")
    return hashes[file_name]


def _decode(data: bytes) -> str:
    """Decode UTF-8 for a message: other bytes become escapes."""
    return data.decode("utf-8", errors="backslashreplace")


def _too_large(where: str, max_bytes: int) -> InputError:
    return InputError(f"{where}: more than {max_bytes} bytes after unpacking")
