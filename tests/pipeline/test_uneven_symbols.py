"""Symbols that begin in the middle, end inside a fold, or end before the holdout are trained on, and named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mltrain.card.validation import check_card
from mltrain.features.registry import parse_registry
from mltrain.pipeline.evaluate import evaluate
from mltrain.pipeline.plan import plan_training
from mltrain.pipeline.predict import predict_newest
from mltrain.pipeline.prepare import prepare
from mltrain.pipeline.retrain import retrain_version
from mltrain.progress import Silent
from mltrain.report.texts import list_blocks, list_candle_counts, list_limits
from mltrain.serving.model import load
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.store.listing import read_version_card
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange, format_ms
from support.workshop import NOW_MS, Workshop

DAYS = 4
START_MS = CLOCK_MS - DAYS * DAY_MS
# Minutes of the window, of 5,760. The inner part ends at 4,608; its second half is five folds of 461 minutes.
MINUTES = {
    "BTCUSDT": (0, 5760),
    # Begins in the validation of the first fold.
    "ETHUSDT": (2400, 5760),
    # Ends in the validation of the third fold.
    "SIM01": (0, 3400),
    # Ends in that of the last one, before the holdout.
    "SIM02": (0, 4400),
    # Begins in the holdout.
    "SIM03": (4800, 5760),
}
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SIM01", "SIM02")
LEFT_OUT = "SIM03: no training row, so not among the model's symbols; predict will refuse it"
FOLDS = [
    "folds without a validation row of a symbol: SIM01 (4, 5)",
    "folds without a training row of a symbol: ETHUSDT (1)",
]
LED = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: return_5, op: log_return, params: {bars: 5}}
  - {name: leader_return_1, op: leader_return, params: {bars: 1}, leader: %s}
"""


def take(folder, minutes, *, align="union"):
    """Take a snapshot of simulated candles, of which each symbol has those between its two minutes."""
    candles = folder / "candles"
    candles.mkdir(exist_ok=True)
    market = SimSource(signal="strong")
    for symbol, (first, stop) in minutes.items():
        window = TimeRange(START_MS + first * MINUTE_MS, START_MS + stop * MINUTE_MS)
        market.candles(symbol, window).write_parquet(candles / f"{symbol}.parquet")
    spec = SourceSpec("files", folder=candles)
    request = SnapshotRequest(tuple(minutes), DAYS, align=align)
    source = open_source(spec)
    return take_snapshot(folder / "data", source, spec, request, now_ms=NOW_MS, progress=Silent()).snapshot


