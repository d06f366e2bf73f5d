"""Run the code blocks of a page in order, in one shell, and compare the output with the page.

    python -m tools.follow docs/tutorial.md                       against the exchange
    python -m tools.follow docs/tutorial.md --candles FOLDER      against recorded candles (see tools/replay.py)

The shell starts in an empty folder with a fresh clone of this repository, named `mltrain`, and an environment
without the packages of the current one. Prints the run time of every block; stops with exit 1 at the first that fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.pages import ROOT, blocks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tools.pages import Block

_MARK: Final = "\x1e"
# Older shells only have whole seconds.
_NOW: Final = "${EPOCHREALTIME:-$SECONDS}"
_BOXES: Final = re.compile(r"[│┃|╭╮╰╯─━┏┓┗┛]+")


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of running a block.

    Attributes:
        block: The block.
        passed: Whether it ended with the exit code that the page gives.
        output: stdout and stderr, interleaved.
        seconds: Run time.
    """

    block: Block
    passed: bool
    output: str
    seconds: float


def follow(
    blocks: Sequence[Block],
    folder: Path,
    *,
    env: Mapping[str, str],
    timeout_s: float = 600,
    quick: bool = False,
    inherited: Sequence[int] = (),
) -> list[Ran]:
    """Run blocks of a page in one bash process, in order, until one fails.

    Args:
        blocks: The blocks of `blocks_of` to run.
        folder: Working directory at the start.
        env: The complete environment.
        timeout_s: Timeout for all blocks together, in seconds.
        quick: Append the options of a block's `instead:` comment to each of its lines.
        inherited: Open descriptors that the shell inherits.

    Returns:
        The blocks that were started.
    """
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch, "page.sh")
        script.write_text(_script(blocks, Path(scratch), quick=quick), "utf-8")
        done = subprocess.run(
            ["bash", str(script)],
            cwd=folder,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
            pass_fds=inherited,
        )
    return list(_read(done.stdout, blocks))


def _script(blocks: Sequence[Block], scratch: Path, *, quick: bool) -> str:
    lines = ["set -uo pipefail", f"trap 'printf \"{_MARK}end %d %s{_MARK}\" $? {_NOW}' EXIT"]
    for i, block in enumerate(blocks):
        lines.append(f"printf '{_MARK}begin {i} %s{_MARK}' {_NOW}")
        body = block.body
        if block.language == "python":
            file = scratch / f"block_{i}.py"
            file.write_text(body, "utf-8")
            body = f"python {file}\n"
        elif quick and block.more_words:
            body = "".join(f"{line} {block.more_words}\n" for line in body.splitlines())
        if block.exit_code:
            lines.append(f"set +e\n{body}__code=$?\n[ $__code = {block.exit_code} ] || exit $((__code ? __code : 99))")
        else:
            lines.append(f"set -e\n{body}")
    return "\n".join(lines) + "\n"


def _read(output: str, blocks: Sequence[Block]) -> list[Ran]:
    parts = output.split(_MARK)
    marks = [(parts[i].split(), parts[i + 1]) for i in range(1, len(parts) - 1, 2)]
    ran = []
    for (mark, text), (following, _) in itertools.pairwise(marks):
        passed = following[0] == "begin" or following[1] == "0"
        ran.append(Ran(blocks[int(mark[1])], passed, text, float(following[2]) - float(mark[2])))
    return ran


def untrue_lines(page: Path, ran: Sequence[Ran]) -> list[str]:
    """Return the expected output lines of the page that its blocks did not print.

    Ignores spaces and box-drawing characters; … matches anything.
    """
    outputs = {r.block.line: r.output for r in ran}
    before, untrue = "", []
    for block in blocks_of(page):
        before = outputs.get(block.line, before)
        if "prints" in block.marks:
            printed = [_plain(line) for line in before.splitlines()]
            for line in filter(None, map(_plain, block.body.splitlines())):
                pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
                if not any(pattern.search(text) for text in printed):
                    untrue.append(f"{block.where}: not printed: {line}")
    return untrue


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", _BOXES.sub(" ", line)).strip()


def bare_environment(home: Path) -> dict[str, str]:
    """Return an environment without the active virtual environment; keep settings of package indexes and locale."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_", "LANG", "LC_"))}
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not _is_environment(Path(p)))
    return {**kept, "PATH": path, "HOME": str(home), "COLUMNS": "120"}


def _is_environment(folder: Path) -> bool:
    return (folder.parent / "pyvenv.cfg").is_file()


def main() -> int:
    """Run the page given on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--candles", type=Path, help="folder of recorded candles to use instead of the exchange")
    given = parser.parse_args()
    page = given.page.resolve()
    if given.candles is not None:
        from tools.replay import Replay

        market = Replay(given.candles)
    with tempfile.TemporaryDirectory() as work, market if given.candles else nullcontext():
        env = bare_environment(Path(work))
        if given.candles is not None:
            env["MLTRAIN_BASE_URL"] = market.base_url
        subprocess.run(["git", "clone", "-q", str(ROOT), f"{work}/mltrain"], check=True)
        begun = time.monotonic()
        blocks = [b for b in blocks_of(page) if b.language in {"sh", "python"}]
        ran = follow(blocks, Path(work), env=env, timeout_s=3600)
        for r in ran:
            print(f"{r.block.where}: {'ok' if r.passed else 'FAILED'}, {r.seconds:.1f} s")
            if not r.passed:
                print(r.output)
        untrue = untrue_lines(page, ran)
        print(*untrue, sep="\n", end="\n" if untrue else "")
        print(f"{len(ran)} of {len(blocks)} blocks in {time.monotonic() - begun:.0f} s")
    return 0 if len(ran) == len(blocks) and all(r.passed for r in ran) and not untrue else 1


if __name__ == "__main__":
    sys.exit(main())
