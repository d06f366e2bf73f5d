"""The index of all versions: one table, with curves small enough to stand in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from mltrain.errors import InputError
from mltrain.report.facts import figure_text, percent_text
from mltrain.report.material import read_holdout
from mltrain.report.page import REPORT_FILE, render
from mltrain.report.svg import sparkline
from mltrain.store.listing import list_models, read_version_card

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.store.listing import ModelRow
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion

MAX_CURVES: Final = 100  # of the newest versions: each costs a look at its holdout's rows
_POINTS: Final = 60  # of a curve as wide as a word
_TRENDS: Final = {"accuracy": "Accuracy", "auc_roc": "AUC", "log_loss": "Log loss", "calibration_ece": "ECE"}


def render_index(store: Store, *, beside: Path) -> bytes:
    """Return the page of all versions, the newest first.

    Args:
        store: The store.
        beside: The folder that the page will lie in: its links are relative to it.

    Raises:
        InputError: The pointer or the log of promotions is not one.
        MachineError: The machine refuses to read.
    """
    rows = list_models(store)
    sound = {row.name: row.version for row in store.versions() if row.version is not None}
    newest = {row.version for row in rows[::-1][:MAX_CURVES]}
    cells = []
    for row in rows[::-1]:
        version = sound.get(row.version)
        curve = None if version is None or row.version not in newest else _curve(version)
        cells.append((row, _link(version, beside), curve, *_figures(row)))
    return render("models.html.j2", rows=cells, trends=_trends(rows), folder=store.models.name)


def _figures(row: ModelRow) -> tuple[str, str, str, str]:
    return (
        percent_text(row.accuracy),
        figure_text(row.auc_roc),
        figure_text(row.log_loss, 5),
        figure_text(row.calibration_ece),
    )


def _link(version: StoredVersion | None, beside: Path) -> str | None:
    if version is None or version.manifest.entry(REPORT_FILE) is None:
        return None
    return quote(os.path.relpath(version.folder / REPORT_FILE, beside).replace(os.sep, "/"))


def _curve(version: StoredVersion) -> str | None:
    """Draw what the version gained over its holdout; None where it does not keep the rows, or not whole."""
    try:
        rows = read_holdout(version, read_version_card(version).document)
    except InputError:
        return None  # `list_models` tells what is wrong with a card, and `verify model` with a table
    if rows is None:
        return None
    total = np.cumsum(rows.base - rows.loss)
    at = np.unique(np.linspace(0, total.size - 1, _POINTS).astype(np.int64))
    name = f"gain-{version.name.replace('.', '-')}"
    return sparkline(name, f"Gain of {version.name} over its holdout, nats", [0.0, *total[at].tolist()], zero=True)


def _trends(rows: tuple[ModelRow, ...]) -> tuple[tuple[str, str, str, str], ...]:
    """Return title, newest figure, note and curve of each metric over the versions, oldest to newest."""
    found = []
    for name, title in _TRENDS.items():
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            told = percent_text(values[-1]) if name == "accuracy" else figure_text(values[-1])
            curve = sparkline(f"trend-{name.replace('_', '-')}", f"{title} over the versions", values)
            among = f"newest of {len(values)}; {min(values):.4f} to {max(values):.4f}"
            found.append((title, told, among if len(values) > 1 else "the only version", curve))
    return tuple(found)
