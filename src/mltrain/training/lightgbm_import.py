"""The one door to LightGBM: import it late, and say what to do where the machine lacks its system library.

`import lightgbm` takes a good part of a second, most of it for scikit-learn, which only its `LGBMClassifier` and the
like need. So no module imports it at its top: those that need it call `import_lightgbm` inside their functions; and a
process that is mltrain's alone, the command line's or a worker's, has it without scikit-learn.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_WAY_OUT: Final = {"darwin": "brew install libomp", "linux": "apt-get install libgomp1"}
_NOT_NEEDED: Final = ("pandas", "sklearn")  # LightGBM goes on without them: it asks in try and except ImportError
_process = {"own": False}


def own_process() -> None:
    """Say that no code but mltrain's uses LightGBM in this process, so that it is imported without scikit-learn.

    `lightgbm.LGBMClassifier` then refuses to be made, so a program that merely uses this library must not say so.
    """
    _process["own"] = True


def import_lightgbm() -> ModuleType:
    """Return the `lightgbm` module.

    Raises:
        MachineError: Its shared library cannot be loaded, as a rule because the OpenMP runtime is missing: slim
            images and fresh Macs come without it.
    """
    try:
        with _hidden(*_NOT_NEEDED if _process["own"] else ()):
            return importlib.import_module("lightgbm")
    except OSError as err:
        command = _WAY_OUT.get(sys.platform, "install the OpenMP runtime of your system")
        raise MachineError(f"LightGBM cannot load its library: {err}", hint=command) from err


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let the import of modules that are not loaded yet fail meanwhile."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None stops an import, as documented
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
