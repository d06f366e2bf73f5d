"""Op families, one module each; `mltrain.features.ops.catalogue` has the table of all ops.

The names that were here are now in `mltrain.ops`. Importing them from here raises a DeprecationWarning, and
will fail in the next release.
"""

from __future__ import annotations

import warnings
from typing import Any


# Any: the type of the moved name.
def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Return a name that has moved, with a DeprecationWarning."""
    from mltrain.features import op

    if name.startswith("_") or name not in vars(op):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"import {name} from mltrain.ops", DeprecationWarning, stacklevel=2)
    return getattr(op, name)
