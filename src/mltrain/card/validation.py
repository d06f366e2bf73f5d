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

# Keys and list indices from the root of the card to a value.
Place: TypeAlias = tuple[str | int, ...]
# The place of a violation or a warning, and what is wrong there.
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
        """Whether the card has no violation."""
        return not self.violations


def load_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the card."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name(_SCHEMA_FILE).read_bytes())
    return loaded


def check_card(data: bytes, *, where: str, folder: Path | None = None) -> CardCheck:
    """Return every violation of the schema and the consistency rules in a card, and every warning.

    Args:
        data: The bytes of the card.
        where: Its name in messages, usually the path.
        folder: The folder of the files that its `artifacts` name; None: their hashes are not checked.
    """
    try:
        card: Any = parse_json(data, where=where, max_bytes=MAX_CARD_BYTES)
    except InputError as err:
        return CardCheck((err.message,), ())
    problems = _find_schema_problems(card)
    # A consistency rule reads only places that the schema accepts, so that it can rely on their types.
    rejected = [place for place, _ in problems]
    for places, rule in _CONSISTENCY:
        if all(_is_sound(place, card, rejected) for place in places):
            values = [_value_at(card, place) for place in places]
            problems += [((*places[0], *below), what) for below, what in rule(*values)]
    if folder is not None and _is_sound(("artifacts",), card, [place for place, _ in problems]):
        problems += _find_artifact_file_problems(_value_at(card, ("artifacts",)), folder)
    violations, warnings = (
        tuple(_format_problem(where, problem) for problem in found)
        for found in (problems, _find_unknown_keys(card, load_schema(), ()))
    )
    return CardCheck(violations, warnings)


def read_card(data: bytes, *, where: str) -> ModelCard:
    """Return the card that these bytes hold; `where` is its name in messages.

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
    """Return the canonical JSON of a card: `read_card(card_bytes(card), where="") == card`.

    Raises:
        ValueError: The card is not valid, or holds a number that JSON cannot express.
    """
    data = canonical_json(card.document)
    check = check_card(data, where="this card")
    if not check.passed:
        raise ValueError("; ".join(check.violations))
    return data


def _value_at(card: Any, place: Place) -> Any:  # noqa: ANN401 -- JSON
    """Return the value at a place, given as keys of mappings only; None if there is none."""
    for step in place:
        card = card.get(step) if isinstance(card, dict) else None
    return card


def _is_sound(place: Place, card: Json, rejected: list[Place]) -> bool:
    """Return whether a card has a value at a place, and none of the rejected places lies above, at or below it."""
    wrong = any(p[: len(place)] == place or place[: len(p)] == p for p in rejected)
    return not wrong and _value_at(card, place) is not None


def _format_problem(where: str, problem: Problem) -> str:
    """Return a problem of the card named `where` as "where: /json/pointer: what"; empty parts are left out."""
    place, what = problem
    return ": ".join(part for part in (where, _format_pointer(place), what) if part)


def _format_pointer(place: Place) -> str:
    """Return the JSON pointer (RFC 6901) to a place, with unprintable characters escaped.

    >>> _format_pointer(("gates", 2, "a/b"))
    '/gates/2/a~1b'
    """
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in place)
    return "".join(f"/{step if step.isprintable() else show(step)}" for step in steps)


@cache
def _validator() -> Any:  # noqa: ANN401 -- jsonschema makes its classes at run time
    """Return a validator of the card's schema."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(load_schema())


def _find_schema_problems(card: Json) -> list[Problem]:
    """Return what in a document contradicts the card's schema, each problem once, by JSON pointer."""
    problems = (problem for error in _validator().iter_errors(card) for problem in _explain(error))
    return sorted(dict.fromkeys(problems), key=lambda problem: _format_pointer(problem[0]))


def _explain(error: ValidationError) -> Iterator[Problem]:
    """Yield the problems of one schema error: one for each missing key, else one that says what the value must be."""
    place: Place = tuple(error.absolute_path)
    rule: Any = error.validator_value
    value: Any = error.instance
    if error.validator == "required":
        yield from (((*place, key), "is missing") for key in rule if key not in value)
    else:
        yield place, f"must be {_describe_rule(str(error.validator), rule)}, is {_describe_value(value)}"


def _describe_rule(keyword: str, rule: Any) -> str:  # noqa: ANN401 -- JSON
    """Return what a keyword of JSON Schema with the value `rule` demands, as the words after "must be"."""
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


def _describe_value(value: Json) -> str:
    """Return a value as text; of a mapping or a list only its length."""
    if isinstance(value, dict | list):
        return f"{'a mapping' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return show(value) if isinstance(value, str) else json.dumps(value)


def _find_unknown_keys(value: Json, subschema: dict[str, Any], place: Place) -> Iterator[Problem]:
    """Yield the keys at and below a place that its part of the schema does not list, except in open mappings."""
    if "$ref" in subschema:
        subschema = _validator().schema["$defs"][subschema["$ref"].rpartition("/")[2]]
    known: dict[str, Any] = subschema.get("properties", {})
    if isinstance(value, dict):
        for key, item in value.items():
            if key in known:
                yield from _find_unknown_keys(item, known[key], (*place, key))
            elif known and "additionalProperties" not in subschema:
                guess = nearest(key, known, count=1)
                yield (*place, key), f"unknown key{', did you mean ' + guess[0] if guess else ''}"
    elif isinstance(value, list) and "items" in subschema:
        for index, item in enumerate(value):
            yield from _find_unknown_keys(item, subschema["items"], (*place, index))


