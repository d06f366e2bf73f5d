"""The kill switch under faults: a halt that was asked for is in force, and nothing but a resume ends it."""

from __future__ import annotations

import contextlib
import json
import mmap
import multiprocessing
import os
import shutil
import signal
import struct
import threading
import time
from pathlib import Path

import mutate

import kit

HALT, RESUME = ("halt", "--why", "chaos"), ("resume", "--why", "chaos")
FILES = ("halt.json", "halts.jsonl")
# Other things than a file that may stand in its place.
KINDS = ("absent", "folder", "link", "fifo", "sparse", "device")
# Seconds for which a process is stopped; MLTRAIN_CHAOS_STOP_S=600 is ten minutes.
STOP_S = float(os.environ.get("MLTRAIN_CHAOS_STOP_S", "2"))
PROCESSES, THREADS = 4, 8


def state_of(folder):
    """Return the state that `halt status` shows, or the problem."""
    ended = kit.warm("halt", "status", "--json", data_dir=folder)
    return json.loads(ended.out)["state"] if ended.code == 0 else kit.unclean(ended, (0,))


def halted(folder):
    """Halt a folder, and return it."""
    assert kit.warm(*HALT, data_dir=folder).code == 0
    return folder


def resumed(folder):
    """Halt a folder and resume it, so that its files are there; return it."""
    assert kit.warm(*RESUME, data_dir=halted(folder)).code == 0
    return folder


def mutations(plan):
    """Damage the state or the log of a folder that is halted, or runs again: it is halted, at once."""
    tally = kit.Tally("halt-mutations")
    starts = {"halted": halted(plan.copy("halted")), "resumed": resumed(plan.copy("resumed"))}

    def attempt(case):
        rng = plan.rng(case)
        start, name = rng.choice(sorted(starts)), FILES[case % 2]
        folder = plan.work / f"mutated{case}"
        (folder / "models").mkdir(parents=True)
        for each in FILES:
            shutil.copyfile(starts[start] / "models" / each, folder / "models" / each)
        path = folder / "models" / name
        data = path.read_bytes()
        what = damage(path, rng, case)
        if path.is_file() and harmless(name, data, path.read_bytes()):
            return None
        found = state_of(folder)
        shutil.rmtree(folder)
        return None if found == "halted" else f"{start}, {name}, {what}: {found}"

    tally.add(kit.run_in_forks(attempt, plan.cases(400, 8)))
    return tally


