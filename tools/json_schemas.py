"""Write the JSON Schemas of the documents that `--json` prints, and docs/json.md, from the documents' classes.

python -m tools.json_schemas            write them
python -m tools.json_schemas --check    exit 1 where one differs; nothing is written

A document has a name and a number, such as "train/1". Under one number fields are only added; where a field goes or
changes its meaning, the number rises. Types come from the annotations, descriptions from the docstrings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final, Literal

from tools.pages import ROOT

FOLDER: Final = ROOT / "docs" / "reference" / "json"
PAGE: Final = ROOT / "docs" / "json.md"
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

# An attribute in the docstring of a class, with its continuation lines.
_ATTRIBUTE: Final = re.compile(r"^    (?P<name>[a-z_0-9]+): (?P<text>.+(?:\n     +.+)*)", re.MULTILINE)
_SCALARS: Final = {
    str: "string",
    Path: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    types.NoneType: "null",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A kind of document.

    Attributes:
        result: The class of `Outcome.data`, as "module:class".
        commands: The commands that print it.
        about: What it says, in one sentence.
    """

    result: str
    commands: tuple[str, ...]
    about: str


DOCUMENTS: Final[Mapping[str, Document]] = {
    "backtest/1": Document(
        "mltrain.api.backtest:BacktestReport", ("backtest run", "backtest show"), "What a version would have earned."
    ),
    "backtest-diff/1": Document(
        "mltrain.api.backtest:BacktestDiff", ("backtest diff",), "The differences of two backtests."
    ),
    "backtest-list/1": Document("mltrain.api.backtest:BacktestList", ("backtest list",), "The stored backtests."),
    "backtest-prune/1": Document(
        "mltrain.backtesting.stored:PrunedBacktests", ("backtest prune",), "The backtests that were removed."
    ),
    "bench/1": Document("mltrain.api.bench:BenchResult", ("bench",), "The latency of a version."),
    "cache-info/1": Document("mltrain.api.snapshots:CacheInfo", ("cache info",), "The downloaded days in the cache."),
    "cache-prune/1": Document("mltrain.sources.cache_upkeep:Pruned", ("cache prune",), "The days that were removed."),
    "card-diff/1": Document("mltrain.report.card_diff:CardDiff", ("card diff",), "The differences of two versions."),
    "card-diff-page/1": Document("mltrain.api.html_pages:CardDiffPage", ("card diff",), "The page that --html wrote."),
    "card-report/1": Document("mltrain.api.html_pages:ReportPage", ("card report",), "The report of a version."),
    "card-schema/1": Document("mltrain.api.card:CardSchema", ("card schema",), "The schema of a card."),
    "card-show/1": Document("mltrain.api.card:CardOfVersion", ("card show",), "The card of a version."),
    "card-validate/1": Document(
        "mltrain.api.card:CardValidation",
        ("card validate",),
        "Whether cards are valid; exit code 0 or 3.",
    ),
    "config-init/1": Document("mltrain.api.config:ConfigInitResult", ("config init",), "The file that was written."),
    "config-show/1": Document("mltrain.api.config:ConfigShowResult", ("config show",), "The effective settings."),
    "demo/1": Document("mltrain.api.train_result:DemoResult", ("demo",), "The steps of the demo and their results."),
    "error/1": Document(
        "mltrain.cli.render:FailureDocument",
        ("train", "features audit"),
        "A leakage guard failed: exit code 5. (Other errors leave stdout empty.)",
    ),
    "evaluate/1": Document(
        "mltrain.pipeline.evaluate:Evaluation",
        ("evaluate",),
        "The metrics of a version on later candles; exit code 4 if its skill is below --min-skill.",
    ),
    "features-audit/1": Document(
        "mltrain.api.features:FeaturesAudit",
        ("features audit",),
        "The checks of the leakage guards. (The file of --report also has `registry_sha256` and `ops`.)",
    ),
    "features-check/1": Document(
        "mltrain.api.features:FeaturesCheck",
        ("features check",),
        "Whether a frame matches the registry; exit code 0 or 3.",
    ),
    "features-export/1": Document(
        "mltrain.pipeline.export_features:ExportedFeatures",
        ("features export",),
        "The file that was written, and the hash of its rows.",
    ),
    "features-init/1": Document(
        "mltrain.api.features:FeaturesInit", ("features init",), "The registry that was written."
    ),
    "features-info/1": Document(
        "mltrain.api.features:FeaturesInfo",
        ("features info",),
        "The registry; with --snapshot also the distribution of its values.",
    ),
    "features-show/1": Document(
        "mltrain.api.features:FeatureValue",
        ("features show",),
        "One feature around a time, and the candles that it was computed from.",
    ),
    "halt/1": Document("mltrain.killswitch.switch:HaltResult", ("halt",), "The halt, and what is in force now."),
    "halt-drill/1": Document(
        "mltrain.monitoring.drill:DrillResult", ("halt drill",), "How long a halt and a resume take here."
    ),
    "halt-history/1": Document(
        "mltrain.api.halts:HaltHistory", ("halt history",), "The log of halts; exit code 3 if it has a problem."
    ),
    "halt-status/1": Document(
        "mltrain.api.halts:HaltStatus",
        ("halt status", "halt arm", "halt disarm"),
        "Whether serving is halted, and why; with --check exit code 4 if it is.",
    ),
    "history/1": Document(
        "mltrain.store.history:History",
        ("models history",),
        "Every promotion and rollback; exit code 3 if the log has a problem.",
    ),
    "ledger-prune/1": Document(
        "mltrain.monitoring.ledger:PrunedLedger", ("ledger prune",), "The days of answers that were removed."
    ),
    "ledger/1": Document(
        "mltrain.monitoring.ledger_summary:LedgerSummary",
        ("ledger",),
        "The recorded answers; exit code 3 if a line was changed or removed.",
    ),
    "models/1": Document(
        "mltrain.api.models:ModelList",
        ("models", "rollback"),
        "The versions. (rollback prints it on stderr if no version was named.)",
    ),
    "models-page/1": Document("mltrain.api.html_pages:ModelsPage", ("models",), "The page that --html wrote."),
    "models-pack/1": Document("mltrain.store.packing:PackedVersion", ("models pack",), "The archive that was written."),
    "models-prune/1": Document(
        "mltrain.store.version_pruning:PrunedVersions", ("models prune",), "The versions that were removed and kept."
    ),
    "models-repair/1": Document(
        "mltrain.api.models:RepairResult", ("models repair",), "What was repaired, and what was left."
    ),
    "models-unpack/1": Document(
        "mltrain.store.packing:UnpackedVersion", ("models unpack",), "The version that was unpacked."
    ),
    "move/1": Document("mltrain.store.promotion:Move", ("promote", "rollback"), "The version that is live now."),
    "event/1": Document(
        "mltrain.monitoring.events:Event",
        (),
        "An event, as it is posted to the address of --notify.",
    ),
    "notify/1": Document(
        "mltrain.monitoring.event_delivery:Delivery",
        ("notify",),
        "The events that wait for delivery, and what --flush delivered; exit code 6 if one is left.",
    ),
    "predict/1": Document(
        "mltrain.api.predict:PredictResult",
        ("predict",),
        "Probabilities for the newest candles or for a file; exit code 3 where they were refused.",
    ),
    "predict-file/1": Document(
        "mltrain.api.predict:PredictFileResult",
        ("predict",),
        "The file that --output wrote; exit code 3 where its rows were refused.",
    ),
    "rebuild/1": Document(
        "mltrain.api.snapshots:RebuildResult",
        ("snapshot",),
        "The files that --rebuild repaired; exit code 3 if one is lost.",
    ),
    "serve/1": Document(
        "mltrain.api.serve:ServeResult", ("serve",), "The address of the service, once it listens, and what it serves."
    ),
    "round/1": Document(
        "mltrain.monitoring.rounds:Round",
        ("cycle",),
        "What a round of training gave, and why; exit code 0, 4 or the error's.",
    ),
    "sentinel/1": Document(
        "mltrain.monitoring.sentinel:SentinelStep", ("sentinel",), "What the triggers of the kill switch see."
    ),
    "sim/1": Document(
        "mltrain.api.sim:SimResult",
        ("sim",),
        "The addresses of the simulated exchange, once it listens.",
    ),
    "snapshot/1": Document(
        "mltrain.api.snapshots:SnapshotResult", ("snapshot",), "The snapshot that was written or found."
    ),
    "snapshots/1": Document("mltrain.api.snapshots:SnapshotList", ("snapshots",), "The snapshots."),
    "snapshots-diff/1": Document(
        "mltrain.api.snapshots:SnapshotDiff",
        ("snapshots diff",),
        "The candles in which two snapshots differ.",
    ),
    "snapshot-plan/1": Document(
        "mltrain.snapshots.take:SnapshotPlan",
        ("snapshot",),
        "With --dry-run: how the files are read, and the candles that a snapshot would have.",
    ),
    "snapshots-prune/1": Document(
        "mltrain.pipeline.snapshot_pruning:PrunedSnapshots",
        ("snapshots prune",),
        "The snapshots that were removed and kept.",
    ),
    "status/1": Document(
        "mltrain.monitoring.status:Status",
        ("status",),
        "What is live, how old everything is, and what is overdue or wrong; with --check, exit code 4 if anything is.",
    ),
    "studies-prune/1": Document(
        "mltrain.pipeline.study_pruning:PrunedStudies", ("studies prune",), "The journals that were removed and kept."
    ),
    "studies/1": Document("mltrain.api.studies:StudyList", ("studies",), "The journals of searches."),
    "resume/1": Document(
        "mltrain.killswitch.switch:ResumeResult", ("resume",), "The halts that were ended, and what is in force now."
    ),
    "train/1": Document("mltrain.api.train_result:TrainedVersion", ("train",), "A training; exit code 0 or 4."),
    "train-already-there/1": Document(
        "mltrain.api.train_result:ExistingVersion",
        ("train",),
        "In place of `train/1` if the same version exists already and nothing was done; exit code 0.",
    ),
    "train-plan/1": Document(
        "mltrain.pipeline.plan:Plan", ("train",), "The plan that --dry-run prints; nothing was trained."
    ),
    "verify/1": Document(
        "mltrain.api.verify:VerifyResult",
        ("verify snapshot", "verify model"),
        "Whether every byte is as it was written; exit code 0 or 3.",
    ),
}


