"""The check of each answer: may it be given?

An answer is checked when it begins, and again at its end if it took long, because the process may have been stopped in
between. The check costs two `lstat` while nothing changes, and one more where there are no files. The state file
is replaced by a rename, and the log grows with every halt and resume, so a change of either shows. Then both are read
again. A state that needs the sentinel also has its heartbeat looked at, ten times a second at most.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mltrain.errors import InputError, MachineError, RefusedError
from mltrain.killswitch.halts import HALT_FILE, LOG_FILE, HaltState, unreadable
from mltrain.killswitch.heartbeat import boot_clock, find_silence
from mltrain.killswitch.switch import load_halts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Reason codes of answers that are not given.
HALTED: Final = "halted"
REDUCED: Final = "reduced"
HALTED_HINT: Final = "`mltrain halt status` shows more; `mltrain resume --why TEXT` ends it"

#: How an answer may be used: None: without restriction; "reduce": only to reduce positions.
Permit: TypeAlias = Literal["reduce"] | None

# Seconds for which a heartbeat that was read counts.
_HEARTBEAT_S: Final = 0.1
#: Seconds after which an answer is checked again; none takes as long unless the process was stopped.
LONG_S: Final = 0.05
_RUNNING: Final = HaltState()

_Stamp: TypeAlias = tuple[int, int, int, int] | str | None


class HaltGate:
    """Knows whether answers may be given by a models folder; safe for several threads.

    Args:
        models: The models folder; None: nothing can halt.
        clock: Returns seconds by the boot clock.
    """

    def __init__(self, models: Path | None, *, clock: Callable[[], float] = boot_clock) -> None:
        self._models = models
        self._clock = clock
        self._folder = "" if models is None else os.fspath(models)
        # `lstat` of a string is faster than of a path.
        self._paths = None if models is None else (os.fspath(models / HALT_FILE), os.fspath(models / LOG_FILE))
        # The stamps of both files, and what is in force by them; one attribute, so that threads see both or neither.
        self._known: tuple[tuple[_Stamp, _Stamp], HaltState] | None = None
        self._has_seen_files = False
        # When the heartbeat was read, by the boot clock, and why the sentinel counts as silent.
        self._heard: tuple[float, str | None] | None = None

    def state(self) -> HaltState:
        """Return what is in force now; damage and a silent sentinel are halts, too."""
        if self._models is None or self._paths is None:
            return _RUNNING
        state_path, log_path = self._paths
        # Taken before the files are read: if one changes in between, the next use notices.
        stamps = (_stamp(state_path), _stamp(log_path))
        known = self._known
        if known is None or known[0] != stamps:
            try:
                self._known = known = (stamps, self._read(self._models, stamps))
            except MachineError as err:
                # Read again at the next use: the machine has failed, such as for want of descriptors, and not the file.
                return HaltState((unreadable(err.message),))
        state = known[1]
        if stamps == (None, None) and not os.path.isdir(self._folder):  # noqa: PTH112 (half the time)
            return HaltState((unreadable(f"the models folder {self._models} has gone"),))
        return state if state.armed is None else self._check_heartbeat(self._models, state)

    def _read(self, models: Path, stamps: tuple[_Stamp, _Stamp]) -> HaltState:
        """Read the files again; where there were some and both are gone, they are lost, as with a disk that went.

        Raises:
            MachineError: The machine refuses to read them.
        """
        if stamps != (None, None):
            self._has_seen_files = True
        elif self._has_seen_files:
            return HaltState((unreadable(f"{models / HALT_FILE} and {models / LOG_FILE} have gone"),))
        try:
            return load_halts(models)
        except InputError as err:
            return HaltState((unreadable(err.message),))

    def _check_heartbeat(self, models: Path, state: HaltState) -> HaltState:
        """Return a state that needs the sentinel, halted if the sentinel is silent."""
        assert state.armed is not None  # noqa: S101 -- only such a state is passed
        now_s = self._clock()
        heard = self._heard
        if heard is None or not 0 <= now_s - heard[0] < _HEARTBEAT_S:
            self._heard = heard = (now_s, find_silence(models, state.armed.timeout_s, clock=self._clock))
        return state.with_silence(heard[1])

    def begin(self, symbol: str | None, *, allow_reduce: bool) -> float:
        """Check an answer that begins, as `check` does, and return the time for `finish`."""
        self.check(symbol, allow_reduce=allow_reduce)
        return self._clock()

    def finish(self, began_s: float, symbol: str | None, *, allow_reduce: bool) -> None:
        """Check an answer that is about to be given again if it took long; `began_s` is what `begin` returned."""
        if self._clock() - began_s > LONG_S:
            self.check(symbol, allow_reduce=allow_reduce)

    def check(self, symbol: str | None, *, allow_reduce: bool = True) -> Permit:
        """Return how an answer for a symbol may be used; None as the symbol: an answer for any.

        Args:
            symbol: The symbol, or None if it is unknown.
            allow_reduce: Whether the caller heeds the permit "reduce".

        Raises:
            RefusedError: Serving is halted (halted), or restricted and the caller does not heed that (reduced).
        """
        state = self.state()
        if not state.halts:
            return None
        strictest = state.strictest_of(symbol)
        if strictest is None:
            return None
        if strictest.mode == "halt":
            raise RefusedError(strictest.describe(), reason=HALTED, hint=HALTED_HINT)
        if not allow_reduce:
            raise RefusedError(
                strictest.describe(),
                reason=REDUCED,
                hint="predict_candles marks such answers; or load the model with allow_reduce=True and ask "
                "Model.permit",
            )
        return "reduce"


def _stamp(path: str) -> _Stamp:
    """Return a value that changes whenever the file does."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as err:
        return str(err)
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
