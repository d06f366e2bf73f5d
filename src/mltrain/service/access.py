"""Who may ask the service what: where it listens, the token, and the check of the Host header.

A service without a token answers on the loopback interface only. There it also checks the name by which it was called:
a web page elsewhere can make its own name lead to 127.0.0.1 (DNS rebinding) and have a browser send requests here, but
it cannot change the name that the browser then sends as Host. With a token there is no such check, since no page knows
it. The dashboard asks for no token, so it needs a loopback connection, a loopback name, and no proxy in between.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError, UsageError
from mltrain.names import show
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Routes that a load balancer asks; they need no token.
OPEN_ROUTES: Final = frozenset({"/healthz", "/readyz"})

MAX_PORT: Final = 65_535
_BIND: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+|localhost)):(?P<port>[0-9]{1,5})")
_LOOPBACK_NAMES: Final = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
# At least 128 bits in hexadecimal; nothing that a header cannot hold.
_TOKEN: Final = re.compile(r"[!-~]{32,512}")
_MAX_TOKEN_BYTES: Final = 1_024
_HOW_TO_MAKE_ONE: Final = "make one with `(umask 077; openssl rand -hex 32 > token)`"
# Headers by which a proxy says that the request is not of the client that is connected.
_FORWARDED: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})


@dataclass(frozen=True, slots=True)
class BindAddress:
    """Where the service listens.

    Attributes:
        host: An IP address.
        port: The port; 0: any free one.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_bind(text: str) -> BindAddress:
    """Return where to listen.

    Raises:
        UsageError: `text` is not an IP address, or localhost, with a port.

    >>> parse_bind("127.0.0.1:8000").url, parse_bind("[::1]:8000").url, parse_bind("localhost:0").host
    ('http://127.0.0.1:8000', 'http://[::1]:8000', '127.0.0.1')
    """
    match = _BIND.fullmatch(text) if isinstance(text, str) else None
    host = None if match is None else match["six"] or match["four"].replace("localhost", "127.0.0.1")
    try:
        if match is None or host is None or int(match["port"]) > MAX_PORT:
            raise ValueError  # noqa: TRY301 -- as for an address that `ip_address` refuses
        ipaddress.ip_address(host)
    except ValueError as err:
        raise UsageError(
            f"{show(str(text))} is no address to listen on: expected ADDRESS:PORT",
            hint="such as 127.0.0.1:8000, [::1]:8000, or 0.0.0.0:8000 for every interface",
        ) from err
    return BindAddress(host, int(match["port"]))


@dataclass(frozen=True, slots=True)
class Token:
    """A secret that clients send; only its hash is kept, so that no message can show it."""

    sha256: str = field(repr=False)

    def matches(self, given: str) -> bool:
        """Return whether a client's text is the token; takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(sha256_bytes(given.encode("utf-8", "surrogateescape")), self.sha256)


def read_token(path: Path) -> Token:
    """Read the token in a file that only its owner, and at most its group, may read.

    Raises:
        UsageError: Others may read the file, or its group may write it.
        InputError: There is no such file, or it holds no token.
    """
    data = read_secret(real_path(path), max_bytes=_MAX_TOKEN_BYTES, what="the token file")
    text = data.decode("ascii", "replace").strip()
    if _TOKEN.fullmatch(text) is None:
        raise InputError(
            f"the token file {path} holds no token: expected 32 to 512 visible ASCII characters", hint=_HOW_TO_MAKE_ONE
        )
    return Token(sha256_bytes(text.encode()))


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request is not answered.

    Attributes:
        status: The HTTP status.
        code: A short code.
        message: What is wrong, and what to do.
    """

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one service.

    Attributes:
        token: The token that clients must send; None: none, and only loopback names are answered.
        pages: Paths for people, which a browser asks for without a token.
    """

    token: Token | None
    pages: tuple[str, ...]

    def find_denial(self, path: str, headers: Mapping[str, str], client: str | None) -> Denial | None:
        """Return why a request is not answered; None if it is.

        Args:
            path: The path of the URL.
            headers: Its headers; names in lower case.
            client: The IP address that is connected; None: not known.
        """
        has_local_name = _LOOPBACK_NAMES.fullmatch(headers.get("host", "")) is not None
        if self._is_page(path):
            if has_local_name and is_loopback(client) and not any(name in headers for name in _FORWARDED):
                return None
            return Denial(403, "not-local", "this page is shown to a browser on the same machine only")
        if self.token is None:
            if has_local_name:
                return None
            return Denial(403, "host", "without a token, this service answers to the Host localhost or 127.0.0.1 only")
        if path in OPEN_ROUTES or self._has_token(headers, self.token):
            return None
        return Denial(401, "token", "the header `Authorization: Bearer TOKEN` is missing or has another token")

    def _is_page(self, path: str) -> bool:
        return any(path == page or (page != "/" and path.startswith(f"{page}/")) for page in self.pages)

    def _has_token(self, headers: Mapping[str, str], token: Token) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and token.matches(given.strip())


def open_access(bind: str, token_file: Path | None, *, pages: tuple[str, ...] = ()) -> tuple[BindAddress, Access]:
    """Return where to listen, and the rules that hold there.

    Args:
        bind: The address, as for `parse_bind`.
        token_file: The file with the token; None: there is none, and only a loopback address is allowed.
        pages: Paths for people.

    Raises:
        UsageError: The address is none, or is not loopback and there is no token; or others can read the file.
        InputError: The file does not exist, or holds no token.
    """
    address = parse_bind(bind)
    if token_file is None and not address.is_loopback:
        raise UsageError(
            f"{address.host} can be reached from other machines, and there is no token: expected --token-file",
            hint=_HOW_TO_MAKE_ONE,
        )
    return address, Access(None if token_file is None else read_token(token_file), pages)


def is_loopback(client: str | None) -> bool:
    """Return whether the IP address of a client is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("::ffff:127.0.0.1"), is_loopback("10.0.0.1"), is_loopback(None)
    (True, True, False, False)
    """
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (address if mapped is None else mapped).is_loopback
