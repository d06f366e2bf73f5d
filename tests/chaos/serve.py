"""Load `mltrain serve` for minutes, while everything happens to it that may happen, and say what came of it.

    python tests/chaos/serve.py [--seconds 300] [--rate 50] [--hostile 10000] [--seed S] [--apart]

A simulated exchange that ticks, two versions, `mltrain serve --watch --ledger`. Requests at a fixed rate: the newest
candles by name, candles in the body. In between: promotions, halts and resumes, an exchange that stands still until its
candles are stale, and hostile bodies (--apart: after the load, so that they cost the others nothing). The exit code is
1 if an answer was wrong or a 500, if memory grew, or if the p99 of one symbol is above 15 ms.
"""

from __future__ import annotations

import argparse
import bisect
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from support.hostile_bodies import make_body
from support.program import MLTRAIN, NEUTRAL

from mltrain.killswitch.switch import halt, resume
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.store.promotion import promote_version
from mltrain.store.store import Store
from mltrain.times import MINUTE_MS, TimeRange

BUDGET_MS = 15.0
# A process may keep some memory that it has once used; a leak of 1 kB per request would be three times this.
GROWTH_MB = 30
THREADS = 8
SYMBOLS = ("BTCUSDT", "ETHUSDT")
JSON = {"Content-Type": "application/json"}
# Parts of the load's duration: promotions, halts, the exchange stands still.
PROMOTIONS, HALTS, STILL = (0.05, 0.25), (0.27, 0.37), (0.38, 0.80)
# A candle is stale two minutes after its close, and the newest one may have closed just before.
STALE_S = 125.0
# The feed pauses for up to 30 s after a fault, and its client retries before.
RECOVERY_S = 55.0


@dataclass
class Sent:
    """A request and its answer: kind, times in s by the monotonic clock, the status, the rows' reasons."""

    kind: str
    due_s: float
    begun_s: float
    done_s: float
    status: int
    refused: tuple
    version: str = ""


@dataclass
class Log:
    """What happened: requests, and what was done to the service."""

    sent: list[Sent] = field(default_factory=list)
    hostile: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    halted: list[tuple[float, float]] = field(default_factory=list)
    stood_still: tuple[float, float] | None = None
    promoted: list[tuple[float, str]] = field(default_factory=list)


def prepare(folder):
    """Train two versions on the simulated exchange; return their names."""
    words = ["--source", "sim", "--sim-signal", "strong", "--symbols", ",".join(SYMBOLS), "--days", "8"]
    config = Path(__file__).parents[1] / "support" / "quick.yml"
    run = [MLTRAIN, "--data-dir", folder]
    for call in (
        ["snapshot", *words],
        ["train", "--trials", "2", "--config", config],
        ["train", "--trials", "3", "--config", config, "--seed", "7"],
    ):
        subprocess.run([run[0], *call, *run[1:]], check=False, env=NEUTRAL, stdout=subprocess.DEVNULL)
    store = Store(folder)
    names = store.version_names()
    assert len(names) == 2, names
    promote(store, names[0])
    return names


def promote(store, name):
    """Make a version the live one, whatever its verdict."""
    promote_version(store, name, why="a load test", by="chaos", now_ms=int(time.time() * 1000), force=True)


def start(words, stack):
    """Start a command, and return it with the first line that it prints."""
    run = stack.enter_context(
        subprocess.Popen([MLTRAIN, *map(str, words)], stdout=subprocess.PIPE, text=True, env=NEUTRAL)
    )
    stack.callback(run.kill)
    return run, run.stdout.readline().strip()


