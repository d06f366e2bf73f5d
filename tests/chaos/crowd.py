"""Many at once, interruptions, and the long run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import kit
from program import MLTRAIN

READER = """
import hashlib, json, sys, time
from pathlib import Path
from mltrain.models.store import Store
store, until, reads = Store(Path(sys.argv[1])), time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    version = store.best()
    model = version.read("lgbm.pkl", max_bytes=1 << 26)
    card = json.loads(version.read("model_card.json", max_bytes=1 << 26))
    told = next(a["sha256"] for a in card["artifacts"] if a["path"] == "lgbm.pkl")
    assert hashlib.sha256(model).hexdigest() == told, f"a mixed version: {version.name}"
    reads += 1
print(reads)
"""
GROWTH = """
import gc, json, os, sys, warnings
from pathlib import Path
import mltrain
from mltrain.candles.snapshot import open_snapshot
from mltrain.models.store import Store
data, count = Path(sys.argv[1]), int(sys.argv[2])
store, model = Store(data), mltrain.load(data / "models" / "best_lgbm.pkl")
snapshot = open_snapshot(data, "latest")
candles = {s: snapshot.candles(s).tail(2 * model.lookback_bars) for s in snapshot.symbols}
names = [row.name for row in store.versions()]
def measure():
    gc.collect()
    rss = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS"))
    return {"rss_kb": rss, "fds": len(os.listdir("/proc/self/fd"))}
marks = {}
for i in range(count):
    store.rollback(names[i % len(names)], why="chaos", by="chaos", now_ms=1_760_529_600_000)
    table = model.predict_candles(candles)
    assert model.version == names[i % len(names)] and table["refused"].null_count() == table.height
    if i + 1 in (count // 2, count):
        marks[i + 1] = measure()
print(json.dumps(list(marks.values())))
"""


def writers_and_readers(plan):
    """Four writers roll back and forth, four readers follow: nothing mixed, nothing missing, no byte overwritten."""
    tally = kit.Tally("crowd")
    folder = plan.copy()
    seconds = 3 if plan.quick else 60
    names = kit.versions(folder)
    before = {n: kit.tree(folder / "models" / n) for n in names}
    until = time.monotonic() + seconds
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, folder, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kit.ENV,
        )
        for _ in range(2)
    ]

    def hand(number):
        """Be a writer or a reader by the command line until the time is over."""
        calls = 0
        while time.monotonic() < until:
            words, codes = (
                (("rollback", names[(calls + number) % 2]), (0, 7)) if number < 4 else (("card", "validate"), (0,))
            )
            problem = kit.unclean(kit.warm(*words, data_dir=folder), codes)
            if problem:
                return f"{' '.join(words)}: {problem}"
            calls += 1
        (plan.work / f"calls-{number}").write_text(str(calls))
        return None

    for case, problem in kit.shared_out(hand, range(6), hands=6):
        if problem:
            tally.fail(case, problem)
    counts = [int((plan.work / f"calls-{n}").read_text()) for n in range(6) if (plan.work / f"calls-{n}").exists()]
    for reader in readers:
        out, err = reader.communicate(timeout=30)
        if reader.returncode:
            tally.fail("reader", err[-300:])
        else:
            counts.append(int(out))
    tally.cases = sum(counts)
    if {n: kit.tree(folder / "models" / n) for n in names} != before:
        tally.fail("after", "a version was changed")
    ended = kit.warm("models", "history", "--json", data_dir=folder)
    problem = kit.unclean(ended, (0,)) or kit.leftovers(folder)
    if problem:
        tally.fail("after", problem)
    elif not all(entry["happened"] for entry in json.loads(ended.out)["entries"]):
        tally.fail("after", "a move is told that never happened")
    tally.notes.append(f"writes and reads by hand: {counts}")
    return tally


def interrupts(plan):
    """Interrupt or end a training at ten moments: the right code within 5 s, nobody left, nothing changed."""
    tally = kit.Tally("interrupts")
    for case in plan.cases(20, 2):
        folder = plan.copy()
        before = _visible(folder)
        number, code = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[case % 2]
        delay_s = 0.15 + (case // 2) * 0.35 if not plan.quick else 0.3 + case
        run = subprocess.Popen(
            [MLTRAIN, "train", "--trials", "500", "--seed", "9", "--data-dir", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kit.ENV,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(delay_s)
        start = time.monotonic()
        run.send_signal(number)
        try:
            _, err = run.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            _, err = run.communicate()
        took_s = time.monotonic() - start
        tally.cases += 1
        problem = None
        if run.returncode not in ({code} if delay_s > 0.2 else {code, -number}):
            problem = f"exit {run.returncode}: {err[-200:]}"
        elif took_s > 5:
            problem = f"took {took_s:.1f} s to end"
        elif kit.TRACEBACK in err:
            problem = "a traceback"
        elif _members(run.pid):
            problem = f"left processes behind: {_members(run.pid)}"
        elif _visible(folder) != before or kit.leftovers(folder):
            problem = "something was changed"
        if problem:
            tally.fail(case, f"signal {number} after {delay_s:.2f} s: {problem}")
    return tally


def _visible(folder):
    return {name: what for name, what in kit.tree(folder).items() if not name.startswith("studies")}


def _members(group):
    """Return the processes of a group."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = open(f"/proc/{name}/stat").read()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[2]) == group:
                found.append(int(name))
    return found


def growth(plan):
    """One process, a thousand rollbacks, each followed by a prediction: no descriptor and no memory is lost."""
    tally = kit.Tally("growth")
    folder = plan.copy()
    count = 30 if plan.quick else 1000
    before = set(kit.tree(folder))
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, folder, str(count)], capture_output=True, text=True, env=kit.ENV, check=False
    )
    tally.cases = 2 * count
    if done.returncode:
        tally.fail("run", done.stderr[-400:])
        return tally
    half, end = json.loads(done.stdout)
    if end["fds"] != half["fds"]:
        tally.fail("descriptors", f"{half['fds']}, then {end['fds']}")
    if end["rss_kb"] > half["rss_kb"] * (1.01 if count >= 1000 else 1.05):
        tally.fail("memory", f"{half['rss_kb']} kB, then {end['rss_kb']} kB")
    if set(kit.tree(folder)) != before:
        tally.fail("files", f"{set(kit.tree(folder)) ^ before} came or went")
    tally.notes.append(f"after {count // 2}: {half}, after {count}: {end}")
    return tally
