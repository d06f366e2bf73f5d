"""The exception tree: one class per party at fault, each with its exit code.

    MltrainError                 never raised itself
      UsageError        2        the command line, or a name outside its grammar
      InputError        3        data, config, card or model: unreadable, corrupt, unknown
        RefusedError    3        a window of candles that must not be scored; carries a reason code
        OwnOpsError     3        a model needs user ops that are not in use, or have changed
      NoGoError         4        a gate failed, the probability has another meaning, or a halt must not be ended yet
      LeakageError      5        a leakage guard failed
      SourceError       6        the exchange or the network
      LockedError       7        another mltrain holds the lock
      MachineError      8        disk full, permission, memory, a missing system library

Every message says what is wrong and where (file, field, line); `hint` says what to do. Foreign exceptions are
translated at the edge with `raise ... from err`. Our own misuse is ValueError or RuntimeError: a bug, exit 1.
"""

from __future__ import annotations

from typing import ClassVar


class MltrainError(Exception):
    """Base of all errors that a user can cause or fix.

    Attributes:
        message: What is wrong and where.
        hint: What to do about it; None if the message says enough.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MltrainError):
    """The command line is wrong, or a name is outside its grammar."""

    exit_code: ClassVar[int] = 2


class InputError(MltrainError):
    """Data, configuration, card or model is missing, unreadable, corrupt or unusable."""

    exit_code: ClassVar[int] = 3


class RefusedError(InputError):
    """A row or window of candles that must not be scored.

    Attributes:
        reason: A short code, such as "stale", "hole", "too-few-bars", "unknown-symbol", "not-finite".
    """

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class OwnOpsError(InputError):
    """A model was trained with user ops that are not in use, or whose source has changed."""


class NoGoError(MltrainError):
    """A version is NO-GO, no drop-in replacement or worse than required; or serving is halted and must stay so."""

    exit_code: ClassVar[int] = 4


class LeakageError(MltrainError):
    """A leakage guard failed: the future, another symbol or another block reached a feature."""

    exit_code: ClassVar[int] = 5


class SourceError(MltrainError):
    """The exchange or the network failed."""

    exit_code: ClassVar[int] = 6


class LockedError(MltrainError):
    """Another mltrain holds the lock."""

    exit_code: ClassVar[int] = 7


class MachineError(MltrainError):
    """The machine refused: disk full, permission, memory, a missing system library."""

    exit_code: ClassVar[int] = 8
