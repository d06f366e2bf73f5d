"""Drive the installed `mltrain` through everything that can go wrong, from outside, and count.

    python tests/chaos/run.py [--figure NAME ...] [--seed S] [--case K] [--quick]

Each figure prints how many cases it had, what failed, and the line that repeats it. The exit code is 1 where anything
failed. Figures that fail system calls need strace.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import kit
from figures import FIGURES, NEED_STRACE
from support import disk_faults


def main():
    """Run the requested figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", action="append", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this case alone, of a figure that is made of numbered ones")
    parser.add_argument("--quick", action="store_true", help="some cases of each")
    args = parser.parse_args()
    kit.warm_up()
    failed = 0
    with disk_faults.memory_folder() as memory:
        base = kit.prepare(memory / "base")
        for name in args.figure or FIGURES:
            if name in NEED_STRACE and shutil.which("strace") is None:
                print(f"{name}: skipped, needs strace", flush=True)
                continue
            start = time.monotonic()
            work = memory / name
            work.mkdir()
            tally = FIGURES[name](kit.Plan(base, work, args.seed, args.quick, args.case))
            shutil.rmtree(work)
            show(tally, args, time.monotonic() - start)
            failed += len(tally.failures)
    return 1 if failed else 0


def show(tally, args, seconds):
    """Print one figure."""
    print(f"{tally.name}: {tally.cases - len(tally.failures)} of {tally.cases} in {seconds:.0f} s", flush=True)
    for note in tally.notes:
        print(f"    {note}")
    for failure in tally.failures:
        print(f"    FAILED {failure}")
    if tally.failures:
        quick = " --quick" if args.quick else ""
        print(f"    again: python tests/chaos/run.py --figure {tally.name} --seed {args.seed}{quick}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
