"""Laws of the service: the answers of the library, errors that name the cause, and never a 500."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import mltrain as mt
from mltrain.card.validation import CARD_FILE
from mltrain.monitoring.ledger import LEDGER, read_ledger
from mltrain.names import DEFAULT_SLOT
from mltrain.progress import Silent
from mltrain.service import http_server
from mltrain.service.access import Access, parse_bind, read_token
from mltrain.service.http_server import HttpServer
from mltrain.service.scoring import Scoring
from mltrain.service.scoring_pool import OverloadedError, ScoringPool
from mltrain.service.web_app import ServiceLimits, WebApp
from mltrain.serving.model import ExpiredWarning
from mltrain.storage.hashing import sha256_bytes
from mltrain.store.promotion import promote_version
from mltrain.store.store import Store
from support.service import clock
from support.small_model import END_MS, SYMBOLS, publish_small

LIMITS = {"max_body_mb": 0.5, "timeout_s": 2}


@pytest.fixture(scope="module")
def service(live_dir):
    with mt.serve(bind="127.0.0.1:0", data_dir=live_dir, clock=clock, **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service.url, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(candles):
    """Return the newest candles by symbol as lists of objects, times in ms."""
    return {symbol: as_objects(frame.tail(40)) for symbol, frame in candles.items()}


def as_objects(frame):
    return frame.with_columns(ts=frame["ts"].dt.timestamp("ms")).to_dicts()


def as_klines(frame):
    """Return candles as the exchange sends them: prices are texts."""
    return [
        [
            row["ts"], *(str(row[name]) for name in ("open", "high", "low", "close", "volume")), row["ts"] + 59_999,
            str(row["quote_volume"]), row["trades"], str(row["taker_buy_base"]), str(row["taker_buy_quote"]), "0",
        ]
        for row in as_objects(frame)
    ]  # fmt: skip


def plain(table):
    """Return rows of `predict_candles` as the service writes them."""
    return [
        {"permit": None, **row, "ts": row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ") if row["ts"] else None}
        for row in table.to_dicts()
    ]


@pytest.mark.parametrize("form", ["objects", "klines", "columns", "one table"])
def test_an_answer_is_that_of_the_library(client, live_dir, candles, form):
    """Whatever the form of the candles, every bit of the rows is that of `predict_candles`."""
    newest = {symbol: frame.tail(40) for symbol, frame in candles.items()}
    sent = {
        "objects": lambda: {symbol: as_objects(frame) for symbol, frame in newest.items()},
        "klines": lambda: {symbol: as_klines(frame) for symbol, frame in newest.items()},
        "columns": lambda: {
            symbol: frame.with_columns(ts=frame["ts"].dt.timestamp("ms")).to_dict(as_series=False)
            for symbol, frame in newest.items()
        },
        "one table": lambda: [
            {**row, "symbol": symbol} for symbol, frame in newest.items() for row in as_objects(frame)
        ],
    }[form]()
    answer = client.post("/v1/predict", json={"candles": sent})
    expected = mt.load(live_dir / "models" / "best_lgbm").predict_candles(newest, now_ms=int(clock() * 1000))

    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"] == plain(expected)
    assert answer.json()["version"] == "2025-10-15"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert [row["refused"] for row in answer.json()["rows"]] == [None, None]


def test_refused_rows_are_answers(client, rows):
    """Every symbol has a row, and a refused one its reason."""
    sent = {"BTCUSDT": rows["BTCUSDT"], "ETHUSDT": rows["ETHUSDT"][:-3], "XRPUSDT": rows["ETHUSDT"], "BNBUSDT": []}
    answer = client.post("/v1/predict", json={"candles": sent})

    assert answer.status_code == 200
    found = {row["symbol"]: row["refused"] for row in answer.json()["rows"]}
    assert found == {"BTCUSDT": None, "ETHUSDT": "stale", "XRPUSDT": "unknown-symbol", "BNBUSDT": "unknown-symbol"}


def test_the_caller_may_name_the_time(client, rows):
    """At an earlier time later candles are left out; at a later one all are stale."""
    for now_ms, expected in ((END_MS - 60_000, "2025-10-15T11:58:00Z"), (END_MS + 600_000, None)):
        answer = client.post("/v1/predict", json={"candles": rows, "now_ms": now_ms}).json()["rows"][0]
        assert (answer["ts"], answer["refused"]) == (expected or "2025-10-15T11:59:00Z", None if expected else "stale")


BAD_BODIES = [
    (b"", 400, "not JSON"),
    (b"{", 400, "line 1, column 2"),
    (b'{"candles": {}, "candles": {}}', 400, "twice"),
    (b'{"candles": NaN}', 400, "not a finite number"),
    (b'{"candles": [[1e999]]}', 400, "not a finite number"),
    (b'{"now_ms": 99999999999999999999}', 400, "64 bits"),
    (b"[" * 100_000, 400, "nested"),
    (b'{"candles": ' + b"[" * 70 + b"]" * 70 + b"}", 400, "nested"),
    (b"\xff{}", 400, "UTF-8"),
    (b"\xef\xbb\xbf{}", 400, "byte order mark"),
    (b'{"candles": {"A\\ud800": []}}', 400, "surrogate"),
    (b"[]", 422, "mapping"),
    (b"{}", 422, 'either "candles" or "symbols"'),
    (b'{"candles": {}, "symbols": ["BTCUSDT"]}', 422, "either"),
    (b'{"candels": {}}', 422, "did you mean candles"),
    (b'{"symbols": []}', 422, "expected 1 to"),
    (b'{"symbols": ["../x"]}', 422, "form"),
    (b'{"symbols": ["BTCUSDT"]}', 422, "--watch"),
    (b'{"candles": 5}', 422, "list of objects"),
    (b'{"candles": {"BTCUSDT": 5}}', 422, "candles['BTCUSDT']"),
    (b'{"candles": {"BTCUSDT": [5]}}', 422, "list of objects"),
    (b'{"candles": {"BTCUSDT": [{"ts": {"a": 1}}]}}', 422, "a value is a list"),
    (b'{"candles": {"BTCUSDT": [[[1]]]}}', 422, "a value is a list"),
    (b'{"candles": {"BTCUSDT": [[1, 2, 3]]}}', 422, "3 fields"),
    (b'{"candles": {"BTCUSDT": [{"a": 1}]}}', 422, "column ts missing"),
    (b'{"candles": {}, "inputs": {"funding": []}}', 422, "no input 'funding'"),
    (b'{"candles": {}, "inputs": []}', 422, "inputs must be"),
    (b'{"candles": {}, "now_ms": 1}', 422, "now_ms"),
    (b'{"candles": {}, "now_ms": 1.5}', 422, "now_ms"),
    (json.dumps({"candles": {"BTCUSDT": [{f"k{n}": 1} for n in range(1000)]}}).encode(), 422, "1000 columns"),
    (json.dumps({"candles": {f"S{n}": [] for n in range(2000)}}).encode(), 422, "2000 symbols"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "message"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_bad_body_is_one_message(client, body, status, message):
    """400 for what is not JSON, 422 for what is no request, with the library's message."""
    answer = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert message in answer.json()["error"]["message"] + str(answer.json()["error"]["hint"])


