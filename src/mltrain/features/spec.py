"""The registry as values: features in column order and the label, and its strict reader.

`FeatureSet.from_json(x.to_json()) == x`, and a registry read from `to_yaml` is equal as well. `registry_sha256` hashes
the JSON form, so it depends on the order of the features, but not on comments, order of keys or layout of a file.
"""

from __future__ import annotations

import inspect
import json
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import polars as pl

from mltrain.documents.fields import Fields
from mltrain.documents.strict_json import canonical_json
from mltrain.documents.values import Located
from mltrain.features.op import LEADER_PREFIX, MAX_BARS, Limits, Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.user_ops import user_module_of, user_ops_of
from mltrain.names import FEATURE, SYMBOL
from mltrain.storage.edge import sha256_bytes
from mltrain.times import INTERVALS_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.documents.values import Json
    from mltrain.features.op import Op
    from mltrain.features.user_ops import UserOps

Param: TypeAlias = int | float | str

FORMAT: Final = 1
# More columns than any data set can support; a limit, because a line of YAML is easily repeated.
MAX_FEATURES: Final = 1_000
MIN_COST_BPS: Final = 0.01
# A tenth of the price.
MAX_COST_BPS: Final = 1_000.0


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """The label to predict.

    Attributes:
        kind: "direction": 1 if close[t + horizon] is above close[t], 0 if below; "threshold": 1 if above by more than
            `cost_bps`, 0 if below by more than `cost_bps`.
        horizon_bars: Number of bars that the label looks ahead, 1 to MAX_BARS.
        ties: "drop": moves in between have no label; "down": their label is 0. For "direction" that is
            close[t + horizon] == close[t], for "threshold" every move that does not exceed the cost.
        cost_bps: In basis points of close[t], MIN_COST_BPS to MAX_COST_BPS; 0 for "direction".
    """

    kind: Literal["direction", "threshold"]
    horizon_bars: int
    ties: Literal["drop", "down"]
    cost_bps: float = 0.0

    def to_json(self) -> dict[str, Json]:
        """Return the label in the layout of a registry."""
        value: dict[str, Json] = {"kind": self.kind, "horizon": self.horizon_bars, "ties": self.ties}
        return value | {"cost_bps": self.cost_bps} if self.kind == "threshold" else value


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature.

    Attributes:
        name: Its column.
        op: Key of OPS.
        params: Every parameter of the op by name, defaults included.
        leader: The symbol whose columns the op reads as `leader_...`; None if it reads none.
    """

    name: str
    op: str
    params: Mapping[str, Param]
    leader: str | None = None

    def window(self) -> Window:
        """Return the op's expression and lookback for these parameters."""
        return build_window(OPS[self.op], tuple(self.params.items()))


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A registry as read: features in column order, and the label.

    Attributes:
        version: Version of the file format.
        interval: Interval of the candles, such as "1m".
        label: The label to predict.
        features: The features in column order; names are unique.
    """

    version: int
    interval: str
    label: LabelSpec
    features: tuple[FeatureSpec, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names in column order."""
        return tuple(spec.name for spec in self.features)

    @property
    def lookback_bars(self) -> int:
        """The longest lookback: every feature has a value after this many consecutive bars."""
        return max(window.lookback_bars for window in self.windows())

    @property
    def leaders(self) -> tuple[str, ...]:
        """The leader symbols, sorted."""
        return tuple(sorted({spec.leader for spec in self.features if spec.leader is not None}))

    @property
    def registry_sha256(self) -> str:
        """The hash of the JSON form."""
        return sha256_bytes(canonical_json(self.to_json()))

    def windows(self) -> tuple[Window, ...]:
        """Return the expression and lookback of each feature, in column order."""
        return tuple(spec.window() for spec in self.features)

    def user_ops(self) -> UserOps | None:
        """Return the user's module that some ops come from; None if all are built in.

        Raises:
            InputError: They come from several modules.
        """
        return user_ops_of(spec.op for spec in self.features)

    def to_json(self) -> Json:
        """Return the registry as JSON values; the inverse of `from_json`."""
        return {
            "version": self.version,
            "interval": self.interval,
            "label": self.label.to_json(),
            "features": [_spec_to_json(spec) for spec in self.features],
        }

    def to_yaml(self) -> bytes:
        """Return the registry as a YAML file for `load_registry`, one feature per line."""
        label = ", ".join(f"{key}: {value}" for key, value in self.label.to_json().items())
        lines = [
            f"version: {self.version}",
            f"interval: {self.interval}",
            f"label: {{{label}}}",
            "features:",
            *(f"  - {_flow(_spec_to_json(spec))}" for spec in self.features),
        ]
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def from_json(cls, value: Json, *, where: str) -> FeatureSet:
        """Read the result of `to_json`, as strictly as a file.

        Raises:
            InputError: It is not a valid registry; lists every violation.
        """
        return read_registry(Located(value=value, where=where, lines={}))


def columns_read(spec: FeatureSpec, *, leader: bool) -> tuple[str, ...]:
    """Return the candle columns that a feature reads of its symbol or of its leader, sorted, without prefix."""
    roots = _roots(OPS[spec.op], tuple(spec.params.items()))
    if leader:
        return tuple(name.removeprefix(LEADER_PREFIX) for name in roots if name.startswith(LEADER_PREFIX))
    return tuple(name for name in roots if not name.startswith(LEADER_PREFIX))


