"""Draw what a network looks at: the weights of its variables, and its attention by lag. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mltrain.report.model_plots import MAX_FEATURES
from mltrain.report.svg import Missing, draw_bar_rows, make_figure

if TYPE_CHECKING:
    from mltrain.card.model_card import ModelCard
    from mltrain.report.svg import Shown

_VARIABLES: Final = "Weight and importance of the variables"
_ATTENTION: Final = "Attention by lag"
# Lags that have a bar; the others share one.
_LAGS: Final = 20


def draw_variables(card: ModelCard) -> Shown:
    """Draw the mean weight of each variable in the selection, and the log loss that shuffling it adds."""
    shown = card.section("sequence")
    weights = {name: shown.number("variable_weights", name) or 0.0 for name in shown.entries("variable_weights")}
    added = {name: shown.number("permutation_importance", name) or 0.0 for name in weights}
    if not weights:
        return Missing(_VARIABLES, "the card does not hold them.")
    names = sorted(weights, key=lambda name: (-weights[name], name))
    longest, largest = max(weights.values()) or 1.0, max(*added.values(), 0.0) or 1.0
    rows: list[tuple[str, list[tuple[float, str]], str]] = [
        (
            name,
            [(weights[name] / longest, "fill c1"), (max(added[name], 0.0) / largest, "fill c2")],
            f"{weights[name]:.1%} · {added[name]:+.5f}",
        )
        for name in names[:MAX_FEATURES]
    ]
    agreement = shown.number("rank_agreement")
    reading = (
        "The weight is what the network's variable selection gives to a variable; the importance is the log loss, in "
        "nats, that shuffling its values adds. Both are of stretches of the holdout. "
    )
    reading += "" if agreement is None else f"The rank correlation of the two is {agreement:.2f}."
    if hidden := len(names) - len(rows):
        reading += f" The other {hidden} are in the card."
    return make_figure(
        "variables",
        _VARIABLES,
        draw_bar_rows(rows),
        reading=reading,
        alt="; ".join(f"{name}: {note}" for name, _, note in rows[:10]),
        legend=(("fill c1", "weight"), ("fill c2", "importance")),
        wide=True,
        named_rows=True,
    )


def draw_attention(card: ModelCard) -> Shown:
    """Draw the mean attention to each of the newest bars of the window, and to all others together."""
    found = card.value("sequence", "attention_by_lag")
    shares = [float(share) for share in found if isinstance(share, int | float)] if isinstance(found, list) else []
    if not shares:
        return Missing(_ATTENTION, "the card does not hold it.")
    named = [("the bar itself", shares[0]), *((f"{lag} before", share) for lag, share in enumerate(shares) if lag)]
    if len(named) > _LAGS:
        named = [*named[:_LAGS], (f"{_LAGS} to {len(shares) - 1} before", sum(shares[_LAGS:]))]
    longest = max(share for _, share in named) or 1.0
    rows = [(name, [(share / longest, "fill c1")], f"{share:.1%}") for name, share in named]
    return make_figure(
        "attention",
        _ATTENTION,
        draw_bar_rows(rows),
        reading=f"The attention of the last bar to the {len(shares)} bars of its window, mean of the heads and of "
        f"stretches of the holdout. Even attention would be {1 / len(shares):.1%} to each.",
        alt="; ".join(f"{name}: {share:.1%}" for name, share in named[:10]),
        wide=True,
        named_rows=True,
    )
