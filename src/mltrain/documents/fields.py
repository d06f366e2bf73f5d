"""Reading a mapping strictly: every violation is collected, and one error names them all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mltrain.documents.values import MISSING, Json, Located, Missing, Refused, spell
from mltrain.errors import InputError
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence

    from mltrain.documents.values import Place

D = TypeVar("D")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Findings:
    """What the readers of one document share."""

    where: str
    lines: Mapping[Place, int]
    problems: list[str]
    closers: list[Callable[[], None]]

    def add(self, place: Place, message: str) -> None:
        line = f" (line {self.lines[place]})" if place in self.lines else ""
        field_and_line = f" {spell(place)}{line}:" if place else ""
        self.problems.append(f"{self.where}:{field_and_line} {message}")


class Fields:
    """Reads one mapping strictly; nested readers share the list of violations, which `finish` on the root raises.

    A getter that meets a violation records it and returns a harmless value of its type, so that reading goes on. A
    getter with a default returns it where the key is absent; where the default is None, also where the value is null.

    Args:
        located: The document, or the part of one that this reads.
        place: Where in the document it stands; for nested readers only.
        findings: What the readers of the document share; for nested readers only.

    Raises:
        InputError: The document is not a mapping.
    """

    def __init__(self, located: Located, *, place: Place = (), findings: _Findings | None = None) -> None:
        self._located = located
        self._place = place
        self._known: set[str] = set()
        if not isinstance(located.value, dict) and findings is None:
            raise InputError(f"{located.where}: must be a mapping, is {_describe(located.value)}")
        self._findings = findings or _Findings(located.where, located.lines, [], [])
        self._findings.closers.append(self._refuse_unknown_keys)
        # A nested value that is no mapping was reported by whoever made this reader: all its keys read as harmless.
        self._sound = isinstance(located.value, dict)
        self.value: dict[str, Json] = located.value if isinstance(located.value, dict) else {}

    def keys(self) -> list[str]:
        """Return the keys in the document's order."""
        return list(self.value)

    def problem(self, key: str | None, message: str) -> None:
        """Record a violation of the value at `key`, or of this mapping itself where `key` is None."""
        self._findings.add(self._place if key is None else (*self._place, key), message)

    def raw(self, key: str, *, default: D | Missing = MISSING) -> Json | D:
        """Return the value at `key` whatever it is."""
        return self._read(key, default, lambda value: value, harmless=None)

    def text(
        self,
        key: str,
        *,
        choices: Sequence[str] | None = None,
        pattern: re.Pattern[str] | None = None,
        default: D | Missing = MISSING,
    ) -> str | D:
        """Return a text, where asked one of `choices` or one that `pattern` matches whole."""
        check = partial(_check_text, choices=choices, pattern=pattern)
        return self._read(key, default, check, harmless=choices[0] if choices else "")

    def integer(
        self, key: str, *, minimum: int | None = None, maximum: int | None = None, default: D | Missing = MISSING
    ) -> int | D:
        """Return an integer from `minimum` to `maximum`, both included."""
        check = partial(_check_integer, minimum=minimum, maximum=maximum)
        return self._read(key, default, check, harmless=minimum or 0)

    def number(
        self, key: str, *, minimum: float | None = None, maximum: float | None = None, default: D | Missing = MISSING
    ) -> float | D:
        """Return a finite number from `minimum` to `maximum`, both included."""
        check = partial(_check_number, minimum=minimum, maximum=maximum)
        return self._read(key, default, check, harmless=float(minimum or 0))

    def flag(self, key: str, *, default: D | Missing = MISSING) -> bool | D:
        """Return true or false."""
        return self._read(key, default, _check_flag, harmless=False)

    def texts(
        self, key: str, *, pattern: re.Pattern[str] | None = None, default: D | Missing = MISSING
    ) -> list[str] | D:
        """Return a list of texts, where asked such as `pattern` matches whole."""
        check = partial(_check_each, check=partial(_check_text, pattern=pattern))
        return self._read(key, default, check, harmless=list[str]())

    def numbers(self, key: str, *, default: D | Missing = MISSING) -> list[float] | D:
        """Return a list of finite numbers."""
        return self._read(key, default, partial(_check_each, check=_check_number), harmless=list[float]())

    def fields(self, key: str) -> Fields:
        """Return the reader of a nested mapping."""
        return self._nested(self._read(key, MISSING, _check_mapping, harmless=None), key)

    def items(self, key: str, *, default: D | Missing = MISSING) -> list[Fields] | D:
        """Return the readers of a list of mappings."""
        found = self._read(key, default, partial(_check_each, check=_check_mapping), harmless=list[Json]())
        if not isinstance(found, list):
            return found
        return [self._nested(item, key, index) for index, item in enumerate(found)]

    def finish(self) -> None:
        """End the reading of the whole document; called once, on the root.

        Raises:
            InputError: There were violations, or keys that no reader asked for; it names every one.
        """
        for close in self._findings.closers:
            close()
        if self._findings.problems:
            raise InputError("\n".join(self._findings.problems))

    def _nested(self, value: Json, *steps: str | int) -> Fields:
        located = Located(value, self._findings.where, self._findings.lines)
        return Fields(located, place=(*self._place, *steps), findings=self._findings)

    def _refuse_unknown_keys(self) -> None:
        for key in self.value:
            if key not in self._known:
                guess = did_you_mean(key, self._known)
                self.problem(key, "unknown key" + (f"; {guess}" if guess else ""))

    def _read(self, key: str, default: D | Missing, check: Callable[[Json], T | Refused], *, harmless: T) -> T | D:
        self._known.add(key)
        if key not in self.value:
            if not isinstance(default, Missing):
                return default
            if self._sound:
                self.problem(key, "is missing")
            return harmless
        value = self.value[key]
        if value is None and default is None:
            return default
        checked = check(value)
        if isinstance(checked, Refused):
            self.problem(key, checked.why)
            return harmless
        return checked


