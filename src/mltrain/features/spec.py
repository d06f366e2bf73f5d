"""The registry as values: features in column order, the inputs that they read, the label, and its strict reader.

A `Registry` is a file as written, which may be for candles of any interval; a `FeatureSet` is for those of one.
`FeatureSet.from_json(x.to_json()) == x`, and a registry read from `to_yaml` is equal as well. `registry_sha256` hashes
the JSON form, so it depends on the order of the features, but not on comments, order of keys or layout of a file.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, get_type_hints

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE
from mltrain.candles.input_tables import InputSpec
from mltrain.documents.records import (
    OMIT_DEFAULT,
    RAW,
    Limits,
    OneOf,
    RecordError,
    read_arguments,
    read_record,
    record,
    to_json,
)
from mltrain.documents.strict_json import canonical_json
from mltrain.documents.values import Located
from mltrain.errors import InputError
from mltrain.features.label_spec import LabelSpec
from mltrain.features.op import LEADER_PREFIX, Interval, Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.user_ops import user_module_of, user_ops_of
from mltrain.names import FEATURE, SYMBOL, did_you_mean, show
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import DAY_MS, INTERVALS_MS, floor_to_grid, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.documents.records import Violation
    from mltrain.documents.values import Json
    from mltrain.features.op import Op
    from mltrain.features.user_ops import UserOps

Param: TypeAlias = int | float | str

FORMAT: Final = 1
# More columns than any data set can support; a limit, because a line of YAML is easily repeated.
MAX_FEATURES: Final = 1_000
MAX_INPUTS: Final = 100
# Of the open times at which a feature of the time alone is evaluated; any ten years would do.
_SAMPLED_FROM_MS: Final = 1_420_070_400_000
_SAMPLED_TIMES: Final = 2_000
# Rounding: the sine of half a period is 1e-16.
_CONSTANT_SPREAD: Final = 1e-9


@record
@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature.

    Attributes:
        name: Its column.
        op: Name of the op, a key of `OPS`.
        params: Every parameter of the op by name, defaults included.
        leader: The symbol whose columns the op reads as `leader_...`; None if it reads none.
    """

    name: Annotated[str, FEATURE]
    op: str
    params: Annotated[Mapping[str, Param], RAW, OMIT_DEFAULT] = field(default_factory=dict)
    leader: Annotated[Annotated[str, SYMBOL] | None, OMIT_DEFAULT] = None

    def __post_init__(self) -> None:
        """Fill in the op's defaults, and check that the op takes these parameters and this leader.

        Raises:
            RecordError: The op is unknown, a parameter wrong, or a leader missing or superfluous.
        """
        if self.op not in OPS:
            guess = did_you_mean(self.op, OPS)
            raise RecordError((("op",), f"{show(self.op)} is unknown" + (f"; {guess}" if guess else "")))
        given: Any = self.params
        try:
            object.__setattr__(self, "params", read_arguments(given, OPS[self.op]))
        except RecordError as err:
            raise RecordError(*((("params", *place), message) for place, message in err.violations)) from err
        try:
            needs_leader = reads_leader(OPS[self.op], self.params)
        # Ops raise ValueError for parameters that contradict each other.
        except ValueError as err:
            raise RecordError((("params",), str(err))) from err
        except Exception as err:
            module = user_module_of(self.op)
            if module is None:
                raise
            raise RecordError((("op",), f"{self.op} of {module} fails: {type(err).__name__}: {err}")) from err
        if needs_leader and self.leader is None:
            message = f"is missing: {self.op} reads a leader's candles, such as those of BTCUSDT"
            raise RecordError((("leader",), message))
        if self.leader is not None and not needs_leader:
            raise RecordError((("leader",), f"{self.op} reads no leader"))

    def window(self) -> Window:
        """Return the op's expression and lookback for these parameters."""
        return build_window(OPS[self.op], tuple(self.params.items()))

    def at(self, interval: str) -> FeatureSpec:
        """Return the feature for candles of an interval: that of an op which must know it has it as a parameter.

        Raises:
            RecordError: The feature is for another interval, or its op has no value at this one.
        """
        if not takes_interval(OPS[self.op]) or self.params["interval"] == interval:
            return self
        if self.params["interval"]:
            message = f"is {self.params['interval']}, and the candles are of {interval}: leave it out"
            raise RecordError((("params", "interval"), message))
        return replace(self, params={**self.params, "interval": interval})


