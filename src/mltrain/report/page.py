"""Assemble the pages: one HTML file each, without scripts or network access, from a version's files alone.

The template engine escapes everything that comes from outside, except the pictures, which `svg` has escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mltrain.report import data_plots, model_plots, network_plots, texts
from mltrain.report.svg import Figure

if TYPE_CHECKING:
    from mltrain.card.model_card import ModelCard
    from mltrain.report.svg import Shown
    from mltrain.report.version_data import Material

REPORT_FILE: Final = "report.html"
# A page of this size can still be mailed; the report of a version with one symbol has a tenth of it.
MAX_REPORT_BYTES: Final = 2_000_000
# Code in the sentences of `texts`, in backquotes; the text is escaped before.
_CODE: Final = re.compile("`([^`]+)`")
_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Draft:
    """A report whose figures are drawn, before its version has a name.

    Attributes:
        card: The card of the version.
        figures: The figures, by section of the page.
    """

    card: ModelCard
    figures: dict[str, tuple[Shown, ...]]

    def finish(self, name: str) -> bytes:
        """Return the HTML page, UTF-8, of the version with that name."""
        card = self.card
        return render(
            "report.html.j2",
            name=name,
            card=card.document,
            figures=self.figures,
            verdict=card.text("gates", "verdict"),
            summary_line=texts.describe_training(card),
            verdict_line=texts.describe_verdict(card),
            tiles=texts.list_tiles(card),
            gates=texts.list_gates(card),
            symbols=texts.list_symbol_results(card),
            economics=texts.describe_economics(card),
            metrics=texts.list_metrics(card),
            interval_line=texts.describe_intervals(card),
            candle_counts=texts.list_candle_counts(card),
            blocks=texts.list_blocks(card),
            search_line=texts.describe_search(card),
            calibration_line=texts.describe_calibration(card),
            hyperparameters=texts.list_hyperparameters(card),
            guards=texts.list_guards(card),
            limits=texts.list_limits(card),
            lineage=texts.list_lineage(card),
            artifacts=texts.list_artifacts(card),
            commands=texts.list_commands(card, name),
        )


def draft_report(material: Material) -> Draft:
    """Draw the figures of a version's report."""
    card, holdout, trials = material.card, material.holdout, material.trials
    return Draft(
        card,
        {
            "verdict": (model_plots.draw_accuracy(card), model_plots.draw_gain(holdout)),
            "economics": (model_plots.draw_moves(card),),
            "data": (
                data_plots.draw_coverage(card),
                data_plots.draw_row_counts(card),
                data_plots.draw_class_balance(card),
            ),
            "splits": (data_plots.draw_splits(card),),
            "search": (data_plots.draw_trials(trials),),
            "hyperparameters": data_plots.draw_hyperparameters(trials, card),
            "calibration": (model_plots.draw_reliability(card, holdout), model_plots.draw_spread(holdout)),
            "ranking": (model_plots.draw_roc(card, holdout), model_plots.draw_precision_recall(holdout)),
            "parts": (model_plots.draw_parts(card, holdout),),
            "features": (network_plots.draw_variables(card), network_plots.draw_attention(card))
            if card.entries("sequence")
            else (model_plots.draw_importance(card),),
            "latency": (model_plots.draw_latency(card),),
        },
    )


@cache
def read_style() -> str:
    """Return the style that every page holds."""
    return (_FOLDER / "style.css").read_text("utf-8")


@cache
def _environment() -> Any:  # noqa: ANN401 (jinja2 is imported late)
    """Return the template engine: it escapes every value, and an unknown name in a template is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = lambda text: Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704
    environment.globals["style"] = read_style()
    environment.tests["drawn"] = lambda shown: isinstance(shown, Figure)
    return environment


def render(template: str, **values: object) -> bytes:
    """Return an HTML page, UTF-8, made from a template file of this folder and the values that it names."""
    page: str = _environment().get_template(template).render(**values)
    # A lone surrogate is not a character: show a question mark instead of ending a training.
    return page.encode("utf-8", errors="replace")
