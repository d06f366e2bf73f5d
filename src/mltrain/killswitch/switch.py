"""Halt, resume, arm and disarm: the only writers of the state and of the log.

A halt takes no lock, because nothing may keep it from taking effect, and works even where the log is damaged or the
disk is full. It appends to the log, and then replaces the state; of two at once, the log has both, and a reader takes
the stricter of log and state. The others hold the lock of the models folder while they write.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.documents.results import Result
from mltrain.errors import InputError, MachineError, MltrainError, NoGoError, UsageError
from mltrain.killswitch.halts import (
    HALT_FILE,
    LOG_FILE,
    MAX_STATE_BYTES,
    Armed,
    HaltLine,
    HaltLog,
    HaltState,
    StateDocument,
    combine,
    encode_line,
    find_unreadable,
    read_log,
    unreadable,
)
from mltrain.killswitch.heartbeat import find_silence
from mltrain.names import check_symbol, describe
from mltrain.storage.descriptors import opened_for_update
from mltrain.storage.disk_errors import as_machine_error, disk_errors
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import FOLDER_WAIT_S, lock_folder
from mltrain.storage.reading import read_file
from mltrain.storage.temps import discard, new_temp_path
from mltrain.storage.writing import write_new, write_without_lock
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from mltrain.documents.values import Json
    from mltrain.killswitch.halts import (
        Halt,
        Mode,
    )

# About forty thousand lines.
MAX_LOG_BYTES: Final = 1 << 24
# A line holds a reason; longer ones belong into a ticket.
_MAX_WHY: Final = 1_000
_MAX_BY: Final = 300
_MODES: Final = ("halt", "reduce")


@dataclass(frozen=True, slots=True)
class HaltResult(Result):
    """The result of `halt`.

    Attributes:
        halt: The halt that is in force now.
        state: Everything that is in force now.
        warnings: What did not work although serving is halted, one sentence each.
    """

    SCHEMA: ClassVar[str] = "halt/1"

    halt: Halt
    state: HaltState
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResumeResult(Result):
    """The result of `resume`.

    Attributes:
        resumed: False if serving was running, and nothing was written.
        lifted: The halts that were ended.
        state: What is in force now.
        warnings: What did not work although serving was resumed, one sentence each.
    """

    SCHEMA: ClassVar[str] = "resume/1"

    resumed: bool
    lifted: tuple[Halt, ...]
    state: HaltState
    warnings: tuple[str, ...] = ()


def read_halts(models: Path) -> HaltState:
    """Return what is in force by the two files of a models folder.

    A file that cannot be read counts as a halt: this never raises for a damaged one.
    """
    try:
        return load_halts(models)
    except MltrainError as err:
        return HaltState((unreadable(err.message),))


def load_halts(models: Path) -> HaltState:
    """Return what is in force, as `read_halts` does, unless the files cannot be read at all.

    Raises:
        InputError: One of them is no file, or is too large.
        MachineError: The machine refuses to read one.
    """
    return _read_files(models)[0]


def read_history(models: Path) -> HaltLog:
    """Return the lines of the log, checked, also against the state.

    Raises:
        InputError: The log is not a file.
        MachineError: The machine refuses to read it.
    """
    log = _read_log_bytes(models)
    found = read_log(log, where=str(models / LOG_FILE))
    try:
        state = _read(models / HALT_FILE, MAX_STATE_BYTES)
        document = None if state is None else StateDocument.from_bytes(state, where=str(models / HALT_FILE))
    except MltrainError as err:
        return HaltLog(found.lines, (*found.problems, err.message), found.notes)
    if document is None:
        problems = (f"{models / HALT_FILE} is missing",) if log else ()
    else:
        changed = f"{models / LOG_FILE}: was changed or cut off after {HALT_FILE} was written"
        problems = () if document.is_prefix_of(log) else (changed,)
    return HaltLog(found.lines, (*found.problems, *problems), found.notes)


def halt(
    models: Path,
    *,
    why: str,
    by: str,
    now_ms: int,
    mode: Mode = "halt",
    symbols: Iterable[str] = (),
    trigger: str | None = None,
    evidence: Mapping[str, Json] | None = None,
) -> HaltResult:
    """Stop serving, or restrict it to reducing positions, in every process that serves from a models folder.

    Args:
        models: The models folder.
        why: The reason, for the log.
        by: Who asked, for the log.
        now_ms: Time, ms UTC.
        mode: "halt": nothing is answered. "reduce": answers are marked to be used only to reduce positions.
        symbols: The symbols; empty: all.
        trigger: The trigger that asks; None: a person does.
        evidence: What the trigger saw; left out, with a warning, if the log could not hold it.

    Raises:
        UsageError: `why` is empty or holds control characters, or an argument is none of these.
        InputError: There is no models folder.
        MachineError: The machine refuses, and serving goes on.
    """
    _check_why(why)
    if mode not in _MODES:
        raise UsageError(f"mode is {describe(mode)}: expected halt or reduce")
    names = tuple(sorted({check_symbol(symbol) for symbol in symbols}))
    _check_folder(models)
    warnings: list[str] = []
    line = HaltLine(
        action="halt",
        when=format_seconds(now_ms),
        why=why,
        by=_clean_name(by),
        mode=mode,
        symbols=names,
        trigger=trigger,
        evidence=dict(evidence or {}),
    )
    if evidence and (problem := find_unreadable(line)) is not None:
        # The halt counts without it, too.
        line = replace(line, evidence={})
        warnings.append(f"the evidence was left out: {problem}")
    if find_unreadable(line) is not None:
        raise UsageError(f"a line of the log cannot hold {len(names)} symbols", hint="leave them out to halt all")
    wanted = line.as_halt()
    is_written = False
    _create_state(models)
    try:
        _append(models, line)
        is_written = True
    except MltrainError as err:
        warnings.append(f"the log has no line of this halt: {err.message}")
    try:
        state, log = _read_files(models)
    except MltrainError as err:
        state, log = HaltState((unreadable(err.message),)), b""
    if not any(_is_same(each, wanted) for each in state.halts):
        state = HaltState((*state.halts, wanted), state.armed)
    try:
        _write_state(models, state, log)
        is_written = True
    except MltrainError as err:
        warnings.append(_stop_without_space(models, err))
    # A MachineError says nothing: the processes that serve may well be able to read the files.
    with suppress(MachineError):
        try:
            state = load_halts(models)
        except InputError as err:
            # So it is for every other process.
            state = HaltState((unreadable(err.message),))
        is_written = _is_in_force(wanted, state)
    if not is_written:
        problem = warnings[-1] if warnings else f"{models / HALT_FILE} was changed at the same time"
        raise MachineError(
            f"serving is not halted: {problem}",
            hint="stop the processes that serve",
        )
    in_force = next((each for each in state.halts if _is_same(each, wanted)), wanted)
    return HaltResult(in_force, state, tuple(warnings))


def resume(
    models: Path,
    *,
    why: str,
    by: str,
    now_ms: int,
    acknowledge: Collection[str] = (),
    force: bool = False,
    still_holds: Callable[[Halt], str | None] = lambda _: None,
) -> ResumeResult:
    """End every halt in force.

    Args:
        models: The models folder.
        why: The reason, for the log.
        by: Who asked, for the log.
        now_ms: Time, ms UTC.
        acknowledge: The triggers whose halts are to end; those of persons need none.
        force: Whether to end halts whose condition still holds.
        still_holds: Returns what still holds of the condition of a halt, for the message; None: nothing.

    Raises:
        UsageError: `why` is empty or holds control characters.
        InputError: There is no models folder, or the log is damaged.
        NoGoError: A trigger was not acknowledged; or its condition still holds, or serving is armed and the sentinel is
            silent, and `force` was not given.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; `read_halts` shows what is in force.
    """
    _check_why(why)
    _check_folder(models)
    with lock_folder(models, purpose="resume serving", wait_s=FOLDER_WAIT_S):
        state = read_halts(models)
        silence = None if state.armed is None else find_silence(models, state.armed.timeout_s)
        if silence is not None and not force:
            raise NoGoError(
                f"serving is armed, and the sentinel is silent: {silence}",
                hint="start `mltrain sentinel`, or `mltrain halt disarm`",
            )
        if state.is_running:
            return ResumeResult(resumed=False, lifted=(), state=state.with_silence(silence))
        _refuse_damaged_log(models)
        # The newest reason by trigger.
        unknown = {h.trigger: h.why for h in state.halts if h.trigger is not None and h.trigger not in acknowledge}
        if unknown:
            names = list(unknown)
            raise NoGoError(
                f"serving was halted by {' and '.join(names)}: {unknown[names[-1]]}",
                hint=f"once that is understood, add {' '.join(f'--acknowledge {name}' for name in names)}",
            )
        if not force:
            for each in state.halts:
                if (reason := still_holds(each)) is not None:
                    raise NoGoError(
                        f"the condition of halt {each.serial} ({each.trigger}) still holds: {reason}",
                        hint="resolve it first, or add --force",
                    )
        line = HaltLine(
            action="resume",
            when=format_seconds(now_ms),
            why=why,
            by=_clean_name(by),
            lifted=tuple(each.serial for each in state.halts),
            forced=force,
        )
        _append(models, line)
        # A halt that came in between is not one of those that were looked at, and stays.
        now, log = _read_files(models)
        ended = {_identify(each) for each in state.halts}
        left = HaltState(tuple(each for each in now.halts if _identify(each) not in ended), now.armed)
        _write_state(models, left, log)
    return ResumeResult(resumed=True, lifted=state.halts, state=read_halts(models).with_silence(silence))


def arm(models: Path, *, timeout_s: float, by: str, now_ms: int) -> HaltState:
    """Let serving depend on the sentinel: without its heartbeat, or with the state missing, serving is halted.

    Args:
        models: The models folder.
        timeout_s: Seconds without a heartbeat after which serving is halted.
        by: Who asked, for the log.
        now_ms: Time, ms UTC.

    Returns:
        What is in force now.

    Raises:
        InputError: There is no models folder, or the log is damaged.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses.
    """
    armed = Armed(format_seconds(now_ms), _clean_name(by), timeout_s)
    return _change_arming(models, armed, by=by, now_ms=now_ms)


def disarm(models: Path, *, by: str, now_ms: int) -> HaltState:
    """End the dependence on the sentinel that `arm` began; arguments, result and errors as there."""
    return _change_arming(models, None, by=by, now_ms=now_ms)


def _change_arming(models: Path, armed: Armed | None, *, by: str, now_ms: int) -> HaltState:
    _check_folder(models)
    with lock_folder(models, purpose="arm the kill switch", wait_s=FOLDER_WAIT_S):
        _refuse_damaged_log(models)
        _create_state(models)
        line = HaltLine(
            action="disarm" if armed is None else "arm",
            when=format_seconds(now_ms),
            why="",
            by=_clean_name(by),
            timeout_s=None if armed is None else armed.timeout_s,
        )
        _append(models, line)
        now, log = _read_files(models)
        _write_state(models, HaltState(now.halts, armed), log)
    return read_halts(models)


def _is_same(one: Halt, other: Halt) -> bool:
    """Return whether two halts are the same one, whether its line has a number yet or not."""
    return _identify(one)[1:] == _identify(other)[1:]


def _identify(halt: Halt) -> tuple[object, ...]:
    """Return the identity of a halt, its number first."""
    return halt.serial, halt.mode, halt.symbols, halt.when, halt.why, halt.by, halt.trigger


def _is_in_force(wanted: Halt, state: HaltState) -> bool:
    """Return whether a state forbids all that a halt does; it may be other halts that do."""
    as_strict = [each for each in state.halts if each.mode in {"halt", wanted.mode}]
    if any(not each.symbols for each in as_strict):
        return True
    halted = {symbol for each in as_strict for symbol in each.symbols}
    return bool(wanted.symbols) and halted.issuperset(wanted.symbols)


def _clean_name(by: str) -> str:
    """Return the name of who asks as the log can hold it: a halt must not fail because of an odd name."""
    return "".join(c if c.isprintable() else "?" for c in by)[:_MAX_BY]


def _check_why(why: str) -> None:
    """Raise unless a reason can be shown on one line."""
    if not isinstance(why, str) or not why.strip():
        raise UsageError("the reason is empty", hint="say why with --why TEXT")
    if not why.isprintable():
        raise UsageError("the reason holds control characters", hint="write it on one line")
    if len(why) > _MAX_WHY:
        raise UsageError(f"the reason has {len(why)} characters: at most {_MAX_WHY}")


def _check_folder(models: Path) -> None:
    if not models.is_dir():
        raise InputError(f"there is no models folder {models}", hint="name the data folder with --data-dir")


def _refuse_damaged_log(models: Path) -> None:
    """Raise InputError if the log is damaged: what it held may still be in force."""
    log = read_log(_read_log_bytes(models), where=str(models / LOG_FILE))
    if log.problems:
        raise InputError(
            f"the log of halts is damaged: {log.problems[0]}",
            hint=f"`mltrain halt history` shows what is left; then move {LOG_FILE} and {HALT_FILE} to another place",
        )


def _read(path: Path, max_bytes: int) -> bytes | None:
    """Return the bytes of a file; None: there is none."""
    try:
        path.lstat()
        return read_file(path, max_bytes=max_bytes, what="the file")
    except FileNotFoundError:
        return None
    except OSError as err:
        raise as_machine_error(err, path, "read") from err


def _read_log_bytes(models: Path) -> bytes:
    return _read(models / LOG_FILE, MAX_LOG_BYTES) or b""


def _read_files(models: Path) -> tuple[HaltState, bytes]:
    """Return what is in force, and the bytes of the log; errors as in `read_file`."""
    # The state first: the log then has every line that its writer saw.
    state = _read(models / HALT_FILE, MAX_STATE_BYTES)
    log = _read_log_bytes(models)
    return combine(state, log, state_name=str(models / HALT_FILE), log_name=str(models / LOG_FILE)), log


def _create_state(models: Path) -> None:
    """Create the state of a folder that was never halted: one that is missing besides a log is a lost one."""
    path, log = models / HALT_FILE, models / LOG_FILE
    if os.path.lexists(path) or os.path.lexists(log):
        return
    temp = new_temp_path(path)
    # Where it fails, as on a full disk, the halt that follows takes effect all the same.
    with suppress(MachineError, OSError):
        write_new(temp, StateDocument.of(HaltState(), b"").to_bytes())
        # Unlike a rename, never replaces the state of another halt.
        path.hardlink_to(temp)
    discard(temp)


def _append(models: Path, line: HaltLine) -> None:
    """Append a line to the log and flush it; what others append at the same time is left as it is."""
    path = models / LOG_FILE
    with opened_for_update(path, os.O_APPEND) as fd, disk_errors(path, "append to"):
        size = os.fstat(fd).st_size
        if size > MAX_LOG_BYTES:
            raise InputError(f"the log {path} is too large: {size} bytes, at most {MAX_LOG_BYTES}")
        log = os.pread(fd, size, 0)
        line = replace(line, seen_bytes=len(log), seen_sha256=sha256_bytes(log))
        # The end of a line that a crash has torn stays, because another writer may be at work behind it.
        data = ("" if log.endswith(b"\n") or not log else "\n") + encode_line(line) + "\n"
        # One write, which no other one interrupts.
        written = os.write(fd, data.encode())
        os.fsync(fd)
    if written < len(data.encode()):
        raise MachineError(f"cannot append to {path}: the disk is full")


def _write_state(models: Path, state: HaltState, log: bytes) -> None:
    # Damage is written as well: the file that shows it is replaced, and only a resume may end what it halts. A line
    # that is still being written is left to the readers: the state must not cover a part of it.
    whole = log[: log.rfind(b"\n") + 1]
    write_without_lock(models / HALT_FILE, StateDocument.of(state, whole).to_bytes())


def _stop_without_space(models: Path, err: MltrainError) -> str:
    """Halt where the state cannot be written, such as on a full disk, by a state that cannot be read; return a note."""
    path = models / HALT_FILE
    try:
        # Needs no space, and an empty state is unreadable: serving halts.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    except OSError:
        return f"the state could not be written: {err.message}"
    return f"the state could not be written, so {path} was emptied, which halts everything: {err.message}"
