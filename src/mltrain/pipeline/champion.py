"""Compare a new model with the live version, on rows that the live version was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.artifact.model_contract import ModelContract, contract_differences
from mltrain.candles.frame import times_ms
from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError, MltrainError, OwnOpsError
from mltrain.features.computation import check_inputs, compute_features
from mltrain.features.input_join import join_inputs
from mltrain.gates.gate_evidence import ChampionEvidence, NotApplicable, NotEvaluated, Origin, SideBySide
from mltrain.pipeline.prepare import read_inputs
from mltrain.pipeline.score_candles import score_candles
from mltrain.serving.model import open_model
from mltrain.store.listing import read_version_card
from mltrain.times import DAY_MS
from mltrain.training.bootstrap import JUDGED, log_loss_gain, plan_bootstrap, score_intervals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.features.spec import FeatureSet
    from mltrain.serving.model import Model
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion
    from mltrain.training.samples import Samples


@dataclass(frozen=True, slots=True)
class Champion:
    """The live version and its model.

    Attributes:
        version: The version.
        model: The model, or the error with which loading it failed.
    """

    version: StoredVersion
    model: Model | MltrainError


def open_champion(store: Store) -> Champion | None:
    """Open the live version and load its model; return None if nothing was promoted yet."""
    live = store.live_version()
    if live is None:
        return None
    try:
        return Champion(live, open_model(live))
    except MltrainError as err:
        return Champion(live, err)


def compare_with_champion(
    champion: Champion | None,
    feature_set: FeatureSet,
    candles: Mapping[str, pl.DataFrame],
    holdout: Samples,
    *,
    p: NDArray[np.float64],
    config: TrainConfig,
    snapshot: Snapshot,
    side_by_side: bool = False,
) -> ChampionEvidence | NotApplicable | NotEvaluated:
    """Compare the log loss of a new model and the live version, on rows later than the latter's last training label.

    Only rows of the champion's symbols are compared; a new model may have more symbols.

    Args:
        champion: The live version; None if nothing was promoted yet.
        feature_set: Features and label of the new model.
        candles: Candles by symbol, from which the champion's features are computed.
        holdout: Rows that the new model was not trained on.
        p: Calibrated probabilities of up of the new model for these rows, in [0, 1], shape (n,).
        config: Draws and seed of the interval, and the smallest number of UTC days to compare on.
        snapshot: The snapshot of the candles, which also has the inputs that the champion's features read.
        side_by_side: Also return every score of both models.
    """
    if champion is None:
        return NotApplicable("nothing is promoted yet")
    name, model = champion.version.name, champion.model
    if isinstance(model, MltrainError):
        problem = "" if isinstance(model, OwnOpsError) else " cannot be read"
        return NotEvaluated(f"{name}{problem}: {model.message}")
    reason = _find_obstacle(model, feature_set, holdout)
    try:
        # Joined again: the champion's registry may declare another max_age.
        candles = join_inputs(model.feature_set, candles, read_inputs(snapshot, model.feature_set))
        check_inputs(model.feature_set, candles, symbols=model.symbols)
    except MltrainError as err:
        reason = reason or f"these candles lack what its features read: {err.message}"
    if reason is not None:
        return NotEvaluated(f"{name}: {reason}")
    try:
        seen_until_ms = ModelCard(model.card).last_label_end_ms()
    except InputError as err:
        return NotEvaluated(f"{name}: {err.message}")
    champion_p = _score_at_rows(model, candles, holdout)
    compared = (holdout.ts_ms > seen_until_ms) & np.isfinite(champion_p)
    ts_ms, y, new_p = holdout.ts_ms[compared], holdout.y[compared], p[compared]
    days, min_days = np.unique(ts_ms // DAY_MS).size, config.gates.champion_min_days
    if days < min_days:
        return NotEvaluated(f"the rows later than the training of {name} touch {days} UTC days, fewer than {min_days}")
    champion_p = champion_p[compared]
    bootstrap = plan_bootstrap(
        ts_ms,
        draws=config.bootstrap.draws,
        level=2 * JUDGED - 1,
        seed=config.seed,
        overlap_ms=feature_set.label_overlap_ms,
    )
    scores = None
    if side_by_side:
        scores = SideBySide(
            rows=int(y.size),
            ours=score_intervals(new_p, y, bootstrap),
            theirs=score_intervals(champion_p, y, bootstrap),
        )
    gain = log_loss_gain(new_p, champion_p, y, bootstrap)
    return ChampionEvidence(version=name, gain=gain, days=days, side_by_side=scores)


def _find_obstacle(champion: Model, feature_set: FeatureSet, holdout: Samples) -> str | None:
    """Return why a new model cannot be compared with the champion on these rows; None if it can."""
    champion_set = champion.feature_set
    if (champion_set.label, champion_set.interval) != (feature_set.label, feature_set.interval):
        return "it was trained for another label or interval"
    missing = sorted(set(champion.symbols) - set(holdout.symbols))
    if missing:
        return f"it was also trained on {', '.join(missing)}"
    return None


def _score_at_rows(model: Model, candles: Mapping[str, pl.DataFrame], rows: Samples) -> NDArray[np.float64]:
    """Return a model's probabilities of up at rows, shape (n,); NaN where it has none."""
    if model.window > 1:
        return score_candles(model, candles, rows)[1]
    features = _compute_at_rows(model.feature_set, candles, rows, symbols=model.symbols)
    p, is_complete = np.full(rows.y.size, np.nan), ~np.isnan(features).any(axis=1)
    p[is_complete] = model.score(np.ascontiguousarray(features[is_complete]))[1]
    return p


