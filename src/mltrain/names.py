"""The grammar of every name that becomes a path or a reference, and "did you mean".

A name is checked here before any path is built from it: nothing outside these patterns (ASCII only, matched
whole) ever reaches the disk.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

SYMBOL: Final = re.compile(r"[A-Z0-9]{2,20}")
VERSION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[1-9][0-9]{0,5})?")
SNAPSHOT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z(?:\.[1-9][0-9]{0,5})?")
STUDY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.TZ_-]{0,119}")
FEATURE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

_SHOWN: Final = 40  # characters of a bad name that a message repeats: it may be 10 kB of anything


def show(name: str) -> str:
    """Return `name` as it may stand in a message: quoted, escaped, cut to a readable length."""
    text = ascii(name)
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}...'"


def _check(name: str, pattern: re.Pattern[str], what: str, example: str) -> str:
    if pattern.fullmatch(name) is None:
        raise UsageError(f"{show(name)} is not {what}", hint=f"write it like {example}")
    return name


def check_symbol(name: str) -> str:
    """Return `name` where it is a symbol such as BTCUSDT.

    Raises:
        UsageError: It is not 2 to 20 capital letters and digits.
    """
    return _check(name, SYMBOL, "a symbol (2 to 20 capital letters and digits)", "BTCUSDT")


def check_version(name: str) -> str:
    """Return `name` where it is a version such as 2025-10-15 or 2025-10-15.2.

    Raises:
        UsageError: It is not.
    """
    return _check(name, VERSION, "a version", "2025-10-15 or 2025-10-15.2")


def check_snapshot_id(name: str) -> str:
    """Return `name` where it is a snapshot id such as 2025-10-15T12-00-00Z.

    Raises:
        UsageError: It is not.
    """
    return _check(name, SNAPSHOT, "a snapshot id", "2025-10-15T12-00-00Z")


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return up to `count` of the known names that look most like `name`, best first.

    >>> nearest("BTCUSD", ["ETHUSDT", "BTCUSDT"], count=1)
    ['BTCUSDT']
    """
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name[:200].casefold(), by_folded, n=count, cutoff=0.5)
    return [by_folded[c] for c in close]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the nearest known names; without any, all of them where they are few.

    >>> did_you_mean("trails", ["trials", "seed"])
    'did you mean trials?'
    """
    known = sorted(known)
    close = nearest(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if 0 < len(known) <= 12:
        return f"known: {', '.join(known)}"
    return None
