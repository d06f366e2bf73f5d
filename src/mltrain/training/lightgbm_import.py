"""The import of LightGBM: late, and on the command line without scikit-learn.

`import lightgbm` imports scikit-learn and pandas if they are installed, for its `LGBMClassifier` and the like: 0.8 s of
CPU time and 66 MB per process. mltrain uses neither, so its own processes, the command line and the workers, skip them.
No module imports LightGBM at its top, and this module imports nothing heavy: the command line starts with it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError

if TYPE_CHECKING:
    from types import ModuleType

_OPENMP_HINTS: Final = {"darwin": "brew install libomp", "linux": "apt-get install libgomp1"}
_skipped_modules: set[str] = set()


def skip_scikit_learn() -> None:
    """Let this process import LightGBM without scikit-learn and pandas.

    `lightgbm.LGBMClassifier` then raises, so only a process without other users of LightGBM may call this. Importing
    scikit-learn itself still works.
    """
    _skipped_modules.update(("pandas", "sklearn"))


def import_lightgbm() -> ModuleType:
    """Import LightGBM, without the modules that `skip_scikit_learn` excludes, and return it.

    Raises:
        MachineError: Its shared library cannot be loaded, usually because the OpenMP runtime is missing: slim images
            and new Macs come without it; or Python strips docstrings, which LightGBM reads when it is imported.
    """
    if sys.flags.optimize >= 2:
        raise MachineError(
            "Python runs with -OO, which strips the docstrings that LightGBM needs", hint="run it with -O, or without"
        )
    hidden = [name for name in _skipped_modules if name not in sys.modules]
    # None makes an import fail (Python language reference, 5.3.1); LightGBM catches the ImportError.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        return importlib.import_module("lightgbm")
    except OSError as err:
        hint = _OPENMP_HINTS.get(sys.platform, "install the OpenMP runtime of your system")
        raise MachineError(f"LightGBM cannot load its library: {err}", hint=hint) from err
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
