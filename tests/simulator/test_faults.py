"""Laws of the simulated exchange's faults: each kind acts as described, on the requests it selects."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import zipfile
from contextlib import contextmanager

import httpx
import pytest

from mltrain.errors import InputError
from mltrain.simulator.exchange import Request
from mltrain.simulator.faults import ENDPOINTS, FIELDS, KINDS, Fault, FaultScript, read_faults
from mltrain.simulator.server import SimServer
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.times import DAY_MS, MINUTE_MS

START_MS = CLOCK_MS - DAY_MS
PAGE = {"symbol": "BTCUSDT", "interval": "1m", "startTime": START_MS, "endTime": START_MS + 29 * MINUTE_MS}
FILE = "/archive/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-10-10.zip"
ROW_MS = START_MS + 20 * MINUTE_MS


class Exchange:
    """A server with faults, and its answers."""

    def __init__(self, server, client):
        self.server = server
        self.client = client

    def get(self, path="/api/v3/klines", **query):
        """Return an answer; by default of the first thirty minutes of the day."""
        return self.client.get(path, params={**PAGE, **query} if path.endswith("klines") else query)

    def rows(self, **query):
        return self.get(**query).json()

    def file(self):
        """Return the bytes of one archive, once its checksum has proved right."""
        checksum = self.get(f"{FILE}.CHECKSUM").text
        data = self.get(FILE).content
        assert checksum == f"{hashlib.sha256(data).hexdigest()}  BTCUSDT-1h-2025-10-10.zip\n"
        return data

    def csv(self):
        """Return the rows of one archive."""
        with zipfile.ZipFile(io.BytesIO(self.file())) as archive:
            (name,) = archive.namelist()
            assert name == "BTCUSDT-1h-2025-10-10.csv"
            return archive.read(name).decode().splitlines()


@contextmanager
def exchange(*faults, **options):
    """Yield an exchange with these faults."""
    with (
        SimServer(faults=faults, **options) as server,
        httpx.Client(base_url=server.base_url, trust_env=False, timeout=30) as client,
    ):
        yield Exchange(server, client)


@pytest.fixture(scope="module")
def true():
    """Return a faultless exchange."""
    with exchange() as found:
        yield found


@pytest.fixture(scope="module")
def page(true):
    """Return the true rows of the page that most tests request."""
    return true.rows()


@pytest.fixture(scope="module")
def csv(true):
    """Return the true rows of the archive that most tests ask for."""
    return true.csv()


def of(column):
    """Return the column of a field in a row."""
    return FIELDS.index(column)


def changed(before, after):
    """Return the (row, column) pairs at which two lists of rows of the same length differ."""
    assert len(before) == len(after)
    return [
        (i, j)
        for i, (a, b) in enumerate(zip(before, after, strict=True))
        for j, (x, y) in enumerate(zip(a, b, strict=True))
        if x != y
    ]


# --- one check for each kind -----------------------------------------------------------------------------------------


def check_status(true, **_):
    """Status, headers and body are those of the script, by default the exchange's body; the weight is counted."""
    fault = Fault("status", status=429, headers={"Retry-After": "garbage"}, body="{}")
    with exchange(fault, *(Fault("status", status=s) for s in (451, 400, 502, 418))) as sim:
        answers = [sim.get("/api/v3/time") for _ in range(2)]
        assert (answers[0].status_code, answers[0].text, answers[0].headers["retry-after"]) == (429, "{}", "garbage")
        assert answers[0].headers["x-mbx-used-weight-1m"] == "1"
        assert answers[1].json() == true.get("/api/v3/time").json()
        assert sim.server.log[0].retry_after == "garbage"
    for status, word in (
        (451, "restricted location"),
        (400, "-1121"),
        (502, "<html>"),
        (418, "-1003"),
        (403, "<html>"),
    ):
        with exchange(Fault("status", status=status)) as sim:
            answer = sim.get()
            assert answer.status_code == status
            assert word in answer.text


