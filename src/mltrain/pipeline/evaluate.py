"""Evaluate a version on candles later than its last training label.

Only the look at the time range is written, to the log of looks, because later trainings must count it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mltrain.card.model_card import ModelCard
from mltrain.config.loading import load_config
from mltrain.documents.results import Result
from mltrain.errors import InputError
from mltrain.gates.gate_evidence import NotApplicable
from mltrain.gates.holdout_looks import EVALUATION
from mltrain.pipeline.champion import compare_with_champion, open_champion
from mltrain.pipeline.prepare import read_candles
from mltrain.pipeline.score_candles import score_candles
from mltrain.serving.model import open_model
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.times import format_ms, interval_ms
from mltrain.training.baselines import RULES, SymbolPrior
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.drift import find_drift
from mltrain.training.holdout import score_holdout
from mltrain.training.samples import build_samples, keep_symbols, take_rows
from mltrain.training.slices import score_weeks

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputTable
    from mltrain.gates.gate_evidence import ChampionEvidence, NotEvaluated
    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion
    from mltrain.training.drift import FeatureDrift
    from mltrain.training.holdout import HoldoutScores
    from mltrain.training.samples import Samples
    from mltrain.training.slices import SliceScore


@dataclass(frozen=True, slots=True)
class OwnHoldout:
    """The holdout of the evaluated version, if scored rows lie in it: its gates have already judged them.

    Attributes:
        rows: Number of scored rows in the holdout's time range.
        start_ms: First open time of the holdout, ms UTC.
        end_ms: Last open time of the holdout, ms UTC.
    """

    rows: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation(Result):
    """The scores of a version on later candles.

    Attributes:
        version: The version.
        snapshot: Id of the snapshot.
        learned_until_ms: End of the last label that the version was trained on, ms UTC.
        start_ms: First scored open time, ms UTC.
        end_ms: Last scored open time, ms UTC.
        scores: Metrics with intervals, and baselines, on the scored rows.
        weeks: Scores week by week.
        drift: Drift of each feature since the training, largest first; empty if the training's snapshot is missing.
        champion: Comparison with the live version, on the scored rows that the live version was not trained on.
        own_holdout: The scored rows that lie in the version's own holdout; None if there are none.
    """

    SCHEMA: ClassVar[str] = "evaluate/1"

    version: str
    snapshot: str
    learned_until_ms: int
    start_ms: int
    end_ms: int
    scores: HoldoutScores
    weeks: tuple[SliceScore, ...]
    drift: tuple[FeatureDrift, ...]
    champion: ChampionEvidence | NotApplicable | NotEvaluated
    own_holdout: OwnHoldout | None

    @property
    def skill_percent(self) -> float:
        """Log loss gained over the base rate of the training rows, in percent, as in the gates."""
        return 100 * self.scores.comparison.log_loss_skill.value


def evaluate(
    version: StoredVersion, snapshot: Snapshot, store: Store, *, now_ms: int, progress: Progress
) -> Evaluation:
    """Score a version of any verdict on the candles of a snapshot that open after the version's last training label.

    The store logs the look at these rows with the current time, `now_ms` in ms UTC. The version is also compared with
    the store's live version.

    Raises:
        InputError: The snapshot lacks a symbol or later candles, is of another interval or market, or is damaged.
    """
    model, config = open_model(version), load_config(None, overrides={})
    card = ModelCard(model.card)
    learned_until_ms = card.last_label_end_ms()
    samples, candles = _build_rows(model, snapshot, progress)
    first = int(np.searchsorted(samples.ts_ms, learned_until_ms, side="right"))
    rows = take_rows(samples, slice(first, samples.ts_ms.size))
    scored = None
    if model.window > 1:
        raw, p = score_candles(model, candles, rows)
        whole = np.flatnonzero(np.isfinite(p))
        rows, scored = take_rows(rows, whole), (raw[whole], p[whole])
    if not rows.ts_ms.size:
        raise InputError(
            f"snapshot {snapshot.id} has no candle later than {format_ms(learned_until_ms)}, the end of the last label "
            f"that {version.name} was trained on",
            hint="take a newer one with `mltrain snapshot`",
        )
    start_ms, end_ms = int(rows.ts_ms[0]), int(rows.ts_ms[-1])
    store.record_look(
        start_ms=start_ms,
        end_ms=end_ms + interval_ms(snapshot.interval),
        study=f"{EVALUATION}{version.name}",
        now_ms=now_ms,
        configuration_sha256=card.configuration_sha256,
    )
    own_holdout = find_own_holdout(card, rows.ts_ms)
    if own_holdout is not None:
        progress.warn(
            f"{own_holdout.rows:,} of these {rows.ts_ms.size:,} rows are from {version.name}'s own holdout, which its "
            "gates have judged: they are no new evidence; evaluate it on a newer snapshot"
        )
    progress.stage("score")
    raw, p = model.score(np.ascontiguousarray(rows.x)) if scored is None else scored
    scores = score_holdout(
        rows,
        raw,
        p,
        priors=_read_priors(card, rows.symbols),
        train_up_share=card.train_up_share,
        bootstrap=plan_bootstrap(
            rows.ts_ms,
            draws=config.bootstrap.draws,
            level=config.bootstrap.level,
            seed=config.seed,
            overlap_ms=model.feature_set.label_overlap_ms,
        ),
    )
    champion = open_champion(store)
    comparison: ChampionEvidence | NotApplicable | NotEvaluated = NotApplicable("it is the live version itself")
    if champion is None or champion.version.name != version.name:
        comparison = compare_with_champion(
            champion, model.feature_set, candles, rows, p=p, config=config, snapshot=snapshot, side_by_side=True
        )
    return Evaluation(
        version=version.name,
        snapshot=snapshot.id,
        learned_until_ms=learned_until_ms,
        start_ms=start_ms,
        end_ms=end_ms,
        scores=scores,
        weeks=score_weeks(p, rows.y, rows.ts_ms),
        drift=_measure_drift(model, store, rows, learned_until_ms, progress, seed=config.seed),
        champion=comparison,
        own_holdout=own_holdout,
    )


def _read_priors(card: ModelCard, symbols: tuple[str, ...]) -> tuple[SymbolPrior, ...]:
    """Read each symbol's base rate and best simple rule on the training rows from a version's card.

    A card of an earlier release lacks them: each symbol then gets the base rate of all rows and the majority rule.
    """
    priors = {symbol: SymbolPrior(symbol, card.train_up_share, "majority") for symbol in symbols}
    for prior in card.sections("baselines", "priors"):
        symbol, up_share = prior.text("symbol"), prior.number("up_share")
        rule = next((rule for rule in RULES if rule == prior.text("rule")), None)
        if symbol in priors and up_share is not None and rule is not None:
            priors[symbol] = SymbolPrior(symbol, up_share, rule)
    return tuple(priors.values())


def find_own_holdout(card: ModelCard, ts_ms: NDArray[np.int64]) -> OwnHoldout | None:
    """Return the overlap of a version's holdout with rows that open at `ts_ms`, ms UTC, shape (n,); None if empty."""
    block = card.block("holdout")
    start_ms, end_ms = (None, None) if block is None else (block.time_ms("start"), block.time_ms("end"))
    if start_ms is None or end_ms is None:
        return None
    rows = int(((ts_ms >= start_ms) & (ts_ms <= end_ms)).sum())
    return OwnHoldout(rows=rows, start_ms=start_ms, end_ms=end_ms) if rows else None