def _describe(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return f"the text {show(value)}"
        case list():
            return "a list"
    return "a mapping"


def _must_be(what: str, value: Json) -> Refused:
    return Refused(f"must be {what}, is {_describe(value)}")


def _check_text(
    value: Json, *, choices: Sequence[str] | None = None, pattern: re.Pattern[str] | None = None
) -> str | Refused:
    if not isinstance(value, str):
        return _must_be("a text", value)
    if choices is not None and value not in choices:
        guess = did_you_mean(value, choices)
        return Refused(f"{show(value)} is unknown" + (f"; {guess}" if guess else ""))
    if pattern is not None and pattern.fullmatch(value) is None:
        return Refused(f"{show(value)} does not have the form {pattern.pattern}")
    return value


def _check_integer(value: Json, *, minimum: int | None, maximum: int | None) -> int | Refused:
    if not isinstance(value, int) or isinstance(value, bool):
        return _must_be("an integer", value)
    return _out_of_range(value, minimum, maximum) or value


def _check_number(value: Json, *, minimum: float | None = None, maximum: float | None = None) -> float | Refused:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return _must_be("a finite number", value)
    return _out_of_range(value, minimum, maximum) or float(value)


def _out_of_range(value: float, minimum: float | None, maximum: float | None) -> Refused | None:
    if minimum is not None and value < minimum:
        return Refused(f"must be at least {minimum}, is {value}")
    if maximum is not None and value > maximum:
        return Refused(f"must be at most {maximum}, is {value}")
    return None


def _check_flag(value: Json) -> bool | Refused:
    return value if isinstance(value, bool) else _must_be("true or false", value)


def _check_mapping(value: Json) -> Json | Refused:
    return value if isinstance(value, dict) else _must_be("a mapping", value)


def _check_each(value: Json, *, check: Callable[[Json], T | Refused]) -> list[T] | Refused:
    if not isinstance(value, list):
        return _must_be("a list", value)
    found = []
    for index, item in enumerate(value):
        checked = check(item)
        if isinstance(checked, Refused):
            return Refused(f"item {index} {checked.why}")
        found.append(checked)
    return found
