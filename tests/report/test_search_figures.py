"""Figures of the search: only complete trials share an axis, and captions match what is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from mltrain.card.model_card import ModelCard
from mltrain.report.data_plots import draw_hyperparameters, draw_trials
from mltrain.report.page import draft_report
from mltrain.report.svg import Missing
from mltrain.report.version_data import Material

EXAMPLE = json.loads((Path(__file__).parents[1] / "data" / "example_card.json").read_bytes())
HYPERPARAMETERS_NOTE = "Each small figure shows the complete trials"


def table(*rows):
    """Return a table of trials with these states and losses; a pruned one has the loss of its first fold."""
    return pl.DataFrame(
        [
            {"number": n, "state": state, "log_loss": loss, "rounds": 9, "num_leaves": 8 + n}
            for n, (state, loss) in enumerate(rows)
        ]
    )


MIXED = table(
    ("complete", 0.6930),
    ("complete", 0.6920),
    # The loss of the first fold, an easier one.
    ("pruned", 0.6800),
    ("complete", 0.6925),
    ("pruned", 0.7100),
)


def heights(svg):
    """Return the heights of all dots in percent, 0 at the bottom."""
    return [100 - float(cy) for cy in re.findall(r'<circle [^>]*cy="([\d.]+)%"', svg)]


def test_no_pruned_trial_lies_below_the_best():
    """Dots are complete trials, the best one is the lowest, and the axis starts just below it."""
    shown = draw_trials(MIXED)
    found = heights(shown.svg)

    assert len(found) == 3
    assert found.index(min(found)) == 1
    assert min(found) == pytest.approx(100 * 0.12 / 1.24, abs=3)
    assert "0.68000" not in shown.svg
    assert "The best is trial 1 with a log loss of 0.69200; the first had 0.69300." in shown.svg


def test_a_pruned_trial_is_a_tick_on_the_axis():
    """Each pruned trial is one tick; legend and caption mention pruned trials only if there are any."""
    with_pruned, without = draw_trials(MIXED), draw_trials(MIXED.filter(pl.col("state") == "complete"))
    ticks = re.findall(r'<line class="whisker c3" x1="([\d.]+)%" x2="\1%" y1="100.00%"', with_pruned.svg)

    # Trials 2 and 4 of 4, right of the labels.
    assert [round(float(x) - 6) for x in ticks] == [47, 94]
    assert "pruned" in dict(map(reversed, with_pruned.legend))
    assert "tick on the axis" in with_pruned.reading
    assert "whisker" not in without.svg
    assert "pruned" not in dict(map(reversed, without.legend))
    assert "tick" not in without.reading


def test_worse_trials_at_the_upper_edge_are_complete_ones():
    """Complete trials above the axis are counted in the caption, pruned ones are not."""
    shown = draw_trials(table(*(("complete", 0.69 + n * 1e-6) for n in range(9)), ("complete", 0.8), ("pruned", 0.9)))

    assert "; 1 worse one lies at the upper edge." in shown.reading
    assert max(heights(shown.svg)) == 100


def test_a_pruned_first_trial_has_no_loss_in_the_description():
    """The description gives the loss of the first trial only if it is complete."""
    shown = draw_trials(table(("pruned", 0.68), ("complete", 0.69)))

    assert "the first had" not in shown.svg


def test_without_a_complete_trial_there_is_no_figure():
    """Without a complete trial the figure is missing."""
    assert isinstance(draw_trials(table(("pruned", 0.68))), Missing)


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        # Three complete trials are too few to compare hyperparameters.
        (MIXED, False),
        (table(*[("complete", 0.69 + n / 1000) for n in range(5)]), True),
        (table(*[("complete", 0.69 + n / 1000) for n in range(5)]).drop("num_leaves"), False),
        (None, False),
    ],
)
def test_the_note_on_hyperparameters_needs_their_figures(rows, drawn):
    """The note on how to read the figures of hyperparameters appears only with them."""
    page = draft_report(Material(ModelCard(EXAMPLE), None, rows)).finish("2025-10-15").decode()

    assert (HYPERPARAMETERS_NOTE in page) == drawn
    assert ('id="parameter-num-leaves' in page) == drawn
    assert all(isinstance(item, Missing) for item in draw_hyperparameters(rows, ModelCard(EXAMPLE))) != drawn