def _build_rows(model: Model, snapshot: Snapshot, progress: Progress) -> tuple[Samples, dict[str, pl.DataFrame]]:
    """Return a snapshot's rows of the model's symbols, and the candles of these symbols and of the leaders."""
    candles = read_model_candles(model, snapshot, progress)
    progress.stage("features and labels")
    return keep_symbols(build_samples(model.feature_set, candles)[0], model.symbols), candles


def read_model_candles(
    model: Model, snapshot: Snapshot, progress: Progress, *, inputs: Mapping[str, InputTable] | None = None
) -> dict[str, pl.DataFrame]:
    """Return a snapshot's candles of the model's symbols and of its leaders, by symbol, sorted; its inputs are joined.

    `inputs` is what `read_inputs` returned for the model; None: not read yet.

    Raises:
        InputError: The snapshot lacks a symbol or an input, is of another interval, or is damaged.
    """
    needed = {*model.symbols, *model.feature_set.leaders}
    missing = sorted(needed - set(snapshot.symbols))
    if missing or snapshot.interval != model.interval:
        lacks = f"has no candles of {', '.join(missing)}" if missing else f"is of {snapshot.interval} candles"
        raise InputError(
            f"snapshot {snapshot.id} {lacks}: {model.version} is of {model.interval} candles of "
            f"{', '.join(model.symbols)}",
            hint="`mltrain snapshots` lists the others",
        )
    trained_on, market = ModelCard(model.card).market, snapshot.source.known_market
    if trained_on and market and trained_on != market:
        raise InputError(
            f"snapshot {snapshot.id} is one of the market {market}: {model.version} was trained on {trained_on}",
            hint="`mltrain snapshots` lists the others",
        )
    candles = read_candles(snapshot, progress, model.feature_set, inputs=inputs)
    return {symbol: candles[symbol] for symbol in sorted(needed)}


def _measure_drift(
    model: Model, store: Store, rows: Samples, learned_until_ms: int, progress: Progress, *, seed: int
) -> tuple[FeatureDrift, ...]:
    """Measure how each feature's distribution differs between later rows and the rows that the model was trained on.

    The latter are computed from the snapshot that the model's card names, up to the end of the last training label
    (`learned_until_ms`, ms UTC). Without that snapshot there is a warning, and no drift.
    """
    try:
        learned, _ = _build_rows(model, open_snapshot(store.data_dir, ModelCard(model.card).snapshot_id), progress)
    except InputError as err:
        progress.warn(f"no drift is computed: {err.message}")
        return ()
    learned_rows = int(np.searchsorted(learned.ts_ms, learned_until_ms))
    x = np.concatenate([learned.x[:learned_rows], rows.x])
    ts_ms = np.concatenate([learned.ts_ms[:learned_rows], rows.ts_ms])
    later = np.arange(ts_ms.size) >= learned_rows
    return find_drift(x, ts_ms, later=later, names=rows.names, seed=seed)
