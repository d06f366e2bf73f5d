"""Fail a command at each of its operations on the folder, by a kill or a disk error; and check the order of syncs.

strace counts calls by name and thread, so each point is named by both; it is made sure of each fault that it struck.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
from collections import Counter
from functools import cache

from support import disk_faults
import halts
import kit
from support.program import MLTRAIN

CALLS = f"{disk_faults.CALLS},openat,writev,link,linkat"
# Runs until the fault is reached: the numbers of calls vary.
ATTEMPTS = 3
ERRORS = ("ENOSPC", "EIO", "EROFS", "EACCES", "EDQUOT")
COMMANDS = {
    # In a folder without a snapshot.
    "snapshot": kit.SNAPSHOT,
    # In a folder without any version: the first one, promoted.
    "train": kit.TRAIN,
    "promote": ("promote", "latest"),
    "rollback": ("rollback", "--previous"),
    # One of the four versions is not needed.
    "prune": ("models", "prune", "--keep", "0"),
    # In a copy that followed its links, and lost one.
    "repair": ("models", "repair"),
    # In a folder without any version.
    "unpack": ("models", "unpack", "{near}/model.tar"),
    # In a folder that was halted before, and runs again.
    "halt": halts.HALT,
    # In a folder that is halted.
    "resume": halts.RESUME,
}


def words_of(command, folder):
    """Return the arguments of a command on a folder."""
    return [word.format(near=folder.parent) for word in COMMANDS[command]]


def start_of(plan, command):
    """Return the folder that a command starts from; the figures share it."""
    folder = plan.base.with_name(f"start-{command}")
    if not folder.exists():
        shutil.copytree(plan.base, folder, symlinks=True)
        if command == "snapshot":
            shutil.rmtree(folder / "snapshots")
        elif command == "train":
            shutil.rmtree(folder / "models")
            shutil.rmtree(folder / "studies")
        elif command == "promote":
            # Before any promotion, so that the links are made, too.
            for name in ("best_lgbm", "best_lgbm.pkl", "best_lgbm_model_card.json", "promotions.jsonl"):
                (folder / "models" / name).unlink()
        elif command == "halt":
            halts.resumed(folder)
        elif command == "resume":
            halts.halted(folder)
        elif command == "repair":
            followed = plan.base.with_name("followed")
            shutil.copytree(folder / "models", followed)
            shutil.rmtree(folder / "models")
            followed.rename(folder / "models")
            (folder / "snapshots" / "latest").unlink()
        elif command == "unpack":
            archive = plan.base.with_name("model.tar")
            assert kit.warm("models", "pack", "best", "-o", archive, data_dir=folder).code == 0
            for name in ("models", "snapshots", "studies"):
                shutil.rmtree(folder / name)
        elif command == "prune":
            for seed in ("8", "9"):
                assert kit.warm(*kit.TRAIN, "--no-promote", "--seed", seed, data_dir=folder, timeout=60).code == 0
    return folder


def traced(command, folder, *inject, timeout=60):
    """Run a command under strace; return its end, its operations on the folder, and the failed calls.

    A call fails by its number in its thread, and so does the call of that number in another thread.
    """
    log = folder.with_name(f"{folder.name}.log")
    options = ["-f", "-y", "-s0", "-e", f"trace={CALLS}", *inject, "-o", str(log)]
    ended = kit.warm(*words_of(command, folder), data_dir=folder, timeout=timeout, tracer=["strace", *options])
    counts, operations, injected = Counter(), [], []
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+)\s+(\w+)\((.*)", line)
        if not match:
            continue
        counts[match[1], match[2]] += 1
        if str(folder) in match[3] and (match[2] != "openat" or "O_CREAT" in match[3]):
            operations.append(disk_faults.Operation(match[1], match[2], counts[match[1], match[2]], match[3]))
        injected += [match[3]] if "INJECTED" in match[3] else []
    return ended, operations, injected


@cache
def clean_run(plan_base, command, start):
    """Return the operations of a command without faults; the figures share them."""
    folder = plan_base.with_name("clean0000")
    shutil.copytree(start, folder, symlinks=True)
    ended, operations, _ = traced(command, folder)
    assert ended.code == 0, ended.err
    shutil.rmtree(folder)
    return operations


def sound(command, folder):
    """Return the problem of a command's results, which must be whole; None without one."""
    calls = []
    if command == "unpack":
        calls = [("verify", "model", name) for name in kit.versions(folder)]
    elif command == "repair" and not (folder / "models" / "best_lgbm").is_symlink():
        # The next call restores it.
        calls = []
    elif command in {"halt", "resume"}:
        if (state := halts.state_of(folder)) not in {"running", "halted"}:
            return state
    elif command != "snapshot":
        calls = [("models", "--json"), ("models", "history")]
        if os.path.lexists(folder / "models" / "best_lgbm"):
            calls += [("card", "validate"), ("verify", "model", "best")]
    elif os.path.lexists(folder / "snapshots" / "latest"):
        calls = [("verify", "snapshot")]
    for words in calls:
        problem = kit.unclean(kit.warm(*words, data_dir=folder), (0,))
        if problem:
            return f"{words}: {problem}"
    return None


