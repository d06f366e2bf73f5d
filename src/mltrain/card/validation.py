"""Validate a Model Card v2 against its schema, its consistency rules, and the hashes of the files that it names.

A card is untrusted input, perhaps from another tool: it is parsed strictly, checked against the schema, and only then
checked for consistency. Every violation is reported with its JSON pointer. Unknown keys are warnings, because a card
may say more than this version understands.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mltrain.card.model_card import ModelCard
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.errors import InputError
from mltrain.names import nearest, show
from mltrain.storage.hashing import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from jsonschema.exceptions import ValidationError

    from mltrain.documents.values import Json

CARD_FILE: Final = "model_card.json"
CARD_VERSION: Final = "2"
MAX_CARD_BYTES: Final = 16 << 20

_SCHEMA_FILE: Final = "model_card_schema.json"
_BARE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TYPES: Final[Mapping[str, str]] = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}

# Keys and indices from the root.
Place: TypeAlias = tuple[str | int, ...]
Problem: TypeAlias = tuple[Place, str]


@dataclass(frozen=True, slots=True)
class CardCheck:
    """The result of validating a card.

    Attributes:
        violations: One line each: "where: /json/pointer: what".
        warnings: Unknown keys, in the same form.
    """

    violations: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the card is valid."""
        return not self.violations


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the card."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name(_SCHEMA_FILE).read_bytes())
    return loaded


def check_card(data: bytes, *, where: str, folder: Path | None = None) -> CardCheck:
    """Check a card against its schema and its consistency rules.

    Args:
        data: The bytes of the card.
        where: Its name in messages, usually the path.
        folder: The folder of the files that its `artifacts` name; None: their hashes are not checked.

    Returns:
        Every violation and every warning.

    Raises:
        MachineError: The machine refuses to read a file in the folder.
    """
    try:
        card: Any = parse_json(data, where=where, max_bytes=MAX_CARD_BYTES)
    except InputError as err:
        return CardCheck((err.message,), ())
    problems = _schema_problems(card)
    # A consistency rule reads only what the schema accepts, so that it can rely on the types.
    unsound = [place for place, _ in problems]
    for places, rule in _CONSISTENCY:
        if all(_is_sound(place, card, unsound) for place in places):
            problems += [((*places[0], *place), what) for place, what in rule(*(_at(card, p) for p in places))]
    if folder is not None and _is_sound(("artifacts",), card, [place for place, _ in problems]):
        problems += _artifact_problems(_at(card, ("artifacts",)), folder)
    unknown = _unknown_keys(card, schema(), ())
    return CardCheck(tuple(_line(where, p) for p in problems), tuple(_line(where, p) for p in unknown))


def read_card(data: bytes, *, where: str) -> ModelCard:
    """Return a valid card.

    Raises:
        InputError: It is invalid; the message has the first violation and the number of the others.
    """
    violations = check_card(data, where=where).violations
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise InputError(f"{violations[0]}{more}", hint="`mltrain card validate` lists all of them")
    card: Any = parse_json(data, where=where, max_bytes=MAX_CARD_BYTES)
    return ModelCard(card)


def card_bytes(card: ModelCard) -> bytes:
    """Return the canonical bytes of a card: `read_card(card_bytes(card), where="") == card`.

    Raises:
        ValueError: The card is not valid, or holds a number that JSON cannot.
    """
    data = canonical_json(card.document)
    check = check_card(data, where="this card")
    if not check.passed:
        raise ValueError("; ".join(check.violations))
    return data


def _at(card: Any, place: Place) -> Any:  # noqa: ANN401 -- JSON
    """Return the value at a place; None if there is none."""
    for step in place:
        card = card.get(step) if isinstance(card, dict) else None
    return card


def _is_sound(place: Place, card: Json, unsound: list[Place]) -> bool:
    """Return whether a place holds a value, and the schema found nothing wrong above, at or below it."""
    wrong = any(p[: len(place)] == place or place[: len(p)] == p for p in unsound)
    return not wrong and _at(card, place) is not None


