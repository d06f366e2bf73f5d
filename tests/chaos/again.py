"""The same training on any number of workers and threads, and after any kill: one model, one table of trials."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import subprocess
import time

import kit
from support.program import MLTRAIN

TRIALS = 12
WORDS = ("train", "--config", str(kit.CONFIG), "--no-promote", "--seed", "11", "--trials", str(TRIALS))
# Workers and OpenMP threads.
LAYOUTS = tuple(itertools.product((1, 2, 4), (1, 2)))
# The last spreads weights as wide as a class weight can.
WEIGHTS = ("none", "balanced", "0.02")
# Stands once in the journal for each trial whose result was reported.
REPORTED = b'"told"'


def reproducibility(plan):
    """Train with 1, 2 and 4 workers on 1 and 2 threads, with and without weights: the same bytes for each weight."""
    tally = kit.Tally("reproducibility")
    layouts = LAYOUTS[1:4:2] if plan.quick else LAYOUTS
    for weight in WEIGHTS[:1] if plan.quick else WEIGHTS:
        hashes = {}
        for workers, threads in layouts:
            folder = plan.copy()
            words = (*WORDS, "--class-weight", weight, "--workers", workers)
            ended = kit.cold(*words, data_dir=folder, env={"OMP_NUM_THREADS": str(threads)}, timeout=300)
            case = f"{workers} workers, {threads} threads, weight {weight}"
            tally.cases += 1
            problem = kit.unclean(ended, (0, 4))
            if problem:
                tally.fail(case, problem)
                continue
            hashes[case] = _made(plan, folder)
        if len(set(hashes.values())) > 1:
            tally.fail(f"weight {weight}", f"several results: {hashes}")
        tally.notes.append(f"weight {weight}: {len(set(hashes.values()))} result(s) of {len(hashes)} trainings")
    return tally


def resume(plan):
    """Kill with -9 after trial 1, n/2 and n - 1, and while one is written, resume: the uninterrupted result."""
    tally = kit.Tally("resume")
    whole = plan.copy("whole")
    ended = kit.cold(*WORDS, data_dir=whole, timeout=300)
    assert ended.code in {0, 4}, ended.err
    expected = _made(plan, whole)
    for count in (TRIALS // 2,) if plan.quick else (1, TRIALS // 2, TRIALS // 2 + 1, TRIALS - 1):
        for torn in (False, True):
            tally.cases += 1
            problem = _kill_and_resume(plan, count, expected, torn=torn)
            if problem:
                tally.fail(f"after {count}{', torn' if torn else ''}", problem)
    return tally


def _kill_and_resume(plan, count, expected, *, torn):
    folder = plan.copy()
    words = [MLTRAIN, *WORDS, "--workers", "2", "--data-dir", str(folder)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=kit.ENV) as run:
        while run.poll() is None and _reported(folder) < count:
            time.sleep(0.002)
        run.kill()
    kept = _reported(folder)
    if kept < count:
        return f"it ended after {kept} trials"
    # As a power cut in the middle of a write would.
    if torn:
        (journal,) = _journals(folder)
        with journal.open("ab") as file:
            file.write(b'{"op_code": 6, "wor')
    ended = kit.cold(*WORDS, "--resume", "--json", data_dir=folder, timeout=300)
    problem = kit.unclean(ended, (0, 4))
    if problem:
        return problem
    if _reported(folder) < max(kept, TRIALS):
        return f"of {kept} trials {_reported(folder)} are left"
    return None if _made(plan, folder) == expected else "another model or other trials"


def _journals(folder):
    """Return the journals of this study, without those that the folder already had."""
    return [path for path in folder.glob("studies/*-11.journal") if path.is_file()]


def _reported(folder):
    return sum(path.read_bytes().count(REPORTED) for path in _journals(folder))


def _made(plan, folder):
    """Return the hash of model and trials of the newest version."""
    (name,) = set(kit.versions(folder)) - set(kit.versions(plan.base))
    parts = [(folder / "models" / name / part).read_bytes() for part in ("lgbm.pkl", "trials.parquet")]
    shutil.rmtree(folder)
    return hashlib.sha256(b"".join(parts)).hexdigest()
