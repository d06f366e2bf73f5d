"""Imports of a command at its start: a library that is not imported cannot be slow."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from mltrain.cli.app import GROUPS, MODULES, load_commands
from support.operated import answered, record
from support.program import NEUTRAL, call

LIBRARIES = ("numpy", "polars", "pyarrow", "lightgbm", "sklearn", "scipy", "optuna", "httpx", "matplotlib", "pandas")
# After every promotion.
LATER = "2100-01-01T00:00:00.000Z"
CODE = """
import atexit, sys
sys.argv = ["mltrain", *sys.argv[1:]]
atexit.register(lambda: sys.stderr.write(" ".join(sorted(sys.modules))))
from mltrain.cli import main
main()
"""


def loaded(*words):
    """Return the modules that a run has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)], env=NEUTRAL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_every_command_has_its_module():
    """MODULES and GROUPS list exactly the commands of the modules; any other word loads all modules."""
    root = typer.main.get_command(load_commands())
    commands = set(root.commands)

    assert {word for words in MODULES.values() for word in words} == commands
    groups = {name: set(getattr(c, "commands", ())) for name, c in root.commands.items()}
    assert {name: set(words) for name, words in GROUPS.items()} == {
        name: words for name, words in groups.items() if words
    }
    assert "Did you mean" in call("trian").err
    assert call("rollback", "--help").code == call("card", "schema").code == 0


@pytest.mark.parametrize("words", [["--help"], ["models"], ["rollback", "BEST"], ["card", "validate"]], ids=" ".join)
def test_a_quick_command_loads_nothing_heavy(words, data_dir):
    """It loads no table library, learner or network; a listing loads no schema and no other command."""
    best = (data_dir / "models" / "best_lgbm").readlink().name
    where = [] if words == ["--help"] else ["--data-dir", data_dir]
    modules = loaded(*[best if word == "BEST" else word for word in words], *where)

    assert {name.partition(".")[0] for name in modules} & set(LIBRARIES) == set()
    # Classes that read documents are made when they are imported.
    assert words != ["--help"] or "mltrain.documents.records" not in modules
    if words[0] in {"models", "rollback"}:
        assert "jsonschema" not in modules
    # In a pipe, a result without a table needs no Rich.
    if words[0] in {"rollback", "card"}:
        assert "rich" not in modules
    if words != ["--help"]:
        homes = {name.rpartition(".")[2] for name in modules if name.startswith("mltrain.cli.")} & set(MODULES)
        assert homes == {"models"}


def test_a_status_loads_no_learner(data_dir):
    """Without answers not even NumPy, and in a pipe no Rich: a health check runs it every minute."""
    modules = {name.partition(".")[0] for name in loaded("status", "--data-dir", data_dir)}
    assert modules & {*LIBRARIES, "rich"} == set()
    record(data_dir, [answered(1, version=(data_dir / "models" / "best_lgbm").readlink().name, at=LATER)])

    modules = {name.partition(".")[0] for name in loaded("status", "--data-dir", data_dir)}
    assert modules & {*LIBRARIES, "rich"} == {"numpy"}


def test_a_prediction_does_not_load_scikit_learn(data_dir):
    """Loading scikit-learn with LightGBM would take three times as long as all the rest."""
    modules = {name.partition(".")[0] for name in loaded("predict", "--source", "sim", "--data-dir", data_dir)}

    assert "lightgbm" in modules
    assert modules & {"sklearn", "optuna", "matplotlib", "pandas"} == set()


def test_a_usage_error_says_what_to_type():
    """A usage error without a hint gets one that names the command's help."""
    text = call("snapshot", "--symbols", "BTCUSDT,BTCUSDT").err

    assert "hint: `mltrain snapshot --help` lists its options" in text


@pytest.mark.parametrize("words", [["models"], ["features", "info", "--snapshot", "latest"], ["--help"]], ids=" ".join)
def test_a_terminal_without_unicode_is_served(words, data_dir):
    """Characters that the terminal cannot show are replaced, and no command crashes."""
    where = [] if words == ["--help"] else ["--data-dir", data_dir]
    done = call(*words, *where, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})

    assert done.code == 0, done.err
    assert done.out.isascii()
