"""Pickles of plain data: text, numbers, booleans, None, lists and mappings.

Written canonically: equal documents are equal bytes. Read as a file that may be hostile: every opcode is checked
before any is executed, and only those that build plain data are allowed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from mltrain.documents.values import Json

_PROTOCOL: Final = 4
# The largest calibrator has about ten thousand knots.
_MAX_OPCODES: Final = 1_000_000
_MAX_DEPTH: Final = 16

# The opcodes of plain data without a memo: none of them calls, imports or refers back to anything.
_OPCODES: Final = frozenset(
    {
        *("PROTO", "FRAME", "MARK", "STOP", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("NONE", "NEWTRUE", "NEWFALSE"),
    }
)
# What `pickle` raises on a broken stream.
_BROKEN_PICKLE: Final = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, OverflowError, MemoryError),
)


def write_plain(document: dict[str, Json]) -> bytes:
    """Pickle plain data canonically: the keys of nested mappings sorted, nothing memoised.

    The ordinary pickler writes a second equal string in full, but a second reference to the same object as a memo
    index, so that equal documents could differ in bytes.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, _PROTOCOL)
    pickler.fast = True
    pickler.dump({key: _sort_keys(value) for key, value in document.items()})
    return buffer.getvalue()


def _sort_keys(value: Json) -> Json:
    """Return a document whose mappings, at every level, have their keys in order."""
    if isinstance(value, dict):
        return {key: _sort_keys(value[key]) for key in sorted(value)}
    return [_sort_keys(item) for item in value] if isinstance(value, list) else value


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain data; raises on anything that would import a name or fetch an object."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {show(f'{module_name}.{global_name}')}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to something outside: {show(str(pid))}")


def read_plain(data: bytes, *, where: str) -> Json:
    """Return the plain data in a pickle, the file `where` in messages; nothing in it is ever called or imported.

    Raises:
        InputError: The data are not a pickle of plain data, too deeply nested, or have a key that is not text.
    """
    try:
        _check_opcodes(data)
        document: Any = _PlainUnpickler(io.BytesIO(data)).load()
    except _BROKEN_PICKLE as err:
        what = show(str(err) or type(err).__name__)
        raise InputError(
            f"{where}: is not a pickle of plain data: {what}", hint="take the file from its source again"
        ) from err
    _check_plain(document, 0, where)
    plain: Json = document
    return plain


def _check_opcodes(data: bytes) -> None:
    """Raise UnpicklingError if a pickle has too many opcodes, or one that plain data do not need."""
    # Before any is executed: a memo index or a length could allocate all the memory of the machine.
    for count, (opcode, _, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it uses the opcode {opcode.name}")
        if count >= _MAX_OPCODES:
            raise pickle.UnpicklingError(f"it has more than {_MAX_OPCODES} opcodes")


def _check_plain(value: object, depth: int, where: str) -> None:
    """Raise InputError if a value is nested too deeply, or has a key that is not text; its own level is `depth`."""
    if depth > _MAX_DEPTH:
        raise InputError(f"{where}: is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"{where}: has a key that is not text")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1, where)