def _line(where: str, problem: Problem) -> str:
    place, what = problem
    return ": ".join(part for part in (where, _pointer(place), what) if part)


def _pointer(place: Place) -> str:
    """Return the JSON pointer (RFC 6901) to a place, with unprintable characters escaped.

    >>> _pointer(("gates", 2, "a/b"))
    '/gates/2/a~1b'
    """
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in place)
    return "".join(f"/{step if step.isprintable() else show(step)}" for step in steps)


@cache
def _validator() -> Any:  # noqa: ANN401 -- jsonschema makes its classes at run time
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _schema_problems(card: Json) -> list[Problem]:
    found = (problem for error in _validator().iter_errors(card) for problem in _explain(error))
    return sorted(dict.fromkeys(found), key=lambda problem: _pointer(problem[0]))


def _explain(error: ValidationError) -> Iterator[Problem]:
    """Return the place and the description of an error, without repeating long values."""
    place: Place = tuple(error.absolute_path)
    rule: Any = error.validator_value
    value: Any = error.instance
    if error.validator == "required":
        yield from (((*place, key), "is missing") for key in rule if key not in value)
    else:
        yield place, f"must be {_describe_rule(str(error.validator), rule)}, is {_describe(value)}"


def _describe_rule(keyword: str, rule: Any) -> str:  # noqa: ANN401 -- JSON
    match keyword:
        case "type":
            return " or ".join(_TYPES[kind] for kind in ([rule] if isinstance(rule, str) else rule))
        case "const" | "enum":
            return " or ".join(map(json.dumps, rule if keyword == "enum" else [rule]))
        case "minimum":
            return f"{rule} or above"
        case "maximum":
            return f"{rule} or below"
        case "minLength" | "minItems":
            return f"of length {rule} or above"
    return f"of the form {rule}"


def _describe(value: Json) -> str:
    if isinstance(value, dict | list):
        return f"{'a mapping' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return show(value) if isinstance(value, str) else json.dumps(value)


def _unknown_keys(value: Json, rule: dict[str, Any], place: Place) -> Iterator[Problem]:
    """Find keys that the schema does not list, except in mappings that it leaves open."""
    if "$ref" in rule:
        rule = _validator().schema["$defs"][rule["$ref"].rpartition("/")[2]]
    known: dict[str, Any] = rule.get("properties", {})
    if isinstance(value, dict):
        for key, item in value.items():
            if key in known:
                yield from _unknown_keys(item, known[key], (*place, key))
            elif known and "additionalProperties" not in rule:
                guess = nearest(key, known, count=1)
                yield (*place, key), f"unknown key{', did you mean ' + guess[0] if guess else ''}"
    elif isinstance(value, list) and "items" in rule:
        for index, item in enumerate(value):
            yield from _unknown_keys(item, rule["items"], (*place, index))


