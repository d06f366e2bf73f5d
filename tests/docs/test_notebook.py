"""The notebook page: its cells run in order, with pandas and without, and display tables and charts."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from tools.notebook import main
from tools.pages import ROOT, blocks_of

PAGE = ROOT / "docs" / "notebook.md"
# As an environment without the package: an import of it fails.
HIDE = "import sys; sys.modules['pandas'] = None; "
RUN = "from tools.notebook import main; sys.exit(main(sys.argv[1:]))"


def cells(*, pandas):
    """Return the blocks that a run has, with pandas or without."""
    blocks = [block for block in blocks_of(PAGE) if block.language == "python"]
    return [block for block in blocks if pandas or "needs pandas" not in block.marks]


@pytest.mark.parametrize("pandas", [False, True], ids=["without pandas", "with pandas"])
def test_the_notebook_goes_from_a_folder_to_a_backtest(pandas, tmp_path):
    """Every cell runs in a new process and folder; each chart and table is displayed."""
    if pandas and find_spec("pandas") is None:
        pytest.skip("pandas is not installed: the tests of the wheel run the page with it")
    code = f"{'import sys; ' if pandas else HIDE}{RUN}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:mltrain", "-c", code, PAGE, "out.html"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{len(cells(pandas=pandas))} cells ran")
    shown = (tmp_path / "out.html").read_text("utf-8")
    assert shown.count("<iframe srcdoc") == PAGE.read_text("utf-8").count("mt.plot_")
    assert "not a number" not in shown
    assert (tmp_path / "data" / "backtests").is_dir()


def test_the_tool_says_how_to_use_it(capsys):
    """Without a page there is nothing to run."""
    assert main([]) == 2
    assert "python -m tools.notebook" in capsys.readouterr().out
