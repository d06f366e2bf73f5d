"""Apply faults to an answer before it is sent: another status, body, rows or archive file.

Pure functions of the true answer. Kinds that only disturb the transfer change nothing here.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from mltrain.simulator.exchange import Answer, Request, answer_json, answer_no_file, read_archive_path, refuse
from mltrain.simulator.faults import FIELDS
from mltrain.simulator.wire import FUTURES_HEADER, MICROS_FROM_MS, write_number, write_zip
from mltrain.times import DAY_MS, INTERVALS_MS, SECOND_MS, day_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mltrain.documents.values import Json
    from mltrain.simulator.faults import Fault, Hit

# A page has numbers and texts; a CSV has texts.
Rows: TypeAlias = "list[list[Any]]"

_US_PER_MS: Final = 1000
_MB: Final = 1_000_000
# How much of a corrupt zip is changed.
_FLIPPED_BYTES: Final = 16
_HTML: Final = "<!DOCTYPE html>\n<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>\n"
_GARBAGE: Final = '[[1760529540000,"26893.79",,}\x00\x01 not JSON'
_RESTRICTED: Final = (
    "Service unavailable from a restricted location according to 'b. Eligibility' in "
    "https://www.binance.com/en/terms. Please contact customer service if you believe you received this message in "
    "error."
)
_REFUSALS: Final[Mapping[int, tuple[int, str]]] = {
    400: (-1121, "Invalid symbol."),
    418: (-1003, "Way too much request weight used; IP banned. Please use WebSocket Streams for live updates."),
    429: (-1003, "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."),
    451: (0, _RESTRICTED),
    500: (-1000, "An unknown error occurred while processing the request."),
    503: (-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A request that a fault hits.

    Attributes:
        hit: The fault, and the first request that it hit.
        request: The request.
        answer: The true answer to it.
        ask: Returns the true answer to any request.
    """

    hit: Hit
    request: Request
    answer: Answer
    ask: Callable[[Request], Answer]

    @property
    def fault(self) -> Fault:
        """The fault."""
        return self.hit.fault


def distort(case: Case) -> Answer:
    """Return the answer that the fault turns the true answer into; the same if it disturbs only the transfer."""
    kind = case.fault.kind
    if kind in _ANSWERS:
        return _ANSWERS[kind](case)
    if case.answer.status != 200:
        return case.answer
    if kind in _ROW_CHANGES:
        return _with_rows(case, _ROW_CHANGES[kind](_read_rows(case.answer), case))
    return _ARCHIVES[kind](case) if kind in _ARCHIVES else case.answer


def changes_archive(fault: Fault) -> bool:
    """Return whether a fault changes the bytes of an archive file, so that its checksum must change too."""
    return fault.kind in _ROW_CHANGES or fault.kind in _ARCHIVES


def _status(case: Case) -> Answer:
    """Return an error answer with the fault's status, headers, and body or what the exchange says with that status."""
    fault = case.fault
    headers = tuple(fault.headers.items())
    if fault.body is not None:
        return replace(answer_json(None, status=fault.status), body=fault.body.encode(), headers=headers)
    if fault.status in _REFUSALS:
        return replace(refuse(*_REFUSALS[fault.status], status=fault.status), headers=headers)
    return Answer(fault.status, _HTML.format(f"{fault.status} from the edge").encode(), "text/html", headers)


def _header(case: Case) -> Answer:
    """Return the true answer with the fault's headers, which replace those of the same name."""
    replaced = {name.lower() for name in case.fault.headers}
    kept = [(name, value) for name, value in case.answer.headers if name.lower() not in replaced]
    return replace(case.answer, headers=(*kept, *case.fault.headers.items()))


def _garbage(case: Case) -> Answer:
    """Return an answer 200 whose body is the fault's, or is not JSON."""
    body = _GARBAGE if case.fault.body is None else case.fault.body
    return replace(case.answer, status=200, body=body.encode())


def _clock_skew(case: Case) -> Answer:
    """Return the answer of an endpoint that shows the time, with a clock that is `fault.duration_s` fast."""
    if case.answer.status != 200:
        return case.answer
    body = json.loads(case.answer.body)
    return answer_json({**body, "serverTime": body["serverTime"] + int(case.fault.duration_s * SECOND_MS)})


def _bad_checksum(case: Case) -> Answer:
    """Return a checksum file with every hexadecimal digit of the hash changed."""
    digest, _, name = case.answer.body.decode().partition(" ")
    changed = digest.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    return replace(case.answer, body=f"{changed} {name}".encode())


