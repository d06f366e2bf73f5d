"""User ops: a module of the user's, named on the command line or in a call, whose `OPS` extends the built-in ops.

Importing a module runs its code, so its name comes from the command line or from an argument, never from a file. A
model records the module's name and the hash of its source.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from mltrain.documents.records import record
from mltrain.documents.values import Sha256
from mltrain.errors import InputError, OwnOpsError, UsageError
from mltrain.features.op import InputName
from mltrain.features.ops.catalogue import OPS
from mltrain.names import FEATURE, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

    from mltrain.features.op import Op

MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_PACKAGE: Final = "mltrain"
# Of all files of a module together; a larger one is no hand-written source.
_MAX_SOURCE_BYTES: Final = 64 << 20


@record
@dataclass(frozen=True, slots=True)
class UserOps:
    """Identifies the user ops that a model was trained with.

    Attributes:
        module: The module's name, as in an import statement.
        sha256: Hash of its source: of the file, or of every `.py` file of the package.
    """

    module: Annotated[str, MODULE]
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class _UserModule:
    """An imported module of user ops: its source, the file it was found in, and its ops by name."""

    source: UserOps
    file: Path
    functions: Mapping[str, Op]


_modules: Final[dict[str, _UserModule]] = {}


def import_user_ops(name: str) -> UserOps:
    """Import a module and add the ops in its `OPS`, a dictionary of functions by name, to the built-in ones.

    Args:
        name: The module's name, as in an import statement. **Importing it runs its code.**

    Returns:
        The module's name and source hash.

    Raises:
        UsageError: `name` is not a module name.
        InputError: There is no such module, it fails, its file has changed since it was imported, or its `OPS` is
            missing, not a dictionary of ops, or has the name of an existing op; one message names every problem.
    """
    if MODULE.fullmatch(name) is None:
        raise UsageError(f"--ops {show(name)} is not the name of a module", hint="write it like my_ops, without .py")
    module = _import(name)
    functions = _read_ops(module, name)
    file, sha256 = _hash_source(module, name)
    previous = _modules.get(name)
    if previous is not None and previous.source.sha256 != sha256 and previous.functions == functions:
        raise InputError(
            f"{file} has changed since {name} was imported", hint="start Python again, or reload the module"
        )
    OPS.update(functions)
    # A module that was reloaded may have dropped some of its ops.
    for op in previous.functions if previous else ():
        if op not in functions:
            del OPS[op]
    source = UserOps(name, sha256)
    _modules[name] = _UserModule(source, file, functions)
    return source


def user_ops_of(ops: Iterable[str]) -> UserOps | None:
    """Return the user's module that some of these ops come from; None if all are built in.

    Raises:
        InputError: The ops come from several modules; a model records one.
    """
    sources = {module: _modules[module].source for op in ops if (module := user_module_of(op)) in _modules}
    if len(sources) > 1:
        modules = ", ".join(map(str, sources))
        raise InputError(f"features use ops of several modules: {modules}", hint="put them into one")
    return next(iter(sources.values()), None)


def check_user_ops(ops: UserOps, *, where: str) -> None:
    """Check that the user ops that a model, called `where` in messages, was trained with are imported and unchanged.

    Raises:
        OwnOpsError: The module is not imported, or has another source.
    """
    imported = _modules.get(ops.module)
    if imported is None:
        raise OwnOpsError(
            f"{where} was trained with the ops of {ops.module}, which is not imported: a model contains no code",
            hint=f'name the module, if you trust it: `--ops {ops.module}`, or mltrain.load(..., ops="{ops.module}")',
        )
    if imported.source != ops:
        raise OwnOpsError(
            f"{where} was trained with another source of {ops.module} ({imported.file}): expected SHA-256 "
            f"{ops.sha256}, got {imported.source.sha256}",
            hint="restore the module, or train again",
        )


def user_module_of(op: str) -> str | None:
    """Return the name of the user's module that an op comes from; None for a built-in op."""
    function = OPS[op]
    for imported in _modules.values():
        if imported.functions.get(op) is function:
            return imported.source.module
    module: str = getattr(function, "__module__", None) or ""
    return None if module.partition(".")[0] == _PACKAGE else module


