"""Laws of the HTTP client: allowed hosts, retries, and limits of size and time."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import random
import shutil
import ssl
import subprocess
import threading
import tracemalloc
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.api.sources import read_network_rules
from mltrain.errors import SourceError, UsageError
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.sources.async_run import task_group
from mltrain.sources.binance import BinanceSource
from mltrain.sources.http_client import MAX_RETRIES, HostClock, HttpClient, MalformedError, Query, Traffic
from mltrain.sources.network_rules import NetworkRules, check_base_url, is_loopback
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.throttle import Throttle
from support.program import call

if TYPE_CHECKING:
    from mltrain.sources.http_client import Answer

# No server listens there.
DEAD = "http://127.0.0.1:9"


class JumpingClock:
    """A clock whose waits pass at once."""

    def __init__(self):
        self.now_s = 0.0
        self.waits = []

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now_s += seconds


@pytest.mark.parametrize(
    ("given_url", "taken"),
    [
        ("https://data-api.binance.vision", "https://data-api.binance.vision"),
        ("https://api.binance.com/", "https://api.binance.com"),
        ("http://127.0.0.1:8765/", "http://127.0.0.1:8765"),
        ("http://localhost:1/x", "http://localhost:1/x"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("HTTPS://Data-API.Binance.Vision//", "https://data-api.binance.vision"),
        ("http://LOCALHOST:1/X", "http://localhost:1/X"),
        ("https://my_host.example.", "https://my_host.example."),
    ],
)
def test_allowed_hosts_are_normalised(given_url, taken):
    """Https to any host, plain http to this machine only; an address is normalised."""
    assert check_base_url(given_url) == taken
    assert check_base_url(taken) == taken


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "https://", "ftp://api.binance.com", "file:///etc/passwd", "//api.binance.com", "api.binance.com"),
        *("http://api.binance.com", "http://127.0.0.1.evil.com", "http://127.1.evil:80", "http://10.0.0.1"),
        *("https://user@api.binance.com", "https://user:pw@api.binance.com", "https://api.binance.com?x=1"),
        *("https://api.binance.com#x", "https://api.binance.com:0", "https://api.binance.com:99999"),
        *("https://testnet.binance.vision", "https://api.binance.com\\@evil", "https://api binance.com"),
        *("https://api.binance.com?", "https://api.binance.com#", "https://api.binance.com:", "https://@a.com"),
        *("https://a..b", "https://.com", "https://-a.com", "https://a-.com", "https://" + "a" * 64 + ".com"),
        *("https://" + "a." * 127 + "com", "https://" + "a" * 10_000, "https://b" + "/b" * 5000, "https://a*b.com"),
        *("https://%31.com", "https://[v1.a]", "https://[::1%25eth0]", "https://[::1]x", "http://[::2]", "http://[]"),
        *("https://TESTNET.x", "http://[::ffff:127.0.0.1].x", "https://x.com:80:90", "https://x.com:+80"),
        *("http://0x7f.1", "http://2130706433", "http://127.1", "http://0.0.0.0", "HTTP://api.binance.com"),
        *("https://api.binance.com\n", "https://bіnance.com", "https://[::1", "https://" + "a" * 10_000 + " "),  # noqa: RUF001 -- that is the trick
    ],
)
def test_other_hosts_are_refused(url):
    """Refused before any request, in one readable line."""
    with pytest.raises(UsageError) as caught:
        check_base_url(url)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


@given(st.text(max_size=30))
def test_no_text_breaks_the_check(text):
    """Any text is a valid address or a usage error."""
    try:
        url = check_base_url(text)
    except UsageError:
        return
    assert url.startswith(("https://", "http://"))


def test_loopback_is_this_machine():
    """A loopback address or the name localhost, and no other, is this machine."""
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["", "10.0.0.1", "0.0.0.0", "localhost.evil.com", "127.0.0.1.evil.com"]))  # noqa: S104


def ask(base_url, *, seed=1, **rules):
    """Request the time; return the clock and the error."""
    clock = JumpingClock()
    chance = random.Random(seed)  # noqa: S311 -- repeatable
    source = BinanceSource("1m", base_url, rules=NetworkRules(**rules), clock=clock, rng=chance)
    with pytest.raises(SourceError) as caught:
        source.clock_ms(())
    return clock, caught.value


def test_a_lasting_fault_is_retried_five_times_with_growing_pauses():
    """Each pause is longer than the one before, apart from its jitter, which the given generator draws."""
    with SimServer(faults=[Fault("status", status=500, times=0)]) as server:
        clock, err = ask(server.base_url)
        asked = len(server.log)
        again, _ = ask(server.base_url)
        other, _ = ask(server.base_url, seed=2)

    assert asked == MAX_RETRIES + 1 == 6
    assert "HTTP 500 (asked 6 times)" in err.message
    assert [0.125 * 2**n <= pause <= 0.375 * 2**n for n, pause in enumerate(clock.waits)] == [True] * 5
    assert again.waits == clock.waits
    assert other.waits != clock.waits


@pytest.mark.parametrize("status", [400, 401, 403, 404, 451])
def test_a_refusal_is_not_retried(status):
    """A refusal is permanent, so a single request is sent."""
    with SimServer(faults=[Fault("status", status=status, times=0)]) as server:
        clock, err = ask(server.base_url)
        assert len(server.log) == 1
    assert clock.waits == []
    assert f"HTTP {status}" in err.message


def test_a_failed_connection_names_an_unused_proxy():
    """Where the environment has one; otherwise the hint asks whether the machine is online."""
    _, plain = ask(DEAD)
    _, proxied = ask(DEAD, proxy_unused=True)

    assert "cannot connect" in plain.message
    assert "127.0.0.1:9" in plain.message
    assert "online" in plain.hint
    assert "--use-env-proxy" in proxied.hint


def test_nothing_is_taken_from_the_environment(tmp_path):
    """Proxies and certificates of the environment are used only on request, and never for this machine itself."""
    env = {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"), DEAD),
        "SSL_CERT_FILE": "/nonexistent",
    }
    words = ["--symbols", "BTCUSDT", "--days", "1"]
    with SimServer() as server:
        plain = call("snapshot", "--base-url", server.base_url, *words, data_dir=tmp_path / "a", env=env)
        asked = call(
            *("snapshot", "--base-url", server.base_url, "--use-env-proxy"), *words, data_dir=tmp_path / "b", env=env
        )

    assert plain.code == 0, plain.err
    assert asked.code == 0, asked.err


def test_the_environment_is_read_and_used_only_on_request(monkeypatch):
    """A proxy that is not used is remembered, so that the hint of a failed connection can name it."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    without = read_network_rules()
    monkeypatch.setenv("ALL_PROXY", "proxy.corp:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/corp.pem")
    unused, used = read_network_rules(), read_network_rules(use_env_proxy=True)

    assert (without.proxy, without.proxy_unused, without.ca_file) == (None, False, None)
    assert (unused.proxy, unused.proxy_unused, unused.ca_file) == (None, True, None)
    assert (used.proxy, used.proxy_unused, used.ca_file) == ("http://proxy.corp:3128", False, Path("/etc/corp.pem"))


