"""Laws of the network edge: whom it talks to, how often it asks, how much it takes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.binance import BinanceSource
from mltrain.candles.client import MAX_RETRIES, NetworkRules, check_base_url, is_loopback
from mltrain.candles.sim.faults import Fault
from mltrain.candles.sim.server import SimServer
from mltrain.errors import SourceError, UsageError
from program import call

DEAD = "http://127.0.0.1:9"  # nobody listens there


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
    ],
)
def test_hosts_that_may_be_asked(given_url, taken):
    """Https to anybody, plain http to this machine alone."""
    assert check_base_url(given_url) == taken


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "https://", "ftp://api.binance.com", "file:///etc/passwd", "//api.binance.com", "api.binance.com"),
        *("http://api.binance.com", "http://127.0.0.1.evil.com", "http://127.1.evil:80", "http://10.0.0.1"),
        *("https://user@api.binance.com", "https://user:pw@api.binance.com", "https://api.binance.com?x=1"),
        *("https://api.binance.com#x", "https://api.binance.com:0", "https://api.binance.com:99999"),
        *("https://testnet.binance.vision", "https://api.binance.com\\@evil", "https://api binance.com"),
        *("https://api.binance.com\n", "https://bіnance.com", "https://[::1", "https://" + "a" * 10_000 + " "),  # noqa: RUF001 -- that is the trick
    ],
)
def test_hosts_that_may_not(url):
    """Refused before anything is asked, in one readable line."""
    with pytest.raises(UsageError) as caught:
        check_base_url(url)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


@given(st.text(max_size=30))
def test_no_text_breaks_the_check(text):
    """It is an address or a usage error."""
    try:
        url = check_base_url(text)
    except UsageError:
        return
    assert url.startswith(("https://", "http://"))


def test_loopback_is_this_machine():
    """By address or by the one name for it."""
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["", "10.0.0.1", "0.0.0.0", "localhost.evil.com", "127.0.0.1.evil.com"]))  # noqa: S104


def ask(base_url, *, seed=1, **rules):
    """Ask for the time; return the clock and what was raised."""
    clock = JumpingClock()
    chance = random.Random(seed)  # noqa: S311 -- repeatable
    source = BinanceSource("1m", base_url, rules=NetworkRules(**rules), clock=clock, chance=chance)
    with pytest.raises(SourceError) as caught:
        source.clock_ms(())
    return clock, caught.value


def test_a_fault_that_stays_is_asked_six_times_with_growing_pauses():
    """Five retries; each pause longer than the one before but for its jitter, which is drawn from the given chance."""
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
def test_a_refusal_is_asked_once(status):
    """It would not be better next time."""
    with SimServer(faults=[Fault("status", status=status, times=0)]) as server:
        clock, err = ask(server.base_url)
        assert len(server.log) == 1
    assert clock.waits == []
    assert f"HTTP {status}" in err.message


def test_a_failed_connection_tells_of_an_unused_proxy():
    """Where the environment names one; else it asks whether the machine is online."""
    _, plain = ask(DEAD)
    _, proxied = ask(DEAD, proxy_unused=True)

    assert "cannot connect" in plain.message
    assert "127.0.0.1:9" in plain.message
    assert "online" in plain.hint
    assert "--use-env-proxy" in proxied.hint


def test_nothing_is_taken_from_the_environment(tmp_path):
    """Proxies and certificates of the environment are for those who ask for them; never for this machine itself."""
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
    unreached = call("snapshot", "--base-url", "https://127.0.0.1:9", *words, data_dir=tmp_path / "c", env=env)

    assert plain.code == 0, plain.err
    assert asked.code == 0, asked.err
    assert unreached.code == 6
    assert "--use-env-proxy" in unreached.err
    assert not (tmp_path / "c" / "snapshots").exists()


@pytest.mark.parametrize(
    "rules", [{"connections": 0}, {"connections": 65}, {"max_wait_s": -1}, {"deadline_s": 0}, {"max_wait_s": 1e9}]
)
def test_rules_outside_their_range_are_usage_errors(rules):
    """Each field is named."""
    with pytest.raises(UsageError, match="must be"):
        NetworkRules(**rules)
