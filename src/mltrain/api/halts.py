"""`halt`, `resume` and the commands of `halt`: the kill switch of a data folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mltrain.api.notify import check_notify, note_event
from mltrain.api.references import version_text
from mltrain.api.workspace import DATA_DIR, check_path, current_user, open_store, read_clock, read_whole
from mltrain.documents.results import Result, to_plain
from mltrain.errors import InputError, MltrainError, UsageError
from mltrain.names import describe, did_you_mean, read_symbols, show

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText
    from mltrain.config.halt_config import HaltConfig
    from mltrain.killswitch.halts import Armed, Halt, HaltLine
    from mltrain.killswitch.switch import HaltResult, ResumeResult
    from mltrain.monitoring.drill import DrillResult

_MOST_ROUNDS: Final = 1_000


@dataclass(frozen=True, slots=True)
class HaltStatus(Result):
    """The result of `halt status`, `halt arm` and `halt disarm`.

    Attributes:
        state: "running", "reduced" (answers only for reducing positions) or "halted", for any symbol.
        halts: Every halt in force, oldest first; damage of the files and a silent sentinel are halts, too.
        armed: Since when serving needs the sentinel; null: it does not.
    """

    SCHEMA: ClassVar[str] = "halt-status/1"

    state: Literal["running", "reduced", "halted"]
    halts: tuple[Halt, ...]
    armed: Armed | None


@dataclass(frozen=True, slots=True)
class HaltHistory(Result):
    """The result of `halt history`.

    Attributes:
        lines: The readable lines of the log, oldest first.
        problems: Damage of the log or the state, one sentence each; empty if there is none.
        notes: Remarks that are no damage.
    """

    SCHEMA: ClassVar[str] = "halt-history/1"

    lines: tuple[HaltLine, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def halt(
    why: str,
    *,
    mode: Literal["halt", "reduce"] = "halt",
    symbols: Iterable[str] | None = None,
    by: str | None = None,
    notify: str | None = None,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> HaltResult:
    """Stop serving at once, in every process that serves from a data folder, until `resume`.

    Args:
        why: The reason, for the log: one line.
        mode: "halt": nothing is answered. "reduce": answers are marked to be used only to reduce positions.
        symbols: The symbols; None: all.
        by: Who asked, for the log; None: user@host.
        notify: Queue an event for this address, https or http to this machine, which `notify`, a sentinel or a cycle
            delivers; None: none.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        The halt; an event that could not be queued, and a wrong address, are warnings in it.

    Raises:
        UsageError: `why` is empty or holds control characters, or no live version knows a symbol.
        InputError: There is no models folder.
        MachineError: The machine refuses, and serving goes on.
    """
    from mltrain.killswitch.switch import halt

    models = _models(data_dir)
    names = () if symbols is None else read_symbols(symbols)
    if names:
        _check_known(models.parent, names)
    moment_ms, asked_by = read_clock(now_ms), by or current_user()
    result = halt(models, why=why, by=asked_by, now_ms=moment_ms, mode=mode, symbols=names)
    warnings = note_event(
        "halt",
        result.halt.describe(),
        notify=notify,
        by=asked_by,
        data_dir=models.parent,
        now_ms=moment_ms,
        details={"halt": to_plain(result.halt)},
    )
    return replace(result, warnings=(*result.warnings, *warnings))


def resume(
    why: str,
    *,
    acknowledge: Iterable[str] = (),
    force: bool = False,
    config: PathText | Mapping[str, Any] | None = None,
    by: str | None = None,
    notify: str | None = None,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> ResumeResult:
    """Serve again: end every halt in force.

    Args:
        why: The reason, for the log: one line.
        acknowledge: The triggers whose halts are to end, such as "calibration"; a halt by a person needs none.
        force: End halts whose condition still holds, too.
        config: Settings of the triggers, by which their conditions are judged, as the sentinel has them: a file or a
            mapping that overrides the packaged `halt.yml`.
        by: Who asked, for the log; None: user@host.
        notify: Queue an event for this address, https or http to this machine, which `notify`, a sentinel or a cycle
            delivers; None: none.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: `why` is empty or holds control characters, or `notify` is no address that is allowed.
        InputError: There is no models folder, the log of halts is damaged, or the configuration is wrong.
        NoGoError: A trigger was not acknowledged; or its condition still holds, or serving is armed and the sentinel is
            silent, and `force` was not given.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; serving is still halted.
    """
    from mltrain.killswitch.switch import resume

    if isinstance(acknowledge, str):
        raise UsageError(f"acknowledge is {describe(acknowledge)}: expected a list", hint='such as ["calibration"]')
    check_notify(notify)
    moment_ms, asked_by, models = read_clock(now_ms), by or current_user(), _models(data_dir)

    def still_holds(halted: Halt) -> str | None:
        if halted.trigger is None:
            return None
        from mltrain.monitoring.sentinel import find_condition

        return find_condition(open_store(data_dir, None), _load_config(config), halted, now_ms=moment_ms)

    result = resume(
        models,
        why=why,
        by=asked_by,
        now_ms=moment_ms,
        acknowledge=tuple(acknowledge),
        force=force,
        still_holds=still_holds,
    )
    if not result.resumed:
        return result
    warnings = note_event(
        "resume",
        f"serving was resumed by {asked_by}: {why}",
        notify=notify,
        by=asked_by,
        data_dir=models.parent,
        now_ms=moment_ms,
        details={"lifted": to_plain(result.lifted), "in_force": to_plain(result.state.halts)},
    )
    return replace(result, warnings=warnings)


def halt_status(*, data_dir: PathText = DATA_DIR) -> HaltStatus:
    """Return whether serving is halted: since when, why, by whom, with which evidence.

    Args:
        data_dir: The data folder.

    Raises:
        InputError: There is no models folder.
    """
    return _status(_models(data_dir))


def halt_history(*, data_dir: PathText = DATA_DIR) -> HaltHistory:
    """Return every halt, resume, arming and disarming, and check the log; damage is among the result's problems.

    Args:
        data_dir: The data folder.

    Raises:
        InputError: There is no models folder, or the log is not a file.
    """
    from mltrain.killswitch.switch import read_history

    log = read_history(_models(data_dir))
    return HaltHistory(log.lines, log.problems, log.notes)


def halt_arm(
    *,
    config: PathText | Mapping[str, Any] | None = None,
    by: str | None = None,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> HaltStatus:
    """Let serving depend on the sentinel: without its heartbeat, or with the state missing, serving is halted.

    Args:
        config: Settings that override those of the packaged `halt.yml`, of which `sentinel.timeout_s` is used: a file,
            or a mapping.
        by: Who asked, for the log; None: user@host.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        InputError: The configuration is wrong, there is no models folder, or the log of halts is damaged.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.killswitch.switch import arm

    timeout_s = _load_config(config).sentinel.timeout_s
    models = _models(data_dir)
    arm(models, timeout_s=timeout_s, by=by or current_user(), now_ms=read_clock(now_ms))
    return _status(models)