def last_row(symbol):
    """Return the time of a symbol's last row: the candle before its last one, as it needs a label."""
    return format_ms(START_MS + (MINUTES[symbol][1] - 2) * MINUTE_MS)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Return a workshop with a version of uneven symbols, its snapshot and report; read only."""
    folder = tmp_path_factory.mktemp("uneven")
    workshop = Workshop(folder / "data")
    snapshot = take(folder, MINUTES)
    return workshop, snapshot, workshop.train(snapshot)


@pytest.fixture
def card(uneven):
    workshop, _, report = uneven
    return read_version_card(workshop.store.open_version(report.version))


def is_about_symbols(warning):
    return "row" in warning and any(symbol in warning for symbol in MINUTES)


def test_every_block_that_lacks_a_symbol_is_named(uneven):
    """Training and plan warn of the holdout, of folds, and of the inner part, each once for all symbols."""
    workshop, snapshot, report = uneven
    begins = format_ms(report.training.data.split.holdout.start_ms)
    holdout = (
        f"no row in the holdout, which begins {begins}: SIM01 (last row {last_row('SIM01')}), "
        f"SIM02 (last row {last_row('SIM02')}); nothing proves the model's skill on them"
    )
    progress = Silent()
    plan_training(workshop.request(snapshot), progress=progress)

    assert [w for w in report.training.provenance.warnings if is_about_symbols(w)] == [LEFT_OUT, holdout, *FOLDS]
    assert [w for w in progress.warnings if is_about_symbols(w)] == [LEFT_OUT, holdout, *FOLDS]


def test_the_card_says_which_blocks_lack_a_symbol(card):
    """`splits` by block, `data_quality` by symbol, `limits` for the symbols served; and the card is valid."""
    without = {b.text("name"): b.texts("symbols_without_rows") for b in card.sections("splits", "blocks")}
    symbols = {s.text("symbol"): s for s in card.sections("data_quality", "symbols")}

    assert card.symbols == SYMBOLS
    assert without["inner"] == []
    assert without["holdout"] == ["SIM01", "SIM02"]
    assert without["fold 1 train"] == ["ETHUSDT"]
    assert [without[f"fold {k} validation"] for k in range(1, 6)] == [[], [], [], ["SIM01"], ["SIM01"]]
    assert {s: q.value("folds_without_rows") for s, q in symbols.items()} == {
        "BTCUSDT": [],
        "ETHUSDT": [],
        "SIM01": [4, 5],
        "SIM02": [],
        "SIM03": [1, 2, 3, 4, 5],
    }
    assert [(symbols[s].number("inner_rows") > 0, symbols[s].number("holdout_rows") > 0) for s in MINUTES] == [
        (True, True),
        (True, True),
        (True, False),
        (True, False),
        (False, False),
    ]
    assert sum(s.number("holdout_rows") for s in symbols.values()) == card.block("holdout").number("rows")
    assert sum(s.number("inner_rows") for s in symbols.values()) == card.block("inner").number("rows")
    assert card.texts("limits", "not_in_holdout") == ["SIM01", "SIM02"]
    assert check_card(json.dumps(card.document).encode(), where="card").violations == ()


def test_the_report_says_so(card, uneven):
    """Among the limits, in the table of blocks, and in that of the symbols' candles."""
    _, _, report = uneven
    page = (report.folder / "report.html").read_text("utf-8")
    blocks = {row[0]: row[-1] for row in list_blocks(card)}
    counts = {row[0]: row[-3:-1] for row in list_candle_counts(card)}

    about_holdout = [line for line in list_limits(card) if "SIM01" in line and "holdout" in line]
    assert len(about_holdout) == 1
    assert about_holdout[0].startswith("Not proven on SIM01, SIM02: the holdout has no row of")
    assert "Not proven on SIM01, SIM02" in page
    assert blocks["holdout"] == "SIM01, SIM02"
    assert counts["SIM01"][1] == "0"
    assert counts["BTCUSDT"][1] != "0"


def test_a_symbol_without_a_row_in_the_holdout_is_neither_proven_nor_failed(uneven):
    """The others are judged as usual, with finite figures; the version is not promoted without a person."""
    _, _, report = uneven
    verdict, scores = report.training.verdict, report.training.holdout.scores
    words = {s.symbol: s.verdict for s in verdict.symbols}
    gate = next(o for o in verdict.outcomes if o.name == "per_symbol")

    assert words["SIM01"] == words["SIM02"] == "no rows"
    assert words["BTCUSDT"] == words["ETHUSDT"] == "proven"
    assert gate.outcome == "held"
    assert "no row of SIM01, SIM02 in the holdout" in gate.reason
    assert not report.promoted
    assert [s.rows > 0 for s in scores.symbols] == [True, True, False, False]
    assert [(b.rows > 0, b.rule) for b in scores.baselines.symbols][2:] == [(False, "coin")] * 2
    assert scores.baselines.accuracy == pytest.approx(
        np.average([b.accuracy for b in scores.baselines.symbols], weights=[b.rows for b in scores.baselines.symbols])
    )


def test_the_guards_pass_and_the_version_is_made_again(uneven):
    """No guard takes an early end or a late beginning for a leak; `verify model --retrain` gives the same bytes."""
    workshop, _, report = uneven
    again = retrain_version(workshop.store.open_version(report.version), workshop.folder, progress=Silent())

    assert all(guard.passed for guard in report.training.data.guards)
    assert again.problems == ()


