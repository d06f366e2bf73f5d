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
    """Take the ops of a module into use, from the working directory too, behind all that is installed.

    Raises:
        UsageError: It is no module name.
        InputError: There is no such module, or it is no module of ops.
    """
    if module is None:
        return
    from mltrain.features.own import use_ops

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results, whatever a module says of itself
        use_ops(module)