def schema_path(name: str) -> Path:
    """Return the committed file of a document's schema."""
    return FOLDER / f"{name.replace('/', '-')}.schema.json"


def document_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a document, such as "train/1"; fields may be added to the document."""
    definitions: dict[str, Any] = {}
    body = _object(resolve_name(DOCUMENTS[name].result), definitions)
    head = {"const": f"mltrain/{name}", "description": "Name and number of this schema."}
    schema = {
        "$schema": DRAFT,
        "title": f"mltrain/{name}",
        "description": DOCUMENTS[name].about,
        **body,
        "properties": {"schema": head, **body["properties"]},
        "required": ["schema", *body["required"]],
    }
    return schema | ({"$defs": dict(sorted(definitions.items()))} if definitions else {})


def _object(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a dataclass; those of the dataclasses in it are added to the definitions."""
    names: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        names |= names_of(base.__module__)
        texts |= _descriptions(base)
    # A value of any JSON type: the alias is recursive, and its schema says nothing.
    names["Json"] = Any
    hints = typing.get_type_hints(cls, names)
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for field in dataclasses.fields(cls):
        if field.metadata.get("hidden"):
            continue
        description = {"description": texts[field.name]} if field.name in texts else {}
        if field.metadata.get("inline"):
            schema["additionalProperties"] = description
            continue
        key, hint = field.metadata.get("key", field.name), hints[field.name]
        if field.metadata.get("optional"):
            # The key is absent where the value is None.
            hint = typing.Union[tuple(part for part in typing.get_args(hint) if part is not types.NoneType)]  # noqa: UP007
        else:
            schema["required"].append(key)
        schema["properties"][key] = _schema(hint, definitions) | description
    return schema