def _parse_time(text: str) -> datetime | None:
    """Return an ISO 8601 time, in UTC if it has no zone; None if it is not a time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _find_time_problems(time: str) -> Iterator[Problem]:
    """Yield a problem if a text is not an ISO 8601 time."""
    if _parse_time(time) is None:
        yield (), f"{show(time)} is not a time such as 2025-10-15T12:00:00Z"


def _find_range_problems(block: dict[str, Any], place: Place) -> Iterator[Problem]:
    """Yield problems of the times `start` and `end` of a mapping at a place: unreadable, or in the wrong order."""
    times = {key: _parse_time(block[key]) for key in ("start", "end")}
    for key, moment in times.items():
        if moment is None:
            yield (*place, key), f"{show(block[key])} is not a time such as 2025-10-15T12:00:00Z"
    start, end = times["start"], times["end"]
    if start and end and end < start:
        yield place, f"ends at {block['end']}, before it starts at {block['start']}"


def _find_repeats(items: Iterable[Any], *, key: str | None = None) -> Iterator[Problem]:
    """Yield a problem for each item of a list that equals an earlier one; with a key, only its values are compared."""
    seen: set[Hashable] = set()
    for index, item in enumerate(items):
        name = item if key is None else item[key]
        if name in seen:
            yield ((index,) if key is None else (index, key)), f"{show(str(name))} appears twice"
        seen.add(name)


def _find_balance_problems(balance: dict[str, Any], rows: int) -> Iterator[Problem]:
    """Yield a problem if the rows of both classes do not add up to the number of rows."""
    pos, neg = balance["pos"], balance["neg"]
    if pos + neg != rows:
        yield (), f"pos + neg is {pos} + {neg} = {pos + neg}, and rows is {rows}"


def _find_order_problems(lower: float, higher: float, *, name: str) -> Iterator[Problem]:
    """Yield a problem if `lower` is more than `higher`, the figure with the key `name`."""
    if lower > higher:
        yield (), f"{lower} is more than {name}, {higher}"


def _find_interval_problems(intervals: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each metric whose interval ends before it begins."""
    for name, interval in intervals.get("metrics", {}).items():
        if interval["low"] > interval["high"]:
            yield ("metrics", name), f"low {interval['low']} is more than high {interval['high']}"


def _find_gate_problems(gates: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem if the verdict contradicts the gates' outcomes."""
    failed = [gate["name"] for gate in gates["outcomes"] if gate["outcome"] == "failed"]
    if failed and gates["verdict"] == "GO":
        yield ("verdict",), f"is GO, and {show(failed[0])} failed"
    if not failed and gates["verdict"] == "NO-GO":
        yield ("verdict",), "is NO-GO, and no gate failed"


def _find_block_problems(blocks: list[dict[str, Any]]) -> Iterator[Problem]:
    """Yield problems of the names and the times of the blocks of the time split."""
    yield from _find_repeats(blocks, key="name")
    for index, block in enumerate(blocks):
        yield from _find_range_problems(block, (index,))


def _find_search_problems(search: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem if more trials were pruned than run."""
    if search.get("pruned", 0) > search.get("trials", search.get("pruned", 0)):
        yield ("pruned",), f"{search['pruned']} is more than trials, {search['trials']}"


def _find_artifact_name_problems(artifacts: list[dict[str, Any]]) -> Iterator[Problem]:
    """Yield problems of the names of the artifacts: equal ones, and those that are more than a file name."""
    # Upper and lower case are one name on many file systems.
    yield from _find_repeats([{"path": entry["path"].casefold()} for entry in artifacts], key="path")
    for index, entry in enumerate(artifacts):
        if _BARE_NAME.fullmatch(entry["path"]) is None:
            yield (index, "path"), f"{show(entry['path'])} is not a bare file name"


def _find_artifact_file_problems(artifacts: list[dict[str, Any]], folder: Path) -> Iterator[Problem]:
    """Yield a problem for each artifact that is missing in the folder, or has another hash than the card says."""
    for index, entry in enumerate(artifacts):
        try:
            sha256 = hash_file(folder / entry["path"], max_bytes=entry["bytes"], what="the artifact")
        except InputError as err:
            yield ("artifacts", index), err.message
            continue
        if sha256 != entry["sha256"]:
            yield (
                ("artifacts", index, "sha256"),
                f"{entry['path']} has SHA-256 {sha256}, the card says {entry['sha256']}",
            )


# The places of a card that a consistency rule reads, and the rule, which yields problems relative to the first place.
_CONSISTENCY: Final[tuple[tuple[tuple[Place, ...], Callable[..., Iterator[Problem]]], ...]] = (
    ((("created_at",),), _find_time_problems),
    ((("valid_until",),), _find_time_problems),
    ((("train", "range"),), partial(_find_range_problems, place=())),
    ((("train", "symbols"),), _find_repeats),
    ((("train", "class_balance"), ("train", "rows")), _find_balance_problems),
    *(
        ((("latency_ms", lower), ("latency_ms", higher)), partial(_find_order_problems, name=higher))
        for lower, higher in pairwise(("p50", "p95", "p99", "max"))
    ),
    ((("feature_importance",),), partial(_find_repeats, key="name")),
    ((("intervals",),), _find_interval_problems),
    ((("gates", "outcomes"),), partial(_find_repeats, key="name")),
    ((("gates",),), _find_gate_problems),
    ((("splits", "blocks"),), _find_block_problems),
    ((("search",),), _find_search_problems),
    ((("artifacts",),), _find_artifact_name_problems),
)
