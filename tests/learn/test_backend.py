from __future__ import annotations

import sys

import pytest

from mltrain.errors import MachineError
from mltrain.learn.backend import import_lightgbm


def test_lightgbm_is_imported():
    """The module that comes back is LightGBM itself."""
    lightgbm = import_lightgbm()

    assert hasattr(lightgbm, "Booster")


def test_a_missing_system_library_says_what_to_install(tmp_path, monkeypatch):
    """A machine without the OpenMP runtime gets one line with the library's name and a command."""
    (tmp_path / "lightgbm.py").write_text("import ctypes\nctypes.CDLL('libgomp-that-is-absent.so.1')\n", "utf-8")
    for name in [m for m in sys.modules if m.split(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(MachineError, match=r"libgomp-that-is-absent\.so\.1") as caught:
        import_lightgbm()

    assert "install" in caught.value.hint
    assert "\n" not in str(caught.value)