def names_of(module: str) -> dict[str, Any]:
    """Return the names of a module, with those that it imports for type checkers only."""
    names = dict(vars(sys.modules[module]))
    for block in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not (isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)):
            continue
        for node in block.body:
            # _typeshed exists for type checkers only.
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "_typeshed":
                imported = import_module(node.module)
                # Some aliases exist for type checkers only, too; no field has one.
                there = [alias for alias in node.names if hasattr(imported, alias.name)]
                names |= {alias.asname or alias.name: getattr(imported, alias.name) for alias in there}
            elif isinstance(node, ast.Import):
                names |= {alias.asname: import_module(alias.name) for alias in node.names if alias.asname}
    return names


def _descriptions(cls: type) -> dict[str, str]:
    """Return the descriptions of the attributes in the docstring of a class."""
    _, _, attributes = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    return {found["name"]: " ".join(found["text"].split()) for found in _ATTRIBUTE.finditer(attributes)}


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401, PLR0911 (one return per kind)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        name = hint.__name__
        if name not in definitions:
            # Stands in for the class while its own fields are read.
            definitions[name] = {}
            definitions[name] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in {typing.Union, types.UnionType}:
        return _union([_schema(argument, definitions) for argument in arguments])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = _schema(arguments[1], definitions)
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    return {}


