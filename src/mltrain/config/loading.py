"""Load the configurations: a packaged file, the user's file over it, and for a training options over both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mltrain.documents.records import read_record
from mltrain.documents.results import to_plain
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import Located
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.storage.descriptors import real_path
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.config.halt_config import HaltConfig
    from mltrain.config.operate_config import OperateConfig
    from mltrain.config.train_config import TrainConfig
    from mltrain.documents.values import Json

MAX_FILE_BYTES: Final = 1 << 20

# A section and its key that no longer mean anything, but are still in users' files and in cards of stored versions.
_RETIRED: Final = ("gates", "champion_gain_share")


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting.

    Attributes:
        key: Its dotted key, such as "search.trials".
        value: Its value.
        origin: Where the value comes from: "default", "file", "environment" or "option".
        where: The file and line, the variable or the option; None for a packaged default.
    """

    key: str
    value: Json
    origin: Literal["default", "file", "environment", "option"]
    where: str | None


def packaged_config(name: str) -> Path:
    """Return the path of a configuration file that is packaged with mltrain, such as "train.yml".

    Raises:
        InputError: There is no such file.
    """
    package = Path(__file__).parents[1]
    # A wheel carries the folder inside the package; a checkout has it at the top, where people look for it.
    in_wheel, in_checkout = package / "configs", package.parents[1] / "configs"
    folder = in_checkout if in_checkout.is_dir() and not in_wheel.is_dir() else in_wheel
    known = sorted(path.name for path in folder.glob("*.yml"))
    if name not in known:
        raise InputError(f"there is no packaged configuration {show(name)}", hint=did_you_mean(name, known))
    return folder / name


def load_config(source: Path | Mapping[str, Any] | None, *, overrides: Mapping[str, Json]) -> TrainConfig:
    """Load the configuration: the packaged defaults, the user's file over them, options over both.

    Args:
        source: The user's file, or what it would hold as a mapping; None: the defaults alone.
        overrides: Values by dotted key, such as {"search.trials": 50}; a mapping overrides only the keys that it has.

    Raises:
        InputError: A file is unreadable, has an unknown key, a missing value or one out of its range; the message
            names every violation with its line.
        UsageError: An override has an unknown key or a value out of its range.
    """
    return _load(None if source is None else _read_user_config(source), overrides)


def load_halt_config(source: Path | Mapping[str, Any] | None) -> HaltConfig:
    """Load the settings of the triggers: the packaged halt.yml, the user's file over it.

    Args:
        source: The user's file, or what it would hold as a mapping; None: the defaults alone.

    Raises:
        InputError: A file is unreadable, has an unknown key, a missing value or one out of its range; the message
            names every violation with its line.
    """
    # Each has many records, whose classes take as long to make as a short command.
    from mltrain.config.halt_config import HaltConfig

    return read_record(_read_layers("halt.yml", source), HaltConfig)


def load_operate_config(source: Path | Mapping[str, Any] | None) -> OperateConfig:
    """Load the limits of the status: the packaged operate.yml, the user's file over it; as `load_halt_config`."""
    from mltrain.config.operate_config import OperateConfig

    return read_record(_read_layers("operate.yml", source), OperateConfig)


def explain_config(path: Path | None, *, overrides: Mapping[str, Json]) -> tuple[Setting, ...]:
    """Return every setting that `load_config` gives with these arguments, each with its origin, in train.yml's order.

    A setting is a single value: a section of train.yml gives one for each of its keys.
    """
    user = None if path is None else _read_user_config(path)
    lines = {} if user is None else user.lines
    overridden = dict(_flatten(overrides))

    def explain(key: str, value: Json) -> Setting:
        place = tuple(key.split("."))
        if key in overridden:
            return Setting(key, value, "option", None)
        if place in lines:
            return Setting(key, value, "file", f"{path}, line {lines[place]}")
        return Setting(key, value, "default", None)

    packaged = _read_yaml(packaged_config("train.yml"))[0].value
    # The JSON of a configuration lacks the options that are off: in the packaged file, they are.
    settings = dict(_flatten(packaged)) if isinstance(packaged, dict) else {}
    settings |= _flatten(_load(user, overrides).to_json())
    return tuple(explain(key, value) for key, value in settings.items())


def comment_config(name: str = "train.yml") -> str:
    """Return a packaged file with every setting commented out, as a start for a user's file."""
    text = packaged_config(name).read_text("utf-8")
    return "".join(
        line if line.startswith("#") or not line.strip() else f"# {line}" for line in text.splitlines(keepends=True)
    )


def _load(user: Located | None, overrides: Mapping[str, Json]) -> TrainConfig:
    """Return the configuration: the packaged defaults, the user's parsed file over them, options over both."""
    from mltrain.config.train_config import TrainConfig

    defaults = _read_yaml(packaged_config("train.yml"))[0]
    merged = defaults if user is None else replace(user, value=_lay_over(defaults.value, _drop_retired(user.value)))
    config = read_record(merged, TrainConfig)
    if not overrides:
        return config
    given: Json = {}
    for dotted, override in overrides.items():
        nested = to_plain(override)
        for key in reversed(dotted.split(".")):
            nested = {key: nested}
        given = _merge(given, nested)
    try:
        return read_record(Located(_lay_over(merged.value, _drop_retired(given)), "options"), TrainConfig)
    except InputError as err:
        raise UsageError(err.message, hint=err.hint) from err


def _read_layers(name: str, source: Path | Mapping[str, Any] | None) -> Located:
    """Return a packaged file, with what a user's file or mapping has in place of its values."""
    defaults = _read_yaml(packaged_config(name))[0]
    if source is None:
        return defaults
    user = _read_user_config(source)
    return replace(user, value=_merge(defaults.value, user.value))


def _read_yaml(path: Path) -> tuple[Located, bytes]:
    """Return a YAML file parsed, and its bytes."""
    data = read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="configuration")
    return parse_yaml(data, where=str(path)), data


def _read_user_config(source: Path | Mapping[str, Any]) -> Located:
    """Return what a user's file holds; comments alone change nothing, but an empty file is refused."""
    if isinstance(source, Mapping):
        return Located(to_plain(source), "config")
    user, data = _read_yaml(source)
    is_commented = data.strip() and all(line.lstrip().startswith(b"#") for line in data.splitlines() if line.strip())
    return replace(user, value={}) if is_commented else user


def _drop_retired(value: Json) -> Json:
    """Return the content of a configuration file without the key that _RETIRED names."""
    section, retired = _RETIRED
    if not isinstance(value, dict) or not isinstance(part := value.get(section), dict):
        return value
    return {**value, section: {key: item for key, item in part.items() if key != retired}}


def _lay_over(base: Json, over: Json) -> Json:
    """Return one layer of a configuration over another: either way of placing the holdout replaces the other way."""
    if isinstance(base, dict) and isinstance(over, dict):
        for key, other in (("val_ratio", "holdout_from"), ("holdout_from", "val_ratio")):
            if over.get(key) is not None:
                base = {**base, other: None}
    return _merge(base, over)


def _merge(base: Json, over: Json) -> Json:
    """Return `base` with the values of `over` in place of those it has; nested mappings are merged too."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _merge(base[key], value) if key in base else value for key, value in over.items()}}


def _flatten(value: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Yield dotted key and value of every value in a nested mapping that is not a mapping itself."""
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _flatten(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part
