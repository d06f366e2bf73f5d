"""The grammar of names that become paths or references, checks of arguments, and "did you mean".

A name is checked here before any path is built from it: nothing outside these patterns (ASCII only, matched whole) ever
reaches the disk. An argument of the wrong type is refused with an error that names it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SYMBOL: Final = re.compile(r"[A-Z0-9]{2,20}")
VERSION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[1-9][0-9]{0,5})?")
SNAPSHOT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z(?:\.[1-9][0-9]{0,5})?")
#: A slot: a line of succession of live versions, such as one per market.
SLOT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
DEFAULT_SLOT: Final = "lgbm"
STUDY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.TZ_-]{0,119}")
FEATURE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

# Characters of a bad name that a message repeats: the name may be 10 kB long.
_MAX_SHOWN: Final = 40


def show(name: str) -> str:
    """Return a name as messages show it: quoted, escaped to ASCII, and cut after about 40 characters."""
    text = ascii(name)
    return text if len(text) <= _MAX_SHOWN + 2 else f"{text[:_MAX_SHOWN]}...'"


def show_path(path: str) -> str:
    r"""Return a path as messages and documents show it: as it is, or as `show` does if it cannot be printed.

    >>> show_path("BTC_USDT-1m.csv"), show_path("\x1b[31m.csv")
    ('BTC_USDT-1m.csv', "'\\x1b[31m.csv'")
    """
    return path if path.isprintable() else show(path)


def _check(name: str, pattern: re.Pattern[str], *, what: str, example: str) -> str:
    """Return `name` if the pattern matches it whole; otherwise raise a UsageError that says it is not `what`."""
    if not isinstance(name, str) or pattern.fullmatch(name) is None:
        raise UsageError(f"{show(name)} is not {what}", hint=f"write it like {example}")
    return name


def check_symbol(name: str) -> str:
    """Return `name` if it is a symbol such as BTCUSDT; raise a UsageError otherwise."""
    return _check(name, SYMBOL, what="a symbol (2 to 20 capital letters and digits)", example="BTCUSDT")


def check_version(name: str) -> str:
    """Return `name` if it names a version, such as 2025-10-15 or 2025-10-15.2; raise a UsageError otherwise."""
    return _check(name, VERSION, what="a version", example="2025-10-15 or 2025-10-15.2")


def check_slot(name: str) -> str:
    """Return `name` if it is the name of a slot, such as btc-1m; raise a UsageError otherwise."""
    return _check(name, SLOT, what="a slot (1 to 32 small letters, digits and hyphens)", example="btc-1m")


def check_snapshot_id(name: str) -> str:
    """Return `name` if it is a snapshot id such as 2025-10-15T12-00-00Z; raise a UsageError otherwise."""
    return _check(name, SNAPSHOT, what="a snapshot id", example="2025-10-15T12-00-00Z")


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return up to `count` of the known names, the most similar to `name` first.

    >>> nearest("BTCUSD", ["ETHUSDT", "BTCUSDT"], count=1)
    ['BTCUSDT']
    """
    by_folded = {known_name.casefold(): known_name for known_name in known}
    similar = difflib.get_close_matches(str(name)[:200].casefold(), by_folded, n=count, cutoff=0.5)
    return [by_folded[folded] for folded in similar]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint with the most similar known names; without one, with all if they are 12 or fewer; else None.

    >>> did_you_mean("trails", ["trials", "seed"])
    'did you mean trials?'
    """
    known = sorted(known)
    similar = nearest(name, known)
    if similar:
        return f"did you mean {' or '.join(similar)}?"
    if 0 < len(known) <= 12:
        return f"known: {', '.join(known)}"
    return None


def join_first(texts: Sequence[str], most: int) -> str:
    """Join the first `most` texts with commas, and say how many more there are.

    >>> join_first(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def describe(value: object) -> str:
    """Return how a message names a wrong argument: a short value itself, any other by its type.

    >>> describe(None), describe(5), describe("BTCUSDT")
    ('None', '5', "'BTCUSDT'")
    """
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str):
        return show(value)
    if isinstance(value, list | tuple) and value:
        return f"a {type(value).__name__} whose first element is {describe(value[0])}"
    kind = type(value)
    return f"of type {kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'}"


def read_symbols(symbols: object) -> tuple[str, ...]:
    """Return a caller's list of symbols, or one symbol, as a tuple without repetition, in the given order.

    Raises:
        UsageError: `symbols` is not a list, or is empty.
    """
    given = [symbols] if isinstance(symbols, str) else symbols
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise UsageError(f"symbols is {describe(symbols)}: expected a list", hint='such as ["BTCUSDT", "ETHUSDT"]')
    names = tuple(dict.fromkeys(check_symbol(name) for name in given))
    if not names:
        raise UsageError("symbols is empty", hint="name one, such as BTCUSDT")
    return names


def read_folder(folder: object, argument: str) -> Path:
    """Return a caller's folder as a path; `argument` is the name of the caller's argument in the UsageError."""
    if not isinstance(folder, str | os.PathLike):
        raise UsageError(f"{argument} is {describe(folder)}: expected the path of a folder")
    return Path(folder)


def check_choice(value: object, argument: str, allowed: Collection[str]) -> None:
    """Raise a UsageError unless the value of the caller's argument called `argument` is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        words = " or ".join(f'"{word}"' for word in allowed)
        hint = did_you_mean(value, allowed) if isinstance(value, str) else None
        raise UsageError(f"{argument} is {describe(value)}: expected {words}", hint=hint)
