"""Many processes at once, interruptions, and a long run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import kit
from support.processes import workers_of
from support.program import MLTRAIN

READER = """
import hashlib, json, sys, time
from pathlib import Path
from mltrain.store.store import Store
store, until, reads = Store(Path(sys.argv[1]), slot=sys.argv[3]), time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    version = store.live_version()
    model = version.read("lgbm.pkl", max_bytes=1 << 26)
    card = json.loads(version.read("model_card.json", max_bytes=1 << 26))
    listed = next(a["sha256"] for a in card["artifacts"] if a["path"] == "lgbm.pkl")
    assert hashlib.sha256(model).hexdigest() == listed, f"a mixed version: {version.name}"
    reads += 1
print(reads)
"""
GROWTH = """
import gc, json, os, sys, warnings
from pathlib import Path
import mltrain
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.store.store import Store
from mltrain.store.promotion import roll_back
data, count = Path(sys.argv[1]), int(sys.argv[2])
store, model = Store(data), mltrain.load(data / "models" / "best_lgbm.pkl", clock=None)
snapshot = open_snapshot(data, "latest")
candles = {s: snapshot.candles(s).tail(2 * model.lookback_bars) for s in snapshot.symbols}
names = [row.name for row in store.versions()]
def measure():
    gc.collect()
    rss = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS"))
    return {"rss_kb": rss, "fds": len(os.listdir("/proc/self/fd"))}