def _union(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    distinct = [part for i, part in enumerate(parts) if part not in parts[:i]]
    if len(distinct) == 1:
        return distinct[0]
    if all(set(part) == {"type"} for part in distinct):
        return {"type": [part["type"] for part in distinct]}
    return {"anyOf": distinct}


_PAGE_HEAD: Final = """# What `--json` prints

<!-- Made by `python -m tools.json_schemas`; do not edit. -->

With `--json`, stdout is exactly one document for exit 0 and 4, for a leakage guard that failed (5) and for a check that
found something (3); any other error leaves stdout empty and says on stderr what is wrong. Every document names its
schema and a number: `"schema": "mltrain/train/1"`. Under one number fields are only added; where a field goes or
changes its meaning, the number rises. So ignore fields that you do not know. Times are UTC, and a number has its unit
in its name (`_ms`, `_s`, `_bytes`). NaN and infinity never occur.

Each document below links to its JSON Schema (draft 2020-12), a file in `docs/reference/json/`. An installed package
has the same files in its folder `json_schemas`:
`python -c "import mltrain; print(mltrain.__path__[0] + '/json_schemas/train-1.schema.json')"`.

`predict --watch --json` prints no document but one line per candle: the fields of a prediction, and `version`.
With `--log-format json` (or `MLTRAIN_LOG_FORMAT=json`) stderr, too, is one JSON object per line: `time`, `level`
(`info`, `warning`, `error`), `event` (`stage`, `stage done`, `stage failed`, `warning`, `error`, `bug`, `end`), and
those of `stage`, `steps`, `total`, `seconds`, `message`, `hint`, `command`, `exit_code` that apply. The error of a
command line that cannot be parsed is text.
"""


def page() -> str:
    """Return docs/json.md: every document with its fields."""
    parts = [_PAGE_HEAD]
    definitions: dict[str, Any] = {}
    for name, document in DOCUMENTS.items():
        schema = document_schema(name)
        commands = ", ".join(f"`mltrain {command}`" for command in document.commands)
        link = f"[Schema]({schema_path(name).relative_to(PAGE.parent)})"
        printed = f"Printed by {commands}. " if commands else ""
        parts.append(f"## {name}\n\n{document.about} {printed}{link}.\n\n{_fields_table(schema)}")
        definitions |= schema.get("$defs", {})
    parts.append("## The objects in them\n")
    parts += [f"### {part}\n\n{_fields_table(definitions[part])}" for part in sorted(definitions, key=str.casefold)]
    return "\n".join(parts)


def _fields_table(schema: dict[str, Any]) -> str:
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for key, value in schema["properties"].items():
        if key == "schema" and "const" in value:
            continue
        optional = "" if key in schema["required"] else " (optional)"
        text = value.get("description", "").replace("|", "\\|")
        rows.append(f"| `{key}` | {_type_text(value)}{optional} | {text} |")
    if others := schema.get("additionalProperties", {}).get("description"):
        rows.append(f"| other fields | anything (optional) | {others} |")
    return "\n".join(rows) + "\n"


def _type_text(schema: Mapping[str, Any]) -> str:  # noqa: PLR0911 (one return per kind)
    """Return a type as people read it.

    >>> _type_text({"type": "array", "items": {"type": ["number", "null"]}})
    'array of number or null'
    """
    if "$ref" in schema:
        part = schema["$ref"].rpartition("/")[2]
        return f"[{part}](#{part.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{value!r}`" if isinstance(value, str) else f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type_text(part) for part in schema["anyOf"])
    kind = schema.get("type", "anything")
    if kind == "array" and "items" in schema:
        return f"array of {_type_text(schema['items'])}"
    if kind == "array" and "prefixItems" in schema:
        return f"array: {', '.join(_type_text(part) for part in schema['prefixItems'])}"
    if kind == "object" and "additionalProperties" in schema:
        return f"object of {_type_text(schema['additionalProperties'])}"
    return " or ".join(kind) if isinstance(kind, list) else kind


def files() -> dict[Path, str]:
    """Return the text of every generated file: a schema per document, and the page."""
    schemas = {name: json.dumps(document_schema(name), indent=2, ensure_ascii=False) + "\n" for name in DOCUMENTS}
    return {PAGE: page(), **{schema_path(name): text for name, text in schemas.items()}}


def outdated() -> list[Path]:
    """Return the files that differ from what the classes say now, and schemas of documents that no longer exist."""
    wanted = files()
    differ = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    return differ + sorted(set(FOLDER.glob("*")) - wanted.keys())


def main(words: Sequence[str]) -> int:
    """Write the files, or check them; return the exit code."""
    if list(words) == ["--check"]:
        old = outdated()
        for path in old:
            print(f"{path.relative_to(ROOT)} is out of date: run `python -m tools.json_schemas`")
        return 1 if old else 0
    if words:
        print(__doc__)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in set(FOLDER.glob("*")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