def finished(command, folder, want):
    """Run the command again without a fault; return the remaining problem."""
    ended = kit.warm(*words_of(command, folder), data_dir=folder, timeout=60)
    if ended.code not in ({0} if command != "rollback" else {0, 3}):
        return f"the rerun ended with {ended.code}: {ended.err.strip()[-200:]}"
    if command in {"promote", "repair"} and kit.best(folder) != want:
        return f"after the rerun the best version is {kit.best(folder)}, not {want}"
    if command == "snapshot" and len(list((folder / "snapshots").glob("2*"))) != 1:
        return f"after the rerun there are {os.listdir(folder / 'snapshots')}"
    if command in {"halt", "resume"}:
        return finished_switch(command, folder)
    if left := kit.leftovers(folder):
        return f"after the rerun {left} is left"
    return sound(command, folder)


def finished_switch(command, folder):
    """Return the problem of a folder after a halt or a resume ran again without a fault."""
    want = "halted" if command == "halt" else "running"
    if (state := halts.state_of(folder)) != want:
        return f"after the rerun it is {state}"
    return kit.unclean(kit.warm("halt", "history", data_dir=folder), (0,))


def sweep(plan, command, fault_of, judge, tally, *, quick):
    """Fail a command at its operations, one per run, and judge the state after each."""
    start = start_of(plan, command)
    operations = clean_run(plan.base, command, start)
    numbers = list(range(len(operations)))
    # Spread over the whole run, publication and pointer included.
    if plan.quick:
        numbers = sorted(plan.rng(command).sample(numbers, min(quick, len(numbers))))

    def attempt(number):
        operation, fault = operations[number], fault_of(number)
        what = f"{command}: {fault} at {operation.call} #{operation.number} ({operation.arguments[-120:]})"
        # The numbers of a thread's calls differ now and then: those that open modules are counted, too.
        for _ in range(ATTEMPTS):
            struck, problem = once(number, operation, fault)
            if struck:
                return problem and f"{what}: {problem}"
        return f"{what}: the fault did not strike"

    def once(number, operation, fault):
        # A name as long as that of the clean run.
        folder = plan.base.with_name(f"fault{number:04}")
        shutil.copytree(start, folder, symlinks=True)
        effect = "signal=KILL" if fault == "KILL" else f"error={fault}"
        inject = f"inject={operation.call}:{effect}:when={operation.number}"
        ended, _, injected = traced(command, folder, "-e", inject)
        struck = ended.hung or (ended.code == -signal.SIGKILL if fault == "KILL" else bool(injected))
        err = ended.err
        if any(arguments.startswith("2<") for arguments in injected):
            err += "error: (its own words failed, too)"
        if ended.hung:
            problem = f"hung for {ended.seconds:.0f} s"
        else:
            problem = judge(command, start, folder, ended.code, err) if struck else None
        shutil.rmtree(folder)
        return struck, problem

    tally.add(kit.run_in_forks(attempt, numbers))
    tally.notes.append(f"{command}: {len(numbers)} of {len(operations)} operations")


