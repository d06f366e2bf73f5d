"""The option --ops: a module with ops of the user's own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

Ops = Annotated[
    str | None,
    typer.Option("--ops", metavar="MODULE", help="Python module with ops of your own; importing it runs its code."),
]


def read_ops(module: str | None) -> None:
    """Register the ops of a module; it may be in the working directory, which is searched after installed packages.

    Raises:
        UsageError: It is not a module name.
        InputError: There is no such module, or it does not define ops.
    """
    if module is None:
        return
    from mltrain.features.user_ops import import_user_ops

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; a module may print when imported
        import_user_ops(module)
