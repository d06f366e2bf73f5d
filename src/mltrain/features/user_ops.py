"""Ops of the user's own: a module of theirs, named on the command line or in a call, whose `OPS` joins the others.

Importing a module runs its code: a name comes from the command line or from an argument, never from a file. What a
model was trained with is told by the module's name and the hash of its source.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
import typing
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from mltrain.errors import InputError, OwnOpsError, UsageError
from mltrain.features.ops.catalogue import OPS
from mltrain.names import FEATURE, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType, ModuleType

    from mltrain.features.op import Op

MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_PACKAGE: Final = "mltrain"
_MOST_SOURCE_BYTES: Final = 64 << 20  # of all files of a module: more is no source that anybody wrote


@dataclass(frozen=True, slots=True)
class UserOps:
    """By what a model knows the user's ops again that it was trained with.

    Attributes:
        module: The module's name, as it is imported.
        sha256: Hash of its source: of the file, or of every `.py` file of the package.
    """

    module: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Used:
    """A module whose ops are in use: its source, where that was found, and its ops by name."""

    source: UserOps
    file: Path
    functions: Mapping[str, Op]


_in_use: Final[dict[str, _Used]] = {}

# What an op has no business with. Polars' own readers make no such event: what they look up by time shows otherwise.
_READING: Final = ("open", "os.listdir", "os.scandir", "socket.connect", "sqlite3.connect", "subprocess.Popen")
# What Python opens by itself: code, source lines for a traceback, time zones.
_HARMLESS: Final = re.compile(r"\.pyc?$|zoneinfo|tzdata")
_reads: Final[dict[tuple[str, str], list[str]]] = {}  # of module and top-level function
_computing: Final[set[object]] = set()  # computations under way: what a module does at other times is its own affair


def import_user_ops(name: str) -> UserOps:
    """Import a module and let registries name the ops in its `OPS`, a dictionary of functions by name.

    Args:
        name: The module, as an import statement would say it. **Importing it runs its code.**

    Returns:
        The module's name and source hash, by which a model knows it again.

    Raises:
        UsageError: It is no module name.
        InputError: There is no such module, it fails, its file has changed since it was imported, or its `OPS` is
            missing, no dictionary of ops, or names an op that there is already; all that is wrong is named.
    """
    if MODULE.fullmatch(name) is None:
        raise UsageError(f"--ops {show(name)} is not the name of a module", hint="write it like my_ops, without .py")
    module = _import(name)
    functions = _read_ops(module, name)
    file, sha256 = _hash_source(module, name)
    before = _in_use.get(name)
    if before is not None and before.source.sha256 != sha256 and before.functions == functions:
        raise InputError(f"{file} has changed since {name} was imported", hint="start again, so that it is read anew")
    source = UserOps(name, sha256)
    OPS.update(functions)
    for op in before.functions if before else ():
        if op not in functions:
            del OPS[op]  # imported anew: what it no longer holds is gone
    if not _in_use:
        sys.addaudithook(_watch)  # for good: Python has no way to take one away
    _in_use[name] = _Used(source, file, functions)
    return source


def user_ops_of(ops: Iterable[str]) -> UserOps | None:
    """Return the user's module that some of these ops come from; None where all are mltrain's.

    Raises:
        InputError: They come from several modules: a model has one.
    """
    found = {module: _in_use[module].source for op in ops if (module := user_module_of(op)) in _in_use}
    if len(found) > 1:
        raise InputError(f"features use ops of several modules: {', '.join(map(str, found))}", hint="put them into one")
    return next(iter(found.values()), None)


def check_user_ops(ops: UserOps, *, where: str) -> None:
    """Check that the ops that a model was trained with are in use, and are what they were.

    Args:
        ops: What the model says of them.
        where: What the model is called in messages.

    Raises:
        OwnOpsError: They are not.
    """
    used = _in_use.get(ops.module)
    if used is None:
        raise OwnOpsError(
            f"{where} was trained with the ops of {ops.module}, a module that is not in use: a model holds no code",
            hint=f'name it, if you trust it: `--ops {ops.module}`, or mltrain.load(..., ops="{ops.module}")',
        )
    if used.source != ops:
        raise OwnOpsError(
            f"{where} was trained with another source of {ops.module}: its SHA-256 was {ops.sha256}, "
            f"that of {used.file} is {used.source.sha256}",
            hint="put the module back as it was, or train again",
        )


def user_module_of(op: str) -> str | None:
    """Return the module of the user's that an op comes from; None for one of mltrain's."""
    function = OPS[op]
    for used in _in_use.values():
        if used.functions.get(op) is function:
            return used.source.module
    module: str = getattr(function, "__module__", None) or ""
    return None if module.partition(".")[0] == _PACKAGE else module


def reads_of(op: str) -> tuple[str, ...]:
    """Return what an op of the user's own has ever opened while features were computed, such as "open market.csv".

    What no single op has opened, as a function of the module's that several may call, is told of all of them.
    """
    module = user_module_of(op)
    if module is None:
        return ()
    root = str(getattr(OPS[op], "__qualname__", op)).partition(".")[0]
    ops = {str(getattr(function, "__qualname__", name)).partition(".")[0] for name, function in OPS.items()}
    return tuple(
        what
        for (reader, function), reads in _reads.items()
        if reader == module and (function == root or function not in ops)
        for what in reads
    )


@contextmanager
def computing() -> Iterator[None]:
    """Tell that ops are at work: what one opens until the block ends is noted."""
    token = object()
    _computing.add(token)
    try:
        yield
    finally:
        _computing.discard(token)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what the ops in use open; Python calls this for every audit event, from any thread."""
    if event not in _READING or not _computing:
        return
    what = str(arguments[0]) if arguments else ""
    if event == "open" and _HARMLESS.search(what):
        return
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 (the only way to ask who calls)
    roots: list[tuple[str, str]] = []
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return
        module = frame.f_globals.get("__name__")
        if module in _in_use:
            roots.append((module, frame.f_code.co_qualname.partition(".")[0]))
        frame = frame.f_back
    named = [root for root in roots if any(root[1] == f.__qualname__.partition(".")[0] for f in _functions(root[0]))]
    for root in named or roots[:1]:
        found = _reads.setdefault(root, [])
        told = f"{event} {what}"
        if told not in found:
            found.append(told)