def pointer(folder):
    """Return the targets of the pointers to the best version and the latest snapshot; None without one."""
    links = (folder / "models" / "best_lgbm", folder / "snapshots" / "latest")
    return tuple(os.readlink(link) if link.is_symlink() else None for link in links)


def old_or_new(start, folder):
    """Return the problem of the pointer, which must be unchanged or name a whole version."""
    now = pointer(folder)[0]
    return None if now in {pointer(start)[0], *kit.versions(folder)} else f"the pointer stands on {now}"


def judge_kill(command, start, folder, code, err):  # noqa: ARG001 (one signature for both)
    """After a kill the state is old or new, every file is whole, and a rerun completes the command."""
    problem = old_or_new(start, folder) or sound(command, folder)
    want = kit.versions(start)[-1] if command in {"promote", "repair"} else None
    return problem or finished(command, folder, want)


def judge_error(command, start, folder, code, err):
    """After a disk error: exit 8 with a message and an unchanged pointer; or 0 if the error did no harm."""
    if code not in {0, 8}:
        return f"exit {code}: {err.strip()[-300:]}"
    if code == 8 and "error: " not in err:
        return "exit 8 without a word"
    if kit.TRACEBACK in err:
        return f"a traceback: {err[-300:]}"
    if command == "halt" and code == 0 and halts.state_of(folder) != "halted":
        return f"it says that serving is halted, and it is {halts.state_of(folder)}"
    # A repair that was refused in the middle has restored what came before.
    if code == 8 and command != "repair" and pointer(folder) != pointer(start):
        return f"the pointer moved to {pointer(folder)} although that was refused: {err.strip()[-200:]}"
    return judge_kill(command, start, folder, code, err)


def kill_points(plan):
    """Kill every writing command at each operation on the folder."""
    tally = kit.Tally("kill-points")
    for command in COMMANDS:
        # A training is slow.
        if not (plan.quick and command == "train"):
            sweep(plan, command, lambda _: "KILL", judge_kill, tally, quick=1)
    return tally


def io_errors(plan):
    """Let each operation of the same commands fail with a disk error; then limit file sizes."""
    tally = kit.Tally("io-errors")
    for command in COMMANDS:
        # A training is slow.
        quick = 0 if command == "train" else 1
        rounds = ERRORS if command != "train" and not plan.quick else ERRORS[:1]
        for shift in range(len(rounds)):
            sweep(plan, command, lambda n, s=shift: ERRORS[(n + s) % len(ERRORS)], judge_error, tally, quick=quick)
    limits = (20_000,) if plan.quick else (0, 1, 100, 512, 1024, 4096, 8192, 16_384, 20_000, 30_000)
    for command in COMMANDS:
        start = start_of(plan, command)
        for limit in limits if command in {"snapshot", "train"} else limits[:3]:
            tally.cases += 1
            folder = plan.base.with_name("limited")
            shutil.copytree(start, folder, symlinks=True)
            code, err = limited(command, folder, limit)
            problem = judge_error(command, start, folder, code, err)
            if problem:
                tally.fail(f"limit-{command}-{limit}", problem)
            shutil.rmtree(folder)
    return tally


def limited(command, folder, limit):
    """Run a command that may write no file beyond a size, as under `ulimit -f`."""
    words = [str(MLTRAIN), *words_of(command, folder), "--data-dir", str(folder)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env=kit.ENV,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    return done.returncode, done.stderr


def durability(plan):
    """Check the order of operations: files are synced before a rename, the folder after it; no early report."""
    tally = kit.Tally("durability")
    for command in COMMANDS:
        operations = clean_run(plan.base, command, start_of(plan, command))
        seen = [op for op in operations if op.call != "openat"]
        tally.cases += sum(op.call.startswith(("rename", "symlink")) for op in seen)
        for path in disk_faults.unsynced_renames(seen):
            tally.fail(command, f"{path} was renamed before it, or left before its folder, was synced")
    return tally
