"""The JSON Schemas of what `--json` prints, made from the results' own types and docstrings.

A document names its schema and a number, as "mltrain/train/1". Within a number fields are only ever added; where one
is taken away or changes its meaning, the number rises. Readers should pass over fields that they do not know.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_OURS: Final = re.compile(r"mltrain(?:\.\w+)+")
_ITEM: Final = re.compile(r"^    (?P<name>[a-z_0-9, ]+): (?P<text>.+(?:\n     +.+)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """One kind of document.

    Attributes:
        commands: Which print it.
        about: What it tells, in a sentence.
        result: The dotted path of the result that is printed whole; None where the next says it.
        fields: By name: a Python type, with our classes by their dotted paths, and what it is.
    """

    commands: tuple[str, ...]
    about: str
    result: str | None = None
    fields: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


_TRAINING: Final = {
    "version": ("str", "Its name."),
    "folder": ("str", "Where it lies."),
    "verdict": ("Literal['GO', 'NO-GO']", "What the gates say together; exit code 0 or 4."),
    "promoted": ("bool", "Whether it is live now."),
    "held": ("str | None", "Why a GO was not promoted automatically."),
    "model_sha256": ("str", "Of lgbm.pkl."),
    "snapshot": ("str", "Id of the snapshot that it was trained on."),
    "trials": ("int", "Parameter sets tried."),
    "trials_resumed": ("int", "Of them, taken from an interrupted search."),
    "timed_out": ("bool", "Whether --timeout ended the search."),
    "best_trial": ("int", "Number of the trial that won."),
    "rounds": ("int", "Its boosting rounds."),
    "calibration": ("str", "How scores become probabilities: isotonic, sigmoid, beta or none."),
    "metrics": ("mltrain.training.metrics.Metrics", "Of the holdout, calibrated."),
    "intervals": ("mltrain.training.bootstrap.MetricIntervals", "Of the same."),
    "baselines": ("mltrain.training.baselines.Baselines", "On the same rows."),
    "comparison": ("mltrain.training.baselines.Comparison", "The model against the baselines, paired by row."),
    "latency_ms": ("mltrain.gates.latency.Percentiles", "From candles to probability of one symbol, in ms."),
    "gates": ("tuple[mltrain.gates.outcome.GateOutcome, ...]", "Each gate and what it found."),
    "symbols": ("tuple[mltrain.gates.rules.SymbolVerdict, ...]", "Each symbol alone."),
    "economics": ("mltrain.training.economics.Economics", "What the calls earn before costs; not judged."),
    "loosened": (
        "tuple[mltrain.gates.thresholds.LoosenedThreshold, ...]",
        "Gates that are looser than the packaged ones.",
    ),
    "looks": ("mltrain.gates.looks.LookCounts", "How often this holdout was scored before."),
    "warnings": ("tuple[str, ...]", "What was odd, and did not end the training."),
}

_PREDICTION: Final = {
    "ts": ("str | None", "Opening of the candle, UTC."),
    "symbol": ("str", "Whose."),
    "p": ("float | None", "Calibrated probability that the label is up; null where refused."),
    "raw": ("float | None", "The booster's own score."),
    "refused": ("str | None", "Why there is no probability."),
}

_PAGE: Final = {
    "path": ("str", "The page."),
    "bytes": ("int", "Its size."),
    "sha256": ("str", "Its hash."),
    "written": ("bool", "Whether it was written now; else it lay there."),
}

_ROW: Final = "mltrain.store.listing.ModelRow"

DOCUMENTS: Final[Mapping[str, Document]] = {
    "bench/1": Document(
        ("bench",),
        "How long a version takes.",
        fields={
            "version": ("str", "Which one."),
            "latency": ("mltrain.gates.latency.Latency", "The same as in `report`."),
            "budget_ms": ("float", "What --budget-ms allowed."),
            "within_budget": ("bool", "Whether p95 from candles to probability is within it; exit code 0 or 4."),
            "report": ("mltrain.pipeline.bench.BenchReport", "All that was measured."),
            "compared": ("list[mltrain.pipeline.bench.BenchReport]", "The same of --compare; else empty."),
        },
    ),
    "cache-info/1": Document(
        ("cache info",),
        "What was downloaded and is kept.",
        fields={
            "cached": ("tuple[mltrain.sources.cache_upkeep.CacheRow, ...]", "A row a source, symbol and interval.")
        },
    ),
    "cache-prune/1": Document(("cache prune",), "What was removed.", result="mltrain.sources.cache_upkeep.Pruned"),
    "card-diff/1": Document(
        ("card diff",), "What differs between two versions.", result="mltrain.report.card_diff.CardDiff"
    ),
    "card-diff-page/1": Document(("card diff",), "The page that --html wrote.", fields=_PAGE),
    "card-report/1": Document(
        ("card report",), "A version's report.", fields={"version": ("str", "Which version."), **_PAGE}
    ),
    "card-schema/1": Document(
        ("card schema",), "The schema of a card.", fields={"json_schema": ("dict[str, Any]", "JSON Schema.")}
    ),
    "card-show/1": Document(
        ("card show",),
        "A version's card.",
        fields={
            "ref": ("str", "The version."),
            "card": ("dict[str, Any]", "Model Card v2, as `mltrain card schema` describes it."),
        },
    ),
    "card-validate/1": Document(
        ("card validate",),
        "Whether cards are valid; exit code 0 or 3.",
        fields={
            "valid": ("bool", "Whether all are."),
            "cards": ("list[card]", "Each that was looked at."),
        },
    ),
    "config-init/1": Document(("config init",), "The file that was written.", fields={"file": ("str", "Its path.")}),
    "config-show/1": Document(
        ("config show",),
        "The effective settings.",
        fields={
            "settings": (
                "tuple[mltrain.config.loading.Setting, ...] | list[mltrain.config.loading.Setting]",
                "Each with its origin.",
            ),
        },
    ),
    "demo/1": Document(
        ("demo",),
        "What the walk through the whole loop did.",
        fields={
            "folder": ("str", "Where it wrote."),
            "snapshots": ("tuple[str, ...]", "Ids, in order."),
            "trainings": ("list[training]", "Each as in `train/1`."),
            "promoted_by_hand": ("str | None", "The second version, where it was GO and held."),
            "predictions": ("list[demo_prediction]", "Of the second version."),
            "rolled_back_from": ("str", "The second version."),
            "rolled_back_to": ("str", "The first one, which is live now."),
        },
    ),
    "error/1": Document(
        ("train", "features audit"),
        "A leakage guard failed: exit code 5. (Other errors leave stdout empty.)",
        fields={"error": ("error", "What is wrong, and what to do.")},
    ),
    "evaluate/1": Document(
        ("evaluate",),
        "How a version does on later candles; exit code 4 where its skill is below --min-skill.",
        result="mltrain.pipeline.evaluate.Evaluation",
    ),
    "features-audit/1": Document(
        ("features audit",),
        "What the leakage guards checked.",
        fields={
            "snapshot": ("str", "On whose candles."),
            "thorough": ("bool", "Whether --thorough was given."),
            "guards": ("tuple[mltrain.guards.evidence.GuardResult, ...]", "Each guard with its checks."),
            "report?": ("tuple[str, ...]", "The files that --report wrote."),
        },
    ),
    "features-check/1": Document(
        ("features check",),
        "Whether a frame is as the registry says; exit code 0 or 3.",
        fields={
            "file": ("str", "The frame."),
            "sound": ("bool", "Whether it is."),
            "problems": ("tuple[str, ...] | list[str]", "What is wrong with it."),
        },
    ),
    "features-info/1": Document(
        ("features info",),
        "The registry; with --snapshot how its values are spread, too.",
        fields={
            "version": ("int", "Of the registry's format."),
            "interval": ("str", "Of the candles."),
            "label": ("mltrain.features.spec.LabelSpec", "What is predicted."),
            "lookback_bars": ("int", "Candles that the newest row needs."),
            "registry_sha256": ("str", "Hash of all of it."),
            "features": ("tuple[mltrain.features.registry.FeatureInfo, ...]", "In their order."),
            "quantile_levels?": ("tuple[float, ...]", "Of the next."),
            "profiles?": ("tuple[mltrain.features.profile.FeatureProfile, ...]", "How each feature is spread."),
        },
    ),
    "features-show/1": Document(
        ("features show",),
        "One feature around a time, and the candles that it was computed from.",
        fields={
            "snapshot": ("str", "Its id."),
            "symbol": ("str", "Whose candles."),
            "time": ("str", "Opening of the candle, UTC."),
            "feature": ("mltrain.features.registry.FeatureInfo", "What it is."),
            "value": ("float | str | None", "Its value there; NaN and infinity are texts."),
            "value_of_the_lookback_alone": ("float | str | None", "The same from the last candles alone."),
            "why_none": ("str | None", "Why there is no value."),
            "around": ("list[dict[str, Any]]", "`time` and `value` of the candles around it."),
            "inputs": ("list[dict[str, Any]]", "The candles, by column."),
            "plot": ("str | None", "The file that --plot wrote."),
        },
    ),
    "history/1": Document(
        ("models history",),
        "Every promotion and rollback; exit code 3 where the log has a problem.",
        result="mltrain.store.history.History",
    ),
    "models/1": Document(
        ("models", "rollback"),
        "The versions. (rollback prints it on stderr where no version was named.)",
        fields={"models": (f"tuple[{_ROW}, ...] | list[{_ROW}]", "Oldest first, damaged ones last.")},
    ),
    "models-page/1": Document(("models",), "The page that --html wrote.", fields=_PAGE),
    "models-prune/1": Document(
        ("models prune",), "Which versions went and stayed.", result="mltrain.store.pruning.PrunedVersions"
    ),
    "move/1": Document(("promote", "rollback"), "Where the pointer points now.", result="mltrain.store.promotion.Move"),
    "predict/1": Document(
        ("predict",),
        "Probabilities of the newest candles or of a file's; exit code 3 where they were refused.",
        fields={
            "version": ("str", "The model."),
            "predictions": ("list[prediction]", "A row a candle; --explain adds what each feature contributed."),
        },
    ),
    "predict-file/1": Document(
        ("predict",),
        "What --output wrote; exit code 3 where its rows were refused.",
        fields={
            "output": ("str", "The file."),
            "rows": ("int", "Its rows."),
            "refused": ("int", "Of them, those without a probability."),
        },
    ),
    "rebuild/1": Document(
        ("snapshot",),
        "What --rebuild did; exit code 3 where a file is lost.",
        fields={
            "id": ("str", "The snapshot."),
            "sound": ("bool", "Whether every file is as its manifest says now."),
            "files": ("tuple[mltrain.snapshots.rebuild.RebuiltFile, ...]", "Each file, and what became of it."),
        },
    ),
    "sim/1": Document(
        ("sim",),
        "Where the simulated exchange listens; printed when it does.",
        fields={
            "base_url": ("str", "Address of its REST interface."),
            "archive_url": ("str", "Address of its archive."),
            "clock": ("str", "Its time, UTC."),
            "seed": ("int", "Which market."),
            "signal": ("Literal['none', 'weak', 'strong']", "How predictable it is."),
        },
    ),
    "snapshot/1": Document(
        ("snapshot",), "The snapshot that was written or found.", result="mltrain.snapshots.take.TakenSnapshot"
    ),
    "snapshots/1": Document(
        ("snapshots",),
        "The snapshots.",
        fields={"snapshots": ("tuple[mltrain.snapshots.snapshot.SnapshotRow, ...]", "Oldest first.")},
    ),
    "snapshots-diff/1": Document(
        ("snapshots diff",),
        "Which candles two snapshots tell differently.",
        fields={
            "before": ("str", "Id of the one."),
            "after": ("str", "Id of the other."),
            "symbols": ("tuple[mltrain.candles.diff.SymbolDiff, ...]", "Each symbol of either."),
        },
    ),
    "snapshots-prune/1": Document(
        ("snapshots prune",),
        "Which snapshots went and stayed.",
        result="mltrain.pipeline.snapshot_pruning.PrunedSnapshots",
    ),
    "train/1": Document(("train",), "A training; exit code 0 or 4.", fields=_TRAINING),
    "train-already-there/1": Document(
        ("train",),
        "In place of `train/1`, where the same version exists and nothing was done; exit code 0.",
        fields={
            "version": ("str", "Its name."),
            "folder": ("str", "Where it lies."),
            "verdict": ("Literal['GO', 'NO-GO']", "The verdict of its gates."),
            "best": ("bool", "Whether it is live."),
            "promoted": ("bool", "False: nothing was promoted now."),
            "already_there": ("bool", "True."),
        },
    ),
    "train-plan/1": Document(("train",), "What --dry-run tells.", result="mltrain.pipeline.plan.Plan"),
    "verify/1": Document(
        ("verify snapshot", "verify model"),
        "Whether every byte is as it was written; exit code 0 or 3.",
        fields={
            "kind": ("Literal['snapshot', 'model']", "What it is."),
            "name": ("str", "Which one."),
            "sound": ("bool", "Whether it is."),
            "problems": ("tuple[str, ...]", "What is wrong with it."),
        },
    ),
}

#: Objects that the command line puts together itself, by the name that a field's type gives them.
_PARTS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "card": {
        "path": ("str", "The file."),
        "valid": ("bool", "Whether it is."),
        "violations": ("tuple[str, ...] | list[str]", "What is wrong, each with its JSON pointer."),
        "warnings": ("tuple[str, ...] | list[str]", "What is odd."),
    },
    "demo_prediction": {
        "symbol": ("str", "Whose."),
        "ts_ms": ("int", "Opening of the candle, in milliseconds since the epoch."),
        "p": ("float | None", "Calibrated probability that the label is up."),
    },
    "error": {
        "exit_code": ("int", "Of the process."),
        "message": ("str", "What is wrong and where."),
        "hint": ("str | None", "What to do."),
    },
    "prediction": _PREDICTION,
    "training": _TRAINING,
}
_OPEN: Final = {"prediction"}  # may have more fields than are named


def document_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a document.

    Args:
        name: Name and number, such as "train/1"; a key of DOCUMENTS.

    Raises:
        KeyError: There is no such document.
    """
    told = DOCUMENTS[name]
    made: dict[str, Any] = {}
    if told.result is not None:
        body = made_of = dict(_dataclass(_load(told.result), made))
        made.pop(made_of.pop("x-name", ""), None)
    else:
        body = _fields(told.fields, made)
    head = {"const": f"mltrain/{name}", "description": "Name and number of this schema."}
    schema = {
        "$schema": DRAFT,
        "title": f"mltrain/{name}",
        "description": told.about,
        "type": "object",
        "properties": {"schema": head, **body["properties"]},
        "required": ["schema", *body["required"]],
    }
    return schema | ({"$defs": dict(sorted(made.items()))} if made else {})


