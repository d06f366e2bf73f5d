"""Writers of one ledger that are killed at any moment: no answer that was recorded is lost, and no line is damaged."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import kit
from mltrain.errors import InputError
from mltrain.monitoring.ledger import Ledger, LedgerTail, read_ledger
from support.ledgers import ROW

# Notes the number of its last row after each append, which an answer would follow.
WRITER = """
import os, sys
from dataclasses import replace
from itertools import count
from mltrain.monitoring.ledger import Ledger
from support.ledgers import ROW
folder, name, first = sys.argv[1:]
ledger = Ledger(folder)
noted = os.open(f"{folder}/{name}.noted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in count(int(first), 2):
    ledger.append([replace(ROW, version=name, missed=number), replace(ROW, version=name, missed=number + 1)])
    os.write(noted, b"%d\\n" % (number + 1))
"""
# More rows than a writer can append in its life.
LIFE = 1_000_000


def storm(plan):
    """Six writers and a reader; a writer is killed several times a second, and another one takes its place."""
    tally = kit.Tally("ledger")
    folder = plan.work / "ledger"
    seconds, names = (2, "abc") if plan.quick else (30, "abcdef")
    rng, lives = random.Random(plan.seed), count(1)
    env = {**kit.ENV, "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(name):
        words = [sys.executable, "-c", WRITER, folder, name, str(next(lives) * LIFE)]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env)

    def end(name):
        running[name].kill()
        _, err = running[name].communicate()
        if err:
            tally.fail(name, err[-300:])

    Ledger(folder).close()
    running = {name: start(name) for name in names}
    tail, rows, kills = LedgerTail(folder), [], 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(rng.random() * 0.3)
        name = rng.choice(names)
        end(name)
        running[name] = start(name)
        kills += 1
        # Reading takes longer than a kill.
        if kills % 5 == 0:
            rows += tail.new_rows()
    for name in names:
        end(name)
    rows += tail.new_rows()
    recorded = {(row.version, row.missed) for row in rows}
    noted = [(path.stem, int(line)) for path in folder.glob("*.noted") for line in path.read_text().split()]
    tally.cases = len(noted)
    lost = [each for each in noted if each not in recorded]
    if lost:
        tally.fail("lost", f"{len(lost)} answers, such as {lost[0]}")
    if len(recorded) != len(rows):
        tally.fail("twice", f"{len(rows) - len(recorded)} rows")
    if list(read_ledger(folder)) != rows:
        tally.fail("reader", "read other rows while they were appended than afterwards")
    tally.notes.append(f"{len(rows)} rows of {len(names)} writers, {kills} kills")
    _change_bytes(plan, rng, tally)
    shutil.rmtree(folder)
    return tally


def _change_bytes(plan, rng, tally):
    """Change a byte, or remove a line: the reader finds each, but for what is cut off at the end."""
    folder = plan.work / "changed"
    with Ledger(folder) as ledger:
        for _ in range(50):
            ledger.append([ROW])
    (path,) = folder.glob("*.jsonl")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for case in range(50 if plan.quick else 5_000):
        if case % 5:
            at = rng.randrange(len(whole) - 1)
            changed = whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]
        else:
            at = rng.randrange(1, len(lines) - 1)
            changed = b"".join(lines[:at] + lines[at + 1 :])
        path.write_bytes(changed)
        tally.cases += 1
        try:
            found = len(list(read_ledger(folder)))
        except InputError:
            continue
        tally.fail(case, f"a change at {at} was not found in {found} rows")