def halt_disarm(*, by: str | None = None, data_dir: PathText = DATA_DIR, now_ms: int | None = None) -> HaltStatus:
    """End the dependence on the sentinel that `halt_arm` began.

    Args:
        by: Who asked, for the log; None: user@host.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        InputError: There is no models folder, or the log of halts is damaged.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.killswitch.switch import disarm

    models = _models(data_dir)
    disarm(models, by=by or current_user(), now_ms=read_clock(now_ms))
    return _status(models)


def halt_drill(
    version: VersionRef | None = None,
    *,
    rounds: int = 20,
    by: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    now_ms: int | None = None,
) -> DrillResult:
    """Halt and resume for real on a scratch copy of a version, and measure how long each takes.

    Args:
        version: The version; None: the live one.
        rounds: Number of halts, 1 to 1,000.
        by: Who asked, for the log of the copy; None: user@host.
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: `rounds` is out of range.
        InputError: There is no such version, or it is damaged.
        MachineError: The machine refuses to copy it.
    """
    from mltrain.monitoring.drill import run_drill

    if not 1 <= read_whole(rounds, "rounds") <= _MOST_ROUNDS:
        raise UsageError(f"rounds is {rounds}: expected 1 to {_MOST_ROUNDS:,}")
    found, _ = open_store(data_dir, slot).open_default(None if version is None else version_text(version))
    return run_drill(found, rounds=rounds, by=by or current_user(), now_ms=read_clock(now_ms))


def _load_config(config: PathText | Mapping[str, Any] | None) -> HaltConfig:
    """Return the settings of the triggers: the packaged ones, a caller's over them."""
    from mltrain.config.loading import load_halt_config

    return load_halt_config(config if config is None or isinstance(config, Mapping) else check_path(config, "config"))


def _models(data_dir: PathText) -> Path:
    """Return the models folder of a data folder."""
    models = check_path(data_dir, "data_dir") / "models"
    if not models.is_dir():
        raise InputError(f"there is no models folder {models}", hint="name the data folder with --data-dir")
    return models


def _status(models: Path) -> HaltStatus:
    from mltrain.killswitch.gate import HaltGate

    state = HaltGate(models).state()
    names: dict[str | None, Literal["running", "reduced", "halted"]] = {
        None: "running", "reduce": "reduced", "halt": "halted"
    }  # fmt: skip
    return HaltStatus(names[state.mode], state.halts, state.armed)


def _check_known(data_dir: Path, symbols: Iterable[str]) -> None:
    """Raise UsageError for a symbol that no live version knows; where they cannot be read, every one is accepted."""
    from mltrain.store.listing import list_models
    from mltrain.store.store import Store

    try:
        known = {symbol for row in list_models(Store(data_dir)) if row.best for symbol in row.symbols}
    except MltrainError:
        # A halt must not fail because a version is damaged.
        return
    for symbol in symbols:
        if known and symbol not in known:
            raise UsageError(f"no live version knows the symbol {show(symbol)}", hint=did_you_mean(symbol, known))