class _FeatureList:
    """The features of a registry in column order: what `Registry` and `FeatureSet` share."""

    __slots__ = ()

    features: tuple[FeatureSpec, ...]
    inputs: tuple[InputSpec, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.features) <= MAX_FEATURES:
            raise RecordError((("features",), f"must be 1 to {MAX_FEATURES} features, not {len(self.features)}"))
        if len(self.inputs) > MAX_INPUTS:
            raise RecordError((("inputs",), f"must be at most {MAX_INPUTS} inputs, not {len(self.inputs)}"))
        for key, what, names in (
            ("features", "a feature", self.names),
            ("inputs", "an input", [spec.name for spec in self.inputs]),
        ):
            seen: set[str] = set()
            for index, name in enumerate(names):
                if name in seen:
                    raise RecordError(((key, index, "name"), f"{what} {name} is already defined above"))
                seen.add(name)
        violations = tuple(self._find_undeclared())
        if violations:
            raise RecordError(*violations)

    def _find_undeclared(self) -> Iterator[Violation]:
        """Yield each feature that reads a column which is neither a candle's nor a declared input."""
        declared = {spec.name for spec in self.inputs}
        for index, spec in enumerate(self.features):
            read = {*inputs_read(spec, leader=False), *inputs_read(spec, leader=True)}
            for name in sorted(read - declared):
                guess = did_you_mean(name, {*declared, *CANDLE_SCHEMA})
                message = f"{spec.op} reads {show(name)}, which is neither a column of candles nor one of the `inputs`"
                yield ("features", index), message + (f"; {guess}" if guess else "")

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
        return sha256_bytes(canonical_json(to_json(self)))

    def windows(self) -> tuple[Window, ...]:
        """Return the expression and lookback of each feature, in column order."""
        return tuple(spec.window() for spec in self.features)

    def user_ops(self) -> UserOps | None:
        """Return the user's module that some ops come from; None if all are built in."""
        return user_ops_of(spec.op for spec in self.features)


@record
@dataclass(frozen=True, slots=True)
class Registry(_FeatureList):
    """A registry as written; without an interval it is for candles of any.

    Attributes:
        version: Version of the file format.
        label: The label to predict.
        features: The features in column order; names are unique.
        interval: The only interval whose candles the registry is for; None: any.
        inputs: The user's own columns that features may read; names are unique.
    """

    version: Annotated[int, Limits(FORMAT, FORMAT)]
    label: LabelSpec
    features: tuple[FeatureSpec, ...]
    interval: Annotated[Annotated[str, OneOf(tuple(INTERVALS_MS))] | None, OMIT_DEFAULT] = None
    inputs: Annotated[tuple[InputSpec, ...], OMIT_DEFAULT] = ()

    def constant_features(self, interval: str) -> tuple[str, ...]:
        """Return the features that have one value at all candles of an interval, such as the time of day at 1d.

        Empty for a registry that states its interval: it is taken as written.
        """
        if self.interval is not None:
            return ()
        return tuple(spec.name for spec in self.features if _is_constant(spec, interval_ms(interval)))

    def unread_inputs(self, interval: str) -> tuple[str, ...]:
        """Return the names of the inputs that no feature reads at candles of an interval."""
        constant = self.constant_features(interval)
        specs = [spec for spec in self.features if spec.name not in constant]
        read = {name for spec in specs for leader in (False, True) for name in inputs_read(spec, leader=leader)}
        return tuple(spec.name for spec in self.inputs if spec.name not in read)

    def at(self, interval: str, *, where: str) -> FeatureSet:
        """Return features, inputs and label for candles of an interval, without `constant_features`, `unread_inputs`.

        Raises:
            InputError: The registry, called `where` in messages, is for another interval, or no feature is left.
        """
        if self.interval not in {None, interval}:
            raise InputError(
                f"{where} is for {self.interval} candles, and these are {interval} candles",
                hint=f"take {self.interval} candles, or a registry without `interval`, which counts bars of any length",
            )
        constant = self.constant_features(interval)
        features = []
        for spec in self.features:
            if spec.name in constant:
                continue
            try:
                features.append(spec.at(interval))
            except RecordError as err:
                raise InputError(f"{where}: feature {spec.name} at {interval}: {err.message}") from err
        if not features:
            raise InputError(f"{where}: at {interval} every feature has one value only: {', '.join(constant)}")
        unread = self.unread_inputs(interval)
        inputs = tuple(spec for spec in self.inputs if spec.name not in unread)
        return FeatureSet(self.version, interval, self.label, tuple(features), inputs)


