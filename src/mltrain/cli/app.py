"""The application: its commands, their common options, and the one place that turns errors into exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.errors import MachineError, MltrainError, UsageError
from mltrain.training.lightgbm_import import own_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPILOG = (
    "Exit codes: 0 done, 2 usage, 3 bad or corrupt input, 4 NO-GO, 5 a leakage guard failed, 6 exchange or network, "
    "7 another mltrain holds the lock, 8 the machine refused, 129/130/143 hung up, interrupted, terminated; 1 is a bug."
)

# What the machine alone can be blamed for: an output that cannot be written is no bug, wherever the write stands.
_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})

_MEMORY_HINT = "use fewer symbols or days, or a machine with more memory"

#: Which module has which commands, in the order of the help; two thirds of a listing's start went into the others.
HOMES: Final = {
    "snapshots": ("snapshot", "snapshots", "cache"),
    "training": ("train", "demo"),
    "bench": ("bench",),
    "models": ("models", "promote", "rollback", "card"),
    "predict": ("predict",),
    "evaluate": ("evaluate",),
    "features": ("features",),
    "data": ("verify",),
    "exchange": ("sim",),
    "settings": ("config",),
}

#: The commands of a group.
GROUPS: Final = {
    "snapshots": ("diff", "prune"),
    "cache": ("info", "prune"),
    "models": ("history", "prune"),
    "card": ("validate", "show", "schema", "report", "diff"),
    "features": ("info", "show", "check", "audit"),
    "verify": ("snapshot", "model"),
    "config": ("show", "init"),
}

app = typer.Typer(
    name="mltrain",
    help="From exchange candles to a calibrated, documented, gated and reversible LightGBM classifier.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
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
    """Take the options of the program itself; each command has its own."""


def run() -> int:
    """Run the command line and return the process's exit code."""
    own_process()
    if not sys.stdout.isatty():
        # Typer colours its help in a pipe where GITHUB_ACTIONS or FORCE_COLOR is set; a pipe gets plain text.
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")  # a letter that the terminal does not know is no bug
    return guarded(with_commands(sys.argv[1] if len(sys.argv) > 1 else None))


def with_commands(word: str | None = None) -> typer.Typer:
    """Return the app with its commands in it; called once in a process.

    Args:
        word: The first word of the command line. Where it is a command, the module of that command alone is loaded;
            whatever else it is, such as --help, needs them all.
    """
    from importlib import import_module

    home = next((module for module, words in HOMES.items() if word in words), None)
    for module in HOMES if home is None else (home,):
        import_module(f"mltrain.cli.{module}").add_commands(app)
    return app


def asked_command(words: Sequence[str]) -> str:
    """Return the command that a command line names, without its options: what to ask for help of.

    >>> asked_command(["models", "prune", "--keep", "-1"]), asked_command(["train", "latest"]), asked_command([])
    ('mltrain models prune', 'mltrain train', 'mltrain')
    """
    found = ["mltrain"]
    group = words[0] if words else ""
    if any(group in home for home in HOMES.values()):
        found.append(group)
        found += [word for word in words[1:2] if word in GROUPS.get(group, ())]
    return " ".join(found)


def guarded(call: Callable[[], object]) -> int:
    """Call the app and translate how it ended into an exit code, with one readable message for an error.

    Where the message itself cannot be written, as with stderr on a full disk, the code alone says it: 8.
    """
    try:
        return _translated(call)
    except BrokenPipeError:
        return 0
    except OSError:
        return MachineError.exit_code


def _translated(call: Callable[[], object]) -> int:
    from mltrain.cli.render import show_bug, show_error

    debug = "--debug" in sys.argv[1:]
    try:
        call()
    except SystemExit as end:
        return _code_of(end)
    except BrokenPipeError:
        return 0  # the reader has left: not our error
    except BaseException as raised:
        if not isinstance(raised, Exception) and type(raised).__module__ != "pyo3_runtime":  # a panic of Polars
            raise
        err = _explained(raised)
        if err is None:
            show_bug(raised, debug=debug)
            return 1
        show_error(err, debug=debug)
        return err.exit_code
    return 0


def _explained(raised: BaseException) -> MltrainError | None:
    """Return what to tell the user of an exception; None: it is a bug."""
    from mltrain.cli.memory import is_shortage

    if isinstance(raised, UsageError) and raised.hint is None:
        raised.hint = f"`{asked_command(sys.argv[1:])} --help` tells its options"
    if isinstance(raised, MltrainError):
        return raised
    if is_shortage(raised):
        return MachineError("out of memory", hint=_MEMORY_HINT)
    if isinstance(raised, OSError) and raised.errno in _REFUSALS:
        return MachineError(f"cannot write the output: {raised.strerror}")
    return None


def _code_of(end: SystemExit) -> int:
    # Typer answers a closed pipe with 1, inside its own handler of the OSError.
    if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
        return 0
    return end.code if isinstance(end.code, int) else 0
