"""A little of the figures of the chaos that no other test drives; `python tests/chaos/run.py` is the whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

FIGURES = (
    *("durability", "kill-points", "mutations", "tampering", "forgeries", "hostile", "crowd", "degenerate"),
    *("ledger", "halt-mutations", "halt-under-load", "halt-after-stop"),
)
NEED_STRACE = {"durability", "kill-points"}


def test_every_case_ends_well():
    """This is one test, because the figures share a trained folder that two workers would both prepare."""
    program = Path(__file__).with_name("run.py")
    words = [word for figure in FIGURES for word in ("--figure", figure)]
    done = subprocess.run([sys.executable, program, "--quick", *words], capture_output=True, text=True, check=False)
    text = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), text

    for figure in FIGURES:
        if figure in NEED_STRACE and shutil.which("strace") is None:
            assert f"{figure}: skipped, needs strace" in text, text
            continue
        found = re.search(rf"^{figure}: ([0-9]+) of ([0-9]+) ", text, re.MULTILINE)
        assert found, text
        assert found[1] == found[2] != "0", text