# Both are cached: building an expression takes 20 us and asking for its columns 5 us, for every feature, and serving
# has 10 ms for a prediction.
@lru_cache(maxsize=4 * MAX_FEATURES)
def build_window(op: Op, params: tuple[tuple[str, Param], ...]) -> Window:
    """Call an op with these parameters.

    Raises:
        TypeError: It returns something other than a Window.
        ValueError: Its lookback is below 1, or the parameters contradict each other.
    """
    window = op(**dict(params))
    if not isinstance(window, Window) or not isinstance(window.expr, pl.Expr) or type(window.lookback_bars) is not int:
        raise TypeError("it returns no Window of an expression and a lookback in bars")
    if window.lookback_bars < 1:
        raise ValueError(f"its lookback is {window.lookback_bars} bars, and must be 1 or more")
    return window


@lru_cache(maxsize=4 * MAX_FEATURES)
def _roots(op: Op, params: tuple[tuple[str, Param], ...]) -> tuple[str, ...]:
    return tuple(sorted(set(build_window(op, params).expr.meta.root_names())))


def _spec_to_json(spec: FeatureSpec) -> dict[str, Json]:
    plain: dict[str, Json] = {"name": spec.name, "op": spec.op}
    if spec.params:
        plain["params"] = dict(spec.params)
    if spec.leader is not None:
        plain["leader"] = spec.leader
    return plain


def _flow(value: Json) -> str:
    """Return a value in YAML's flow style, with quoted texts, so that none is read as another type."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def read_registry(located: Located) -> FeatureSet:
    """Read a registry from a parsed document.

    Raises:
        InputError: It is not a valid registry; lists every violation, with its line if known.
    """
    root = Fields(located)
    version = root.integer("version", minimum=FORMAT, maximum=FORMAT)
    interval = root.text("interval", choices=tuple(INTERVALS_MS))
    label = _read_label(root.fields("label"))
    items = root.items("features")
    given = root.value.get("features")
    if isinstance(given, list) and not 1 <= len(given) <= MAX_FEATURES:
        root.problem("features", f"must be 1 to {MAX_FEATURES} features, not {len(given)}")
    features = tuple(_read_feature(item) for item in items)
    seen: set[str] = set()
    for item, spec in zip(items, features, strict=True):
        if spec.name in seen and spec.name:
            item.problem("name", f"a feature {spec.name} is already defined above")
        seen.add(spec.name)
    root.finish()
    return FeatureSet(version=version, interval=interval, label=label, features=features)


def _read_label(fields: Fields) -> LabelSpec:
    kind = fields.text("kind", choices=("direction", "threshold"))
    horizon_bars = fields.integer("horizon", minimum=1, maximum=MAX_BARS)
    ties: Literal["drop", "down"] = "down" if fields.text("ties", choices=("drop", "down")) == "down" else "drop"
    if kind != "threshold":
        return LabelSpec(kind="direction", horizon_bars=horizon_bars, ties=ties)
    cost_bps = fields.number("cost_bps", minimum=MIN_COST_BPS, maximum=MAX_COST_BPS)
    return LabelSpec(kind="threshold", horizon_bars=horizon_bars, ties=ties, cost_bps=cost_bps)


def _read_feature(item: Fields) -> FeatureSpec:
    name = item.text("name", pattern=FEATURE)
    op = item.text("op", choices=tuple(sorted(OPS)))
    leader = item.text("leader", pattern=SYMBOL, default=None)
    if item.value.get("op") != op:
        # Accept any `params`: without a known op there is nothing to check them against.
        item.raw("params", default=None)
        return FeatureSpec(name=name, op=op, params={}, leader=leader)
    params, valid = _read_params(item, OPS[op])
    spec = FeatureSpec(name=name, op=op, params=params, leader=leader)
    if valid:
        _check_built(item, spec)
    return spec


def _check_built(item: Fields, spec: FeatureSpec) -> None:
    try:
        reads_leader = bool(columns_read(spec, leader=True))
    # Ops raise ValueError for parameters that contradict each other.
    except ValueError as err:
        item.problem("params", str(err))
        return
    except Exception as err:
        if user_module_of(spec.op) is None:
            raise
        item.problem("op", f"{spec.op} of {user_module_of(spec.op)} fails: {type(err).__name__}: {err}")
        return
    if reads_leader and spec.leader is None:
        item.problem("leader", f"is missing: {spec.op} reads a leader's candles, such as those of BTCUSDT")
    if spec.leader is not None and not reads_leader:
        item.problem("leader", f"{spec.op} reads no leader")


def _read_params(item: Fields, function: Op) -> tuple[dict[str, Param], bool]:
    """Read the op's parameters; return them, and whether all were valid."""
    signature = inspect.signature(function).parameters
    defaults = {name: p.default for name, p in signature.items() if p.default is not p.empty}
    if len(defaults) == len(signature) and "params" not in item.value:
        return defaults, True
    fields = item.fields("params")
    hints = typing.get_type_hints(function, include_extras=True)
    given = [name for name in signature if name not in defaults or name in fields.value]
    params = {name: _read_param(fields, name, hints[name]) if name in given else defaults[name] for name in signature}
    return params, all(fields.value.get(name) == params[name] for name in given)


# Any: an op's parameter may have any annotation.
def _read_param(fields: Fields, name: str, hint: Any) -> Param:  # noqa: ANN401
    """Read one parameter: an int or float, perhaps with Limits, or a Literal of texts."""
    if typing.get_origin(hint) is Literal:
        return fields.text(name, choices=typing.get_args(hint))
    kind, limits = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, None)
    minimum, maximum = (limits.minimum, limits.maximum) if isinstance(limits, Limits) else (None, None)
    if kind is int:
        return fields.integer(name, minimum=minimum, maximum=maximum)
    if kind is float:
        return fields.number(name, minimum=minimum, maximum=maximum)
    raise TypeError(f"parameter {name}: an op takes int, float or Literal, not {hint}")
