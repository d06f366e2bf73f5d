"""The grammar of names that become paths or references, checks of arguments, and "did you mean".

A name is checked here before any path is built from it: nothing outside these patterns (ASCII only, matched
whole) ever reaches the disk. An argument of the wrong type is refused with an error that names it.
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
    from collections.abc import Collection

SYMBOL: Final = re.compile(r"[A-Z0-9]{2,20}")
VERSION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[1-9][0-9]{0,5})?")
SNAPSHOT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z(?:\.[1-9][0-9]{0,5})?")
STUDY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.TZ_-]{0,119}")
FEATURE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

# Characters of a bad name that a message repeats: the name may be 10 kB long.
_SHOWN: Final = 40


def show(name: str) -> str:
    """Return `name` for a message: quoted, escaped, cut to a readable length."""
    text = ascii(name)
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}...'"


def _check(name: str, pattern: re.Pattern[str], what: str, example: str) -> str:
    if not isinstance(name, str) or pattern.fullmatch(name) is None:
        raise UsageError(f"{show(name)} is not {what}", hint=f"write it like {example}")
    return name


def check_symbol(name: str) -> str:
    """Return `name` if it is a symbol such as BTCUSDT.

    Raises:
        UsageError: It is not 2 to 20 capital letters and digits.
    """
    return _check(name, SYMBOL, "a symbol (2 to 20 capital letters and digits)", "BTCUSDT")


def check_version(name: str) -> str:
    """Return `name` if it is a version such as 2025-10-15 or 2025-10-15.2.

    Raises:
        UsageError: It is not.
    """
    return _check(name, VERSION, "a version", "2025-10-15 or 2025-10-15.2")


def check_snapshot_id(name: str) -> str:
    """Return `name` if it is a snapshot id such as 2025-10-15T12-00-00Z.

    Raises:
        UsageError: It is not.
    """
    return _check(name, SNAPSHOT, "a snapshot id", "2025-10-15T12-00-00Z")


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return up to `count` of the known names, the most similar to `name` first.

    >>> nearest("BTCUSD", ["ETHUSDT", "BTCUSDT"], count=1)
    ['BTCUSDT']
    """
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(str(name)[:200].casefold(), by_folded, n=count, cutoff=0.5)
    return [by_folded[c] for c in close]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint with the most similar known names, or with all of them if they are few and none is similar.

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


def describe(value: object) -> str:
    """Describe an argument, for messages.

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
    """Return a caller's list of symbols without repetition, in order; a string is one symbol.

    Raises:
        UsageError: It is not a list, it is empty, or a name is outside the grammar.
    """
    given = [symbols] if isinstance(symbols, str) else symbols
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise UsageError(f"symbols is {describe(symbols)}: expected a list", hint='such as ["BTCUSDT", "ETHUSDT"]')
    names = tuple(dict.fromkeys(check_symbol(name) for name in given))
    if not names:
        raise UsageError("symbols is empty", hint="name one, such as BTCUSDT")
    return names


def read_folder(folder: object, argument: str) -> Path:
    """Return a caller's folder as a path.

    Raises:
        UsageError: It is neither a path nor a string.
    """
    if not isinstance(folder, str | os.PathLike):
        raise UsageError(f"{argument} is {describe(folder)}: expected the path of a folder")
    return Path(folder)


def check_choice(value: object, argument: str, allowed: Collection[str]) -> None:
    """Raise unless an argument is one of the allowed words.

    Raises:
        UsageError: It is not one of them.
    """
    if not isinstance(value, str) or value not in allowed:
        words = " or ".join(f'"{word}"' for word in allowed)
        hint = did_you_mean(value, allowed) if isinstance(value, str) else None
        raise UsageError(f"{argument} is {describe(value)}: expected {words}", hint=hint)
