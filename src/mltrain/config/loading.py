"""Load the training configuration: the packaged train.yml, the user's file over it, options over both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mltrain.config.train_config import TrainConfig
from mltrain.documents.records import read_record
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import Located
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.storage.descriptors import real_path
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mltrain.documents.values import Json

MAX_FILE_BYTES: Final = 1 << 20

# No longer used, but still in users' files and in the cards of stored versions.
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
    """Return the path of a configuration that is packaged with mltrain.

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
    """Load the configuration: the packaged defaults, the user's file over them, options over both.

    Args:
        path: The user's file; None: the defaults alone.
        overrides: Values by dotted key, such as {"search.trials": 50}; a mapping is overridden key by key too.

    Raises:
        InputError: A file is unreadable, has an unknown key, a missing value or one out of its range; the message
            names every violation with its line.
        UsageError: An override is wrong in such a way.
    """
    return _load(None if path is None else _read_user_file(path), overrides)


def explain_config(path: Path | None, *, overrides: Mapping[str, Json]) -> tuple[Setting, ...]:
    """Return every setting that `load_config` would give, each with its origin.

    Args:
        path: The user's file; None: the defaults alone.
        overrides: Values by dotted key, as options give them.

    Returns:
        In the order of train.yml; the keys are those of single values.

    Raises:
        InputError: As `load_config`.
        UsageError: As `load_config`.
    """
    user = None if path is None else _read_user_file(path)
    lines = {} if user is None else user.lines

    def explain(key: str, value: Json) -> Setting:
        place = tuple(key.split("."))
        if key in overrides:
            return Setting(key, value, "option", None)
        if place in lines:
            return Setting(key, value, "file", f"{path}, line {lines[place]}")
        return Setting(key, value, "default", None)

    return tuple(explain(key, value) for key, value in _leaves(_load(user, overrides).to_json()))


def comment_config() -> str:
    """Return the packaged train.yml with every setting commented out, as a start for a user's file."""
    text = packaged_config("train.yml").read_text("utf-8")
    return "".join(
        line if line.startswith("#") or not line.strip() else f"# {line}" for line in text.splitlines(keepends=True)
    )


def _load(user: Located | None, overrides: Mapping[str, Json]) -> TrainConfig:
    defaults = _read_yaml(packaged_config("train.yml"))
    merged = defaults if user is None else replace(user, value=_merge(defaults.value, _without_retired(user.value)))
    config = read_record(merged, TrainConfig)
    if not overrides:
        return config
    value = merged.value
    for dotted, override in overrides.items():
        nested = override
        for key in reversed(dotted.split(".")):
            nested = {key: nested}
        value = _merge(value, _without_retired(nested))
    try:
        return read_record(Located(value, "options"), TrainConfig)
    except InputError as err:
        raise UsageError(err.message, hint=err.hint) from err


def _read_yaml(path: Path) -> Located:
    return parse_yaml(read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="configuration"), where=str(path))


def _read_user_file(path: Path) -> Located:
    """Return a user's file; comments alone change nothing, while an empty file is refused as no configuration."""
    data = read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="configuration")
    user = parse_yaml(data, where=str(path))
    commented = data.strip() and all(line.lstrip().startswith(b"#") for line in data.splitlines() if line.strip())
    return replace(user, value={}) if commented else user


def _without_retired(value: Json) -> Json:
    section, retired = _RETIRED
    if not isinstance(value, dict) or not isinstance(part := value.get(section), dict):
        return value
    return {**value, section: {key: item for key, item in part.items() if key != retired}}


def _merge(base: Json, over: Json) -> Json:
    """Return `base` with the values of `over`, mapping by mapping."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _merge(base[key], value) if key in base else value for key, value in over.items()}}


def _leaves(value: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _leaves(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part
