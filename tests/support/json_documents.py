"""The committed JSON Schemas of the documents that `--json` prints."""

from __future__ import annotations

import json

from tools.json_schemas import schema_path


def committed_schema(name):
    """Return the schema of a document, such as "train/1"; it allows fields added later."""
    return json.loads(schema_path(name).read_text("utf-8"))


def closed_schema(name):
    """Return the schema of a document without unknown fields."""
    return _closed(committed_schema(name))


def _closed(schema):
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