def test_every_symbol_is_served_that_was_learned(uneven):
    """Also one without a row in the holdout, if its candles are given; one that began in the holdout is refused."""
    _, _, report = uneven
    model = load(report.folder, allow_no_go=True, clock=None)
    rows = model.predict_candles(report.training.data.candles)

    assert dict(zip(rows["symbol"], rows["refused"], strict=True)) == {
        **dict.fromkeys(SYMBOLS, None),
        "SIM03": "unknown-symbol",
    }


def test_predict_says_when_a_symbol_of_the_files_ended(uneven):
    """Its row has its last candle's time and is refused; the others are scored at the clock of all files."""
    _, snapshot, report = uneven
    model = load(report.folder, allow_no_go=True, clock=None)
    rows = predict_newest(model, open_source(snapshot.source))
    ends_ms = [START_MS + (MINUTES[symbol][1] - 1) * MINUTE_MS for symbol in SYMBOLS]

    assert rows["symbol"].to_list() == list(SYMBOLS)
    assert rows["ts"].dt.timestamp("ms").to_list() == ends_ms
    assert rows["refused"].to_list() == [None, None, "stale", "stale"]
    assert rows["p"].is_null().to_list() == [False, False, True, True]


def test_an_evaluation_scores_the_symbols_that_have_later_rows(uneven):
    """One without later rows is no obstacle."""
    workshop, snapshot, report = uneven
    version = workshop.store.open_version(report.version)
    found = evaluate(version, snapshot, workshop.store, now_ms=NOW_MS, progress=Silent())

    assert [(s.symbol, s.rows > 0) for s in found.scores.symbols] == [
        ("BTCUSDT", True),
        ("ETHUSDT", True),
        ("SIM01", False),
        ("SIM02", False),
    ]


@pytest.mark.parametrize("leader", ["ETHUSDT", "SIM02"])
def test_a_leader_may_begin_late_or_end_early(uneven, leader):
    """Rows without the leader's candle are no rows; the guards pass on the others."""
    workshop, snapshot, _ = uneven
    feature_set = parse_registry(LED % leader.encode(), where="registry")
    progress = Silent()
    data = prepare(snapshot, feature_set, workshop.request(snapshot).config, progress)
    first, stop = (START_MS + minute * MINUTE_MS for minute in MINUTES[leader])

    assert all(guard.passed for guard in data.guards)
    assert data.samples.ts_ms.min() >= first
    assert data.samples.ts_ms.max() < stop


def test_common_leaves_no_block_without_a_symbol(tmp_path):
    """The same symbols, in the range that all cover: no warning, and every symbol is judged."""
    minutes = {"BTCUSDT": (0, 5760), "ETHUSDT": (900, 5760), "SIM01": (0, 4900)}
    workshop = Workshop(tmp_path / "data")
    snapshot = take(tmp_path, minutes, align="common")
    report = workshop.train(snapshot)
    card = read_version_card(workshop.store.open_version(report.version))

    assert snapshot.window == TimeRange(START_MS + 900 * MINUTE_MS, START_MS + 4900 * MINUTE_MS)
    assert [w for w in report.training.provenance.warnings if is_about_symbols(w)] == []
    assert card.texts("limits", "not_in_holdout") == []
    assert "no rows" not in {s.verdict for s in report.training.verdict.symbols}
    assert card.text("lineage", "snapshot_align") == "common"


def test_the_alignment_is_part_of_the_configuration(workshop, tmp_path):
    """A look at a holdout counts as one of another configuration if the alignment was another."""
    union, common = (take(tmp_path, {"BTCUSDT": (0, 5760)}, align=align) for align in ("union", "common"))

    hashes = {workshop.request(snapshot).configuration_sha256(trials=2) for snapshot in (union, common)}

    assert len(hashes) == 2