def _wrong_checksum_name(case: Case) -> Answer:
    """Return a checksum file that names another file."""
    digest, _, name = case.answer.body.decode().partition("  ")
    return replace(case.answer, body=f"{digest}  other-{name}".encode())


_ANSWERS: Final[Mapping[str, Callable[[Case], Answer]]] = {
    "status": _status,
    "header": _header,
    "html": lambda _: Answer(200, _HTML.format("Please wait").encode(), "text/html; charset=utf-8"),
    "garbage": _garbage,
    "empty_body": lambda case: replace(case.answer, status=200, body=b""),
    "redirect": lambda case: Answer(302, b"", "text/html", (("Location", case.fault.text),)),
    "wrong_type": lambda case: replace(case.answer, content_type=case.fault.text),
    "clock_skew": _clock_skew,
    "stuck": lambda case: case.ask(case.hit.first),
    "not_found": lambda _: answer_no_file(),
    "bad_checksum": _bad_checksum,
    "wrong_checksum_name": _wrong_checksum_name,
}


def _read_rows(answer: Answer) -> Rows:
    """Return the rows of a page or of an archive file."""
    if answer.content_type != "application/zip":
        rows: Rows = json.loads(answer.body)
        return rows
    return [line.split(",") for line in _read_csv(answer).decode().splitlines() if line != FUTURES_HEADER]


def _read_csv(answer: Answer) -> bytes:
    """Return the first file in a zip."""
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        return archive.read(archive.namelist()[0])


def _with_rows(case: Case, rows: Rows) -> Answer:
    """Return the true answer, a page or an archive file, with other rows."""
    if case.answer.content_type != "application/zip":
        return replace(case.answer, body=answer_json(cast("Json", rows)).body)
    header = FUTURES_HEADER if _read_csv(case.answer).startswith(FUTURES_HEADER.encode()) else ""
    lines = [header] * bool(header) + [",".join(map(str, row)) for row in rows]
    return _with_csv(case, "".join(f"{line}\n" for line in lines).encode())


def _with_csv(case: Case, csv: bytes) -> Answer:
    """Return the true answer, an archive file, with another CSV in the zip."""
    return replace(case.answer, body=write_zip([(_csv_name(case), csv)]))


def _csv_name(case: Case) -> str:
    """Return the name of the CSV in the requested archive file."""
    return case.request.path.rpartition("/")[2].removesuffix(".zip") + ".csv"


def _open_ms(row: list[Any]) -> int:
    """Return the open time of a row, ms UTC; archive files may give it in µs."""
    time = int(row[0])
    return time // _US_PER_MS if time >= MICROS_FROM_MS * _US_PER_MS else time


def _find_row(rows: Rows, case: Case) -> int:
    """Return the index of the row to change: the first that opens at `at_ms` or later, or the one in the middle."""
    if case.fault.at_ms is None:
        return len(rows) // 2
    return next((i for i, row in enumerate(rows) if _open_ms(row) >= (case.fault.at_ms or 0)), len(rows))


def _rows_before(rows: Rows, case: Case) -> Rows:
    """Return the `fault.amount` true rows before the first of `rows`, or before the requested range if it is empty."""
    count = case.fault.amount
    file = read_archive_path(case.request.path)
    if file is not None:
        path = case.request.path.replace(day_name(file.start_ms), day_name(file.start_ms - DAY_MS))
        day_before = case.ask(Request(path))
        return _read_rows(day_before)[-count:] if day_before.status == 200 and count else []
    first_ms = _open_ms(rows[0]) if rows else int(case.request.query.get("startTime", "0"))
    step_ms = INTERVALS_MS[case.request.query["interval"]]
    query = {k: v for k, v in case.request.query.items() if k in {"symbol", "interval"}}
    query |= {"endTime": str(first_ms - step_ms), "limit": str(count)}
    return _read_rows(case.ask(Request(case.request.path, query)))


def _change_field(row: list[Any], fault: Fault) -> list[Any]:
    """Return a row with the fault's field changed: to the value of the fault, or by adding one."""
    new = fault.value
    if new is None:
        old = row[fault.column]
        new = str(old + 1) if isinstance(old, int) else write_number(float(old) + 1)
    return _replace_field(row, fault.column, new)


def _replace_field(row: list[Any], column: int, value: str) -> list[Any]:
    """Return a row with another value in a column; an integer stays one if the text is one."""
    is_integer = isinstance(row[column], int) and value.removeprefix("-").isdecimal()
    return [*row[:column], int(value) if is_integer else value, *row[column + 1 :]]


