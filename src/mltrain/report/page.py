"""Assemble the pages: one HTML file each, without scripts or network access, from a version's files alone.

The template engine escapes everything that comes from outside, except the pictures, which `svg` has escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mltrain.report import data_plots, model_plots, texts
from mltrain.report.svg import Figure

if TYPE_CHECKING:
    from mltrain.card.model_card import ModelCard
    from mltrain.report.svg import Shown
    from mltrain.report.version_data import Material

REPORT_FILE: Final = "report.html"
# A page of this size can still be mailed; the report of one symbol has a tenth of it.
MAX_REPORT_BYTES: Final = 2_000_000
# Code in sentences of `facts`; the text inside is escaped before.
_CODE: Final = re.compile("`([^`]+)`")
_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Draft:
    """A report whose figures are drawn, before its version has a name.

    Attributes:
        card: The card.
        figures: The figures by section.
    """

    card: ModelCard
    figures: dict[str, tuple[Shown, ...]]

    def finish(self, name: str) -> bytes:
        """Return the page of the version with that name."""
        card = self.card
        return render(
            "report.html.j2",
            name=name,
            card=card.document,
            figures=self.figures,
            verdict=card.text("gates", "verdict"),
            summary_line=texts.summary_line(card),
            verdict_line=texts.verdict_line(card),
            tiles=texts.tiles(card),
            gates=texts.gates(card),
            symbols=texts.symbol_results(card),
            economics=texts.economics_line(card),
            metrics=texts.metrics(card),
            interval_line=texts.interval_line(card),
            candle_counts=texts.candle_counts(card),
            blocks=texts.blocks(card),
            search_line=texts.search_line(card),
            calibration_line=texts.calibration_line(card),
            hyperparameters=texts.hyperparameters(card),
            guards=texts.guards(card),
            limits=texts.limits(card),
            lineage=texts.lineage(card),
            artifacts=texts.artifacts(card),
            commands=texts.commands(card, name),
        )


def draft_report(material: Material) -> Draft:
    """Draw the figures of a report."""
    card, rows, trials = material.card, material.holdout, material.trials
    return Draft(
        card,
        {
            "verdict": (model_plots.draw_accuracy(card), model_plots.draw_gain(rows)),
            "data": (
                data_plots.draw_coverage(card),
                data_plots.draw_row_counts(card),
                data_plots.draw_class_balance(card),
            ),
            "splits": (data_plots.draw_splits(card),),
            "search": (data_plots.draw_trials(trials),),
            "hyperparameters": data_plots.draw_hyperparameters(trials, card),
            "calibration": (model_plots.draw_reliability(card, rows), model_plots.draw_spread(rows)),
            "ranking": (model_plots.draw_roc(rows, card), model_plots.draw_precision_recall(rows)),
            "parts": (model_plots.draw_parts(card, rows),),
            "features": (model_plots.draw_importance(card),),
            "latency": (model_plots.draw_latency(card),),
        },
    )


@cache
def _environment() -> Any:  # noqa: ANN401 (jinja2 is imported late)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = lambda words: Markup(_CODE.sub(r"<code>\1</code>", str(escape(words))))  # noqa: S704
    environment.globals["style"] = (_FOLDER / "style.css").read_text("utf-8")
    environment.tests["drawn"] = lambda shown: isinstance(shown, Figure)
    return environment


def render(template: str, **values: object) -> bytes:
    """Return a page as UTF-8, from the template file of that name."""
    page: str = _environment().get_template(template).render(**values)
    # A lone surrogate is not a character: show a question mark instead of ending a training.
    return page.encode("utf-8", errors="replace")