@pytest.mark.parametrize(
    "rules", [{"connections": 0}, {"connections": 65}, {"max_wait_s": -1}, {"deadline_s": 0}, {"max_wait_s": 1e9}]
)
def test_rules_outside_their_range_are_usage_errors(rules):
    """Each field is named."""
    with pytest.raises(UsageError, match="must be"):
        NetworkRules(**rules)


# --- answers ---------------------------------------------------------------------------------------------------------

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


def answer(status=200, body=b"", *headers):
    """Return an answer as it goes over the wire."""
    lines = (f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


@dataclass
class Outcome:
    """The requests that were sent, the waits of the client, and its result or error."""

    heads: list[bytes] = field(default_factory=list)
    clock: JumpingClock = field(default_factory=JumpingClock)
    result: Answer | None = None
    error: SourceError | None = None
    under_way: int = 0
    most_under_way: int = 0


def get_with(*answers, ask=None, host=None, max_bytes=100, **rules):
    """Request once from a server that gives these answers, the last one repeatedly; return the outcome."""
    outcome, conversations = Outcome(), []

    async def converse(reader, writer):
        conversations.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                outcome.heads.append(await reader.readuntil(b"\r\n\r\n"))
                given = answers[min(len(outcome.heads), len(answers)) - 1]
                outcome.under_way += 1
                outcome.most_under_way = max(outcome.most_under_way, outcome.under_way)
                await asyncio.sleep(0.002)
                outcome.under_way -= 1
                writer.write(given)
        writer.close()

    async def run():
        server = await asyncio.start_server(converse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        used = {"proxy": f"127.0.0.1:{port}"} if host else {}
        client = HttpClient(
            host or f"http://127.0.0.1:{port}",
            rules=NetworkRules(**{"connections": 4, "deadline_s": 5.0} | used | rules),
            throttle=Throttle(),
            traffic=Traffic(),
            host_clock=HostClock(outcome.clock),
            rng=random.Random(1),  # noqa: S311 -- repeatable
        )
        async with server:
            async with client:
                try:
                    outcome.result = await (ask or plainly)(client, Query("/x", "the thing", 1, max_bytes))
                except SourceError as err:
                    outcome.error = err
            # The client has hung up.
            await asyncio.gather(*conversations)

    asyncio.run(run())
    return outcome


@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_requests_are_under_way_than_connections(connections):
    """However many are started at once; and all of them are sent."""

    async def ask(client, query):
        return (await asyncio.gather(*(plainly(client, query) for _ in range(20))))[0]

    outcome = get_with(GOOD, ask=ask, connections=connections)

    assert len(outcome.heads) == 20
    assert outcome.most_under_way == connections


async def plainly(client, query):
    return await client.get(query, lambda found: found)


WORDS = {
    "that never end": (b'{"code"', "Content-Length: 1000"),
    "that are too many": (b"x" * 200_000, "Content-Length: 200000"),
    "packed in an unrequested way": (b"x", "Content-Length: 1", "Content-Encoding: br"),
    "packed and damaged": (b"x" * 50, "Content-Length: 50", "Content-Encoding: gzip"),
    "none": (b"", "Content-Length: 0"),
}


def saying(status, name, *headers):
    body, *lines = WORDS[name]
    return "\r\n".join((f"HTTP/1.1 {status} Whatever", *headers, *lines, "", "")).encode() + body


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("status", [429, 418])
def test_an_order_to_stop_is_obeyed_whatever_becomes_of_its_words(status, words):
    """It counts as soon as its head has arrived: the wait is the one ordered, with no request before its end."""
    outcome = get_with(saying(status, words, "Retry-After: 7"), GOOD)

    assert outcome.result.body == b"[]"
    assert outcome.clock.waits == [7.0]
    assert len(outcome.heads) == 2


@pytest.mark.parametrize("words", [name for name in WORDS if name != "that never end"])
@pytest.mark.parametrize("status", [400, 403, 451])
def test_a_refusal_counts_whatever_becomes_of_its_words(status, words):
    """Even a firewall's whole page does not make it transient: it is requested once and named by its status."""
    outcome = get_with(saying(status, words), GOOD)

    assert f"127.0.0.1:{outcome.error.message.split(':')[1]}: the thing: HTTP {status}" in outcome.error.message
    assert len(outcome.heads) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"code":-1121,"msg":"Invalid symbol."}', "HTTP 400: -1121 'Invalid symbol.'"),
        (b'{"code":0,"msg":"\\ud800\\nx' + b"y" * 1000 + b'"}', "HTTP 400: 0 '\\ud800\\nxyyy"),
        *((body, "HTTP 400") for body in (b'{"code":1e999,"msg":"x"}', b'{"code":[],"msg":1}', b"[" * 5000, b"\xff")),
    ],
)
def test_the_message_of_the_exchange_is_shown_in_one_short_line(body, expected):
    """Its code and text where it gives some; any other body breaks nothing."""
    message = get_with(answer(400, body)).error.message

    assert expected in message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 300


