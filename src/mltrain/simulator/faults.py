"""Scripted faults of the simulated exchange: their kinds, and which requests they hit.

A fault selects requests by endpoint, symbol and time, counts them, and acts from the nth on. Its effect on an answer is
in `distortion`, its effect on the transfer in `delivery`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.documents.records import Limits, RecordError, read_record, record
from mltrain.documents.strict_json import parse_json
from mltrain.documents.values import Located
from mltrain.names import did_you_mean, show
from mltrain.simulator.exchange import read_archive_path
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mltrain.documents.records import Violation
    from mltrain.simulator.exchange import Request

#: Columns of a row in the order of the wire; the twelfth is ignored.
FIELDS: Final = (
    "open_time", "open", "high", "low", "close", "volume",
    "close_time", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote",
)  # fmt: skip

ENDPOINTS: Final = (
    *("any", "time", "ping", "exchangeInfo", "klines", "archive", "checksum"),
    *("fundingRate", "fundingArchive", "fundingChecksum"),
)

_MAX_FILE_BYTES: Final = 1 << 20
_EVERY: Final = ENDPOINTS[1:]
_ROWS: Final = ("klines", "archive")
_ZIPS: Final = ("archive", "fundingArchive")
_CHECKSUMS: Final = ("checksum", "fundingChecksum")
_FILES: Final = (*_ZIPS, *_CHECKSUMS)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of fault: its effect, the endpoints on which it can act, and the defaults of a Fault's parameters."""

    about: str
    on: tuple[str, ...] = _EVERY
    count: int = 0
    seconds: float = 0.0
    value: str = ""
    field: str = "close"


_KINDS: Final[Mapping[str, _Kind]] = {
    # Another answer.
    "status": _Kind("answers with `status`, `headers`, and `body` or what the exchange says with that status"),
    "header": _Kind("adds or replaces `headers` in the true answer"),
    "html": _Kind("answers 200 with a page of HTML"),
    "garbage": _Kind("answers 200 with bytes that are no JSON, or with `body`"),
    "empty_body": _Kind("answers 200 with no body"),
    "redirect": _Kind("answers 302 to `value`", value="http://127.0.0.1:9/elsewhere"),
    "wrong_type": _Kind("sends the true body as the content type `value`", value="text/html"),
    "clock_skew": _Kind("shows a clock that is `seconds` fast", on=("time", "exchangeInfo"), seconds=3600.0),
    # Bytes are lost, late or too many.
    "short": _Kind("closes after `count` bytes (0: half) of a body that promised them all"),
    "cut_chunk": _Kind("closes after `count` bytes (0: half) of a chunk that promised them all"),
    "no_length_cut": _Kind("promises no length and closes after `count` bytes (0: half) of the body"),
    "reset": _Kind("resets the connection after `count` bytes of the body; 0: before any answer"),
    "hang": _Kind("answers nothing for `seconds`, then closes", seconds=3600.0),
    "slow": _Kind("answers rightly after `seconds`", seconds=1.0),
    "drip_header": _Kind("sends the head one byte every `seconds`", seconds=0.2),
    "drip_body": _Kind("sends the body one byte every `seconds`", seconds=0.2),
    "big_header": _Kind("adds a header of `count` bytes", count=1 << 20),
    "gzip_bomb": _Kind("sends `count` MB of blanks as a small gzip body", count=300),
    "big_body": _Kind("sends `count` MB of blanks in chunks", count=1024),
    # Wrong rows. `at_ms` selects the row by its open time; the default is the row in the middle.
    "duplicate_rows": _Kind("sends `count` rows twice", on=_ROWS, count=1),
    "shuffle_rows": _Kind("sends every second row first, then the others", on=_ROWS),
    "overlap": _Kind("sends the `count` rows before the first one, too", on=_ROWS, count=10),
    "overlap_conflict": _Kind(
        "as overlap, the last of them with another `field`: `value`, or one more", on=_ROWS, count=10, field="volume"
    ),
    "stuck": _Kind("repeats its answer to the first request that it hit", on=("klines",)),
    "drop_rows": _Kind("leaves `count` rows out", on=_ROWS, count=10),
    "drop_day": _Kind("leaves the UTC day of `at_ms` (without it: of the first row) out", on=("klines",)),
    "restate": _Kind("gives a row another `field`: `value`, or one more", on=_ROWS, field="volume"),
    "bad_value": _Kind("gives a row the text `value` as its `field`", on=_ROWS, value="abc"),
    "columns_11": _Kind("leaves the last of the twelve columns out", on=_ROWS),
    "micros": _Kind("counts the times of rows in microseconds", on=("klines",)),
    # Wrong archive files. Except for the first three kinds, the checksum fits the file that is sent.
    "not_found": _Kind("has no such file", on=_FILES),
    "bad_checksum": _Kind("gives another checksum than the file's", on=_CHECKSUMS),
    "wrong_checksum_name": _Kind("gives the checksum under another file's name", on=_CHECKSUMS),
    "truncated_rows": _Kind("ends the CSV in the middle of a row", on=_ZIPS),
    "with_header": _Kind("begins the CSV with the names of its columns", on=("archive",)),
    "corrupt_zip": _Kind("turns bits over in the middle of the zip", on=_ZIPS),
    "zip_bomb": _Kind("packs `count` MB of zeros as the CSV", on=_ZIPS, count=300),
    "two_members": _Kind("packs a second file after the CSV", on=_ZIPS),
    "path_traversal_member": _Kind("names the CSV `../../` and its name", on=_ZIPS),
}