def _parse_time(text: str) -> datetime | None:
    """Return an ISO 8601 time, in UTC if it has no zone; None if it is not a time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _created_at_problems(created_at: str) -> Iterator[Problem]:
    if _parse_time(created_at) is None:
        yield (), f"{show(created_at)} is not a time such as 2025-10-15T12:00:00Z"


def _range_problems(block: dict[str, Any], place: Place) -> Iterator[Problem]:
    times = {key: _parse_time(block[key]) for key in ("start", "end")}
    for key, moment in times.items():
        if moment is None:
            yield (*place, key), f"{show(block[key])} is not a time such as 2025-10-15T12:00:00Z"
    start, end = times["start"], times["end"]
    if start and end and end < start:
        yield place, f"ends at {block['end']}, before it starts at {block['start']}"


def _repeats(names: Iterable[Hashable], place_of: Callable[[int], Place]) -> Iterator[Problem]:
    seen: set[Hashable] = set()
    for index, name in enumerate(names):
        if name in seen:
            yield place_of(index), f"{show(str(name))} appears twice"
        seen.add(name)


def _symbol_problems(symbols: list[str]) -> Iterator[Problem]:
    yield from _repeats(symbols, lambda i: (i,))


def _balance_problems(balance: dict[str, Any], rows: int) -> Iterator[Problem]:
    pos, neg = balance["pos"], balance["neg"]
    if pos + neg != rows:
        yield (), f"pos + neg is {pos} + {neg} = {pos + neg}, and rows is {rows}"


def _order_problems(lower: float, higher: float, *, name: str) -> Iterator[Problem]:
    if lower > higher:
        yield (), f"{lower} is more than {name}, {higher}"


def _importance_problems(importance: list[dict[str, Any]]) -> Iterator[Problem]:
    yield from _repeats([entry["name"] for entry in importance], lambda i: (i, "name"))


def _interval_problems(intervals: dict[str, Any]) -> Iterator[Problem]:
    for name, interval in intervals.get("metrics", {}).items():
        if interval["low"] > interval["high"]:
            yield ("metrics", name), f"low {interval['low']} is more than high {interval['high']}"


def _gate_problems(gates: dict[str, Any]) -> Iterator[Problem]:
    yield from _repeats([gate["name"] for gate in gates["outcomes"]], lambda i: ("outcomes", i, "name"))
    failed = [gate["name"] for gate in gates["outcomes"] if gate["outcome"] == "failed"]
    if failed and gates["verdict"] == "GO":
        yield ("verdict",), f"is GO, and {show(failed[0])} failed"
    if not failed and gates["verdict"] == "NO-GO":
        yield ("verdict",), "is NO-GO, and no gate failed"


def _split_problems(splits: dict[str, Any]) -> Iterator[Problem]:
    yield from _repeats([block["name"] for block in splits["blocks"]], lambda i: ("blocks", i, "name"))
    for index, block in enumerate(splits["blocks"]):
        yield from _range_problems(block, ("blocks", index))


def _search_problems(search: dict[str, Any]) -> Iterator[Problem]:
    if search.get("pruned", 0) > search.get("trials", search.get("pruned", 0)):
        yield ("pruned",), f"{search['pruned']} is more than trials, {search['trials']}"


def _artifact_name_problems(artifacts: list[dict[str, Any]]) -> Iterator[Problem]:
    # Upper and lower case are one name on many file systems.
    yield from _repeats([entry["path"].casefold() for entry in artifacts], lambda i: (i, "path"))
    for index, entry in enumerate(artifacts):
        if _BARE_NAME.fullmatch(entry["path"]) is None:
            yield (index, "path"), f"{show(entry['path'])} is not a bare file name"


def _artifact_problems(artifacts: list[dict[str, Any]], folder: Path) -> Iterator[Problem]:
    for index, entry in enumerate(artifacts):
        try:
            found = hash_file(folder / entry["path"], max_bytes=entry["bytes"], what="the artifact")
        except InputError as err:
            yield ("artifacts", index), err.message
            continue
        if found != entry["sha256"]:
            yield (
                ("artifacts", index, "sha256"),
                f"{entry['path']} has SHA-256 {found}, the card says {entry['sha256']}",
            )


_LATENCIES: Final = ("p50", "p95", "p99", "max")

# The places of a card that a rule reads, and the rule, which yields problems relative to the first place.
_CONSISTENCY: Final[tuple[tuple[tuple[Place, ...], Callable[..., Iterator[Problem]]], ...]] = (
    ((("created_at",),), _created_at_problems),
    ((("train", "range"),), partial(_range_problems, place=())),
    ((("train", "symbols"),), _symbol_problems),
    ((("train", "class_balance"), ("train", "rows")), _balance_problems),
    *(
        ((("latency_ms", lower), ("latency_ms", higher)), partial(_order_problems, name=higher))
        for lower, higher in pairwise(_LATENCIES)
    ),
    ((("feature_importance",),), _importance_problems),
    ((("intervals",),), _interval_problems),
    ((("gates",),), _gate_problems),
    ((("splits",),), _split_problems),
    ((("search",),), _search_problems),
    ((("artifacts",),), _artifact_name_problems),
)