def test_an_impossible_candle_is_named(client, rows):
    """The message is the library's: which candle, and what is wrong with it."""
    wrong = [*rows["BTCUSDT"][:-1], {**rows["BTCUSDT"][-1], "high": 1.0}]
    answer = client.post("/v1/predict", json={"candles": {"BTCUSDT": wrong}})

    assert answer.status_code == 422
    assert "BTCUSDT at 2025-10-15T11:59:00Z" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (lambda c: c.get("/v1/predict"), 405, "method"),
        (lambda c: c.post("/healthz"), 405, "method"),
        (lambda c: c.get("/nothing"), 404, "not-found"),
        (lambda c: c.get("/v1/model/../../etc/passwd"), 404, "not-found"),
        (lambda c: c.post("/v1/predict", content=b"{}"), 415, "content-type"),
        (lambda c: c.post("/v1/predict", data={"candles": "{}"}), 415, "content-type"),
        (
            lambda c: c.post("/v1/predict", json={}, headers={"content-encoding": "gzip"}),
            415,
            "content-encoding",
        ),
        (lambda c: c.get("/healthz", headers={"host": "evil.example"}), 403, "host"),
        (lambda c: c.get("/metrics", headers={"host": "127.0.0.1.evil.example:8000"}), 403, "host"),
        (lambda c: c.post("/v1/predict", json={}, headers={"host": ""}), 403, "host"),
    ],
)
def test_a_request_that_is_none_has_its_status(client, call, status, code):
    """Wrong paths, methods, types and hosts are answered in JSON, with the code of the cause."""
    answer = call(client)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_large_body_is_refused(client):
    """A body above the limit is 413, with or without a declared length."""
    large = b" " * 600_000
    headers = {"content-type": "application/json"}
    for content in (large, iter([large[:300_000], large[300_000:]])):
        answer = client.post("/v1/predict", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    assert talk(str(client.base_url), head % 10**15).startswith(b"HTTP/1.1 413 ")


def talk(url, data):
    """Return everything that the service sends after some bytes, until it closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as peer:
        peer.sendall(data)
        return b"".join(iter(lambda: peer.recv(4096), b""))


def test_the_model_is_described(client, live_dir, feature_set):
    """The description has the registry's names and the hash of the card."""
    found = client.get("/v1/model").json()
    card = (live_dir / "models" / "2025-10-15" / CARD_FILE).read_bytes()

    assert found["version"] == "2025-10-15"
    assert found["symbols"] == list(SYMBOLS)
    assert found["features"] == list(feature_set.names)
    assert found["lookback_bars"] == feature_set.lookback_bars
    assert (found["interval"], found["verdict"], found["slot"]) == ("1m", "GO", DEFAULT_SLOT)
    assert (found["trained_from"], found["trained_to"]) == tuple(json.loads(card)["train"]["range"].values())
    assert found["card_sha256"] == sha256_bytes(card)


def test_it_is_alive_and_ready(client):
    """Both checks answer; no answer is cached or framed."""
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, status)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_a_request_keeps_its_id(client):
    """A proper id of the client comes back; another is replaced."""
    assert client.get("/healthz", headers={"x-request-id": "trade-17"}).headers["x-request-id"] == "trade-17"
    replaced = client.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert len(replaced) == 32


