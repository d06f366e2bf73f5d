"""Which addresses may be reached, and how the network may be used."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mltrain.errors import UsageError
from mltrain.names import show

if TYPE_CHECKING:
    from pathlib import Path

MAX_CONNECTIONS: Final = 64
_MAX_WAIT_S: Final = 86_400
_MAX_DEADLINE_S: Final = 3_600
_MAX_URL_CHARACTERS: Final = 500
# RFC 1035, 2.3.4.
_MAX_HOST_CHARACTERS: Final = 253
_HOST_NAME: Final = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)\.?")
_BRACKETED: Final = re.compile(r"\[[^\[\]]+\](?::[0-9]+)?")


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """How the network may be used.

    Attributes:
        connections: Concurrent requests, 1 to MAX_CONNECTIONS.
        max_wait_s: The longest wait that the host may order, in seconds.
        deadline_s: How long one request may take in total, in seconds.
        proxy: Address of the proxy, `http://` if it has no scheme; None for none. Never used for loopback.
        proxy_unused: Whether the environment names a proxy that is not used; hints at failed connections mention it.
        ca_file: Certificates to trust instead of the packaged ones.
    """

    connections: int = 16
    max_wait_s: float = 120.0
    deadline_s: float = 30.0
    proxy: str | None = None
    proxy_unused: bool = False
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Check every field; a UsageError names all that are outside their range."""
        problems = []
        if not 1 <= self.connections <= MAX_CONNECTIONS:
            problems.append(f"{self.connections} connections: must be 1 to {MAX_CONNECTIONS}")
        if not 0 <= self.max_wait_s <= _MAX_WAIT_S:
            problems.append(f"a longest wait of {self.max_wait_s} s: must be 0 to {_MAX_WAIT_S}")
        if not 0 < self.deadline_s <= _MAX_DEADLINE_S:
            problems.append(f"a deadline of {self.deadline_s} s: must be above 0, at most {_MAX_DEADLINE_S}")
        if self.proxy is not None:
            object.__setattr__(self, "proxy", self.proxy if "://" in self.proxy else f"http://{self.proxy}")
            if not _is_proxy(self.proxy):
                # Without the address, which may hold a password.
                problems.append("the proxy must be an address such as http://127.0.0.1:3128")
        if problems:
            raise UsageError("; ".join(problems))


def check_base_url(url: str) -> str:
    """Check the address of a host (https, or http to this machine); return it without a trailing slash.

    Raises:
        UsageError: The text is not an address, or the address is not allowed.

    >>> check_base_url("https://data-api.binance.vision/")
    'https://data-api.binance.vision'
    """
    reason = _find_problem(url)
    if not reason and "?" in url:
        reason = "it must not contain a query"
    if not reason and "testnet" in (urlsplit(url).hostname or ""):
        reason = "prices on a test network are made up"
    if reason:
        raise UsageError(f"{show(url)} cannot be the address of an exchange: {reason}")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}".rstrip("/")


def check_receiver_url(url: str) -> str:
    """Check the address that events are posted to (https, or http to this machine), and return it.

    It may hold a query. No message shows it, because it may hold a secret.

    Raises:
        UsageError: The text is not an address, or the address is not allowed.

    >>> check_receiver_url("https://alerts.example.com/hook?team=ml")
    'https://alerts.example.com/hook?team=ml'
    """
    if reason := _find_problem(url):
        raise UsageError(f"events cannot be posted to the given address: {reason}")
    return url


def _find_problem(url: str) -> str:
    """Return what is wrong with an address that is to be reached by https, or by http on this machine; "": nothing."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        return f"it is not an address: {err}"
    is_plain = url.isascii() and url.isprintable() and not set(url) & {" ", "\\"} and len(url) <= _MAX_URL_CHARACTERS
    if not is_plain or not _is_host(host, parts.netloc) or port == 0 or parts.netloc.endswith(":"):
        return "write it like https://data-api.binance.vision"
    if parts.username is not None or "#" in url:
        return "it must not contain a user or a fragment"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        return "only https, or http to 127.0.0.1"
    return ""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("127.0.0.1.example.com")
    (True, False)
    """
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _is_host(host: str, netloc: str) -> bool:
    """Return whether the host of a URL with this `netloc` is a valid name or IP address; only IPv6 has brackets."""
    if "[" in netloc:
        with suppress(ValueError):
            is_whole = _BRACKETED.fullmatch(netloc.rpartition("@")[2]) is not None
            return is_whole and ipaddress.IPv6Address(host).scope_id is None
        return False
    return len(host) <= _MAX_HOST_CHARACTERS and _HOST_NAME.fullmatch(host) is not None


def _is_proxy(url: str) -> bool:
    """Return whether a URL can be the address of an HTTP proxy."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and _is_host(parts.hostname or "", parts.netloc) and parts.port != 0
    except ValueError:
        return False
