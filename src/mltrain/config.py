"""The training configuration: frozen values, without defaults of their own.

The defaults live in configs/train.yml alone; a user's file overrides it key by key, and options override both.
"""

from __future__ import annotations

from pathlib import Path

from mltrain.errors import InputError
from mltrain.names import did_you_mean, show


def packaged_config(name: str) -> Path:
    """Return the path of a configuration that travels with the package.

    Args:
        name: A bare file name such as "train.yml".

    Raises:
        InputError: There is no such file.
    """
    here = Path(__file__).parent
    # A wheel carries the folder inside the package; a checkout has it at the top, where people look for it.
    folder = next((f for f in (here / "configs", here.parents[1] / "configs") if f.is_dir()), here / "configs")
    known = sorted(p.name for p in folder.glob("*.yml"))
    if name not in known:
        raise InputError(f"there is no packaged configuration {show(name)}", hint=did_you_mean(name, known))
    return folder / name
