"""A little of every figure of the chaos; `python tests/chaos/run.py` is the whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = (
    *("durability", "kill-points", "io-errors", "mutations", "journal", "tampering", "forgeries", "hostile", "crowd"),
    *("interrupts", "growth"),
)
NEED_STRACE = {"durability", "kill-points", "io-errors"}


@pytest.fixture(scope="module")
def told():
    """Return what one quick run says."""
    program = Path(__file__).with_name("run.py")
    done = subprocess.run([sys.executable, program, "--quick"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("figure", FIGURES)
def test_figure(figure, told):
    """Every case of it ends well."""
    if figure in NEED_STRACE and shutil.which("strace") is None:
        pytest.skip("needs strace")
    found = re.search(rf"^{figure}: ([0-9]+) of ([0-9]+) ", told, re.MULTILINE)

    assert found, told
    assert found[1] == found[2] != "0", told
