"""The protocol by which the library reports progress; the caller decides how to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a long run, on the main thread only."""

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Begin the stage `name` of `total` steps (None: unknown); earlier stages end unless it is `concurrent`."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Report that `stage` (None: the newest) has done `steps` more steps; `note` is such as "best 0.68311"."""

    def warn(self, message: str) -> None:
        """Show a message that the user should read although the run continues."""


class Silent:
    """A Progress that shows nothing and keeps the warnings.

    Attributes:
        warnings: Every message passed to `warn`, in order.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)
