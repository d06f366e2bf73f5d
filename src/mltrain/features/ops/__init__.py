"""Op families, one module each; `mltrain.features.ops.catalogue` lists them all.

The names that were here moved to `mltrain.features.op`; importing them from here warns, and ends with the next release.
"""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- whatever the name stands for
    """Return a name that has moved, with a DeprecationWarning."""
    from mltrain.features import op

    if name.startswith("_") or name not in vars(op):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"import {name} from mltrain.features.op", DeprecationWarning, stacklevel=2)
    return getattr(op, name)