def damage(path, rng, case):
    """Damage a file, or put something else in its place; return how."""
    if case % 4:
        data, way = path.read_bytes(), rng.choice(mutate.WAYS)
        path.write_bytes(way(data, rng))
        return way.__name__
    kind = KINDS[case // 4 % len(KINDS)]
    data = path.read_bytes()
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.with_name("other").write_bytes(data)
            path.symlink_to("other")
        case "fifo":
            os.mkfifo(path)
        case "sparse":
            with path.open("wb") as file:
                file.truncate(10 << 30)
        case "device":
            path.symlink_to("/dev/zero")
    return kind


def harmless(name, data, changed):
    """Return whether a change says the same: white space after the state, or a torn end of the log."""
    if name == "halt.json":
        return changed.rstrip() == data.rstrip()
    whole = changed[: changed.rfind(b"\n") + 1]
    return whole.replace(b"\n\n", b"\n").rstrip(b"\n") == data.rstrip(b"\n")


def lasting(plan):
    """Halt, then do everything that an operator may do: it is still halted, and every reader says so."""
    tally = kit.Tally("halt-lasts")
    folder = halted(plan.copy())
    live = kit.best(folder)
    steps = [
        ("promote", "best"),
        ("rollback", "--previous"),
        ("promote", live),
        ("models", "prune", "--keep", "0"),
        ("models", "repair"),
        ("halt", "arm"),
        ("halt", "disarm"),
        HALT,
        (*kit.TRAIN, "--seed", "11"),
        ("bench", "--samples", "10"),
    ]
    for number, words in enumerate(steps):
        tally.cases += 1
        ended = kit.warm(*words, data_dir=folder, timeout=120)
        if ended.code not in {0, 4}:
            tally.fail(number, f"{words}: exit {ended.code}: {ended.err[-200:]}")
        if words[0] in {"promote", "rollback"} and "serving is halted" not in ended.err:
            tally.fail(number, f"{words} does not say that serving is halted")
        if (found := state_of(folder)) != "halted":
            tally.fail(number, f"after {words}: {found}")
        refused = kit.cold("predict", data_dir=folder, timeout=60)
        if refused.code != 3 or "serving is halted" not in refused.err:
            tally.fail(number, f"after {words} predict ended with {refused.code}: {refused.err[-200:]}")
    if kit.best(folder) != live:
        tally.fail("train", f"a training promoted {kit.best(folder)} while serving was halted")
    return tally


class Phase:
    """A counter that processes share; odd: a halt has returned, and no resume has begun."""

    def __init__(self, path, *, create=False):
        if create:
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def get(self):
        """Return its value."""
        return struct.unpack("q", self._map[:8])[0]

    def advance(self):
        """Add one."""
        self._map[:8] = struct.pack("q", self.get() + 1)


def serve(folder, work, number):
    """Answer from several threads until the file `done` is there; write what was wrong, and how much was answered."""
    import mltrain
    from mltrain.errors import RefusedError

    # The caller has to go on in spite of all these threads.
    os.nice(10)
    model = mltrain.load(folder / "models" / "best_lgbm.pkl", clock=None)
    row = [0.0] * model.n_features_in_
    phase, wrong, counts = Phase(work / "phase"), [], [0, 0]

    def ask():
        while not (work / "done").exists():
            # Leaves the caller the time to halt a thousand times.
            time.sleep(0.003)
            for _ in range(5):
                before = phase.get()
                try:
                    model.predict_one(row)
                except RefusedError:
                    counts[1] += 1
                    continue
                counts[0] += 1
                if before % 2 and phase.get() == before:
                    wrong.append(before)

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    (work / f"ready{number}").touch()
    for thread in threads:
        thread.join()
    (work / f"result{number}").write_text(json.dumps({"wrong": wrong, "counts": counts}))


def under_load(plan):
    """Halt and resume while many threads of many processes answer: no answer begins and ends while halted."""
    tally = kit.Tally("halt-under-load")
    folder, work = plan.copy(), plan.work / "load"
    work.mkdir()
    phase = Phase(work / "phase", create=True)
    spawn = multiprocessing.get_context("spawn")
    servers = [spawn.Process(target=serve, args=(folder, work, number)) for number in range(PROCESSES)]
    for server in servers:
        server.start()
    while len(list(work.glob("ready*"))) < PROCESSES:
        time.sleep(0.05)
    rounds = len(list(plan.cases(1000, 4)))
    try:
        for number in range(rounds):
            for words in (HALT, RESUME):
                ended = kit.warm(*words, data_dir=folder)
                if ended.code:
                    tally.fail(number, f"{words}: exit {ended.code}: {ended.err[-200:]}")
                if words == HALT:
                    # Odd from the end of the halt until right before the resume.
                    phase.advance()
                time.sleep(0.002)
                if words == HALT:
                    phase.advance()
    finally:
        (work / "done").touch()
        for server in servers:
            server.join(60)
    tally.cases = rounds
    answers = refusals = 0
    for path in work.glob("result*"):
        found = json.loads(path.read_text())
        answers, refusals = answers + found["counts"][0], refusals + found["counts"][1]
        for period in found["wrong"]:
            tally.fail(period // 2, "an answer was given while serving was halted")
    tally.notes.append(f"{answers:,} answers, {refusals:,} refusals, {rounds} halts, {PROCESSES} x {THREADS} threads")
    if not (answers and refusals and len(list(work.glob("result*"))) == PROCESSES):
        tally.fail("all", "the processes did not answer and refuse")
    return tally


def answer_slowly(folder, work):
    """Answer again and again, and write each outcome with its time; the caller stops and continues this process."""
    import mltrain
    from mltrain.errors import RefusedError

    model = mltrain.load(folder / "models" / "best_lgbm.pkl", clock=None, while_halted=True)
    row = [0.0] * model.n_features_in_
    with (work / "outcomes").open("a", buffering=1) as outcomes:
        while not (work / "done").exists():
            try:
                model.predict_one(row)
            except RefusedError as err:
                outcomes.write(f"{time.monotonic()} refused {err.reason}\n")
            else:
                outcomes.write(f"{time.monotonic()} answered\n")


def stopped(plan):
    """Stop a process that answers, and halt, or let the sentinel fall silent: its first answer after is refused."""
    tally = kit.Tally("halt-after-stop")
    for case in plan.cases(20, 1):
        folder, work = plan.copy(f"stopped{case}"), plan.work / f"stop{case}"
        work.mkdir()
        silent = case % 2 == 1
        if silent:
            beat(folder)
            kit.warm("halt", "arm", data_dir=folder)
        spawn = multiprocessing.get_context("spawn")
        server = spawn.Process(target=answer_slowly, args=(folder, work))
        server.start()
        beats = threading.Event()
        beater = threading.Thread(target=keep_beating, args=(folder, beats))
        if silent:
            beater.start()
        outcomes = work / "outcomes"
        while not (outcomes.exists() and outcomes.stat().st_size > 1000):
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGSTOP)
        if silent:
            beats.set()
            beater.join()
            # The heartbeat's limit is ten seconds.
            time.sleep(max(STOP_S, 11.0))
        else:
            kit.warm(*HALT, data_dir=folder)
            time.sleep(STOP_S)
        continued = time.monotonic()
        os.kill(server.pid, signal.SIGCONT)
        time.sleep(0.3)
        (work / "done").touch()
        server.join(20)
        tally.cases += 1
        lines = [line.split() for line in outcomes.read_text().splitlines()]
        after = [line for line in lines if len(line) > 1 and float(line[0]) > continued]
        answered = [line for line in after if line[1] == "answered"]
        if not after:
            tally.fail(case, "it did not go on")
        elif answered:
            tally.fail(case, f"{len(answered)} of {len(after)} answers were given after it was continued")
        shutil.rmtree(folder)
    return tally


def keep_beating(folder, until):
    """Write heartbeats until the event is set."""
    while not until.wait(0.5):
        beat(folder)


def beat(folder):
    """Write one heartbeat."""
    from mltrain.killswitch.heartbeat import beat

    with contextlib.suppress(FileNotFoundError):
        beat(Path(folder) / "models", when="2025-10-15T12:00:00Z")