def _duplicate_rows(rows: Rows, case: Case) -> Rows:
    """Return the rows with `fault.amount` of them twice."""
    i = _find_row(rows, case)
    return [*rows[: i + case.fault.amount], *rows[i:]]


def _overlap_conflict(rows: Rows, case: Case) -> Rows:
    """Return the rows after `fault.amount` earlier ones, the last of which has a changed field."""
    earlier = _rows_before(rows, case)
    return [*earlier[:-1], *(_change_field(row, case.fault) for row in earlier[-1:]), *rows]


def _drop_rows(rows: Rows, case: Case) -> Rows:
    """Return the rows without `fault.amount` of them."""
    i = _find_row(rows, case)
    return [*rows[:i], *rows[i + case.fault.amount :]]


def _drop_day(rows: Rows, case: Case) -> Rows:
    """Return the rows without those of the UTC day of the fault's `at_ms`; without it, of the first row."""
    if not rows:
        return rows
    at_ms = _open_ms(rows[0]) if case.fault.at_ms is None else case.fault.at_ms
    return [row for row in rows if _open_ms(row) // DAY_MS != at_ms // DAY_MS]


def _restate(rows: Rows, case: Case) -> Rows:
    """Return the rows with the fault's field changed in the row that opens at `at_ms`, or in the middle one."""
    i = _find_row(rows, case)
    return [*rows[:i], *(_change_field(row, case.fault) for row in rows[i : i + 1]), *rows[i + 1 :]]


def _bad_value(rows: Rows, case: Case) -> Rows:
    """Return the rows with the fault's text in its field, in the row that opens at `at_ms` or the middle one."""
    i = _find_row(rows, case)
    bad = [_replace_field(row, case.fault.column, case.fault.text) for row in rows[i : i + 1]]
    return [*rows[:i], *bad, *rows[i + 1 :]]


def _micros(rows: Rows, _: Case) -> Rows:
    """Return the rows with open and close times in µs instead of ms."""
    close = FIELDS.index("close_time")
    return [[row[0] * _US_PER_MS, *row[1:close], (row[close] + 1) * _US_PER_MS - 1, *row[close + 1 :]] for row in rows]


_ROW_CHANGES: Final[Mapping[str, Callable[[Rows, Case], Rows]]] = {
    "duplicate_rows": _duplicate_rows,
    "shuffle_rows": lambda rows, _: [*rows[1::2], *rows[::2]],
    "overlap": lambda rows, case: [*_rows_before(rows, case), *rows],
    "overlap_conflict": _overlap_conflict,
    "drop_rows": _drop_rows,
    "drop_day": _drop_day,
    "restate": _restate,
    "bad_value": _bad_value,
    "columns_11": lambda rows, _: [row[:-1] for row in rows],
    "micros": _micros,
}


def _truncated_rows(case: Case) -> Answer:
    """Return the archive file with a CSV that ends in the middle of a row, about half way."""
    csv = _read_csv(case.answer)
    return _with_csv(case, csv[: csv.index(b"\n", len(csv) // 2) + 20])


def _corrupt_zip(case: Case) -> Answer:
    """Return the archive file with 16 bytes in the middle of the zip inverted."""
    body = bytearray(case.answer.body)
    middle = len(body) // 2
    body[middle : middle + _FLIPPED_BYTES] = bytes(b ^ 0xFF for b in body[middle : middle + _FLIPPED_BYTES])
    return replace(case.answer, body=bytes(body))


@lru_cache(maxsize=4)
def _zip_zeros(name: str, megabytes: int) -> bytes:
    """Return a zip of one file with `megabytes` MB of the digit 0."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as member:
        for _ in range(megabytes):
            member.write(b"0" * _MB)
    return out.getvalue()


def _two_members(case: Case) -> Answer:
    """Return an archive file with a second CSV in the zip."""
    members = [(_csv_name(case), _read_csv(case.answer)), ("more.csv", b"0,0,0,0,0,0,0,0,0,0,0,0\n")]
    return replace(case.answer, body=write_zip(members))


_ARCHIVES: Final[Mapping[str, Callable[[Case], Answer]]] = {
    "truncated_rows": _truncated_rows,
    "with_header": lambda case: _with_csv(case, f"{','.join(FIELDS)},ignore\n".encode() + _read_csv(case.answer)),
    "corrupt_zip": _corrupt_zip,
    "zip_bomb": lambda case: replace(case.answer, body=_zip_zeros(_csv_name(case), case.fault.amount)),
    "two_members": _two_members,
    "path_traversal_member": lambda case: replace(
        case.answer, body=write_zip([(f"../../{_csv_name(case)}", _read_csv(case.answer))])
    ),
}
