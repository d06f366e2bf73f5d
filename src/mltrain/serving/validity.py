"""What happens after the time that a version's card sets with `valid_until`: a warning, or refusals if it is strict."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from mltrain.errors import RefusedError
from mltrain.serving.rows import EXPIRED, REASONS
from mltrain.times import format_ms

if TYPE_CHECKING:
    from mltrain.serving.loaded_model import LoadedModel


class ExpiredWarning(UserWarning):
    """A version answers after the time until which its card says that it is valid."""


class ValidityCheck:
    """Knows which versions may no longer answer; safe for several threads.

    Args:
        strict: Whether an expired version is refused; otherwise there is one warning about each.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._warned: set[str] = set()

    def is_refused(self, loaded: LoadedModel, now_ms: int | None) -> bool:
        """Return whether a version must not answer at a time, ms UTC; None: no time is known, and nothing expires."""
        until_ms = loaded.valid_until_ms
        if until_ms is None or now_ms is None or now_ms < until_ms:
            return False
        if not self._strict and loaded.version not in self._warned:
            self._warned.add(loaded.version)
            warnings.warn(
                f"{loaded.version} was valid until {format_ms(until_ms)}: train and promote a newer version",
                ExpiredWarning,
                stacklevel=4,
            )
        return self._strict

    def check(self, loaded: LoadedModel, now_ms: int | None) -> None:
        """Raise RefusedError if a version must not answer at a time, as `is_refused` says."""
        if self.is_refused(loaded, now_ms):
            raise RefusedError(f"{loaded.version} does not answer: {REASONS[EXPIRED]}", reason=EXPIRED)
