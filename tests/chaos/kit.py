"""Shared by all chaos figures: a trained folder, calls of the installed `mltrain`, and the definition of a clean end.

A call is a separate process, so that a signal, a hang or a lost gigabyte shows. Many are *warm*: forked from a
process that has imported mltrain and run none of it, so that a call costs its work and not its start; the mutations
run every so many *cold*, too, as the shell would.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from support.program import MLTRAIN, NEUTRAL
from support.warm import TRACEBACK, become, import_commands

CONFIG = Path(__file__).with_name("quick.yml")
FEATURES = CONFIG.with_name("features.yml")
TIMEOUT_S = 15.0
MAX_RSS_MB = 1000
ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ENV = {**NEUTRAL, **ONE_THREAD, "PYTHONDONTWRITEBYTECODE": "1"}
SNAPSHOT = ("snapshot", "--source", "sim", "--sim-signal", "strong", "--symbols", "BTCUSDT", "--days", "6")
TRAIN = ("train", "--trials", "1", "--config", str(CONFIG), "--features", str(FEATURES))


@dataclass(frozen=True)
class Ended:
    """The end of a call."""

    # Negative: the number of the signal that ended it.
    code: int
    out: str
    err: str
    seconds: float
    rss_mb: float
    hung: bool = False


@dataclass
class Tally:
    """One figure: the number of cases, and the failures."""

    name: str
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fail(self, case, what):
        """Keep a failure with the number of its case."""
        self.failures.append(f"case {case}: {what}")

    def add(self, results):
        """Count the cases of `run_in_forks`."""
        self.cases += len(results)
        for case, problem in results:
            if problem:
                self.fail(case, problem)


@dataclass(frozen=True)
class Plan:
    """The arguments of a figure: where to work, and how much."""

    # A trained folder; to be copied, never changed.
    base: Path
    # An empty folder.
    work: Path
    seed: int
    quick: bool
    only: int | None = None

    def rng(self, case):
        """Return the random generator of one case, so that it can be repeated alone."""
        return random.Random(f"{self.seed}:{case}")

    def cases(self, count, quick):
        """Return the numbers of the cases to run."""
        if self.only is not None:
            return [self.only]
        return range(quick if self.quick else count)

    def copy(self, name="data"):
        """Return a fresh copy of the trained folder."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.base, folder, symlinks=True)
        return folder


def run_in_forks(attempt, cases, forks=2):
    """Call `attempt(case)` for every case, in forks of this process; return each case with its result."""
    cases = list(cases)
    with contextlib.ExitStack() as stack:
        workers = []
        for first in range(forks):
            results = stack.enter_context(open(os.memfd_create("results"), "w+"))
            pid = os.fork()
            if pid == 0:
                try:
                    for case in cases[first::forks]:
                        results.write(json.dumps([case, attempt(case)]) + "\n")
                        results.flush()
                    os._exit(0)
                except BaseException:  # noqa: BLE001 (whatever it is, it must not run the parent's code)
                    traceback.print_exc()
                    os._exit(1)
            workers.append((pid, results))
        found = []
        for pid, results in workers:
            assert os.waitpid(pid, 0)[1] == 0, "the chaos itself has a bug: see above"
            results.seek(0)
            found += [json.loads(line) for line in results]
    return sorted(found, key=lambda result: cases.index(result[0]))


def prepare(folder):
    """Make a folder with a simulated snapshot and two versions, both promoted; return it."""
    # The second one is held.
    for words in (SNAPSHOT, TRAIN, (*TRAIN, "--seed", "7"), ("promote", "latest")):
        ended = warm(*words, data_dir=folder, timeout=120)
        assert ended.code == 0, ended.err
    assert len(versions(folder)) == 2
    return folder


def versions(folder):
    """Return the names of the versions, oldest first."""
    models = folder / "models"
    found = models.iterdir() if models.is_dir() else ()
    return sorted(p.name for p in found if p.is_dir() and not p.name.startswith(("best", ".")))


def best(folder):
    """Return the target of the pointer."""
    return os.readlink(folder / "models" / "best_lgbm")


def cold(*words, data_dir=None, env=None, timeout=TIMEOUT_S):
    """Call `mltrain` as a shell would."""
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    start = time.monotonic()
    # A file, not a pipe: nobody has to read while it runs.
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        run = subprocess.Popen(
            [MLTRAIN, *map(str, words), *where],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**ENV, **(env or {})},
        )
        ended = _wait(run.pid, out, err, start, timeout)
        # Reaped already.
        run.returncode = ended.code
        return ended


def warm_up():
    """Import the modules of commands without running any: threads do not survive a fork."""
    os.environ.update(ONE_THREAD)
    for name in list(os.environ):
        if name not in ENV:
            del os.environ[name]
    import_commands()


def warm(*words, data_dir=None, env=None, timeout=TIMEOUT_S, tracer=None):
    """Call `mltrain` in a fork of this process, if given under a tracer such as ["strace", "-f"]."""
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    start = time.monotonic()
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        held, release = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(release)
                # Before it is traced: faults are meant for mltrain, not for these calls.
                _take(out, err)
                if tracer is not None:
                    _let_trace()
                    # Every call from here on is counted.
                    os.read(held, 1)
                os.close(held)
                become([*map(str, words), *where], env or {})
            finally:
                os._exit(71)
        os.close(held)
        with _traced(tracer, pid):
            os.close(release)
            return _wait(pid, out, err, start, timeout)


def _let_trace():
    """Let any process of this user trace this one, where otherwise only parents may."""
    import ctypes

    # PR_SET_PTRACER, PR_SET_PTRACER_ANY.
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)


@contextlib.contextmanager
def _traced(tracer, pid):
    """Attach the tracer, if any, and wait until it is attached."""
    if tracer is None:
        yield
        return
    with subprocess.Popen([*tracer, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as run:
        line = run.stderr.readline()
        assert "attached" in line, line
        yield


def _take(out, err):
    """Use /dev/null as stdin, and these files as stdout and stderr."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)


def _wait(pid, out, err, start, timeout):
    hung, pause = False, 0.001
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - start > timeout and not hung:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read().decode(errors="replace"))
    seconds = time.monotonic() - start
    return Ended(os.waitstatus_to_exitcode(status), *texts, seconds, usage.ru_maxrss / 1024, hung)


def unclean(ended, codes=(3,)):
    """Return the problem with the end of a call; None if it is clean."""
    last = ended.err.strip().splitlines()[-1:] or [""]
    if ended.hung:
        return f"hung for {ended.seconds:.0f} s"
    if ended.code < 0:
        return f"ended by signal {-ended.code}: {last[0][:200]}"
    if TRACEBACK in ended.err or ended.code == 1:
        return f"a bug, exit {ended.code}: {ended.err.strip()[-300:]}"
    if ended.code not in codes:
        return f"exit {ended.code}, not {' or '.join(map(str, codes))}: {(ended.err or ended.out).strip()[-200:]}"
    if ended.rss_mb > MAX_RSS_MB:
        return f"took {ended.rss_mb:.0f} MB"
    if ended.code not in {0, 4} and "error" not in ended.err.lower() and not ended.out:
        return f"exit {ended.code} without a word"
    return None


def tree(folder):
    """Return everything below a folder except locks: path, and hash of the bytes or link target."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.endswith(".lock"):
            continue
        if path.is_symlink():
            seen[name] = f"-> {os.readlink(path)}"
        elif path.is_file() and path.stat().st_size < 1 << 26:
            seen[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            seen[name] = "dir" if path.is_dir() else "other"
    return seen


def leftovers(folder):
    """Return the names of leftover temporary files."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.tmp")]