#: Every kind of fault and what it does.
KINDS: Final[Mapping[str, str]] = {name: kind.about for name, kind in _KINDS.items()}


@record
@dataclass(frozen=True, slots=True)
class Fault:
    """One scripted fault: its kind, the requests that it hits, and its parameters.

    Attributes:
        kind: One of KINDS, which says which of the parameters it uses.
        endpoint: One of ENDPOINTS; any: every endpoint on which the kind can act.
        symbol: It hits only requests for this symbol; empty: any request.
        nth: The first matching request that it hits, counted from 1.
        times: How many matching requests it hits from the nth on; 0: all.
        at_ms: It hits only pages and files with this open time, ms UTC; kinds that change a row change that one.
        status: HTTP status of the answer.
        headers: Headers of the answer.
        body: Body of the answer; None: the kind's default.
        field: One of FIELDS; None: the kind's default.
        value: A text, for the kinds that use one; None: the kind's default.
        count: A number of bytes, MB or rows, as the kind says; None: the kind's default.
        seconds: A duration or a difference of clocks; None: the kind's default.

    Raises:
        RecordError: The kind, endpoint or field is unknown, or the kind cannot act on the endpoint.
    """

    kind: str
    endpoint: str = "any"
    symbol: str = ""
    nth: Annotated[int, Limits(1)] = 1
    times: Annotated[int, Limits(0)] = 1
    at_ms: Annotated[int, Limits(0)] | None = None
    status: Annotated[int, Limits(200, 599)] = 503
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: str | None = None
    field: str | None = None
    value: str | None = None
    count: Annotated[int, Limits(0, 1 << 30)] | None = None
    seconds: Annotated[float, Limits(-1e6, 1e6)] | None = None

    def __post_init__(self) -> None:
        """Check the kind, whether it can act on the endpoint, the field, and the headers."""
        problems: list[Violation] = [
            ((name,), f"{show(value)} is unknown; {did_you_mean(value, known)}")
            for name, value, known in (
                ("kind", self.kind, KINDS),
                ("endpoint", self.endpoint, ENDPOINTS),
                ("field", self.field, FIELDS),
            )
            if value is not None and value not in known
        ]
        if not problems and self.endpoint not in ("any", *_KINDS[self.kind].on):
            problems.append((("endpoint",), f"{self.kind} acts on {' and '.join(_KINDS[self.kind].on)}"))
        problems += [
            (("headers", name), "must be printable ASCII, the name too")
            for name, value in self.headers.items()
            if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable())
        ]
        if problems:
            raise RecordError(*problems)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints whose requests the fault can hit, without "any"."""
        return _KINDS[self.kind].on if self.endpoint == "any" else (self.endpoint,)

    @property
    def amount(self) -> int:
        """Number of bytes, MB or rows, as the kind says: `count`, or the kind's default."""
        return _KINDS[self.kind].count if self.count is None else self.count

    @property
    def duration_s(self) -> float:
        """Duration, or difference of clocks, in seconds: that of the fault, or the kind's default."""
        return _KINDS[self.kind].seconds if self.seconds is None else self.seconds

    @property
    def text(self) -> str:
        """Text that the kind uses: `value`, or the kind's default."""
        return _KINDS[self.kind].value if self.value is None else self.value

    @property
    def column(self) -> int:
        """Index in a row of the field to change: `field`, or the kind's default."""
        return FIELDS.index(self.field or _KINDS[self.kind].field)

    def matches(self, request: Request) -> bool:
        """Return whether the fault counts a request: its endpoint, symbol and open times are those of the fault."""
        if request.endpoint not in self.endpoints or (self.symbol and request.symbol != self.symbol):
            return False
        return self.at_ms is None or _covers(request, self.at_ms)

    def hits(self, number: int) -> bool:
        """Return whether the fault acts on the matching request of that number, counted from 1."""
        return self.nth <= number and (self.times == 0 or number < self.nth + self.times)


