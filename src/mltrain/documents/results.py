"""Frozen results as JSON: what `--json` prints, and what a card copies.

The keys are the names of the fields, unless a field's `metadata` says otherwise: `{"key": "holes"}` is another key,
`OPTIONAL` leaves out None, `INLINE` puts the keys of a mapping next to those of the other fields, and `HIDDEN` keeps
a field for callers from Python out of the document.
(`records.Key` names a key in a stored file, which need not be the one that is printed.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from mltrain.documents.values import Json

OPTIONAL: Final = {"optional": True}
# Types of values that fit in a line.
_SHORT: Final = (bool, int, float, str, Path, NoneType)
# Most characters of a value in a result's repr.
_MAX_SHOWN: Final = 200
INLINE: Final = {"inline": True}
HIDDEN: Final = {"hidden": True}


class Result:
    """The base of every result that a command prints with `--json` as one document: frozen dataclasses.

    Attributes:
        SCHEMA: Name and number of the document's schema, such as "snapshot/1"; `docs/json.md` describes them all.
    """

    __slots__ = ()

    SCHEMA: ClassVar[str]

    def __init_subclass__(cls) -> None:
        # In the class itself, because `dataclass` writes a `__repr__` into each class that only inherits one.
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """Return one line, which a cell of a notebook can end with: no value of several lines or of many items."""
        values = [(each.name, getattr(self, each.name)) for each in fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_shorten(value)}' for name, value in values)})"

    def to_json(self) -> dict[str, Json]:
        """Return the document that the command prints with `--json`, as JSON values."""
        return {"schema": f"mltrain/{self.SCHEMA}", **to_plain(self)}


def _shorten(value: object) -> str:
    """Return the repr of a short value; of a collection the number of its items, and of anything else its class."""
    if isinstance(value, _SHORT) and len(text := repr(value)) <= _MAX_SHOWN:
        return text
    if isinstance(value, str | tuple | list | Mapping):
        return f"<{len(value)} {'characters' if isinstance(value, str) else 'items'}>" if value else repr(value)
    return f"<{type(value).__name__}>"


def format_document(result: Result) -> str:
    """Return a result as JSON text.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(value: Any) -> Any:  # noqa: ANN401 (any frozen result)
    """Return `value` in JSON's types: dataclasses and mappings become objects, tuples arrays, paths text.

    NumPy's numbers become those of Python.
    """
    plain = value
    if is_dataclass(value) and not isinstance(value, type):
        plain = _to_object(value)
    elif isinstance(value, Mapping):
        plain = {str(key): to_plain(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        plain = [to_plain(item) for item in value]
    elif isinstance(value, Path):
        plain = str(value)
    elif isinstance(value, Real) and not isinstance(value, int | float):
        # NumPy's numbers, which JSON does not know.
        plain = int(value) if isinstance(value, Integral) else float(value)
    return plain


def _to_object(result: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the fields of a dataclass in JSON's types by key, as their `metadata` (see the module) says."""
    plain: dict[str, Any] = {}
    for field in fields(result):
        if field.metadata.get("hidden"):
            continue
        value = to_plain(getattr(result, field.name))
        if field.metadata.get("inline"):
            plain |= value
        elif value is not None or not field.metadata.get("optional"):
            plain[field.metadata.get("key", field.name)] = value
    return plain
