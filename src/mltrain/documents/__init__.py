"""The strict doors: bytes of JSON or YAML come in, plain values go out, or one error says what is wrong and where.

Both doors refuse whatever two readers could read differently (duplicate keys, NaN, integers beyond 64 bits, lone
surrogates, byte order marks) and whatever is built to hurt the reader (size, depth, number of values, aliases, tags).
What passes is made of None, bool, int, finite float, str, list and dict with str keys, nothing else. `Fields` then
reads a mapping strictly: every violation is collected, and one error names them all.
"""

from __future__ import annotations

from mltrain.documents.fields import Fields
from mltrain.documents.strict_json import canonical_json, json_line, parse_json
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import MAX_DEPTH, MAX_INT, MAX_VALUES, MAX_YAML_EVENTS, Json, Located, Place

__all__ = [
    "MAX_DEPTH",
    "MAX_INT",
    "MAX_VALUES",
    "MAX_YAML_EVENTS",
    "Fields",
    "Json",
    "Located",
    "Place",
    "canonical_json",
    "json_line",
    "parse_json",
    "parse_yaml",
]