def packed(data):
    return gzip.compress(data), "Content-Encoding: gzip"


@pytest.mark.parametrize("pack", [lambda data: (data,), packed], ids=["plain", "packed"])
def test_the_cap_is_to_the_byte(pack):
    """An answer of exactly the limit is accepted, one byte more is refused; packed as well as unpacked."""
    whole, over = (get_with(answer(200, *pack(b"x" * size)), max_bytes=100) for size in (100, 101))

    assert whole.result.body == b"x" * 100
    assert "the answer has more than 100 bytes (asked 6 times)" in over.error.message


def test_a_compression_bomb_is_cut_off_early():
    """A large body in a few packed bytes is never unpacked whole: peak memory stays below 8 MiB."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    outcome = get_with(answer(200, bomb, "Content-Encoding: gzip"), max_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "more than 1048576 bytes" in outcome.error.message
    assert peak < 8 << 20


@pytest.mark.parametrize("cut", [1, 10, 17, 30])
def test_a_truncated_packed_answer_is_requested_again(cut):
    """Also where its Content-Length fits the truncated body."""
    data, header = packed(b"[1,2,3]")
    outcome = get_with(answer(200, data[:-cut] if cut < len(data) else b"", header), answer(200, data, header))

    assert outcome.result.body == b"[1,2,3]"
    assert len(outcome.heads) == 2


@pytest.mark.parametrize("packing", ["br", "deflate", "gzip, gzip", "x" * 500])
def test_an_unrequested_packing_is_refused(packing):
    """It is named in the message, not guessed."""
    outcome = get_with(answer(200, b"[]", f"Content-Encoding: {packing}"))

    assert "which was not asked for" in outcome.error.message
    assert ascii(packing)[:40] in outcome.error.message
    assert len(outcome.error.message) < 250
    assert b"Accept-Encoding: gzip\r\n" in outcome.heads[0]


@pytest.mark.parametrize("to", ["http://127.0.0.1:9/", "https://evil.example/", "file:///etc/passwd", "//x", "/y", ""])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status, to):
    """It is requested once, and the message names the target."""
    outcome = get_with(answer(status, b"", f"Location: {to}"), GOOD)

    assert "redirects to" in outcome.error.message
    assert ascii(to) in outcome.error.message
    assert len(outcome.heads) == 1


@pytest.mark.parametrize("failing", [1, 3])
def test_where_one_of_several_fails_the_others_are_ended_first(failing):
    """One error is raised unchanged; no task runs on, and no connection stays open."""
    tasks = []

    async def ask(client, query):
        async with task_group() as group:
            tasks.extend(group.create_task(plainly(client, query)) for _ in range(4))

    hanging = saying(200, "that never end")
    outcome = get_with(*[answer(451)] * failing, hanging, ask=ask, max_bytes=5000)

    assert "HTTP 451" in outcome.error.message
    assert all(task.done() for task in tasks)


def test_parse_may_request_a_retry():
    """A MalformedError of `parse` is a transient fault."""
    seen = []

    def parse(found):
        seen.append(found.body)
        if len(seen) < 3:
            raise MalformedError("not yet")
        return found

    outcome = get_with(GOOD, ask=lambda client, query: client.get(query, parse))

    assert outcome.result.body == b"[]"
    assert len(outcome.heads) == len(seen) == 3
    assert len(outcome.clock.waits) == 2


def test_a_wait_until_a_date_is_by_the_hosts_own_clock():
    """The first answer's Date is the host's time, whatever the clock of this machine."""
    date = "Date: Wed, 15 Oct 2025 12:00:05 GMT"
    outcome = get_with(answer(429, b"", date, "Retry-After: Wed, 15 Oct 2025 12:00:30 GMT"), GOOD)

    assert outcome.result.body == b"[]"
    assert outcome.clock.waits == [25.0]


def test_a_corrected_clock_makes_no_wait_longer():
    """A wait keeps its length when the host's clock is corrected, whether it has ended or still runs."""

    async def ask(client, query):
        await plainly(client, query)
        client.set_time(CLOCK_MS)
        await plainly(client, query)
        client.throttle.stop(CLOCK_MS, 429, "10")
        client.set_time(CLOCK_MS - 3_600_000)
        return await plainly(client, query)

    outcome = get_with(answer(429, b"", "Date: Thu, 01 Jan 2099 00:00:00 GMT", "Retry-After: 3"), GOOD, ask=ask)

    assert outcome.error is None
    assert outcome.clock.waits == [3.0, 10.0]


