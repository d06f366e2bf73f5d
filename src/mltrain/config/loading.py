"""The training configuration: frozen values, without defaults of their own.

The defaults live in configs/train.yml alone; a user's file overrides it key by key, and options override both. What
comes out has been checked whole: every violation of a file is told in one message.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mltrain.config.parsing import read_config
from mltrain.config.train_config import (
    CALIBRATIONS,
    BenchConfig,
    BoosterConfig,
    BootstrapConfig,
    Calibration,
    ClassWeight,
    FoldConfig,
    GateConfig,
    GuardConfig,
    Range,
    Rung,
    SearchConfig,
    TrainConfig,
)
from mltrain.documents.strict_json import canonical_json
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import Located
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.storage.edge import real_path, sha256_bytes
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mltrain.documents.values import Json

__all__ = [
    "CALIBRATIONS",
    "BenchConfig",
    "BoosterConfig",
    "BootstrapConfig",
    "Calibration",
    "ClassWeight",
    "FoldConfig",
    "GateConfig",
    "GuardConfig",
    "Range",
    "Rung",
    "SearchConfig",
    "Setting",
    "TrainConfig",
    "comment_config",
    "explain_config",
    "load_config",
    "packaged_config",
    "study_sha256",
]

MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting.

    Attributes:
        key: Its dotted key, such as "search.trials".
        value: What holds.
        origin: Who said so last: "default", "file", "environment" or "option".
        where: The file and line, the variable or the option; None for what the package itself says.
    """

    key: str
    value: Json
    origin: Literal["default", "file", "environment", "option"]
    where: str | None


def packaged_config(name: str) -> Path:
    """Return the path of a configuration that travels with the package.

    Args:
        name: A bare file name such as "train.yml".

    Raises:
        InputError: There is no such file.
    """
    here = Path(__file__).parents[1]
    # A wheel carries the folder inside the package; a checkout has it at the top, where people look for it.
    folder = next((f for f in (here / "configs", here.parents[1] / "configs") if f.is_dir()), here / "configs")
    known = sorted(p.name for p in folder.glob("*.yml"))
    if name not in known:
        raise InputError(f"there is no packaged configuration {show(name)}", hint=did_you_mean(name, known))
    return folder / name


def load_config(path: Path | None, *, overrides: Mapping[str, Json]) -> TrainConfig:
    """Load the configuration: the packaged defaults, a user's file over them, options over both.

    Args:
        path: The user's file; None: the defaults alone.
        overrides: Values by dotted key, such as {"search.trials": 50}; a mapping is overridden key by key too.

    Raises:
        InputError: A file is unreadable, has an unknown key, a missing value or one out of its range; the message
            names every violation with its line.
        UsageError: An override is wrong in such a way.
    """
    located = _read_yaml(packaged_config("train.yml"))
    if path is not None:
        own = _read_own(path)
        located = Located(_merged(located.value, own.value), own.where, own.lines)
    config = read_config(located)
    if not overrides:
        return config
    value = located.value
    for key, override in overrides.items():
        value = _merged(value, _nested(key, override))
    try:
        return read_config(Located(value, "options"))
    except InputError as err:
        raise UsageError(err.message, hint=err.hint) from err


def explain_config(path: Path | None, *, overrides: Mapping[str, Json]) -> tuple[Setting, ...]:
    """Return every setting that `load_config` would give, each with who said so last.

    Args:
        path: The user's file; None: the defaults alone.
        overrides: Values by dotted key, as options give them.

    Returns:
        In the order of train.yml; the keys are those of single values.

    Raises:
        InputError: As `load_config`.
        UsageError: As `load_config`.
    """
    config = load_config(path, overrides=overrides)
    own = None if path is None else _read_own(path)
    return tuple(_told(key, value, own, overrides, str(path)) for key, value in _flat(config.to_json()))


def comment_config() -> str:
    """Return the packaged train.yml with every setting commented out: a file to begin one's own from."""
    text = packaged_config("train.yml").read_text("utf-8")
    return "".join(
        line if line.startswith("#") or not line.strip() else f"# {line}" for line in text.splitlines(keepends=True)
    )


def _told(key: str, value: Json, own: Located | None, overrides: Mapping[str, Json], path: str) -> Setting:
    if key in overrides:
        return Setting(key, value, "option", None)
    place = tuple(key.split("."))
    if own is not None and place in own.lines:
        return Setting(key, value, "file", f"{path}, line {own.lines[place]}")
    return Setting(key, value, "default", None)


def _flat(value: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _flat(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part


def study_sha256(config: TrainConfig, *, registry_sha256: str, warm_start: Mapping[str, float] | None) -> str:
    """Return the hash of all that changes a trial, but for the candles and the seed.

    Args:
        config: Of it: the split, the folds, the boosters and the search, though not how many trials.
        registry_sha256: Hash of the feature registry, which holds the label too.
        warm_start: Parameters that are tried before any is proposed, after the defaults.

    Returns:
        64 hexadecimal digits. Equal for two trainings whose trials of equal number are equal.
    """
    covered: dict[str, Json] = {
        "registry": registry_sha256,
        "val_ratio": config.val_ratio,
        "max_rows": config.max_rows,
        "class_weight": config.class_weight,
        "uniqueness": config.uniqueness,
        "folds": asdict(config.folds),
        "booster": asdict(config.booster),
        "search": {k: v for k, v in config.search.to_json().items() if k != "trials"},
    }
    if warm_start is not None:
        covered["warm_start"] = dict(warm_start)
    return sha256_bytes(canonical_json(covered))


def _read_yaml(path: Path) -> Located:
    return parse_yaml(read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="configuration"), where=str(path))


def _read_own(path: Path) -> Located:
    """Return a user's file; one of comments alone says nothing, an empty one is no configuration."""
    data = read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="configuration")
    own = parse_yaml(data, where=str(path))
    commented = data.strip() and all(line.lstrip().startswith(b"#") for line in data.splitlines() if line.strip())
    return replace(own, value={}) if commented else own


def _merged(base: Json, over: Json) -> Json:
    """Return `base` with the values of `over`, mapping by mapping."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}


def _nested(dotted: str, value: Json) -> Json:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value