def _import(name: str) -> ModuleType:
    """Import a module; raise InputError if there is none of this name, or if its code fails."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as err:
        missing = err.name if isinstance(err, ModuleNotFoundError) else None
        if missing is not None and (name == missing or name.startswith(f"{missing}.")):
            raise InputError(
                f"there is no module {name} among the installed ones, nor in {Path.cwd()}",
                hint="run mltrain in the folder of its file, or set PYTHONPATH",
            ) from err
        line = f", line {err.lineno} of {err.filename}" if isinstance(err, SyntaxError) else ""
        raise InputError(f"{name} cannot be imported: {type(err).__name__}: {err}{line}") from err


def _read_ops(module: ModuleType, name: str) -> dict[str, Op]:
    """Return the `OPS` of a module; raise InputError unless it is a dictionary of ops with new names."""
    ops = getattr(module, "OPS", None)
    if ops is OPS or not isinstance(ops, dict) or not ops:
        raise InputError(
            f"{name} has no OPS, a dictionary of ops by name",
            hint='end it with OPS = {"my_op": my_op}; docs/own-ops.md has an example',
        )
    problems = [problem for op, function in ops.items() for problem in _find_op_problems(op, function, name)]
    if problems:
        raise InputError("; ".join(f"{name}: {problem}" for problem in problems))
    return dict(ops)


def _find_op_problems(op: object, function: object, name: str) -> list[str]:
    """List the reasons why an entry (`op`, `function`) of the `OPS` of the user module `name` cannot be registered."""
    if not isinstance(op, str) or FEATURE.fullmatch(op) is None:
        return [f"{show(str(op))} is not a name of lower-case letters, digits and underscores"]
    if not callable(function):
        return [f"{op} is {type(function).__name__}, not a function"]
    previous = _modules.get(name)
    if op in OPS and not (previous and op in previous.functions):
        return [f"there is an op {op} already, of {user_module_of(op) or 'mltrain'}: give it another name"]
    try:
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(function, include_extras=True)
    # Annotations in text are the user's code, and may fail in any way.
    except Exception as err:  # noqa: BLE001
        return [f"{op}: its signature cannot be read: {err}"]
    return [
        f"{op}: its parameter {p.name} must be given by name and be an int, a float, a Literal of texts or an InputName"
        for p in parameters.values()
        if p.kind not in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD} or not _is_param(hints.get(p.name))
    ]


# Any: an op's parameter may have any annotation.
def _is_param(hint: Any) -> bool:  # noqa: ANN401
    """Return whether a registry can hold a parameter with this annotation: int, float, texts to choose, an input."""
    if hint == InputName:
        return True
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(hint))
    return hint is int or hint is float


def _hash_source(module: ModuleType, name: str) -> tuple[Path, str]:
    """Return a module's file, and the hash of its source; of a package, of all its Python files with their names."""
    origin = getattr(module, "__file__", None)
    if origin is None or not origin.endswith(".py"):
        raise InputError(f"{name} has no source file: expected a .py file, or a package of .py files")
    file = Path(origin)
    root = file.parent if file.name == "__init__.py" else None
    files = [file] if root is None else sorted(root.rglob("*.py"))
    digest = hashlib.sha256()
    try:
        if sum(path.stat().st_size for path in files) > _MAX_SOURCE_BYTES:
            raise InputError(f"{name}: its source is larger than {_MAX_SOURCE_BYTES} bytes")
        for path in files:
            data = path.read_bytes()
            head = b"" if root is None else f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode()
            digest.update(head + data)
    except OSError as err:
        raise InputError(f"{name}: its source cannot be read: {err}") from err
    return file, digest.hexdigest()
