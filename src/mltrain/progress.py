"""What the library reports while it works; who shows it is the caller's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what a long run does. The library calls it from the main thread only."""

    def stage(self, name: str, *, total: int | None = None, beside: bool = False) -> None:
        """Begin a new stage of `total` steps (None: unknown); ends those before, unless it runs `beside` them."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Report `steps` more steps of a stage (None: the newest) as done, with a note such as "best 0.68311"."""

    def warn(self, message: str) -> None:
        """Report something that the user should know, although the run goes on."""


class Silent:
    """A Progress that shows nothing and keeps the warnings.

    Attributes:
        warnings: Every message passed to `warn`, in order.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str, *, total: int | None = None, beside: bool = False) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)