marks = {}
for i in range(count):
    roll_back(store,names[i % len(names)], why="chaos", by="chaos", now_ms=1_760_529_600_000)
    table = model.predict_candles(candles)
    assert model.version == names[i % len(names)] and table["refused"].null_count() == table.height
    if i + 1 in (count // 2, count):
        marks[i + 1] = measure()
print(json.dumps(list(marks.values())))
"""


def writers_and_readers(plan):
    """Four writers roll two slots back and forth under four readers: no version is mixed, missing or overwritten."""
    tally = kit.Tally("crowd")
    folder = plan.copy()
    seconds = 2 if plan.quick else 60
    slots = {"lgbm": kit.versions(folder), "btc": []}
    for seed in ("5", "6"):
        trained = kit.warm(*kit.TRAIN, "--slot", "btc", "--seed", seed, "--json", data_dir=folder, timeout=120)
        slots["btc"].append(json.loads(trained.out)["version"])
        promoted = kit.warm("promote", slots["btc"][-1], "--force", "--why", "chaos", data_dir=folder)
        assert promoted.code == 0, promoted.err
    names = kit.versions(folder)
    before = {n: kit.tree(folder / "models" / n) for n in names}
    until = time.monotonic() + seconds
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, folder, str(seconds), slot],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kit.ENV,
        )
        for slot in slots
    ]

    def hand(number):
        """Be a writer or a reader on the command line until the time is over."""
        calls = 0
        while time.monotonic() < until:
            words, codes = (
                (("rollback", slots[("lgbm", "btc")[number % 2]][(calls + number // 2) % 2]), (0, 7))
                if number < 4
                else (("card", "validate"), (0,))
            )
            problem = kit.unclean(kit.warm(*words, data_dir=folder), codes)
            if problem:
                return f"{' '.join(words)}: {problem}"
            calls += 1
        (plan.work / f"calls-{number}").write_text(str(calls))
        return None

    for case, problem in kit.run_in_forks(hand, range(6), forks=6):
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
    for slot, own in slots.items():
        ended = kit.warm("models", "history", "--json", "--slot", slot, data_dir=folder)
        problem = kit.unclean(ended, (0,)) or kit.leftovers(folder)
        entries = [] if problem else json.loads(ended.out)["entries"]
        if problem:
            tally.fail("after", problem)
        elif not all(entry["happened"] for entry in entries):
            tally.fail("after", f"{slot}: a move in the log never happened")
        elif not {entry["to_version"] for entry in entries} <= set(own):
            tally.fail("after", f"{slot}: the log has a version of another slot")
    tally.notes.append(f"writes and reads by process: {counts}")
    return tally


def trainings(plan):
    """Ten trainings at once, two of each study: a version for each winner, exit 7 for the others."""
    tally = kit.Tally("trainings")
    folder = plan.copy()
    old = kit.versions(folder)
    before = {name: kit.tree(folder / "models" / name) for name in old}
    forks = 4 if plan.quick else 10

    def train(number):
        ended = kit.warm(*kit.TRAIN, "--seed", 20 + number // 2, data_dir=folder, timeout=120)
        return [ended.code, kit.unclean(ended, (0, 4, 7))]

    found = kit.run_in_forks(train, range(forks), forks=forks)
    tally.cases = forks
    for case, (_, problem) in found:
        if problem:
            tally.fail(case, problem)
    codes = [code for _, (code, _) in found]
    new = [name for name in kit.versions(folder) if name not in old]
    if len(new) != sum(code in {0, 4} for code in codes):
        tally.fail("after", f"{len(new)} versions of trainings that ended with {codes}")
    if {name: kit.tree(folder / "models" / name) for name in old} != before:
        tally.fail("after", "an older version was changed")
    for name in new:
        problem = kit.unclean(kit.warm("verify", "model", name, data_dir=folder), (0,))
        if problem:
            tally.fail(name, problem)
    serials = {json.loads((folder / "models" / n / "manifest.json").read_bytes())["serial"] for n in (*old, *new)}
    if len(serials) != len(old) + len(new) or kit.leftovers(folder):
        tally.fail("after", f"serials given twice, or {kit.leftovers(folder)} left")
    tally.notes.append(f"ended with {codes}")
    return tally


def interrupts(plan):
    """Interrupt, terminate or hang up a training at ten moments: the right code within 5 s, no orphan, no change.

    Then the kernel takes one of its workers, at three moments: it ends with the model of an undisturbed one.
    """
    tally = kit.Tally("interrupts")
    for case in plan.cases(30, 3):
        folder = plan.copy()
        before = _visible(folder)
        number, code = ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129))[case % 3]
        delay_s = 0.15 + (case // 3) * 0.5 if not plan.quick else 0.3 + case
        run = _start("train", "--trials", "500", "--seed", "9", "--workers", "2", "--data-dir", folder)
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
    if plan.only is None:
        _lose_workers(plan, tally)
    return tally


def _lose_workers(plan, tally):
    """End a worker by SIGKILL as soon as there is one, and later: the model must not differ."""
    words = (*kit.TRAIN[:1], *kit.TRAIN[3:], "--trials", "40", "--workers", "2", "--seed", "9", "--no-promote")
    models = []
    for after in (None, 0, *(() if plan.quick else (5, 20))):
        folder = plan.copy()
        shutil.rmtree(folder / "studies")
        run = _start(*words, "--data-dir", folder)
        if after is not None:
            while run.poll() is None and not ((workers := workers_of(run.pid)) and _lines(folder) >= after):
                time.sleep(0.002)
            for pid in workers[:1]:
                os.kill(pid, signal.SIGKILL)
        try:
            _, err = run.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            _, err = run.communicate()
        label = f"a worker killed after {after} lines of the journal"
        if after is not None:
            tally.cases += 1
            if not workers:
                tally.fail(label, "no worker was seen")
        if run.returncode not in {0, 4} or _members(run.pid):
            tally.fail(label, f"exit {run.returncode}, left {_members(run.pid)}: {err[-200:]}")
            continue
        models.append((folder / "models" / kit.versions(folder)[-1] / "lgbm.pkl").read_bytes())
        if models[-1] != models[0]:
            tally.fail(label, "another model came out")


def _lines(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("studies/*.journal"))


def _start(*words):
    """Start `mltrain` as the leader of a session, with signals as a terminal leaves them."""

    def answer_signals():
        # Ignored where this runs in the background, or under nohup.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [MLTRAIN, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=kit.ENV, start_new_session=True, preexec_fn=answer_signals,  # noqa: PLW1509 (no thread runs here)
    )  # fmt: skip


def _visible(folder):
    return {name: what for name, what in kit.tree(folder).items() if not name.startswith("studies")}


def _members(group):
    """Return the processes of a group that are still alive after a second."""
    until = time.monotonic() + 1
    while (found := list(_running(group))) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def _running(group):
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = open(f"/proc/{name}/stat").read()
            except OSError:
                continue
            state, _, of = stat.rpartition(")")[2].split()[:3]
            # A zombie has ended, and only waits for init.
            if int(of) == group and state != "Z":
                yield int(name)


def growth(plan):
    """One process, a thousand rollbacks, each followed by a prediction: no file descriptor and no memory leaks."""
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