def read_metrics(client):
    """Return the value of each sample by its name and labels, as a Prometheus server reads them."""
    text = client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(client, rows):
    """Requests by route and code, rows by reason, the time they took, and states are in Prometheus' format."""
    before = read_metrics(client)
    client.post("/v1/predict", json={"candles": {**rows, "XRPUSDT": []}})
    client.post("/v1/predict", json={})
    client.get("/no/such/path")
    after = read_metrics(client)

    def rise(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert rise("mltrain_requests_total", route="/v1/predict", code="200") == 1
    assert rise("mltrain_requests_total", route="/v1/predict", code="422") == 1
    assert rise("mltrain_requests_total", route="other", code="404") == 1
    assert rise("mltrain_predictions_total") == 2
    assert rise("mltrain_refusals_total", reason="unknown-symbol") == 1
    assert rise("mltrain_request_seconds_count", route="/v1/predict") == 2
    assert after["mltrain_data_age_seconds",] == 30
    assert after["mltrain_model_age_seconds",] == 30
    assert after["mltrain_ready",] == 1
    info = {"version": "2025-10-15", "slot": "lgbm", "verdict": "GO", "interval": "1m"}
    assert after["mltrain_model_info", *sorted(info.items())] == 1
    assert after["process_resident_memory_bytes",] > 0


class SlowScoring(Scoring):
    """Answers only once it is let go."""

    def __init__(self, model):
        super().__init__(model, clock=clock)
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()

    def predict(self, document):
        self.begun.release()
        assert self.may_end.wait(30)
        return super().predict(document)


class BrokenScoring(Scoring):
    """Has a bug."""

    def predict(self, _):
        raise KeyError("secret")


@contextmanager
def running(scoring, limits):
    """Yield the address of a service, its messages and its server."""
    messages = []
    app = WebApp(scoring, Access(None, ()), limits, report=messages.append)
    server = HttpServer(app, parse_bind("127.0.0.1:0"), shutdown_s=20)
    url = server.start().url
    try:
        yield url, messages, server
    finally:
        server.stop()
        app.close()


@pytest.fixture(scope="module")
def model(live_dir):
    return mt.load(live_dir / "models" / "best_lgbm")


def post_in_thread(url, answers):
    def post():
        answers.append(httpx.post(f"{url}/v1/predict", json={"candles": {}}, trust_env=False, timeout=30).status_code)

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def test_an_overloaded_service_says_so_at_once(model):
    """With all threads at work and no room to wait, a request is 503; what had begun is answered."""
    scoring, answers = SlowScoring(model), []
    with running(scoring, ServiceLimits(threads=1, queue=0)) as (url, messages, _):
        first = post_in_thread(url, answers)
        assert scoring.begun.acquire(timeout=20)
        for path in ("/v1/model", "/metrics"):
            answer = httpx.get(f"{url}{path}", trust_env=False)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        scoring.may_end.set()
        first.join()
        while httpx.get(f"{url}/v1/model", trust_env=False).status_code != 200:
            pass

    assert answers == [200]
    assert messages == []


def test_a_pool_queues_as_many_calls_as_it_says():
    """One more fails at once; a call that waited beyond its time limit never runs, and leaves its place."""
    pool, may_end, ran = ScoringPool(threads=1, queue=1), threading.Event(), []

    async def run():
        blocking = asyncio.create_task(pool.run(lambda: may_end.wait(30), timeout_s=30))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(pool.run(lambda: ran.append(1), timeout_s=0.05))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await pool.run(lambda: ran.append(2), timeout_s=30)
        with pytest.raises(TimeoutError):
            await waiting
        assert pool.running == 1
        queued = asyncio.create_task(pool.run(lambda: ran.append(3), timeout_s=30))
        await asyncio.sleep(0)
        may_end.set()
        await asyncio.gather(blocking, queued)

    asyncio.run(run())
    pool.close()

    assert ran == [3]
    assert pool.running == 0


def test_a_slow_answer_is_503(model):
    """The client is not kept waiting beyond the limit."""
    scoring = SlowScoring(model)
    with running(scoring, ServiceLimits(timeout_s=0.1)) as (url, _, _):
        answer = httpx.post(f"{url}/v1/predict", json={"candles": {}}, trust_env=False)
        scoring.may_end.set()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "time-limit")


