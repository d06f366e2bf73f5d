"""The pages: one HTML file each, which needs no network and no script, and holds only what a version's files say.

Everything from outside is escaped by the template engine, but for the pictures, which `svg` has escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mltrain.report import data_figures, facts, model_figures, part_figures, provenance, score_figures, search_figures
from mltrain.report.access import text_at
from mltrain.report.figure import Figure

if TYPE_CHECKING:
    from mltrain.report.figure import Shown
    from mltrain.report.material import Material

REPORT_FILE: Final = "report.html"
MAX_REPORT_BYTES: Final = 2_000_000  # what a page may hold and be mailed; one symbol's report has a tenth of it
_CODE: Final = re.compile("`([^`]+)`")  # in our own sentences; what is between is escaped before
_HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Draft:
    """A report whose figures are drawn, and that has no version's name yet.

    Attributes:
        card: The card.
        figures: What is shown, by section.
    """

    card: dict[str, Any]
    figures: dict[str, tuple[Shown, ...]]

    def finish(self, name: str) -> bytes:
        """Return the page of the version of that name."""
        card = self.card
        return render(
            "report.html.j2",
            name=name,
            card=card,
            figures=self.figures,
            verdict=text_at(card, "gates", "verdict"),
            span_line=facts.span_line(card),
            verdict_line=facts.verdict_line(card),
            tiles=facts.tiles(card),
            gates=facts.gates(card),
            symbols=facts.symbols(card),
            economics=facts.economics(card),
            metrics=facts.metrics(card),
            interval_line=facts.interval_line(card),
            quality=facts.quality(card),
            blocks=facts.blocks(card),
            search_line=facts.search_line(card),
            calibration_line=facts.calibration_line(card),
            hyperparameters=facts.hyperparameters(card),
            guards=facts.guards(card),
            limits=facts.limits(card),
            lineage=provenance.lineage(card),
            artifacts=provenance.artifacts(card),
            commands=provenance.commands(card, name),
        )


def draft_report(material: Material) -> Draft:
    """Draw the figures of a report."""
    card, rows, trials = material.card, material.holdout, material.trials
    return Draft(
        card,
        {
            "verdict": (score_figures.accuracy(card), score_figures.gain(rows)),
            "data": (data_figures.coverage(card), data_figures.fate(card), data_figures.balance(card)),
            "splits": (data_figures.splits(card),),
            "search": (search_figures.trials(trials),),
            "parameters": search_figures.parameters(trials, card),
            "calibration": (score_figures.reliability(card, rows), score_figures.spread(rows)),
            "ranking": (score_figures.roc(rows, card), score_figures.precision_recall(rows)),
            "parts": (part_figures.parts(card, rows),),
            "features": (model_figures.importance(card),),
            "latency": (model_figures.latency(card),),
        },
    )


@cache
def _environment() -> Any:  # noqa: ANN401 (jinja2 is imported late)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    made = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["coded"] = lambda words: Markup(_CODE.sub(r"<code>\1</code>", str(escape(words))))  # noqa: S704
    made.globals["style"] = (_HERE / "style.css").read_text("utf-8")
    made.tests["drawn"] = lambda shown: isinstance(shown, Figure)
    return made


def render(template: str, **values: object) -> bytes:
    """Return a page as UTF-8.

    Args:
        template: Name of the template's file.
        values: What it shows.
    """
    # A lone surrogate in a text is no character: it is shown as a question mark rather than end a training.
    page: str = _environment().get_template(template).render(**values)
    return page.encode("utf-8", errors="replace")