def check_header(page, **_):
    with exchange(Fault("header", headers={"X-MBX-USED-WEIGHT-1M": "many", "X-More": "1"})) as sim:
        answer = sim.get()
        assert answer.headers.get_list("x-mbx-used-weight-1m") == ["many"]
        assert answer.headers["x-more"] == "1"
        assert answer.json() == page


def check_html(**_):
    with exchange(Fault("html")) as sim:
        answer = sim.get()
        assert answer.status_code == 200
        assert "text/html" in answer.headers["content-type"]
        assert answer.text.startswith("<!DOCTYPE html>")


def check_garbage(**_):
    with exchange(Fault("garbage"), Fault("garbage", nth=2, body="[1,")) as sim:
        answer = sim.get()
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json;charset=UTF-8")
        with pytest.raises(ValueError, match="Expecting"):
            answer.json()
        assert sim.get().text == "[1,"


def check_empty_body(**_):
    with exchange(Fault("empty_body")) as sim:
        answer = sim.get()
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


def check_redirect(**_):
    with exchange(Fault("redirect", value="file:///etc/passwd")) as sim:
        answer = sim.get()
        assert (answer.status_code, answer.headers["location"]) == (302, "file:///etc/passwd")


def check_wrong_type(page, **_):
    with exchange(Fault("wrong_type", value="image/png")) as sim:
        answer = sim.get()
        assert answer.headers["content-type"] == "image/png"
        assert answer.json() == page


def check_clock_skew(**_):
    with exchange(Fault("clock_skew", times=0), Fault("clock_skew", nth=3, seconds=-3600)) as sim:
        assert sim.get("/api/v3/time").json()["serverTime"] == CLOCK_MS + 3_600_000
        assert sim.get("/api/v3/exchangeInfo").json()["serverTime"] == CLOCK_MS + 3_600_000
    with exchange(Fault("clock_skew", seconds=-3600)) as sim:
        assert sim.get("/api/v3/time").json()["serverTime"] == CLOCK_MS - 3_600_000