def test_a_slow_body_is_408(model):
    """A client that stops in the middle of its body is answered, and its connection closed."""
    with running(Scoring(model, clock=clock), ServiceLimits(timeout_s=0.1)) as (url, _, _):
        answer = talk(
            url,
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n{",
        )

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"slow"' in answer


def test_a_bug_is_a_500_that_is_reported(model):
    """The client does not see it, the operator everything, and the service goes on."""
    with running(BrokenScoring(model, clock=clock), ServiceLimits()) as (url, messages, _):
        answer = httpx.post(f"{url}/v1/predict", json={}, headers={"x-request-id": "r1"}, trust_env=False)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bug")
    assert "secret" not in answer.text
    (message,) = messages
    assert message.startswith("request r1: a bug: ")
    assert "KeyError: 'secret'" in message


def test_requests_in_progress_end_before_the_service(model):
    """After `stop` no connection is accepted, and what had begun is answered."""
    scoring, answers = SlowScoring(model), []
    with running(scoring, ServiceLimits()) as (url, _, server):
        asking = post_in_thread(url, answers)
        assert scoring.begun.acquire(timeout=20)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        refused = False
        while not refused:
            try:
                httpx.get(f"{url}/healthz", trust_env=False)
            except httpx.TransportError:
                refused = True
        assert answers == []
        scoring.may_end.set()
        asking.join()
        stopping.join()

    assert answers == [200]


RAW = [
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50 + b"nonsense\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET /%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


@pytest.mark.parametrize("data", RAW, ids=range(len(RAW)))
def test_bytes_that_are_no_request_end_nothing(client, service, data, capfd):
    """The connection is answered or closed; the service goes on, and nothing is printed."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as peer:
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            answer = peer.recv(100)
        except ConnectionError:
            answer = b""

    assert b" 500 " not in answer
    assert client.get("/healthz").status_code == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "begun", [b"", b"GET /healthz HTTP/1.1\r\nHos", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nG"]
)
def test_a_head_that_does_not_come_ends_the_connection(model, monkeypatch, begun):
    """Whether no byte of it came, a part, or a part of the next one."""
    monkeypatch.setattr(http_server, "HEAD_S", 0.05)
    with running(Scoring(model, clock=clock), ServiceLimits()) as (url, _, _):
        answer = talk(url, begun)

    assert answer.count(b"HTTP/1.1 ") == begun.count(b"\r\n\r\n")


def test_a_strict_service_is_not_ready_after_its_card(store, publish, promote, card, rows):
    """It says so, and refuses the rows; without `strict_age` it warns and goes on."""
    promote(publish(card=json.dumps({**json.loads(card), "valid_until": "2025-10-15T12:00:30Z"}).encode()))

    def ask(*, strict):
        with (
            mt.serve(bind="127.0.0.1:0", data_dir=store.data_dir, clock=clock, strict_age=strict) as running,
            httpx.Client(base_url=running.url, trust_env=False) as client,
        ):
            answer = client.post("/v1/predict", json={"candles": rows})
            return client.get("/readyz").json()["reasons"], {row["refused"] for row in answer.json()["rows"]}

    assert ask(strict=True) == (["expired"], {"expired"})
    with pytest.warns(ExpiredWarning):
        found = ask(strict=False)
    assert found == ([], {None})


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{'a1' * 20}\n")
    path.chmod(0o600)
    return path


def test_a_token_is_needed_where_there_is_one(live_dir, token_file, rows):
    """Without it, or with another, everything but the health checks is 401; with it the Host does not matter."""
    with (
        mt.serve(bind="127.0.0.1:0", data_dir=live_dir, token_file=token_file, clock=clock) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        for value in (None, "Bearer", "Bearer x", "Basic " + "a1" * 20, "Bearer " + "a1" * 19, "Bearer \xff"):
            headers = {} if value is None else {"authorization": value.encode("latin-1")}
            for call in (
                client.post("/v1/predict", json={"candles": rows}, headers=headers),
                client.get("/v1/model", headers=headers),
                client.get("/metrics", headers=headers),
                client.get("/nothing", headers=headers),
            ):
                assert (call.status_code, call.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get("/healthz", headers=headers).status_code == 200
            assert client.get("/readyz", headers={"host": "10.0.0.7:8000"}).status_code == 200
        right = {"authorization": f"bearer {'a1' * 20}", "host": "models.example"}
        answer = client.post("/v1/predict", json={"candles": rows}, headers=right)
        assert answer.status_code == 200
        assert running.to_json()["token"] is True
        assert "a1a1" not in json.dumps(running.to_json()) + client.get("/metrics", headers=right).text


@pytest.mark.parametrize(
    ("mode", "text", "error", "message"),
    [
        (0o604, "a1" * 20, mt.UsageError, "mode 0604"),
        (0o620, "a1" * 20, mt.UsageError, "chmod 600"),
        (0o600, "short", mt.InputError, "32 to 512"),
        (0o600, "", mt.InputError, "32 to 512"),
        (0o600, "a" * 40 + "\n" + "b" * 40, mt.InputError, "32 to 512"),
        (0o600, "é" * 40, mt.InputError, "32 to 512"),
        (0o600, "a" * 5000, mt.InputError, "too large"),
    ],
)
def test_a_wrong_token_file_is_refused(token_file, mode, text, error, message):
    """The message says what is wrong with the file, and never shows the token."""
    token_file.write_text(text)
    token_file.chmod(mode)
    with pytest.raises(error) as caught:
        read_token(token_file)

    assert message in f"{caught.value.message} {caught.value.hint}"
    assert text == "" or text not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_other_machines_need_a_token(live_dir, bind):
    """An address that others can reach is refused without one."""
    with pytest.raises(mt.UsageError, match="--token-file"), mt.serve(bind=bind, data_dir=live_dir):
        pass


@pytest.mark.parametrize(
    "bind", ["8000", ":8000", "127.0.0.1", "127.0.0.1:70000", "example.org:80", "1.2.3:80", "::1:80", 5]
)
def test_an_address_has_one_form(live_dir, bind):
    """Anything but an IP address, or localhost, with a port is refused with an example."""
    with pytest.raises(mt.UsageError, match="no address to listen on"), mt.serve(bind=bind, data_dir=live_dir):
        pass


def test_a_port_in_use_is_a_machine_error(service, live_dir):
    """The message names the port and a remedy."""
    bind = service.url.removeprefix("http://")
    with pytest.raises(mt.MachineError, match=bind.partition(":")[2]), mt.serve(bind=bind, data_dir=live_dir):
        pass


@pytest.mark.parametrize(
    "limits", [{"threads": 0}, {"queue": -1}, {"timeout_s": 0}, {"max_body_mb": 0}, {"threads": 1.5}]
)
def test_a_limit_out_of_range_is_refused(live_dir, limits):
    """Before anything is loaded."""
    with pytest.raises(mt.MltrainError), mt.serve(data_dir=live_dir, **limits):
        pass


def test_a_promotion_takes_effect_without_a_restart(tmp_path, live_dir, bundle, card, rows):
    """The answers name the version that gave them, before and after."""
    folder = tmp_path / "data"
    shutil.copytree(live_dir, folder, symlinks=True)
    store = Store(folder)
    other = publish_small(store, bundle, card, "GO")
    with mt.serve(bind="127.0.0.1:0", data_dir=folder, clock=clock) as running, httpx.Client(trust_env=False) as client:
        versions = [client.post(f"{running.url}/v1/predict", json={"candles": rows}).json()["version"]]
        promote_version(store, other.name, why="a test", by="pytest", now_ms=END_MS, force=False)
        versions.append(client.post(f"{running.url}/v1/predict", json={"candles": rows}).json()["version"])
        versions.append(client.get(f"{running.url}/v1/model").json()["version"])

    assert versions == ["2025-10-15", other.name, other.name]
    assert Path(folder / "models" / "best_lgbm").readlink().name == other.name


def test_every_row_is_recorded_before_it_is_answered(tmp_path, live_dir, rows):
    """Given and refused ones; a full disk is 503, and nothing is answered."""
    folder = tmp_path / "data"
    shutil.copytree(live_dir, folder, symlinks=True)
    shown = Silent()
    with (
        mt.serve(bind="127.0.0.1:0", data_dir=folder, clock=clock, ledger=True, progress=shown) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        answered = client.post("/v1/predict", json={"candles": {**rows, "XRPUSDT": []}}).json()["rows"]
        recorded = [(row.symbol, row.p, row.refused) for row in read_ledger(folder / LEDGER)]
        assert recorded == [(row["symbol"], row["p"], row["refused"]) for row in answered]
        assert len(recorded) == 3
        client.post("/v1/predict", json={"candles": {"BTCUSDT": [{"ts": 1}]}})
        count = len(list(read_ledger(folder / LEDGER)))
        shutil.rmtree(folder / LEDGER)
        (folder / LEDGER).write_bytes(b"")
        failed = client.post("/v1/predict", json={"candles": rows})
        (folder / LEDGER).unlink()

    assert count >= 3
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "machine")
    assert "not given" in failed.json()["error"]["message"]
    assert failed.json()["error"]["message"] in shown.warnings[-1]


def test_an_answer_does_not_wait_for_an_acknowledgement(model):
    """The event loop sets TCP_NODELAY on a connection whose listener names TCP."""
    with running(Scoring(model, clock=clock), ServiceLimits()) as (_, _, server):
        assert server._socket.proto == socket.IPPROTO_TCP
