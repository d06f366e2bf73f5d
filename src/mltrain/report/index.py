"""Render the index of all versions: one table, with a small curve of each version's gain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from mltrain.errors import InputError
from mltrain.report.page import REPORT_FILE, render
from mltrain.report.svg import sparkline
from mltrain.report.texts import figure_text, percent_text
from mltrain.report.version_data import read_holdout
from mltrain.store.listing import list_models, read_version_card

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.store.listing import ModelRow
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion

# Newest versions with a curve, which costs reading a table of scores each.
MAX_CURVES: Final = 100
# Points of a curve as wide as a word.
_POINTS: Final = 60
_TRENDS: Final = {"accuracy": "Accuracy", "auc_roc": "AUC", "log_loss": "Log loss", "calibration_ece": "ECE"}


def render_index(store: Store, *, folder: Path) -> bytes:
    """Return the page of all versions, the newest first.

    Args:
        store: The store.
        folder: The folder of the page; links are relative to it.

    Raises:
        InputError: The pointer or the log of promotions is damaged.
    """
    rows = list_models(store)
    readable = {row.name: row.version for row in store.versions() if row.version is not None}
    cells = []
    for age, row in enumerate(reversed(rows)):
        version = readable.get(row.version)
        link = curve = None
        if version is not None and version.manifest.entry(REPORT_FILE) is not None:
            link = quote(os.path.relpath(version.folder / REPORT_FILE, folder).replace(os.sep, "/"))
        if version is not None and age < MAX_CURVES:
            curve = _gain_curve(version)
        figures = (
            percent_text(row.accuracy),
            figure_text(row.auc_roc),
            figure_text(row.log_loss, 5),
            figure_text(row.calibration_ece),
        )
        cells.append((row, link, curve, *figures))
    return render("models.html.j2", rows=cells, trends=_trends(rows), folder=store.models.name)


def _gain_curve(version: StoredVersion) -> str | None:
    """Draw the log loss gained over the holdout; None if the version does not keep its rows, or they are damaged."""
    try:
        rows = read_holdout(version, read_version_card(version))
    except InputError:
        # `list_models` shows what is wrong with a card, and `verify model` what is wrong with a table.
        return None
    if rows is None:
        return None
    total = np.cumsum(rows.base - rows.loss)
    at = np.unique(np.linspace(0, total.size - 1, _POINTS).astype(np.int64))
    name = f"gain-{version.name.replace('.', '-')}"
    return sparkline(name, f"Gain of {version.name} over its holdout, nats", [0.0, *total[at].tolist()], zero=True)


def _trends(rows: tuple[ModelRow, ...]) -> tuple[tuple[str, str, str, str], ...]:
    """Return title, newest value, note and curve of each metric over the versions, oldest to newest."""
    found = []
    for name, title in _TRENDS.items():
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            newest = percent_text(values[-1]) if name == "accuracy" else figure_text(values[-1])
            curve = sparkline(f"trend-{name.replace('_', '-')}", f"{title} over the versions", values)
            note = f"newest of {len(values)}; {min(values):.4f} to {max(values):.4f}"
            found.append((title, newest, note if len(values) > 1 else "the only version", curve))
    return tuple(found)
