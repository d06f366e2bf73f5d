"""Render the index of all versions: one table, with a small curve of each version's gain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from mltrain.errors import InputError
from mltrain.report.page import REPORT_FILE, render
from mltrain.report.svg import draw_sparkline
from mltrain.report.texts import format_number, format_percent
from mltrain.report.version_data import read_holdout
from mltrain.store.listing import group_by_slot, list_models, read_version_card

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.store.listing import ModelRow
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion

# Newest versions that get a curve: each costs reading a table of scores.
MAX_CURVES: Final = 100
# Points of a curve as wide as a word.
_POINTS: Final = 60
_TRENDS: Final = {"accuracy": "Accuracy", "auc_roc": "AUC", "log_loss": "Log loss", "calibration_ece": "ECE"}


def render_index(store: Store, *, folder: Path) -> bytes:
    """Return the HTML page (UTF-8) of all versions by slot, the newest first; its links are relative to `folder`."""
    readable = {row.name: row.version for row in store.versions() if row.version is not None}
    groups = [
        (slot, _draw_trends(slot, rows), _make_cells(rows, readable, folder))
        for slot, rows in group_by_slot(list_models(store))
    ]
    return render("models.html.j2", groups=groups, folder=store.models.name)


def _make_cells(
    rows: tuple[ModelRow, ...], readable: Mapping[str, StoredVersion], folder: Path
) -> list[tuple[ModelRow, str | None, str | None, str, str, str, str]]:
    """Return the cells of a table of versions, the newest first.

    They are the row itself, the link to its report, its curve (SVG), and accuracy, AUC, log loss and ECE as text.
    """
    cells = []
    for age, row in enumerate(reversed(rows)):
        version = readable.get(row.version)
        link = curve = None
        if version is not None and version.manifest.entry(REPORT_FILE) is not None:
            link = quote(os.path.relpath(version.folder / REPORT_FILE, folder).replace(os.sep, "/"))
        if version is not None and age < MAX_CURVES:
            curve = _draw_gain_curve(version)
        figures = (
            format_percent(row.accuracy),
            format_number(row.auc_roc),
            format_number(row.log_loss, 5),
            format_number(row.calibration_ece),
        )
        cells.append((row, link, curve, *figures))
    return cells


def _draw_gain_curve(version: StoredVersion) -> str | None:
    """Return the SVG curve of the nats gained over the base rate in a holdout; None if its rows are lost or damaged."""
    try:
        holdout = read_holdout(version, read_version_card(version))
    except InputError:
        # `list_models` shows what is wrong with a card, and `verify model` what is wrong with a table.
        return None
    if holdout is None:
        return None
    total = np.cumsum(holdout.base_loss - holdout.loss)
    drawn = np.unique(np.linspace(0, total.size - 1, _POINTS).astype(np.int64))
    name, title = f"gain-{version.name.replace('.', '-')}", f"Gain of {version.name} over its holdout, nats"
    return draw_sparkline(name, title, [0.0, *total[drawn].tolist()], zero=True)


def _draw_trends(slot: str | None, rows: tuple[ModelRow, ...]) -> tuple[tuple[str, str, str, str], ...]:
    """Return title, newest value, note and curve (SVG) of each metric over a slot's versions, given oldest first."""
    trends = []
    for name, title in _TRENDS.items():
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            show = format_percent if name == "accuracy" else format_number
            curve = draw_sparkline(f"trend-{slot}-{name.replace('_', '-')}", f"{title} over the versions", values)
            note = f"newest of {len(values)}; {show(min(values))} to {show(max(values))}"
            trends.append((title, show(values[-1]), note if len(values) > 1 else "the only version", curve))
    return tuple(trends)