def check_short(true, **_):
    whole = len(true.get().content)
    with exchange(Fault("short"), Fault("short", nth=2, count=100)) as sim:
        for sent in (whole // 2, 100):
            with pytest.raises(httpx.RemoteProtocolError, match=f"received {sent} bytes, expected {whole}"):
                sim.get()
            assert sim.server.log[-1].sent_bytes == sent


def check_cut_chunk(**_):
    with exchange(Fault("cut_chunk")) as sim, pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        sim.get()


def check_no_length_cut(true, **_):
    whole = true.get().content
    with exchange(Fault("no_length_cut")) as sim:
        answer = sim.get()
        assert (answer.status_code, answer.content) == (200, whole[: len(whole) // 2])
        assert "content-length" not in answer.headers


def check_reset(**_):
    with exchange(Fault("reset"), Fault("reset", nth=2, count=50)) as sim:
        for status, sent in ((0, 0), (200, 50)):
            with pytest.raises(httpx.ReadError):
                sim.get()
            assert (sim.server.log[-1].status, sim.server.log[-1].sent_bytes) == (status, sent)


def check_hang(page, **_):
    with exchange(Fault("hang"), Fault("hang", nth=2, seconds=0)) as sim:
        with pytest.raises(httpx.ReadTimeout):
            sim.client.get("/api/v3/klines", params=PAGE, timeout=httpx.Timeout(30, read=0.2))
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            sim.get()
        assert [a.status for a in sim.server.log] == [0, 0]
        assert sim.rows() == page


def check_slow(page, **_):
    with exchange(Fault("slow", seconds=0.3)) as sim, pytest.raises(httpx.ReadTimeout):
        sim.client.get("/api/v3/klines", params=PAGE, timeout=httpx.Timeout(30, read=0.05))
    with exchange(Fault("slow", seconds=0.01)) as sim:
        assert sim.rows() == page


def check_drip_header(page, **_):
    with exchange(Fault("drip_header", seconds=0.0005)) as sim:
        assert sim.rows() == page
        assert sim.rows() == page


def check_drip_body(page, **_):
    with exchange(Fault("drip_body", seconds=0), Fault("drip_body", seconds=5, nth=2)) as sim:
        assert sim.rows() == page
        with sim.client.stream("GET", "/api/v3/klines", params=PAGE) as answer:
            assert next(answer.iter_raw()) == b"["


def check_big_header(**_):
    with exchange(Fault("big_header")) as sim, pytest.raises(httpx.RemoteProtocolError):
        sim.get()
    with exchange(Fault("big_header", count=5000)) as sim:
        assert len(sim.get().headers["x-padding"]) == 5000


def check_gzip_bomb(**_):
    with exchange(Fault("gzip_bomb", count=8)) as sim:
        with sim.client.stream("GET", "/api/v3/klines", params=PAGE) as answer:
            data = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
        assert len(data) < 20_000
        assert len(gzip.decompress(data)) == 8_000_002


def check_big_body(**_):
    with exchange(Fault("big_body", count=3), Fault("big_body", nth=2)) as sim:
        assert sim.rows() == []
        with sim.client.stream("GET", "/api/v3/klines", params=PAGE) as answer:
            assert next(answer.iter_raw()).startswith(b"[")
            assert "content-length" not in answer.headers


def check_duplicate_rows(page, csv, **_):
    with exchange(Fault("duplicate_rows", times=0), Fault("duplicate_rows", endpoint="archive", count=2)) as sim:
        assert sim.rows() == [*page[:16], *page[15:]]
    with exchange(Fault("duplicate_rows", endpoint="archive", count=2)) as sim:
        assert sim.csv() == [*csv[:14], *csv[12:]]


def check_shuffle_rows(page, csv, **_):
    with exchange(Fault("shuffle_rows", times=0)) as sim:
        assert sim.rows() == page[1::2] + page[::2]
        assert sim.csv() == csv[1::2] + csv[::2]


def check_overlap(true, csv, **_):
    with exchange(Fault("overlap", times=0, count=3)) as sim:
        assert sim.rows() == true.rows(startTime=START_MS - 3 * MINUTE_MS)
        assert len(sim.csv()) == len(csv) + 3
        assert sim.csv()[3:] == csv
        last = [int(line.split(",")[0]) for line in sim.csv()[:4]]
        assert {b - a for a, b in itertools.pairwise(last)} == {3_600_000_000}


def check_overlap_conflict(true, **_):
    with exchange(Fault("overlap_conflict", count=3)) as sim:
        whole, rows = true.rows(startTime=START_MS - 3 * MINUTE_MS), sim.rows()
        assert changed(whole, rows) == [(2, of("volume"))]
        assert float(rows[2][5]) == pytest.approx(float(whole[2][5]) + 1)


def check_stuck(true, **_):
    with exchange(Fault("stuck", times=0)) as sim:
        first = sim.get(symbol="ETHUSDT").content
        assert sim.get(symbol="ETHUSDT", startTime=START_MS + 60 * MINUTE_MS, limit=7).content == first
        assert sim.get().content == true.get().content


def check_drop_rows(page, csv, **_):
    with exchange(Fault("drop_rows", count=2), Fault("drop_rows", at_ms=ROW_MS, count=4)) as sim:
        assert sim.rows() == page[:15] + page[17:]
        assert sim.rows() == page
    with exchange(Fault("drop_rows", at_ms=ROW_MS, count=4)) as sim:
        assert sim.rows(endTime=ROW_MS - 1) == page[:20]
        assert sim.rows() == page[:20] + page[24:]
    with exchange(Fault("drop_rows", endpoint="archive", count=1)) as sim:
        assert sim.csv() == csv[:12] + csv[13:]


def check_drop_day(true, **_):
    query = {"interval": "1h", "startTime": START_MS, "endTime": CLOCK_MS}
    midnight = CLOCK_MS // DAY_MS * DAY_MS
    whole = true.rows(**query)
    with exchange(Fault("drop_day", times=0, at_ms=midnight)) as sim:
        assert sim.rows(**query) == [row for row in whole if row[0] < midnight]
    with exchange(Fault("drop_day")) as sim:
        assert sim.rows(**query) == [row for row in whole if row[0] >= midnight]


def check_restate(page, csv, **_):
    with exchange(Fault("restate", at_ms=ROW_MS, nth=2), Fault("restate", endpoint="archive", field="trades")) as sim:
        assert sim.rows() == page
        after = sim.rows()
        assert changed(page, after) == [(20, of("volume"))]
        assert float(after[20][5]) == pytest.approx(float(page[20][5]) + 1)
        before, after = ([line.split(",") for line in lines] for lines in (csv, sim.csv()))
        assert changed(before, after) == [(12, of("trades"))]
        assert sim.csv() == csv


def check_bad_value(page, csv, **_):
    for field, value in (
        ("close", None), ("open", "NaN"), ("high", "1e400"), ("low", "-1"), ("volume", "0"), ("high", "0.00000001"),
        ("quote_volume", ""), ("trades", "-5"), ("open_time", "7"),
    ):  # fmt: skip
        with exchange(Fault("bad_value", at_ms=ROW_MS, field=field, value=value)) as sim:
            after = sim.rows()
            assert changed(page, after) == [(20, of(field))]
            assert str(after[20][of(field)]) == ("abc" if value is None else value)
            assert isinstance(after[20][of(field)], type(page[20][of(field)]))
    with exchange(Fault("bad_value", endpoint="archive", field="high", value="0")) as sim:
        assert sim.csv()[12].split(",")[2] == "0"
        assert sim.csv() == csv


def check_columns_11(page, csv, **_):
    with exchange(Fault("columns_11", times=0)) as sim:
        assert sim.rows() == [row[:11] for row in page]
        assert sim.csv() == [line.rpartition(",")[0] for line in csv]


def check_micros(page, **_):
    with exchange(Fault("micros")) as sim:
        after = sim.rows()
        assert [row[0] for row in after] == [row[0] * 1000 for row in page]
        assert [row[6] for row in after] == [row[0] * 1000 + 59_999_999 for row in page]
        assert {j for _, j in changed(page, after)} == {0, 6}


def check_not_found(**_):
    with exchange(Fault("not_found", times=0)) as sim:
        assert [sim.get(p).status_code for p in (FILE, f"{FILE}.CHECKSUM", "/api/v3/time")] == [404, 404, 200]


def check_bad_checksum(true, **_):
    with exchange(Fault("bad_checksum")) as sim:
        bad, good = (s.get(f"{FILE}.CHECKSUM").text.split() for s in (sim, true))
        assert bad[1] == good[1]
        assert bad[0] != good[0]
        assert len(bytes.fromhex(bad[0])) == 32
        assert sim.get(f"{FILE}.CHECKSUM").text.split() == good


def check_wrong_checksum_name(true, **_):
    with exchange(Fault("wrong_checksum_name")) as sim:
        bad, good = (s.get(f"{FILE}.CHECKSUM").text.split() for s in (sim, true))
        assert bad == [good[0], f"other-{good[1]}"]


def check_truncated_rows(csv, **_):
    with exchange(Fault("truncated_rows", times=0)) as sim:
        after = sim.csv()
        assert len(after) < len(csv)
        assert after[:-1] == csv[: len(after) - 1]
        assert csv[len(after) - 1].startswith(after[-1])
        assert csv[len(after) - 1] != after[-1]


def check_with_header(csv, **_):
    with exchange(Fault("with_header", times=0)) as sim:
        header, *after = sim.csv()
        assert header.startswith("open_time,open,high,low,close,volume,close_time,")
        assert after == csv


def check_corrupt_zip(**_):
    with exchange(Fault("corrupt_zip", times=0)) as sim:
        data = sim.file()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, pytest.raises((zipfile.BadZipFile, zipfile.zlib.error)):
        archive.read(archive.namelist()[0])


def check_zip_bomb(**_):
    with exchange(Fault("zip_bomb", times=0, count=8)) as sim:
        data = sim.file()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [i.file_size for i in archive.infolist()] == [8_000_000]
    assert len(data) < 100_000


def check_two_members(csv, **_):
    with exchange(Fault("two_members", times=0)) as sim:
        data = sim.file()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["BTCUSDT-1h-2025-10-10.csv", "more.csv"]
        assert archive.read("BTCUSDT-1h-2025-10-10.csv").decode().splitlines() == csv


def check_path_traversal_member(**_):
    with exchange(Fault("path_traversal_member", times=0)) as sim:
        data = sim.file()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["../../BTCUSDT-1h-2025-10-10.csv"]


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_does_what_its_kind_says(kind, true, page, csv):
    """Every kind of fault has a check and passes it."""
    CHECKS[kind](true=true, page=page, csv=csv)


def test_every_check_has_its_kind():
    """No check is left of a kind that was removed; each kind is described in one line."""
    assert set(CHECKS) == set(KINDS)
    assert all(about and "\n" not in about for about in KINDS.values())


# --- selection of requests -------------------------------------------------------------------------------------------


def ask(endpoint="klines", **query):
    month = "/archive/data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2025-09.zip"
    paths = {
        "archive": FILE,
        "checksum": f"{FILE}.CHECKSUM",
        "fundingRate": "/fapi/v1/fundingRate",
        "fundingArchive": month,
        "fundingChecksum": f"{month}.CHECKSUM",
    }
    path = paths.get(endpoint, f"/api/v3/{endpoint}")
    return Request(path, {name: str(value) for name, value in query.items()})


@pytest.mark.parametrize(
    ("nth", "times", "hit"),
    [(1, 1, [1]), (2, 1, [2]), (1, 3, [1, 2, 3]), (3, 2, [3, 4]), (1, 0, [1, 2, 3, 4, 5]), (4, 0, [4, 5])],
)
def test_a_fault_hits_from_the_nth_request_on(nth, times, hit):
    """`nth` counts matching requests from 1; `times` is the number of hits, 0 for all."""
    script = FaultScript([Fault("html", endpoint="klines", symbol="ETHUSDT", nth=nth, times=times)])
    seen = []
    for number in range(1, 6):
        assert script.take(ask(symbol="BTCUSDT")) is None
        assert script.take(ask("time")) is None
        foreseen = script.foresee(ask(symbol="ETHUSDT"))
        taken = script.take(ask(symbol="ETHUSDT"))
        assert (foreseen is None) == (taken is None)
        seen += [number] if taken else []

    assert seen == hit


@pytest.mark.parametrize("endpoint", ENDPOINTS[1:])
def test_any_is_every_endpoint_on_which_the_kind_can_act(endpoint):
    """`any` hits every endpoint, a named one only itself, and a fault of rows only answers with rows."""
    others = [e for e in ENDPOINTS[1:] if e != endpoint]

    assert Fault("html").matches(ask(endpoint))
    assert Fault("html", endpoint=endpoint).matches(ask(endpoint))
    assert not any(Fault("html", endpoint=e).matches(ask(endpoint)) for e in others)
    assert Fault("restate").matches(ask(endpoint)) == (endpoint in {"klines", "archive"})


def test_a_time_picks_the_pages_and_files_that_cover_it():
    """A page without bounds covers everything on that side, an invalid one nothing, a file its day."""
    fault = Fault("restate", at_ms=ROW_MS)

    assert fault.matches(ask(startTime=ROW_MS, endTime=ROW_MS))
    assert fault.matches(ask())
    assert not fault.matches(ask(startTime=ROW_MS + 1))
    assert not fault.matches(ask(endTime=ROW_MS - 1))
    assert not fault.matches(ask(startTime="x"))
    assert not fault.matches(ask("archive"))
    assert Fault("restate", at_ms=1_760_054_400_000).matches(ask("archive"))


def test_the_first_of_several_faults_acts_and_all_are_counted():
    """Where two faults match a request the first one acts, and both count the request."""
    first, second = Fault("html"), Fault("garbage", times=2)
    script = FaultScript([first, second])

    assert [script.take(ask()).fault, script.take(ask()).fault, script.take(ask())] == [first, second, None]


def test_the_log_names_the_fault(page):
    """The record of a hit request has the kind; the next request is answered correctly and has none."""
    with exchange(Fault("short", endpoint="klines")) as sim:
        with pytest.raises(httpx.RemoteProtocolError):
            sim.get()
        assert sim.rows() == page
        assert [a.fault for a in sim.server.log] == ["short", ""]


def test_a_request_above_the_limit_is_not_hit():
    """The weight limit comes first: a refused request does not count for a fault."""
    with exchange(Fault("html", nth=2), weight_limit=1) as sim:
        statuses = [sim.get("/api/v3/time").status_code for _ in range(2)]
        assert statuses == [200, 429]
        assert [a.fault for a in sim.server.log] == ["", ""]


@pytest.mark.parametrize("checksum_first", [True, False])
def test_the_checksum_of_a_file_follows_what_is_sent(checksum_first):
    """File and checksum match, changed or not, whichever is requested first."""
    names = [f"{FILE}.CHECKSUM", FILE]
    digests = []
    with exchange(Fault("drop_rows", endpoint="archive", count=1, nth=2)) as sim:
        for _ in range(3):
            answers = {name: sim.get(name) for name in (names if checksum_first else names[::-1])}
            digests.append(hashlib.sha256(answers[FILE].content).hexdigest())
            assert answers[names[0]].text.split()[0] == digests[-1]

    assert digests[0] == digests[2] != digests[1]


# --- the file of faults ----------------------------------------------------------------------------------------------


def test_a_file_of_faults_is_read_as_it_says(tmp_path):
    """Every attribute can be given; only the kind must be."""
    path = tmp_path / "faults.json"
    full = {
        "kind": "status", "endpoint": "klines", "symbol": "BTCUSDT", "nth": 2, "times": 0, "at_ms": 5, "status": 429,
        "headers": {"Retry-After": "1"}, "body": "x", "field": "open", "value": "y", "count": 3, "seconds": 1.5,
    }  # fmt: skip
    path.write_text(json.dumps([full, {"kind": "reset"}]))

    assert read_faults(path) == (Fault(**full), Fault("reset"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "faults: must be a list"),
        ("[3]", "faults[0]: must be a mapping"),
        ("[{}]", "faults[0].kind: is missing"),
        ('[{"kind": "hangs"}]', "faults[0].kind: 'hangs' is unknown; did you mean hang"),
        ('[{"kind": "hang", "endpoint": "kline"}]', "faults[0].endpoint: 'kline' is unknown"),
        ('[{"kind": "hang"}, {"kind": "stuck", "endpoint": "time"}]', "faults[1].endpoint: stuck acts on klines"),
        ('[{"kind": "hang", "nth": 0}]', "faults[0].nth: must be at least 1"),
        ('[{"kind": "hang", "times": -1}]', "faults[0].times: must be at least 0"),
        ('[{"kind": "hang", "seconds": "1"}]', "faults[0].seconds: must be a finite number"),
        ('[{"kind": "status", "status": 42}]', "faults[0].status: must be at least 200"),
        ('[{"kind": "status", "headers": {"A": 1}}]', "faults[0].headers.A: must be a text"),
        ('[{"kind": "status", "headers": {"A": "b\\r\\nC: d"}}]', "faults[0].headers.A: must be printable ASCII"),
        ('[{"kind": "restate", "field": "closed"}]', "faults[0].field: 'closed' is unknown; did you mean close"),
        ('[{"kind": "hang", "tims": 1}]', "faults[0].tims: unknown key; did you mean times"),
        ("[", "not JSON"),
    ],
)
def test_a_wrong_file_of_faults_is_refused_by_field(tmp_path, text, expected):
    """The message names the fault, the field and the reason."""
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(InputError) as err:
        read_faults(path)

    assert expected in err.value.message
    assert str(path) in err.value.message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "hangs"}, "did you mean hang"),
        ({"kind": "hang", "endpoint": "x"}, "endpoint: 'x' is unknown; known: any, archive"),
        ({"kind": "stuck", "endpoint": "time"}, "stuck acts on klines"),
        ({"kind": "restate", "field": "closed"}, "did you mean close"),
    ],
)
def test_an_impossible_fault_is_refused(options, expected):
    """An unknown name, or one that the kind does not take, is refused with the nearest valid one."""
    with pytest.raises(InputError, match=expected):
        Fault(**options)