def _compute_at_rows(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], rows: Samples, *, symbols: tuple[str, ...]
) -> NDArray[np.float32]:
    """Compute a registry's features from candles at the symbol and time of each row, shape (n, f), in row order.

    NaN where a feature has no value, and in rows of other symbols than `symbols`.
    """
    features = np.full((rows.ts_ms.size, len(feature_set.names)), np.nan, np.float32)
    # One by one: the features of many symbols at once would not fit into memory.
    for symbol in symbols:
        symbol_rows = np.flatnonzero(rows.symbol_ix == rows.symbols.index(symbol))
        table = compute_features(feature_set, symbol, candles)
        # Every row was made from one of these candles, so each of its times is in the table.
        positions = np.searchsorted(times_ms(table), rows.ts_ms[symbol_rows])
        values = table.select(pl.col(feature_set.names).fill_null(float("nan")).gather(positions))
        features[symbol_rows] = values.to_numpy()
    return features


def compare_meaning(
    champion: Champion | None, feature_set: FeatureSet, symbols: tuple[str, ...], *, market: str
) -> tuple[str, ...] | NotApplicable:
    """Return why a new model with these features, label and symbols is not a drop-in replacement for the live version.

    `market` is that of its candles; empty if it is not known.

    One sentence for each difference; empty if it is one.
    """
    if champion is None:
        return NotApplicable("nothing is promoted yet")
    model = champion.model
    if isinstance(model, MltrainError):
        return (f"{champion.version.name} cannot be loaded: {model.message}",)
    return contract_differences(
        ModelContract.of(feature_set, symbols, market=market),
        ModelContract.of(model.feature_set, model.symbols, market=ModelCard(model.card).market),
    )


def find_origin(champion: Champion | None, snapshot: Snapshot) -> Origin:
    """Return whether a new model's snapshot, and the candles that the live version was trained on, are simulated."""
    simulated = snapshot.source.name == "sim"
    if champion is None:
        return Origin(simulated=simulated, champion="none")
    try:
        source = read_version_card(champion.version).text("lineage", "source", "name")
    except MltrainError:
        source = None
    if source is None:
        return Origin(simulated=simulated, champion="unknown")
    return Origin(simulated=simulated, champion="simulated" if source == "sim" else "real")
