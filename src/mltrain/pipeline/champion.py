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
from mltrain.gates.gate_evidence import ChampionEvidence, NotApplicable, NotEvaluated, Origin, SideBySide
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
    """The live version, opened once.

    Attributes:
        version: The version.
        model: Its model, or the error of loading it.
    """

    version: StoredVersion
    model: Model | MltrainError


def open_champion(store: Store) -> Champion | None:
    """Open the live version and load its model; None if nothing is promoted yet.

    Raises:
        InputError: The pointer does not name a sound version, or was lost.
        MachineError: The machine refuses to read.
    """
    best = store.live_version()
    if best is None:
        return None
    try:
        return Champion(best, open_model(best))
    except MltrainError as err:
        return Champion(best, err)


def meet_champion(
    champion: Champion | None,
    feature_set: FeatureSet,
    candles: Mapping[str, pl.DataFrame],
    holdout: Samples,
    *,
    p: NDArray[np.float64],
    config: TrainConfig,
    in_full: bool = False,
) -> ChampionEvidence | NotApplicable | NotEvaluated:
    """Score the live version on the holdout rows later than its own last training label, paired with `p`.

    Only rows of the champion's symbols are compared; a new model may have more symbols.

    Args:
        champion: The live version; None if there is none.
        feature_set: Of the new model.
        candles: The snapshot's candles; the champion's features are computed from them.
        holdout: The new model's holdout rows.
        p: Its calibrated probabilities there, shape (n,).
        config: Draws and seed of the interval.
        in_full: Whether to return every score of both, side by side.
    """
    if champion is None:
        return NotApplicable("nothing is promoted yet")
    name, model = champion.version.name, champion.model
    if isinstance(model, OwnOpsError):
        return NotEvaluated(f"{name}: {model.message}")
    if isinstance(model, MltrainError):
        return NotEvaluated(f"{name} cannot be read: {model.message}")
    reason = _why_not(model, feature_set, holdout, candles)
    if reason is not None:
        return NotEvaluated(f"{name}: {reason}")
    return _compare(name, model, candles, holdout, p=p, config=config, in_full=in_full)


def _why_not(
    champion: Model, feature_set: FeatureSet, holdout: Samples, candles: Mapping[str, pl.DataFrame]
) -> str | None:
    theirs = champion.feature_set
    if (theirs.label, theirs.interval) != (feature_set.label, feature_set.interval):
        return "it was trained for another label or interval"
    missing = sorted(set(champion.symbols) - set(holdout.symbols))
    if missing:
        return f"it was also trained on {', '.join(missing)}"
    try:
        check_inputs(theirs, candles, symbols=champion.symbols)
    except MltrainError as err:
        return f"these candles lack what its features read: {err.message}"
    return None


def _compare(
    name: str,
    champion: Model,
    candles: Mapping[str, pl.DataFrame],
    holdout: Samples,
    *,
    p: NDArray[np.float64],
    config: TrainConfig,
    in_full: bool,
) -> ChampionEvidence | NotEvaluated:
    try:
        seen_until_ms = ModelCard(champion.card).last_label_end_ms()
    except InputError as err:
        return NotEvaluated(f"{name}: {err.message}")
    features = _features_of_rows(champion.feature_set, candles, holdout, symbols=champion.symbols)
    fresh = (holdout.ts_ms > seen_until_ms) & ~np.isnan(features).any(axis=1)
    days = np.unique(holdout.ts_ms[fresh] // DAY_MS).size
    if days < config.gates.champion_min_days:
        least = config.gates.champion_min_days
        return NotEvaluated(f"the rows later than the training of {name} touch {days} UTC days, fewer than {least}")
    y = holdout.y[fresh]
    _, theirs = champion.score(np.ascontiguousarray(features[fresh]))
    bootstrap = plan_bootstrap(
        holdout.ts_ms[fresh], draws=config.bootstrap.draws, level=2 * JUDGED - 1, seed=config.seed
    )
    return ChampionEvidence(
        version=name,
        gain=log_loss_gain(p[fresh], theirs, y, bootstrap),
        days=days,
        side_by_side=SideBySide(
            rows=int(y.size),
            ours=score_intervals(p[fresh], y, bootstrap),
            theirs=score_intervals(theirs, y, bootstrap),
        )
        if in_full
        else None,
    )


def _features_of_rows(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], rows: Samples, *, symbols: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return the features of another registry for some symbols at the times of rows, shape (n, f); NaN if missing."""
    features = np.full((rows.ts_ms.size, len(feature_set.names)), np.nan, np.float32)
    # One by one: the features of many symbols at once would not fit into memory.
    for symbol in symbols:
        mine = np.flatnonzero(rows.symbol_ix == rows.symbols.index(symbol))
        table = compute_features(feature_set, symbol, candles)
        found = np.searchsorted(times_ms(table), rows.ts_ms[mine])
        features[mine] = table.select(pl.col(feature_set.names).fill_null(float("nan")).gather(found)).to_numpy()
    return features


def compare_meaning(
    champion: Champion | None, feature_set: FeatureSet, symbols: tuple[str, ...]
) -> tuple[str, ...] | NotApplicable:
    """Return why a new model is not a drop-in replacement for the live version, one sentence each.

    Args:
        champion: The live version; None if there is none.
        feature_set: Of the new model.
        symbols: Of the new model.
    """
    if champion is None:
        return NotApplicable("nothing is promoted yet")
    model = champion.model
    if isinstance(model, MltrainError):
        return (f"{champion.version.name} cannot be loaded: {model.message}",)
    return contract_differences(
        ModelContract.of(feature_set, symbols), ModelContract.of(model.feature_set, model.symbols)
    )


def find_origin(champion: Champion | None, snapshot: Snapshot) -> Origin:
    """Return whether the candles, and those that the live version was trained on, are simulated."""
    simulated = snapshot.source.name == "sim"
    if champion is None:
        return Origin(simulated, "none")
    try:
        source = read_version_card(champion.version).text("lineage", "source", "name")
    except MltrainError:
        source = None
    if source is None:
        return Origin(simulated, "unknown")
    return Origin(simulated, "simulated" if source == "sim" else "real")
