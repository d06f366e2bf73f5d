"""The one door to LightGBM: import it late, and say what to do where the machine lacks its system library.

`import lightgbm` takes a good part of a second and pulls scikit-learn and SciPy with it, so no module imports it at
its top: those that need it call `import_lightgbm` inside their functions.
"""

from __future__ import annotations

import importlib
import platform
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError

if TYPE_CHECKING:
    from types import ModuleType

_WAY_OUT: Final = {"Darwin": "brew install libomp", "Linux": "apt-get install libgomp1"}


def import_lightgbm() -> ModuleType:
    """Return the `lightgbm` module.

    Raises:
        MachineError: Its shared library cannot be loaded, as a rule because the OpenMP runtime is missing: slim
            images and fresh Macs come without it.
    """
    try:
        return importlib.import_module("lightgbm")
    except OSError as err:
        command = _WAY_OUT.get(platform.system(), "install the OpenMP runtime of your system")
        raise MachineError(f"LightGBM cannot load its library: {err}", hint=command) from err
