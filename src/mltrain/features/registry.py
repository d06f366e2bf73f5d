"""The feature registry: read features.yml, describe its features, and validate frames against it."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mltrain.candles.conversion import as_frame
from mltrain.config.loading import packaged_config
from mltrain.documents.records import read_record, to_json
from mltrain.documents.results import to_plain
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import Located
from mltrain.errors import InputError, UsageError
from mltrain.features.ops.catalogue import OPS
from mltrain.features.schema_validation import find_problems
from mltrain.features.spec import FeatureSet, Registry, columns_read
from mltrain.features.user_ops import import_user_ops
from mltrain.names import describe
from mltrain.storage.descriptors import real_path
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.documents.values import Json
    from mltrain.features.spec import Param

DEFAULT_NAME: Final = "features.yml"
OHLCV_NAME: Final = "features-ohlcv.yml"
MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """The description of one feature.

    Attributes:
        name: Its column.
        op: The op's name.
        summary: First line of the op's docstring, with its formula.
        params: The op's parameters.
        lookback_bars: Number of bars that a value depends on, the newest included.
        columns: Candle columns and inputs of the symbol itself that it reads.
        leader: The leader symbol, or None.
        leader_columns: Candle columns and inputs of the leader that it reads.
        dtype: Type of the column.
    """

    name: str
    op: str
    summary: str
    params: Mapping[str, Param]
    lookback_bars: int
    columns: tuple[str, ...]
    leader: str | None
    leader_columns: tuple[str, ...]
    dtype: str = "Float32"


def load_registry(path: Path | None = None, *, interval: str | None = None) -> FeatureSet:
    """Read a registry of features, for candles of one interval.

    Args:
        path: As in `read_registry`.
        interval: Interval of the candles; None: the one that the registry states.

    Raises:
        InputError: There is no such file, it is not a valid registry, or it is not for this interval.
        MachineError: The file cannot be read.
    """
    return _take_at(read_registry(path), interval, where=_name_of(path))


def read_registry(path: Path | None = None) -> Registry:
    """Read a registry of features as written.

    Args:
        path: A file; or the name of a packaged registry (features.yml, features-ohlcv.yml), unless the working
            directory has a file of that name; None: the packaged features.yml.

    Raises:
        InputError: There is no such file, or it is not a valid registry; lists every violation with its line.
        MachineError: The file cannot be read.
    """
    if path is None:
        path = packaged_config(DEFAULT_NAME)
    elif path.name == str(path) and path.name in {DEFAULT_NAME, OHLCV_NAME} and not path.exists():
        path = packaged_config(path.name)
    return _parse(read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="feature registry"), where=str(path))


def parse_registry(data: bytes, *, where: str, interval: str | None = None) -> FeatureSet:
    """Parse a registry of features, for candles of one interval, from a YAML document.

    Args:
        data: The document.
        where: Its name in messages.
        interval: Interval of the candles; None: the one that the registry states.

    Raises:
        InputError: The document is not a valid registry, or not for this interval; lists every violation with its line.
    """
    return _take_at(_parse(data, where=where), interval, where=where)


def _parse(data: bytes, *, where: str) -> Registry:
    return read_record(parse_yaml(data, where=where, max_bytes=MAX_FILE_BYTES), Registry)


def _take_at(registry: Registry, interval: str | None, *, where: str) -> FeatureSet:
    """Return a registry, called `where` in messages, at an interval; None: the one that it states."""
    interval = registry.interval if interval is None else interval
    if interval is None:
        raise InputError(f"{where} states no interval, and none was given", hint='pass one, such as interval="1h"')
    return registry.at(interval, where=where)


def _name_of(path: Path | None) -> str:
    """Return what messages call the registry at a path; None is the packaged one."""
    return DEFAULT_NAME if path is None else str(path)


def open_registry(source: Path | Mapping[str, Any] | Registry | FeatureSet | None) -> tuple[Registry, str]:
    """Return a registry as written, and what messages call it.

    Args:
        source: A file as in `read_registry`, what it would hold as a mapping, or a registry that has been read.

    Raises:
        InputError: As in `read_registry`.
        MachineError: The file cannot be read.
    """
    if isinstance(source, Path | None):
        return read_registry(source), _name_of(source)
    where = "features"
    if isinstance(source, Registry):
        return source, where
    # A set of features states its interval, as a registry may.
    document = source.to_json() if isinstance(source, FeatureSet) else to_plain(source)
    return read_record(Located(document, where), Registry), where


def take_features(
    source: Path | Mapping[str, Any] | Registry | FeatureSet | None, interval: str
) -> tuple[FeatureSet, tuple[str, ...]]:
    """Read a registry for candles of an interval; also return warnings about what it leaves out there.

    Args:
        source: As in `open_registry`.
        interval: Interval of the candles.

    Raises:
        InputError: As in `load_registry`.
        MachineError: The file cannot be read.
    """
    registry, where = open_registry(source)
    warnings = []
    if constant := registry.constant_features(interval):
        warnings.append(f"left out, because every {interval} candle has the same value: {', '.join(constant)}")
    if unread := registry.unread_inputs(interval):
        warnings.append(f"inputs left out, because no feature reads them: {', '.join(unread)}")
    return registry.at(interval, where=where), tuple(warnings)


def describe_features(feature_set: FeatureSet | Registry) -> tuple[FeatureInfo, ...]:
    """Describe each feature, in column order."""
    return tuple(
        FeatureInfo(
            name=spec.name,
            op=spec.op,
            summary=(inspect.getdoc(OPS[spec.op]) or "").partition("\n")[0],
            params=spec.params,
            lookback_bars=spec.window().lookback_bars,
            columns=columns_read(spec, leader=False),
            leader=spec.leader,
            leader_columns=columns_read(spec, leader=True),
        )
        for spec in feature_set.features
    )


class FeatureSchemaValidator:
    """Validates frames of features against a registry.

    Args:
        path: The registry, as in `read_registry`.
        interval: Interval of the candles that the features are of; None: the one that the registry states, if any.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**

    Raises:
        UsageError: `path` is not a path.
        InputError: The registry is missing, invalid or for another interval, or the module fails.
        MachineError: The registry cannot be read.
    """

    def __init__(self, path: Path | str | None = None, *, ops: str | None = None, interval: str | None = None) -> None:
        if ops is not None:
            import_user_ops(ops)
        if not isinstance(path, Path | str | None):
            raise UsageError(f"path is {describe(path)}: expected the path of a registry, or None")
        file = None if path is None else Path(path)
        registry = read_registry(file)
        interval = registry.interval if interval is None else interval
        self._registry = registry if interval is None else registry.at(interval, where=_name_of(file))

    def get_schema_info(self) -> dict[str, Json]:
        """Return the registry as JSON values: interval, label, hash, and each feature's op, lookback and columns.

        The interval is null, and the hash not that of any model, if neither the registry nor the caller states one.
        """
        registry = self._registry
        return {
            "version": registry.version,
            "interval": registry.interval,
            "label": to_json(registry.label),
            "lookback_bars": registry.lookback_bars,
            "registry_sha256": registry.registry_sha256,
            "features": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(info).items()}
                for info in describe_features(registry)
            ],
        }

    def validate_features(self, frame: object, *, strict: bool = True) -> tuple[str, ...]:
        """Find columns that are missing, extra, out of order, not Float32, not finite, constant or all null.

        Args:
            frame: The features as Float32 in the registry's order, with or without `ts` and `symbol`: a Polars frame
                (lazy ones are collected), a pandas frame, an Arrow table, or a list of dicts. Null stands for a warm-up
                or a gap; NaN and infinity are problems.
            strict: Whether to raise if there are problems.

        Returns:
            Every problem; empty if there is none.

        Raises:
            InputError: There are problems and `strict` is set; one message lists them all.
            UsageError: `frame` is not a table.
        """
        problems = find_problems(self._registry, as_frame(frame, "frame", index=False))
        if problems and strict:
            raise InputError("the features are not as the registry says: " + "; ".join(problems))
        return problems