def _covers(request: Request, at_ms: int) -> bool:
    """Return whether the requested open times include `at_ms`, ms UTC; those without start or end are not limited."""
    file = read_archive_path(request.path)
    if file is not None:
        return file.start_ms <= at_ms < file.end_ms
    start, end = request.query.get("startTime", "0"), request.query.get("endTime", str(at_ms))
    return start.isdecimal() and end.isdecimal() and int(start) <= at_ms <= int(end)


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that acts on a request.

    Attributes:
        fault: The fault.
        first: The first request for the same symbol that it hit, which may be this one.
    """

    fault: Fault
    first: Request


class FaultScript:
    """The faults of one server, with their counts. If several hit a request, the first of them acts."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        # How many matching requests each fault has counted.
        self._counts = [0] * len(self._faults)
        # The first request that a fault hit, by the fault's position and the symbol.
        self._first: dict[tuple[int, str], Request] = {}

    def __bool__(self) -> bool:
        """Return whether there is any fault."""
        return bool(self._faults)

    def take(self, request: Request) -> Hit | None:
        """Count a request and return the fault that acts on it; None without one."""
        acting = None
        for i in self._matching(request):
            self._counts[i] += 1
            if self._faults[i].hits(self._counts[i]):
                first = self._first.setdefault((i, request.symbol), request)
                acting = acting or Hit(self._faults[i], first)
        return acting

    def foresee(self, request: Request) -> Hit | None:
        """Return the fault that would act on a request, without counting the request; None without one."""
        for i in self._matching(request):
            if self._faults[i].hits(self._counts[i] + 1):
                return Hit(self._faults[i], request)
        return None

    def _matching(self, request: Request) -> Iterator[int]:
        """Return the positions of the faults that count a request."""
        return (i for i, fault in enumerate(self._faults) if fault.matches(request))


def read_faults(path: Path) -> tuple[Fault, ...]:
    """Read the faults of a JSON file: a list of objects with the attributes of `Fault`, of which only `kind` is needed.

    Raises:
        InputError: The file is missing or not JSON, or an attribute is unknown or wrong; names each one.
    """
    where = str(path)
    value = parse_json(read_file(path, max_bytes=_MAX_FILE_BYTES, what="list of faults"), where=where)
    return read_record(Located({"faults": value}, where), _Faults).faults


@record
@dataclass(frozen=True, slots=True)
class _Faults:
    """The list of a file of faults, under a key that gives its violations a place."""

    faults: tuple[Fault, ...]