def make_requests():
    """Return the bodies of good requests by kind."""
    source, bars = SimSource(signal="strong"), 250
    window = TimeRange(CLOCK_MS - bars * MINUTE_MS, CLOCK_MS)
    frames = {symbol: source.candles(symbol, window) for symbol in SYMBOLS}
    klines = {}
    for symbol, frame in frames.items():
        rows = frame.with_columns(ts=frame["ts"].dt.timestamp("ms")).rows()
        klines[symbol] = [
            [ts, *map(str, row[:5]), ts + 59_999, str(row[5]), row[6], *map(str, row[7:]), "0"] for ts, *row in rows
        ]
    now = {"now_ms": CLOCK_MS + 250}
    bodies = {
        "one name": {"symbols": ["BTCUSDT"]},
        "two names": {"symbols": list(SYMBOLS)},
        "one in the body": {"candles": {"BTCUSDT": klines["BTCUSDT"]}, **now},
        "two in the body": {"candles": klines, **now},
    }
    return {kind: json.dumps(body).encode() for kind, body in bodies.items()}, {
        "candles": {s: k[-40:] for s, k in klines.items()},
        **now,
    }


def ask(connection, body, headers=JSON):
    """Send a request; return status and document."""
    connection.request("POST", "/v1/predict", body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def worker(host, port, due, log, bodies):
    """Send what is due, each at its time."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    while (item := due.get()) is not None:
        due_s, kind = item
        time.sleep(max(0.0, due_s - time.monotonic()))
        begun_s = time.monotonic()
        try:
            status, document = ask(connection, bodies[kind])
        except (OSError, http.client.HTTPException) as err:
            connection.close()
            log.failures.append(f"{kind}: {err!r}")
            continue
        rows = document.get("rows", [])
        log.sent.append(
            Sent(
                kind,
                due_s,
                begun_s,
                time.monotonic(),
                status,
                tuple(r["refused"] for r in rows),
                document.get("version", ""),
            )
        )


def be_hostile(host, port, log, sound, args, until_s):
    """Send hostile bodies, spread over the load's duration or, apart from it, one after another."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    pause_s = 0 if args.apart else 0.95 * args.seconds / max(1, args.hostile)
    next_s = time.monotonic()
    for number in range(args.hostile):
        next_s += pause_s
        time.sleep(max(0.0, next_s - time.monotonic()))
        # One in a thousand is larger than what is read at all.
        body = make_body(number, sound, seed=args.seed, large_bytes=2_000_000 if number % 1_000 == 0 else 20_000)
        try:
            status, _ = ask(connection, body)
            if status >= 500:
                log.failures.append(f"hostile body {number}: {status}")
        except (OSError, http.client.HTTPException) as err:
            # The service closes a connection whose body it does not read.
            status = type(err).__name__
            connection.close()
        log.hostile[status] += 1
        if time.monotonic() > until_s:
            log.failures.append("the hostile bodies took too long")
            return


def disturb(models, names, exchange, log, begin_s, seconds):
    """Promote, halt, resume, and let the exchange stand still, each in its part of the time."""
    store = Store(models.parent)

    def wait_until(share):
        time.sleep(max(0.0, begin_s + share * seconds - time.monotonic()))

    wait_until(PROMOTIONS[0])
    turn = 0
    while time.monotonic() < begin_s + PROMOTIONS[1] * seconds:
        turn += 1
        promote(store, names[turn % 2])
        log.promoted.append((time.monotonic(), names[turn % 2]))
        time.sleep(max(3.0, seconds / 50))
    wait_until(HALTS[0])
    while time.monotonic() < begin_s + HALTS[1] * seconds:
        now_ms = int(time.time() * 1000)
        halt(models, why="a load test", by="chaos", now_ms=now_ms)
        halted_s = time.monotonic()
        time.sleep(2)
        log.halted.append((halted_s, time.monotonic()))
        resume(models, why="a load test", by="chaos", now_ms=int(time.time() * 1000))
        time.sleep(2)
    wait_until(STILL[0])
    if seconds * (STILL[1] - STILL[0]) < STALE_S:
        return
    exchange.send_signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    wait_until(STILL[1])
    log.stood_still = (stopped_s, time.monotonic())
    exchange.send_signal(signal.SIGCONT)


def judge(log):
    """Add a failure for each wrong answer."""
    for sent in log.sent:
        halted = any(start <= sent.begun_s and sent.done_s <= end for start, end in log.halted)
        touched = any(start - 1 <= sent.done_s and sent.begun_s <= end + 1 for start, end in log.halted)
        what = f"{sent.kind}: {sent.status} {sent.refused}"
        if sent.status != 200 or not sent.refused:
            log.failures.append(what)
        elif halted and set(sent.refused) != {"halted"}:
            log.failures.append(f"{what} while halted")
        elif not touched and "halted" in sent.refused:
            log.failures.append(f"{what} while not halted")
        elif "stale" in sent.refused and "name" not in sent.kind:
            log.failures.append(f"{what} of the candles in the body")
        elif not {None, "halted", "stale"}.issuperset(sent.refused):
            log.failures.append(what)
    times = [at for at, _ in log.promoted]
    for sent in log.sent:
        at = bisect.bisect_right(times, sent.begun_s - 1.0) - 1
        later = bisect.bisect_right(times, sent.done_s + 1.0) - 1
        if 0 <= at == later and sent.version != log.promoted[at][1]:
            log.failures.append(f"{sent.kind}: {sent.version} a second after the promotion of {log.promoted[at][1]}")
    if log.stood_still is not None:
        names = [s for s in log.sent if "name" in s.kind]
        stale = [s for s in names if "stale" in s.refused]
        start, end = log.stood_still
        if not stale:
            log.failures.append("no candle became stale")
        elif any(s.begun_s < start + 55 or s.begun_s > end + RECOVERY_S for s in stale):
            log.failures.append("a row was stale although the exchange answered")
        elif any(None in s.refused for s in names if start + STALE_S < s.begun_s < end):
            log.failures.append("a row was not stale although the exchange stood still for two minutes")


def measure(values):
    """Return the 50th, 95th and 99th percentile and the maximum, of times in s, as text in ms."""
    ordered = sorted(values)
    shares = {
        f"p{share:g}": ordered[min(len(ordered) - 1, int(share / 100 * len(ordered)))] for share in (50, 95, 99, 99.9)
    }
    return ", ".join(f"{name} {value * 1e3:.1f}" for name, value in (shares | {"max": ordered[-1]}).items()) + " ms"


def find_causes(log):
    """Count the requests above the budget: after a promotion, after a halt or resume, or after nothing."""
    causes = Counter()
    for sent in log.sent:
        if (sent.done_s - sent.begun_s) * 1e3 > BUDGET_MS:
            promoted = any(0 <= sent.done_s - at < 1 for at, _ in log.promoted)
            halted = any(0 <= sent.done_s - at < 1 for times in log.halted for at in times)
            causes["promotion" if promoted else "halt or resume" if halted else "nothing"] += 1
    return causes


def memory_mb(pid):
    """Return the resident memory of a process, in MB of 2^20 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main():
    """Run the load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--apart", action="store_true", help="send the hostile bodies after the load")
    parser.add_argument("--data-dir", type=Path, help="a folder of an earlier run, with its two versions")
    args = parser.parse_args()
    log, bodies, sound = Log(), *make_requests()
    with ExitStack() as stack:
        folder = args.data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
        names = Store(folder).version_names() if (folder / "models").exists() else prepare(folder)
        exchange, address = start(["sim", "--signal", "strong", "--ticking"], stack)
        stack.callback(exchange.send_signal, signal.SIGCONT)
        words = ["--watch", "--source", "binance", "--base-url", address, "--ledger", "--allow-no-go"]
        service, url = start(["serve", "--bind", "127.0.0.1:0", "--data-dir", folder, *words], stack)
        host, port = url.removeprefix("http://").split(":")
        print(f"{url}, {len(names)} versions", flush=True)
        first = http.client.HTTPConnection(host, int(port), timeout=30)
        while ask(first, bodies["one name"])[0] != 200:
            time.sleep(0.1)
        for number in range(200):
            ask(first, bodies[list(bodies)[number % len(bodies)]])
            if number < 100:
                ask(first, make_body(number, sound, seed=args.seed + 1))
        before_mb = memory_mb(service.pid)
        due, kinds = queue.Queue(), list(bodies)
        workers = [
            threading.Thread(target=worker, args=(host, int(port), due, log, bodies), daemon=True)
            for _ in range(THREADS)
        ]
        begin_s = time.monotonic() + 0.5
        for number in range(int(args.seconds * args.rate)):
            due.put((begin_s + number / args.rate, kinds[number % len(kinds)]))
        for _ in workers:
            due.put(None)
        threads = [
            threading.Thread(
                target=disturb, args=(folder / "models", names, exchange, log, begin_s, args.seconds), daemon=True
            )
        ]
        hostile = threading.Thread(
            target=be_hostile, args=(host, int(port), log, sound, args, begin_s + 3 * args.seconds + 600), daemon=True
        )
        threads += [] if args.apart else [hostile]
        for thread in [*workers, *threads]:
            thread.start()
        middle_mb = None
        for thread in [*workers, *threads]:
            while thread.is_alive():
                thread.join(1)
                if middle_mb is None and time.monotonic() > begin_s + args.seconds / 2:
                    middle_mb = memory_mb(service.pid)
        loaded_mb = memory_mb(service.pid)
        if args.apart:
            hostile.start()
            hostile.join()
        after_mb = memory_mb(service.pid)
        judge(log)
        # The first connection has been idle for too long.
        last = http.client.HTTPConnection(host, int(port), timeout=30)
        last.request("GET", "/metrics")
        metrics = last.getresponse().read().decode()
        if 'code="500"' in metrics:
            log.failures.append("the service counted a 500")
        service.terminate()
        code = service.wait(60)
        if code != 143:
            log.failures.append(f"the service ended with {code}")
    took = [sent.done_s - sent.begun_s for sent in log.sent]
    late = [sent.begun_s - sent.due_s for sent in log.sent]
    print(f"{len(log.sent)} requests at {args.rate:g}/s: {measure(took)}; the client was late by {measure(late)}")
    for kind in bodies:
        print(f"    {kind}: {measure([s.done_s - s.begun_s for s in log.sent if s.kind == kind])}")
    print(f"above {BUDGET_MS:g} ms: {dict(find_causes(log))}")
    still = "stood still" if log.stood_still else "never stood still"
    print(f"{len(log.promoted)} promotions, {len(log.halted)} halts, and the exchange {still}")
    reasons = Counter(reason for sent in log.sent for reason in sent.refused)
    print(f"rows: {dict(reasons)}; versions: {dict(Counter(sent.version for sent in log.sent))}")
    print(f"{sum(log.hostile.values())} hostile bodies: {dict(log.hostile)}")
    sizes = [f"{size:.0f}" for size in (before_mb, middle_mb or 0, loaded_mb, after_mb)]
    print(f"memory in MB before, half way, after the load, at the end: {', '.join(sizes)}")
    if after_mb > before_mb + GROWTH_MB:
        log.failures.append(f"memory grew by {after_mb - before_mb:.0f} MB")
    one_symbol = sorted(sent.done_s - sent.begun_s for sent in log.sent if sent.kind.startswith("one"))
    if one_symbol[int(0.99 * len(one_symbol))] * 1e3 > BUDGET_MS:
        log.failures.append(f"the p99 of one symbol is above {BUDGET_MS:g} ms")
    for failure in log.failures[:20]:
        print(f"FAILED {failure}")
    print(f"{len(log.failures)} failures")
    return 1 if log.failures else 0


if __name__ == "__main__":
    sys.exit(main())