def _functions(module: str) -> list[Any]:
    return [function for function in _in_use[module].functions.values() if hasattr(function, "__qualname__")]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is not None and (name == err.name or name.startswith(f"{err.name}.")):
            raise InputError(
                f"there is no module {name} among the installed ones, nor in {Path.cwd()}",
                hint="run mltrain where its file lies, or set PYTHONPATH",
            ) from err
        raise _failed(name, err) from err
    except (Exception, SystemExit) as err:
        raise _failed(name, err) from err


def _failed(name: str, err: BaseException) -> InputError:
    line = f", line {err.lineno} of {err.filename}" if isinstance(err, SyntaxError) else ""
    return InputError(f"{name} cannot be imported: {type(err).__name__}: {err}{line}")


def _read_ops(module: ModuleType, name: str) -> dict[str, Op]:
    found = getattr(module, "OPS", None)
    if found is OPS or not isinstance(found, dict) or not found:
        raise InputError(
            f"{name} has no OPS, a dictionary of ops by their names",
            hint='end it with OPS = {"my_op": my_op}; docs/own-ops.md shows one',
        )
    problems = [problem for op, function in found.items() for problem in _op_problems(op, function, name)]
    if problems:
        raise InputError("; ".join(f"{name}: {problem}" for problem in problems))
    return dict(found)


def _op_problems(op: object, function: object, name: str) -> list[str]:
    """Say what keeps an entry of OPS from being an op."""
    if not isinstance(op, str) or FEATURE.fullmatch(op) is None:
        return [f"{show(str(op))} is not a name of small letters, digits and underscores"]
    if not callable(function):
        return [f"{op} is {type(function).__name__}, not a function"]
    before = _in_use.get(name)
    if op in OPS and not (before and op in before.functions):
        return [f"there is an op {op} already, of {user_module_of(op) or 'mltrain'}: give it another name"]
    try:
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as err:
        return [f"{op}: its signature cannot be read: {err}"]
    return [
        f"{op}: its parameter {p.name} must be given by name and be an int, a float or a Literal of texts"
        for p in parameters.values()
        if p.kind not in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD} or not _is_param(hints.get(p.name))
    ]


def _is_param(hint: Any) -> bool:  # noqa: ANN401 (any annotation that an op may have)
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(hint))
    return hint is int or hint is float


def _hash_source(module: ModuleType, name: str) -> tuple[Path, str]:
    """Return a module's file, and the hash of its source; of a package, of all its Python files with their names."""
    origin = getattr(module, "__file__", None)
    if origin is None or not origin.endswith(".py"):
        raise InputError(f"{name} has no source file: ops are read from a .py file or from a package of such")
    file = Path(origin)
    root = file.parent if file.name == "__init__.py" else None
    files = [file] if root is None else sorted(root.rglob("*.py"))
    digest = hashlib.sha256()
    try:
        if sum(path.stat().st_size for path in files) > _MOST_SOURCE_BYTES:
            raise InputError(f"{name}: its source is larger than {_MOST_SOURCE_BYTES} bytes")
        for path in files:
            data = path.read_bytes()
            head = b"" if root is None else f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode()
            digest.update(head + data)
    except OSError as err:
        raise InputError(f"{name}: its source cannot be read: {err}") from err
    return file, digest.hexdigest()
