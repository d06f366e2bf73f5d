"""Store a training as a version: its files, its card and its report."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from mltrain.candles.frame import TS_DTYPE
from mltrain.card.builder import build_card
from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, card_bytes
from mltrain.documents.strict_json import parse_json
from mltrain.report.page import REPORT_FILE, draft_report
from mltrain.report.version_data import HOLDOUT_FILE, OOF_FILE, TRIALS_FILE, Material, parse_holdout
from mltrain.serving.model import check_round_trip, model_from_bundle
from mltrain.store.publishing import publish_version
from mltrain.times import day_name, interval_ms
from mltrain.training.economics import forward_returns
from mltrain.training.samples import take_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mltrain.card.training_results import Training
    from mltrain.pipeline.judge import ScoredRows
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion
    from mltrain.training.economics import ForwardReturns
    from mltrain.training.samples import Samples
    from mltrain.training.search import OutOfFold


def publish(training: Training, scored: ScoredRows, store: Store) -> StoredVersion:
    """Write a training to the store as a new version, load it back, and check that it predicts the same."""
    holdout = _join_tables(
        _build_score_table(scored.rows, scored.raw, scored.p, scored.moves),
        _build_score_table(scored.ties, scored.tie_raw, scored.tie_p, scored.tie_moves, is_tie=True),
    )
    trials = pl.DataFrame(
        [
            {"number": t.number, "state": t.state, "log_loss": t.loss, "rounds": t.best_round, **t.params}
            for t in training.model.search.trials
        ]
    )
    files = {
        **training.model.served.to_files(),
        "features.yml": training.data.feature_set.to_yaml(),
        TRIALS_FILE: to_parquet(trials),
        HOLDOUT_FILE: to_parquet(holdout),
        OOF_FILE: to_parquet(_build_oof_table(training)),
    }
    card_json = card_bytes(build_card(training, files))
    # Parsed again, so that the report is drawn from what a reader of the files will see.
    card = ModelCard.from_json(parse_json(card_json, where="the card"))
    report = draft_report(Material(card, parse_holdout(holdout, card, where="the holdout"), trials))
    now_ms = training.provenance.now_ms
    version = publish_version(
        store,
        {**files, CARD_FILE: card_json},
        date=day_name(now_ms),
        now_ms=now_ms,
        verdict=training.verdict.word,
        named=lambda name: {REPORT_FILE: report.finish(name)},
    )
    check_round_trip(version, model_from_bundle(training.model.served))
    return version


def _build_oof_table(training: Training) -> pl.DataFrame:
    """Return the rows that the best trial scored out of fold, as `_build_score_table` does, and their fold, from 1."""
    data, search = training.data, training.model.search

    def build_part(samples: Samples, oof: OutOfFold, *, is_tie: bool) -> pl.DataFrame:
        # Without the features: `take_rows` copies.
        rows = take_rows(replace(samples, x=samples.x[:, :0], names=()), oof.rows)
        moves = forward_returns(data.candles, rows, step_ms=interval_ms(data.feature_set.interval))
        p = training.model.calibration.calibrator.apply(oof.scores)
        fold = pl.Series(oof.fold + 1, dtype=pl.Int8)
        return _build_score_table(rows, oof.scores, p, moves, is_tie=is_tie).with_columns(fold=fold)

    return _join_tables(
        build_part(data.samples, search.oof, is_tie=False), build_part(data.ties, search.tie_oof, is_tie=True)
    )


def _join_tables(rows: pl.DataFrame, ties: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of both tables of scores, in the order of time, then symbol."""
    return pl.concat([rows, ties]).sort("ts", "symbol", maintain_order=True)


def _build_score_table(
    rows: Samples, raw: NDArray[np.float64], p: NDArray[np.float64], moves: ForwardReturns, *, is_tie: bool = False
) -> pl.DataFrame:
    """Return a table of n rows with label, predictions and returns, from which reported figures can be recomputed.

    Raw scores and calibrated probabilities of up are in [0, 1], shapes (n,); the returns `moves` are in bps. Rows whose
    label was dropped as a tie have no `y`.
    """
    return pl.DataFrame(
        {
            "ts": pl.Series(rows.ts_ms).cast(TS_DTYPE),
            "symbol": pl.Series([rows.symbols[ix] for ix in rows.symbol_ix.tolist()], dtype=pl.String),
            "y": pl.repeat(None, rows.y.size, dtype=pl.UInt8, eager=True) if is_tie else rows.y,
            "last_move": rows.last_move,
            "raw": raw,
            "p": p,
            "forward_bps": moves.from_close,
            "forward_open_bps": pl.Series(moves.from_open).fill_nan(None),
        }
    )


def to_parquet(table: pl.DataFrame) -> bytes:
    """Return a table as a Parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()
