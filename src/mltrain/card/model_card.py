"""The Model Card v2 with typed accessors: no other module reads the JSON of a card.

A valid card has the sections `train` to `notes`. Other tools may leave out or fill differently everything else:
`Section` reads leniently, so that what is missing, or has another type, is None or empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mltrain.documents.values import SHA256
from mltrain.errors import InputError, UsageError
from mltrain.sources.markets import SPOT
from mltrain.times import parse_time

if TYPE_CHECKING:
    from mltrain.documents.values import Json


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of a card, with accessors that take a path of keys and list indices: `number("blocks", 0, "rows")`.

    Attributes:
        document: The mapping as JSON.
    """

    document: dict[str, Json]

    def value(self, *path: str | int) -> Json:
        """Return the value at a path of keys and list indices, of any type; None if there is none."""
        value: Json = self.document
        for step in path:
            if isinstance(step, str):
                value = value.get(step) if isinstance(value, dict) else None
            else:
                value = value[step] if isinstance(value, list) and step < len(value) else None
        return value

    def number(self, *path: str | int) -> float | None:
        """Return the finite number at a path; None if there is none.

        >>> Section({"a": [1]}).number("a", 0), Section({"a": True}).number("a"), Section({}).number("a", "b")
        (1.0, None, None)
        """
        value = self.value(*path)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None

    def interval(self, *path: str | int) -> tuple[float, float] | None:
        """Return the numbers `low` and `high` of the mapping at a path; None if either is missing."""
        low, high = self.number(*path, "low"), self.number(*path, "high")
        return None if low is None or high is None else (low, high)

    def text(self, *path: str | int) -> str | None:
        """Return the text at a path; None if there is none."""
        value = self.value(*path)
        return value if isinstance(value, str) else None

    def flag(self, *path: str | int) -> bool | None:
        """Return the boolean at a path; None if there is none."""
        value = self.value(*path)
        return value if isinstance(value, bool) else None

    def time_ms(self, *path: str | int) -> int | None:
        """Return the time (ISO 8601) at a path, ms UTC; None if there is none."""
        text = self.text(*path)
        try:
            return None if text is None else parse_time(text)
        except UsageError:
            return None

    def texts(self, *path: str | int) -> list[str]:
        """Return the texts of the list at a path; empty if there is no list."""
        value = self.value(*path)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def entries(self, *path: str | int) -> dict[str, Json]:
        """Return the mapping at a path, its values as JSON; empty if there is none."""
        value = self.value(*path)
        return value if isinstance(value, dict) else {}

    def section(self, *path: str | int) -> Section:
        """Return the mapping at a path with these accessors; empty if there is none."""
        return Section(self.entries(*path))

    def named_sections(self, *path: str | int) -> dict[str, Section]:
        """Return the mappings in the mapping at a path, by key; empty if there is none."""
        return {name: self.section(*path, name) for name in self.entries(*path)}

    def sections(self, *path: str | int) -> list[Section]:
        """Return the mappings of the list at a path; empty if there is no list."""
        value = self.value(*path)
        return [Section(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@dataclass(frozen=True, slots=True)
class ModelCard(Section):
    """A valid model card (`mltrain.card.validation.read_card` returns one)."""

    def __repr__(self) -> str:
        """Return one line, which a cell of a notebook can end with; `document` has everything."""
        return f"<mltrain.ModelCard of {', '.join(self.symbols)}, snapshot {self.snapshot_id}>"

    @classmethod
    def from_json(cls, document: Json) -> ModelCard:
        """Return the card that a document holds, unchecked; empty if the document is not a mapping."""
        return cls(document if isinstance(document, dict) else {})

    @property
    def snapshot_id(self) -> str:
        """The id of the snapshot that the version was trained on; empty if the card lacks it."""
        return self.text("train", "snapshot_id") or ""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that the version was trained on, in training order."""
        return tuple(self.texts("train", "symbols"))

    @property
    def market(self) -> str:
        """The market whose candles the version was trained on, "spot" or "usdm"; empty if that is not known.

        Cards of earlier versions do not name it: all their candles from the exchange are of the spot market.
        """
        if self.text("lineage", "source", "name") in {None, "files"}:
            return ""
        return self.text("lineage", "source", "market") or SPOT

    @property
    def train_up_share(self) -> float:
        """The share of the training rows before the holdout that went up, in [0, 1]."""
        return (self.number("train", "class_balance", "pos") or 0) / (self.number("train", "rows") or 1)

    @property
    def fitted_on(self) -> Literal["inner", "all"]:
        """The rows that the version was fitted on: those before the holdout ("inner"), or all."""
        return "all" if self.text("splits", "fitted_on") == "all" else "inner"

    @property
    def configuration_sha256(self) -> str | None:
        """The hash of all that the scores depend on, except the candles; None if the card lacks it."""
        sha256 = self.text("lineage", "configuration_sha256")
        return sha256 if sha256 is not None and SHA256.fullmatch(sha256) else None

    @property
    def valid_until_ms(self) -> int | None:
        """The time from which the version should no longer be served, ms UTC; None: there is no limit."""
        return self.time_ms("valid_until")

    def block(self, name: str) -> Section | None:
        """Return a block of the time split by its name, such as "holdout"; None if the card lacks it."""
        return next((block for block in self.sections("splits", "blocks") if block.text("name") == name), None)

    def last_label_end_ms(self) -> int:
        """Return the end of the last label that the version was fitted on, ms UTC.

        For a version that was fitted on every row, that is the end of the last label of the holdout.

        Raises:
            InputError: The card lacks it, as one of another tool may.
        """
        block = self.block("inner" if self.fitted_on == "inner" else "holdout")
        end_ms = None if block is None else block.time_ms("last_label_end")
        if end_ms is None:
            raise InputError("the card does not say which labels the version was trained on")
        return end_ms
