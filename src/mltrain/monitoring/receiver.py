"""The receiver of events: its address, and the secret that it checks signatures with."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mltrain.errors import InputError
from mltrain.sources.network_rules import check_receiver_url
from mltrain.storage.descriptors import real_path
from mltrain.storage.reading import read_secret

if TYPE_CHECKING:
    from pathlib import Path

_SECRET: Final = re.compile(rb"[!-~]{32,512}")
_MAX_SECRET_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where events are posted.

    Attributes:
        url: The address: https, or http to this machine.
        secret: What the receiver checks signatures with; never shown.
    """

    url: str = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def host(self) -> str:
        """Name of the host, for messages: the rest of the address may be secret."""
        return urlsplit(self.url).netloc


def open_receiver(url: str, secret_file: Path) -> Receiver:
    """Return the receiver at an address.

    Args:
        url: The address: https, or http to this machine.
        secret_file: A file with the secret: 32 to 512 visible ASCII characters, which other users must not be able to
            read.

    Raises:
        UsageError: The address is none or not allowed, or others may read the file.
        InputError: There is no such file, or it holds no secret.
    """
    checked = check_receiver_url(url)
    secret = read_secret(real_path(secret_file), max_bytes=_MAX_SECRET_BYTES, what="the secret file").strip()
    if _SECRET.fullmatch(secret) is None:
        raise InputError(
            f"the secret file {secret_file} holds no secret: expected 32 to 512 visible ASCII characters",
            hint="make one with `(umask 077; openssl rand -hex 32 > secret)`",
        )
    return Receiver(checked, secret)


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the value of the header X-Mltrain-Signature.

    >>> sign(b"secret", "1760529601", b"{}")[:19]
    'v1=4a4d22852d78ab20'
    """
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, "sha256").hexdigest()
