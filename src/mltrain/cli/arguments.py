"""Arguments and options that several commands share: versions, snapshots, the feature registry, user ops."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from mltrain.cli.completion import complete_snapshot, complete_version
from mltrain.cli.help import data_option, model_option

VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="best, latest, a version, or a path.", autocompletion=complete_version)
]
LiveVersionArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="VERSION",
        help="best (the live version), latest, a version, or a path. Default: best.",
        autocompletion=complete_version,
    ),
]
KeepOption = Annotated[int, typer.Option("--keep", min=0, help="How many of the newest to keep.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")]
OlderThanOption = Annotated[
    int | None, typer.Option("--older-than", metavar="DAYS", min=1, help="Remove what is older than this many days.")
]
SnapshotArgument = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="latest, an id, or a path.", autocompletion=complete_snapshot)
]
SnapshotOption = Annotated[
    str,
    data_option("--snapshot", metavar="SNAPSHOT", help="latest, an id, or a path.", autocompletion=complete_snapshot),
]
FeaturesOption = Annotated[
    Path | None,
    model_option(
        "--features",
        metavar="FILE",
        help="Registry of features: a file, or the name of a packaged one. Default: features.yml.",
    ),
]
OpsOption = Annotated[
    str | None,
    model_option("--ops", metavar="MODULE", help="Python module with your own ops; importing it runs its code."),
]


def register_ops(module: str | None) -> None:
    """Import and register the ops of a module; None: do nothing.

    The working directory is searched after installed packages.
    """
    if module is None:
        return
    from mltrain.features.user_ops import import_user_ops

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    # A module may print when it is imported, and stdout is for results.
    with contextlib.redirect_stdout(sys.stderr):
        import_user_ops(module)