@pytest.mark.parametrize("date", ["yesterday", "Wed, 99 Oct 9999 12:00:30 GMT", "", "Mon, 01 Jan 0001 00:00:00 +9999"])
def test_an_invalid_date_is_ignored(date):
    """An invalid Date header does not fail the request."""
    assert get_with(answer(200, b"[]", f"Date: {date}")).result.body == b"[]"


@pytest.mark.parametrize("used", ["-1", "many", "1e3", "9" * 50, "٣".encode().decode("latin-1"), "5, 7"])
def test_an_invalid_weight_is_ignored(used):
    """It delays no request and is not counted."""
    weights = []

    async def ask(client, query):
        found = await plainly(client, query)
        weights.append(client.throttle.peak_weight)
        return found

    head = f"HTTP/1.1 200 OK\r\nX-MBX-USED-WEIGHT-1M: {used}\r\nContent-Length: 2\r\n\r\n[]".encode("latin-1")

    assert get_with(head, ask=ask).result.body == b"[]"
    assert weights == [0]


# --- proxies and certificates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_proxy", "taken"),
    [
        ("127.0.0.1:3128", "http://127.0.0.1:3128"),
        ("proxy.corp", "http://proxy.corp"),
        ("https://me:secret@proxy.corp:8080/", "https://me:secret@proxy.corp:8080/"),
        ("http://[::1]:3128", "http://[::1]:3128"),
    ],
)
def test_a_proxy_may_leave_out_its_scheme(given_proxy, taken):
    """Without a scheme, http is assumed."""
    assert NetworkRules(proxy=given_proxy).proxy == taken


