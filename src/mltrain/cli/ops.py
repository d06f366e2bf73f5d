"""The option --ops: a module with user-defined ops."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from mltrain.cli.help import MODEL

Ops = Annotated[
    str | None,
    typer.Option(
        "--ops",
        metavar="MODULE",
        help="Python module with your own ops; importing it runs its code.",
        rich_help_panel=MODEL,
    ),
]


def read_ops(module: str | None) -> None:
    """Import and register the ops of a module; the working directory is searched after installed packages."""
    if module is None:
        return
    from mltrain.features.user_ops import import_user_ops

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    # A module may print when it is imported, and stdout is for results.
    with contextlib.redirect_stdout(sys.stderr):
        import_user_ops(module)