@record
@dataclass(frozen=True, slots=True)
class FeatureSet(_FeatureList):
    """The features in column order and the label, for candles of one interval.

    Attributes:
        version: Version of the file format.
        interval: Interval of the candles, such as "1m".
        label: The label to predict.
        features: The features in column order; names are unique.
        inputs: The user's own columns that they read; names are unique.
    """

    version: Annotated[int, Limits(FORMAT, FORMAT)]
    interval: Annotated[str, OneOf(tuple(INTERVALS_MS))]
    label: LabelSpec
    features: tuple[FeatureSpec, ...]
    inputs: Annotated[tuple[InputSpec, ...], OMIT_DEFAULT] = ()

    def __post_init__(self) -> None:
        # Not `super()`: a dataclass with slots is another class than the one that this function was written in.
        _FeatureList.__post_init__(self)
        for index, spec in enumerate(self.features):
            if takes_interval(OPS[spec.op]) and spec.params["interval"] != self.interval:
                place = ("features", index, "params", "interval")
                raise RecordError((place, f"must be {self.interval}, is {spec.params['interval'] or 'missing'}"))

    @property
    def label_overlap_ms(self) -> int:
        """For how long at most the labels of two consecutive candles overlap, in ms."""
        return (self.label.horizon_bars - 1) * interval_ms(self.interval)

    def to_json(self) -> dict[str, Json]:
        """Return the registry as JSON values; the inverse of `from_json`."""
        return to_json(self)

    def to_yaml(self) -> bytes:
        """Return the registry as a YAML file for `load_registry`, one feature per line; it states its interval."""
        label = ", ".join(f"{key}: {value}" for key, value in to_json(self.label).items())
        lines = [
            f"version: {self.version}",
            f"interval: {self.interval}",
            f"label: {{{label}}}",
            *(["inputs:"] if self.inputs else []),
            *(f"  - {_format_flow(to_json(spec))}" for spec in self.inputs),
            "features:",
            *(f"  - {_format_flow(to_json(spec))}" for spec in self.features),
        ]
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def from_json(cls, value: Json, *, where: str) -> FeatureSet:
        """Read the result of `to_json`, as strictly as a file; messages call its source `where`.

        Raises:
            InputError: `value` is not a valid registry; lists every violation.
        """
        return read_record(Located(value, where), cls)


def _is_constant(spec: FeatureSpec, step_ms: int) -> bool:
    """Return whether a feature reads only the time, and has one value at all open times of an interval."""
    if columns_read(spec, leader=False) != ("ts",) or spec.leader is not None:
        return False
    # Times of ten years at random, so that they share no period with a feature.
    bars = np.random.default_rng(0).integers(0, 10 * 365 * DAY_MS // step_ms, size=_SAMPLED_TIMES)
    ts_ms = floor_to_grid(_SAMPLED_FROM_MS, step_ms) + np.unique(bars) * step_ms
    times = pl.DataFrame({"ts": pl.Series(ts_ms).cast(TS_DTYPE)})
    try:
        values = times.select(spec.window().expr.alias("value"))["value"].drop_nulls()
    except pl.exceptions.PolarsError:
        # A user op: computing the features reports what is wrong with it.
        return False
    if not values.len():
        return False
    return float(np.ptp(values.cast(pl.Float64).to_numpy())) <= _CONSTANT_SPREAD


def reads_leader(op: Op, params: Mapping[str, Param]) -> bool:
    """Return whether an op with these parameters reads columns of a leader."""
    return any(name.startswith(LEADER_PREFIX) for name in _input_columns(op, tuple(params.items())))


def columns_read(spec: FeatureSpec, *, leader: bool) -> tuple[str, ...]:
    """Return the candle columns and inputs, sorted, that a feature reads of its symbol or, if set, of its leader."""
    names = _input_columns(OPS[spec.op], tuple(spec.params.items()))
    if leader:
        return tuple(name.removeprefix(LEADER_PREFIX) for name in names if name.startswith(LEADER_PREFIX))
    return tuple(name for name in names if not name.startswith(LEADER_PREFIX))


def inputs_read(spec: FeatureSpec, *, leader: bool) -> tuple[str, ...]:
    """Return the inputs, sorted, that a feature reads of its symbol or, if `leader` is set, of its leader."""
    return tuple(name for name in columns_read(spec, leader=leader) if name not in CANDLE_SCHEMA)


# Both are cached: building an expression takes 20 us and asking for its columns 5 us, for every feature, and serving
# has 10 ms for a prediction.
@lru_cache(maxsize=4 * MAX_FEATURES)
def build_window(op: Op, params: tuple[tuple[str, Param], ...]) -> Window:
    """Call an op with these parameters.

    Raises:
        TypeError: The op returns something other than a Window.
        ValueError: The lookback is below 1, or the parameters contradict each other.
    """
    window = op(**dict(params))
    if not isinstance(window, Window) or not isinstance(window.expr, pl.Expr) or type(window.lookback_bars) is not int:
        raise TypeError("it returns no Window of an expression and a lookback in bars")
    if window.lookback_bars < 1:
        raise ValueError(f"its lookback is {window.lookback_bars} bars, and must be 1 or more")
    return window


@lru_cache(maxsize=4 * MAX_FEATURES)
def takes_interval(op: Op) -> bool:
    """Return whether an op has a parameter `interval` of the type `Interval`, which a registry fills in."""
    return "interval" in inspect.signature(op).parameters and get_type_hints(op).get("interval") == Interval


@lru_cache(maxsize=4 * MAX_FEATURES)
def _input_columns(op: Op, params: tuple[tuple[str, Param], ...]) -> tuple[str, ...]:
    """Return the columns that an op's expression reads, sorted; those of a leader start with `leader_`."""
    return tuple(sorted(set(build_window(op, params).expr.meta.root_names())))


def _format_flow(value: Json) -> str:
    """Format a value in YAML's flow style, with quoted texts, so that none is read as another type."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_format_flow(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
