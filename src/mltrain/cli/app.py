"""The application: its commands, and the one place that turns errors into exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.help import Group
from mltrain.errors import MachineError, MltrainError, UsageError
from mltrain.training.lightgbm_import import skip_scikit_learn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPILOG: Final = (
    "Exit codes: 0 done, 2 usage, 3 bad or corrupt input, 4 NO-GO or halted, 5 a leakage guard failed, 6 exchange or "
    "network, 7 another mltrain holds the lock, 8 the machine refused, 129/130/143 hung up, interrupted, terminated; 1 "
    "is a bug."
)

# Failures of a write for which the machine is at fault, and not mltrain.
_REFUSALS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})

#: The commands of each module. Only the module of the given command is loaded: a listing starts three times as fast.
MODULES: Final = {
    "snapshots": ("snapshot", "snapshots", "cache"),
    "train": ("train", "demo"),
    "bench": ("bench",),
    "cycle": ("cycle",),
    "studies": ("studies",),
    "models": ("models", "promote", "rollback", "card"),
    "predict": ("predict",),
    "halts": ("halt", "resume"),
    "serve": ("serve",),
    "ledger": ("ledger",),
    "evaluate": ("evaluate",),
    "backtest": ("backtest",),
    "features": ("features",),
    "verify": ("verify",),
    "sentinel": ("sentinel",),
    "notify": ("notify",),
    "status": ("status",),
    "sim": ("sim",),
    "config": ("config",),
}

#: The commands of each group.
GROUPS: Final = {
    "snapshots": ("diff", "prune"),
    "cache": ("info", "prune"),
    "studies": ("prune",),
    "backtest": ("run", "list", "show", "diff", "prune"),
    "models": ("history", "prune", "repair", "pack", "unpack"),
    "halt": ("status", "history", "arm", "disarm", "drill"),
    "ledger": ("prune",),
    "card": ("validate", "show", "schema", "report", "diff"),
    "features": ("info", "show", "check", "audit", "init", "export"),
    "verify": ("snapshot", "model"),
    "config": ("show", "init"),
}

#: The panels of `mltrain --help`, in their order.
PANELS: Final = {
    "Data": ("snapshot", "snapshots", "cache", "sim"),
    "Train and judge": ("train", "cycle", "evaluate", "backtest", "bench", "demo", "card", "studies"),
    "Serve and operate": (
        "predict",
        "serve",
        "status",
        "promote",
        "rollback",
        "halt",
        "resume",
        "sentinel",
        "notify",
        "models",
        "ledger",
    ),
    "Inspect": ("features", "verify", "config"),
}

app = typer.Typer(
    name="mltrain",
    cls=Group,
    help="From exchange candles to a calibrated, documented, gated and reversible LightGBM classifier.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    """Print the version and exit, if --version was given."""
    if wanted:
        from mltrain._version import __version__

        typer.echo(f"mltrain {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Define the options of `mltrain` itself."""


def run() -> int:
    """Run the command line and return the process's exit code."""
    skip_scikit_learn()
    if not sys.stdout.isatty():
        # Typer colours its help even in a pipe where GITHUB_ACTIONS or FORCE_COLOR is set.
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            # A character that the terminal cannot show becomes a question mark.
            stream.reconfigure(errors="replace")
    return call_app(load_commands(sys.argv[1] if len(sys.argv) > 1 else None))


def load_commands(word: str | None = None) -> typer.Typer:
    """Add the commands to the app and return it; called once per process.

    Args:
        word: The first word of the command line. If it is a command, only the module of that command is loaded;
            anything else, such as --help, needs all modules.
    """
    from importlib import import_module

    given = [module for module, commands in MODULES.items() if word in commands]
    for module in given or MODULES:
        import_module(f"mltrain.cli.{module}").add_commands(app)
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    for command in app.registered_commands:
        command.rich_help_panel = panels[str(command.name)]
    for group in app.registered_groups:
        group.rich_help_panel = panels[str(group.name)]
    return app


def find_command(words: Sequence[str]) -> str:
    """Return the command that the words of a command line begin with, without its options.

    >>> find_command(["models", "prune", "--keep", "-1"]), find_command(["train", "latest"]), find_command([])
    ('mltrain models prune', 'mltrain train', 'mltrain')
    """
    first = words[0] if words else ""
    if not any(first in commands for commands in MODULES.values()):
        return "mltrain"
    return " ".join(["mltrain", first, *(word for word in words[1:2] if word in GROUPS.get(first, ()))])


def call_app(call: Callable[[], object]) -> int:
    """Call the app, show an error as one readable message, and return the exit code.

    If the message itself cannot be written, as with stderr on a full disk, the exit code is 8.
    """
    try:
        return _call_and_show_errors(call)
    except BrokenPipeError:
        return 0
    except OSError:
        return MachineError.exit_code


def _call_and_show_errors(call: Callable[[], object]) -> int:
    """Call the app and return the exit code; OSError: the message about an error cannot be written."""
    from mltrain.cli.render import show_bug, show_error

    debug = "--debug" in sys.argv[1:]
    try:
        call()
    except SystemExit as end:
        # Typer answers a closed pipe with 1, inside its own handler of the OSError.
        if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
            return 0
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        # The reader has left: not an error.
        return 0
    except BaseException as raised:
        # A panic of Polars is a BaseException, and a bug.
        if not isinstance(raised, Exception) and type(raised).__module__ != "pyo3_runtime":
            raise
        err = _as_user_error(raised)
        if err is None:
            show_bug(raised, debug=debug)
            return 1
        show_error(err, debug=debug)
        return err.exit_code
    return 0


def _as_user_error(raised: BaseException) -> MltrainError | None:
    """Return the error to show for an exception; None: it is a bug."""
    from mltrain.cli.address_space import is_shortage

    if isinstance(raised, UsageError) and raised.hint is None:
        raised.hint = f"`{find_command(sys.argv[1:])} --help` lists its options"
    if isinstance(raised, MltrainError):
        return raised
    if is_shortage(raised):
        return MachineError("out of memory", hint="use fewer symbols or days, or a machine with more memory")
    if isinstance(raised, OSError) and raised.errno in _REFUSALS:
        return MachineError(f"cannot write the output: {raised.strerror}")
    return None
