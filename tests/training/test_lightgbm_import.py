from __future__ import annotations

import subprocess
import sys

import pytest

from mltrain.errors import MachineError
from mltrain.training.lightgbm_import import import_lightgbm


def test_lightgbm_is_imported():
    """The function returns the LightGBM module."""
    lightgbm = import_lightgbm()

    assert hasattr(lightgbm, "Booster")


def test_a_missing_system_library_says_what_to_install(tmp_path, monkeypatch):
    """Without the OpenMP runtime, the error is one line that names the library, with an install command as hint."""
    (tmp_path / "lightgbm.py").write_text("import ctypes\nctypes.CDLL('libgomp-that-is-absent.so.1')\n", "utf-8")
    for name in [m for m in sys.modules if m.split(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(MachineError, match=r"libgomp-that-is-absent\.so\.1") as caught:
        import_lightgbm()

    assert "install" in caught.value.hint
    assert "\n" not in str(caught.value)


def run_alone(program):
    """Run a program in a new process and return the words that it printed."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


IMPORT = "import sys; from mltrain.training.lightgbm_import import *; lightgbm = import_lightgbm();"


def test_a_library_user_gets_all_of_lightgbm():
    """In a process that uses mltrain as a library, LightGBM's own classifier works."""
    made = run_alone(f"{IMPORT} print('sklearn' in sys.modules, type(lightgbm.LGBMClassifier()).__name__)")

    assert made == ["True", "LGBMClassifier"]


def test_a_process_of_mltrain_skips_scikit_learn():
    """LightGBM comes without scikit-learn, which can be imported afterwards, and stays if it was imported before."""
    own = IMPORT.replace("import *;", "import *; skip_scikit_learn();")
    after = "print('sklearn' in sys.modules, hasattr(lightgbm, 'Booster'))"

    assert run_alone(f"{own} {after}; import sklearn; print(sklearn.__name__)") == ["False", "True", "sklearn"]
    assert run_alone(f"import sklearn; {own} print(sklearn is sys.modules['sklearn'])") == ["True"]


def test_without_docstrings_it_is_a_machine_error():
    """LightGBM reads the docstrings of its functions; under -OO there are none."""
    done = subprocess.run([sys.executable, "-OO", "-c", IMPORT], capture_output=True, text=True, check=False)

    assert "MachineError: Python runs with -OO" in done.stderr
