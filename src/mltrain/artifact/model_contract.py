"""The contract between a model and its callers: what `p` is the probability of, and which candles a call needs.

A service that follows the pointer keeps making the same calls with the same candles. A new version is a drop-in
replacement for the live one only if those calls still work and their answers are still about the same event. The gate
`meaning` judges this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL
from mltrain.documents.records import to_json
from mltrain.features.spec import columns_read

if TYPE_CHECKING:
    from mltrain.features.label_spec import LabelSpec
    from mltrain.features.spec import FeatureSet


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What a model predicts, for which symbols, and which candles it reads.

    Attributes:
        label: The label that `p` is the probability of.
        interval: Length of a candle, such as "1m".
        symbols: The symbols that the model was trained on, in training order.
        columns: The optional candle columns that its features read from every symbol, sorted.
        market: The market of the candles, such as "usdm"; empty if that is not known, as of files.
        leader_columns: Leader symbol and column, OHLCV included, for each column that a feature reads from a leader;
            sorted.
    """

    label: LabelSpec
    interval: str
    symbols: tuple[str, ...]
    columns: tuple[str, ...]
    leader_columns: tuple[tuple[str, str], ...] = ()
    market: str = ""
    inputs: tuple[str, ...] = ()

    @classmethod
    def of(cls, feature_set: FeatureSet, symbols: tuple[str, ...], *, market: str) -> ModelContract:
        """Return the contract of a model with these features, trained on these symbols of a market."""
        every_symbol = {column for spec in feature_set.features for column in columns_read(spec, leader=False)}
        leaders = {
            (spec.leader, column)
            for spec in feature_set.features
            if spec.leader is not None
            for column in columns_read(spec, leader=True)
            if column in CANDLE_SCHEMA
        }
        return cls(
            label=feature_set.label,
            interval=feature_set.interval,
            symbols=symbols,
            columns=tuple(sorted(every_symbol.intersection(OPTIONAL))),
            leader_columns=tuple(sorted(leaders)),
            market=market,
            inputs=tuple(sorted(spec.name for spec in feature_set.inputs)),
        )


def contract_differences(new: ModelContract, old: ModelContract) -> tuple[str, ...]:
    """Return why the new model is not a drop-in replacement for the old one, one sentence each; empty if it is.

    The new model may know more symbols and may read fewer columns.
    """
    differences = []
    if new.label != old.label:
        differences.append(f"its label is {_format_label(new.label)}, not {_format_label(old.label)}")
    if new.interval != old.interval:
        differences.append(f"its interval is {new.interval}, not {old.interval}")
    if new.market and old.market and new.market != old.market:
        differences.append(f"its market is {new.market}, not {old.market}")
    if lost := [symbol for symbol in old.symbols if symbol not in new.symbols]:
        differences.append(f"its symbols are {', '.join(new.symbols)}, without {', '.join(lost)}")
    if more_columns := [column for column in new.columns if column not in old.columns]:
        differences.append(f"its features also read {', '.join(more_columns)}")
    if more_inputs := [name for name in new.inputs if name not in old.inputs]:
        differences.append(f"its features also read the inputs {', '.join(more_inputs)}")
    # Symbols whose candles callers of the old model pass already.
    passed = {*old.symbols, *(leader for leader, _ in old.leader_columns)}
    if new_leaders := sorted({leader for leader, _ in new.leader_columns} - passed):
        differences.append(f"its features also read the candles of {', '.join(new_leaders)}")
    for leader, column in sorted({*new.leader_columns} - {*old.leader_columns}):
        has_column = leader in old.symbols and column in old.columns
        if leader in passed and column in OPTIONAL and column not in more_columns and not has_column:
            differences.append(f"its features also read {column} of {leader}")
    return tuple(differences)


def _format_label(label: LabelSpec) -> str:
    """Return a label as YAML writes it on one line: `{kind: direction, horizon: 1, ties: drop}`."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in to_json(label).items()) + "}"
