"""A calibrator in the files of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mltrain.documents.records import record
from mltrain.training.calibration import Calibrator, Knots, Method


@record
@dataclass(frozen=True, slots=True)
class CalibratorDocument:
    """A calibrator: its method, and its knots as two lists, empty without knots; the order is part of the format."""

    method: Method
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    @classmethod
    def of(cls, calibrator: Calibrator) -> Self:
        """Return the document of a calibrator."""
        knots = calibrator.knots
        return cls(
            method=calibrator.method,
            scores=() if knots is None else knots.scores,
            probabilities=() if knots is None else knots.probabilities,
        )

    def to_calibrator(self) -> Calibrator:
        """Return the calibrator; raise InputError if its knots are no map of probabilities."""
        has_knots = self.scores or self.probabilities
        return Calibrator(self.method, Knots(self.scores, self.probabilities) if has_knots else None)