def _load(path: str) -> Any:  # noqa: ANN401 (a class of ours)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _fields(fields: Mapping[str, tuple[str, str]], made: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for key, (expression, text) in fields.items():
        properties[key.removesuffix("?")] = {**_read(expression, made), "description": text}
    return {
        "type": "object",
        "properties": properties,
        "required": [key for key in fields if not key.endswith("?")],
    }


def _read(expression: str, made: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type that is written down; our classes and parts are loaded by their names."""
    named: dict[str, Any] = {"Any": Any, "Literal": Literal}

    def stand_in(found: re.Match[str]) -> str:
        key = found[0].replace(".", "_")
        named[key] = _load(found[0])
        return key

    for part in _PARTS:
        named[part] = type(part, (), {"_part": part})
    return _of(eval(_OURS.sub(stand_in, expression), named), made)  # noqa: S307 (the texts above)


def _of(hint: Any, made: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401, PLR0911 (any type; a table of them)
    simple = {str: "string", Path: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    if hint in simple:
        return {"type": simple[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and (part := getattr(hint, "_part", None)):
        made[part] = _fields(_PARTS[part], made) | ({"additionalProperties": True} if part in _OPEN else {})
        return {"$ref": f"#/$defs/{part}"}
    if dataclasses.is_dataclass(hint):
        return {"$ref": f"#/$defs/{_dataclass(hint, made)['x-name']}"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in {typing.Union, types.UnionType}:
        return _union([_of(argument, made) for argument in arguments])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = {} if arguments[1] is Any else {"additionalProperties": _of(arguments[1], made)}
        return {"type": "object", **values}
    if origin is tuple and arguments[-1] is not Ellipsis:
        return {
            "type": "array",
            "prefixItems": [_of(a, made) for a in arguments],
            "minItems": len(arguments),
            "maxItems": len(arguments),
        }
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array", "items": _of(arguments[0], made)}
    return {}  # Any, and JSON itself


def _union(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    distinct = [part for i, part in enumerate(parts) if part not in parts[:i]]
    if len(distinct) == 1:
        return distinct[0]
    if all(set(part) == {"type"} for part in distinct):
        return {"type": [part["type"] for part in distinct]}
    return {"anyOf": distinct}


def _dataclass(cls: Any, made: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 (a dataclass)
    """Return the schema of a dataclass, and put it among those made, under its name."""
    name = cls.__name__
    if name in made:
        return {"x-name": name, **made[name]}
    made[name] = {}  # stands for itself while it is made
    texts: dict[str, str] = {}
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        names |= vars(sys.modules[base.__module__]) | _typing_only(base.__module__)
        texts |= _texts(base)
    hints = typing.get_type_hints(cls, names)
    properties = {
        f.metadata.get("key", f.name): _of(hints[f.name], made)
        | ({"description": texts[f.name]} if f.name in texts else {})
        for f in dataclasses.fields(cls)
    }
    made[name] = {"type": "object", "properties": properties, "required": list(properties)}
    return {"x-name": name, **made[name]}


def _texts(cls: type) -> dict[str, str]:
    """Return what a class says of its attributes."""
    _, _, part = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found = {}
    for match in _ITEM.finditer(part):
        for name in match["name"].split(", "):
            found[name] = " ".join(match["text"].split())
    return found


def _typing_only(module: str) -> dict[str, Any]:
    """Return the names that a module imports for type checkers alone."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            imports: list[ast.stmt] = [n for n in node.body if isinstance(n, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), module, "exec"), names)  # noqa: S102 (our own source)
    return names


def closed_schema(name: str) -> dict[str, Any]:
    """Return a document's schema that refuses every field it does not name: a test that none goes untold."""
    return dict(_closed(document_schema(name)))


def _closed(schema: Any) -> Any:  # noqa: ANN401 (a part of a schema)
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        shut.setdefault("additionalProperties", False)
    return shut


_PAGE_HEAD: Final = """# What `--json` prints

<!-- Generated from mltrain.cli.schemas; the tests hold it to that. -->

With `--json`, stdout is exactly one document for exit 0 and 4, for a leakage guard that failed (5) and for a check that
found something (3); any other error leaves stdout empty and says on stderr what is wrong. Every document names its
schema and a number: `"schema": "mltrain/train/1"`. Within a number fields are only ever added; where one is taken away
or changes its meaning, the number rises. So pass over fields that you do not know. Times are UTC, and a number in a
name tells its unit (`_ms`, `_s`, `_bytes`). NaN and infinity never occur.

The schemas themselves (JSON Schema, draft 2020-12):

```python
from mltrain.cli.schemas import document_schema

schema = document_schema("train/1")
```

`predict --watch --json` prints no document but a line for each candle: the fields of a prediction, and `version`.
With `--log-format json` (or `MLTRAIN_LOG_FORMAT=json`) stderr, too, is one JSON object a line: `time`, `level`
(`info`, `warning`, `error`), `event` (`stage`, `stage done`, `stage failed`, `warning`, `error`, `bug`, `end`), and
what is known of `stage`, `steps`, `total`, `seconds`, `message`, `hint`, `command`, `exit_code`. A command line that
cannot be parsed is told as text.
"""


def page() -> str:
    """Return docs/json.md: every document with its fields."""
    parts = [_PAGE_HEAD]
    definitions: dict[str, Any] = {}
    for name in DOCUMENTS:
        told, schema = DOCUMENTS[name], document_schema(name)
        by = ", ".join(f"`mltrain {command}`" for command in told.commands)
        parts.append(f"## {name}\n\n{told.about} Printed by {by}.\n\n{_fields_table(schema)}")
        definitions |= schema.get("$defs", {})
    parts.append("## The objects in them\n")
    parts += [f"### {part}\n\n{_fields_table(definitions[part])}" for part in sorted(definitions, key=str.casefold)]
    return "\n".join(parts)


def _fields_table(schema: dict[str, Any]) -> str:
    rows = ["| field | type | what it is |", "|---|---|---|"]
    for key, value in schema["properties"].items():
        if key == "schema" and "const" in value:
            continue
        optional = "" if key in schema.get("required", ()) else " (optional)"
        text = value.get("description", "").replace("|", "\\|")
        rows.append(f"| `{key}` | {_type_text(value)}{optional} | {text} |")
    return "\n".join(rows) + "\n"


def _type_text(schema: Mapping[str, Any]) -> str:  # noqa: PLR0911 (a table of kinds)
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
