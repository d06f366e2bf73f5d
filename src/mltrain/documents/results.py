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
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from mltrain.documents.values import Json

OPTIONAL: Final = {"optional": True}
# Types of values that fit in a line.
_SHORT: Final = (bool, int, float, str, Path, NoneType)
INLINE: Final = {"inline": True}
HIDDEN: Final = {"hidden": True}


class Result:
    """The base of every result that a command prints with `--json` as one document: frozen dataclasses.

    Attributes:
        SCHEMA: Name and number of the document's schema, such as "snapshot/1"; `docs/json.md` describes them all.
    """

    __slots__ = ()

    SCHEMA: ClassVar[str]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ANN401, FBT001 (the protocol of IPython)
        """Show the fields that are short, when a cell of a notebook ends with the result; `repr` has all."""
        del cycle
        values = [(each.name, getattr(self, each.name)) for each in fields(self)]  # type: ignore[arg-type]
        short = [f"{name}={value!r}" for name, value in values if isinstance(value, _SHORT)]
        rest = ["..."] if len(short) < len(values) else []
        printer.text(f"{type(self).__name__}({', '.join(short + rest)})")

    def to_json(self) -> dict[str, Json]:
        """Return the document that the command prints with `--json`, as JSON values."""
        return {"schema": f"mltrain/{self.SCHEMA}", **to_plain(self)}


def format_document(result: Result) -> str:
    """Return a result as JSON text.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(value: Any) -> Any:  # noqa: ANN401 (any frozen result)
    """Return `value` in JSON's types: dataclasses and mappings become objects, tuples arrays, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        return _to_object(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


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