@pytest.mark.parametrize(
    "proxy",
    ["", "socks5://secret@h:1", "ftp://secret@h", "http://", "http://h:0", "http://h:secret", "http://[secret", "a b"],
)
def test_a_proxy_that_cannot_be_used_is_a_usage_error(proxy):
    """It is reported before any request, and without the password that it may hold."""
    with pytest.raises(UsageError, match="proxy must be an address such as") as caught:
        NetworkRules(proxy=proxy)
    assert "secret" not in caught.value.message


def test_a_proxy_is_used_for_other_hosts_and_never_for_this_machine():
    """The proxy gets the host's name and resolves it; requests to this machine do not go through it."""
    outcome = get_with(answer(407), host="https://exchange.invalid")
    direct = get_with(GOOD, proxy="http://127.0.0.1:9")

    assert outcome.heads[0].startswith(b"CONNECT exchange.invalid:443 ")
    assert "exchange.invalid: the thing: the connection broke: 407" in outcome.error.message
    assert direct.result.body == b"[]"


def test_a_name_that_does_not_resolve_is_a_failed_connection():
    """The message says so, after six attempts."""
    _, err = ask("https://exchange.invalid")

    assert err.message.startswith("exchange.invalid: its time: cannot connect: ")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Return the port of a server with a self-signed certificate for 127.0.0.1, and the file of the certificate."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run([openssl, *words, *names], check=True, capture_output=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"serverTime": 1760529600000}')

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            # Clients that do not trust it hang up.
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1], cert
        server.shutdown()
        thread.join()


def test_a_certificate_that_is_named_is_trusted(tls):
    """A certificate authority from `ca_file` is enough to connect."""
    port, cert = tls
    source = BinanceSource("1m", f"https://127.0.0.1:{port}", rules=NetworkRules(ca_file=cert), clock=JumpingClock())

    assert source.clock_ms(()) == CLOCK_MS


@pytest.mark.parametrize("host", ["https://127.0.0.1", "HTTPS://127.0.0.1", "https://LOCALHOST"])
def test_a_certificate_that_cannot_be_trusted_ends_it_at_once(tls, host):
    """Self-signed, or of another host although trusted; however the address is written. There is no way around."""
    port, cert = tls
    rules = {"ca_file": cert} if "LOCAL" in host else {}
    clock, err = ask(f"{host}:{port}", **rules)

    assert "its certificate cannot be trusted" in err.message
    assert "no way around" in err.hint
    assert clock.waits == []


@pytest.mark.parametrize("name", ["absent.pem", ".", "key.txt"])
def test_certificates_that_cannot_be_read_are_a_usage_error(tmp_path, name):
    """They are refused before any request."""
    (tmp_path / "key.txt").write_text("no certificate")
    source = BinanceSource("1m", DEAD.replace("http:", "https:"), rules=NetworkRules(ca_file=tmp_path / name))

    with pytest.raises(UsageError, match="cannot read the certificates in"):
        source.clock_ms(())
