"""The output of each command at 60, 80 and 140 columns, compared with golden files.

What was measured or learned comes from tests/cli/recorded/ (see record.py), everything else from a small data folder
whose content is fixed. MLTRAIN_UPDATE_GOLDENS=1 rewrites the files: then look at them.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import typer
from rich.console import Console

from mltrain.api import halts as api_halts
from mltrain.api.features import FeaturesAudit
from mltrain.api.predict import PredictResult, _as_predictions
from mltrain.api.verify import VerifyResult
from mltrain.backtesting.stored import publish_backtest
from mltrain.cli import (
    backtest,
    bench,
    config,
    cycle,
    evaluate,
    features,
    halts,
    html_pages,
    ledger,
    models,
    notify,
    predict,
    sentinel,
    snapshots,
    status,
    studies,
    train,
    verify,
)
from mltrain.cli.app import load_commands
from mltrain.cli.command import Session
from mltrain.cli.progress import CommandProgress
from mltrain.cli.render import show_view
from mltrain.cli.sources import SimSignal
from mltrain.config.loading import load_operate_config
from mltrain.killswitch.heartbeat import beat
from mltrain.killswitch.switch import halt, resume
from mltrain.monitoring.drill import DrillResult, DrillTimes
from mltrain.monitoring.event_delivery import Delivery, WaitingEvent
from mltrain.monitoring.rounds import Round
from mltrain.monitoring.sentinel import SentinelStep
from mltrain.monitoring.status_reader import find_status
from mltrain.monitoring.triggers import Evidence
from mltrain.pipeline.export_features import ExportedFeatures
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import day_name
from support.backtests import make_result
from support.ledgers import write_ledger
from support.operated import BEAT_S, HELD, answered, operate, publish, record
from support.record import NOW_MS, read, read_card

GOLDEN = Path(__file__).parent / "golden"
CARD = Path(__file__).parents[1] / "data" / "example_card.json"
WIDTHS = (60, 80, 140)
WRONG_SIZE = "lgbm.pkl: 12 bytes, its manifest says 14"
ONE, OTHER = "2025-10-15T12-00-00Z", "2025-10-15T12-00-00Z.2"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Return a session in a separate folder with two snapshots, their outcomes, and three versions of one card."""
    here = tmp_path_factory.mktemp("golden")
    before = Path.cwd()
    os.chdir(here)
    session = Session(Path("data"), False, False, NOW_MS, CommandProgress(warn=False))
    take = snapshots.snapshot.outcome
    first = take(session, source="sim", symbols="BTCUSDT,ETHUSDT,SOLUSDT", days=3)
    take(session, source="sim", sim_signal=SimSignal.STRONG, symbols="BTCUSDT", days=2)
    store = Store(session.data_dir)
    for verdict, model in (("GO", b"one"), ("GO", b"two"), ("NO-GO", b"three")):
        card = CARD.read_bytes().replace(
            b'"accuracy": 0.5', b'"accuracy": 0.4' if verdict == "NO-GO" else b'"accuracy": 0.5'
        )
        files = {"lgbm.pkl": model, "model_card.json": card}
        publish_version(store, files, verdict=verdict, date="2025-10-15", now_ms=NOW_MS)
    for version, why in (
        ("2025-10-15", "its gates say GO"),
        ("2025-10-15.2", "its gates say GO, and it was the better"),
    ):
        promote_version(store, version, why=why, by="ada@desk", now_ms=NOW_MS, force=False)
    Path("good.json").write_bytes(CARD.read_bytes())
    Path("bad.json").write_bytes(CARD.read_bytes().replace(b'"accuracy": 0.', b'"accuracy": 7.'))
    Path("frame.csv").write_text("return_1,rsi_7\n0.1,50\n")
    yield SimpleNamespace(session=session, store=store, first=first)
    os.chdir(before)


def predictions():
    """Return the recorded predictions as a result, one of them refused."""
    rows = pl.DataFrame(read_rows("predict"), infer_schema_length=None)
    reason = "2025-10-15T11:59:00Z: stale: the newest candle opened 3 minutes before the newest of the others"
    refused = pl.Series([None] * (rows.height - 1) + [reason], dtype=pl.String)
    rows = rows.with_columns(refused=refused, permit=pl.lit(None, pl.String))
    rows = rows.with_columns(pl.col("ts").cast(pl.Datetime("ms")))
    return PredictResult("2025-10-15", _as_predictions(rows), rows, judged_at_ms=None)


def read_rows(name):
    return [vars(row) for row in read(name)]


def context(**given):
    """Return the part of a Typer context that `config show` reads: which options were given."""
    return SimpleNamespace(
        params={"log_format": "text"}, get_parameter_source=lambda name: given.get(name, "ParameterSource.DEFAULT")
    )


def begun(session):
    Path("train.yml").unlink(missing_ok=True)
    return config.config_init.outcome(session, Path("train.yml")).view()


def begun_features(session):
    Path("features.yml").unlink(missing_ok=True)
    return features.features_init.outcome(session, "5m").view()


EXPORTED = ExportedFeatures(
    file=Path("matrix.parquet"),
    sha256="c" * 64,
    snapshot=ONE,
    registry_sha256="b" * 64,
    matrix_sha256="a" * 64,
    rows=123_456,
    features=54,
    symbols=("BTCUSDT", "ETHUSDT"),
)


STALE = Evidence("stale", False, 1, 3, 2, "BTCUSDT: 1 due candle(s) were not answered; 3 are a breach", "2025-10-15")
REFUSED = "14 of the last 60 answers were refused, most of them as not-finite; 20% are a breach"
WATCHED = SentinelStep(
    "2025-10-15T12:00:00Z",
    (
        STALE,
        Evidence("refused", True, 14 / 60, 0.2, 60, REFUSED, "2025-10-15"),
        Evidence("latency", False, None, 7.5, 0, "the p99 of the last 0 answers is 0 ms", "2025-10-15"),
    ),
    ("refused",),
    rows=1_234,
)


def demo():
    """Return the outcome of a demo made of recorded trainings and a recorded prediction."""
    return SimpleNamespace(
        folder="mltrain-demo",
        snapshots=("2025-10-15T12-00-00Z", "2025-10-16T12-00-00Z"),
        trainings=(read("train-go"), read("train-held")),
        promoted_by_hand="2025-10-15.2",
        predictions=[
            SimpleNamespace(symbol=row["symbol"], ts_ms=row["ts"], p=row["p"]) for row in read_rows("predict")
        ],
        rolled_back_from="2025-10-16",
        rolled_back_to="2025-10-15",
        backtest="2025-10-15-2025-10-20",
        backtest_verdict="not tradable at fees of 5 bps taker: it breaks even at 1.44 bps",
    )


def copied(session):
    """Return a session in a copy of the data folder without links, with a file in the place of one."""
    copy = Path("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(session.data_dir, copy, symlinks=True)
    for link in [path for path in copy.rglob("*") if path.is_symlink()]:
        link.unlink()
    (copy / "models" / "best_lgbm.pkl").write_bytes(b"my notes")
    return replace(session, data_dir=copy)


def with_study(session):
    """Return the session, with an old journal in its data folder."""
    journal = session.data_dir / "studies" / "2025-07-01T12-00-00Z-0123456789abcdef-42.journal"
    journal.parent.mkdir(exist_ok=True)
    journal.write_bytes(b"x" * 1_234_567)
    os.utime(journal, (1_751_371_200, 1_751_371_200))
    return session


def with_ledger(session, *, damaged=False):
    """Return the session, with three days of answers in its data folder, one line of which may be damaged."""
    shutil.rmtree(session.data_dir / "ledger", ignore_errors=True)
    write_ledger(session.data_dir, now_ms=NOW_MS)
    if damaged:
        path = max((session.data_dir / "ledger").glob("*.jsonl"))
        path.write_bytes(path.read_bytes().replace(b'"p":0.53', b'"p":0.93'))
    return session


def unpacked(session):
    """Return the outcome of unpacking a version in an empty data folder."""
    shutil.rmtree("other", ignore_errors=True)
    models.models_pack.outcome(session, "2025-10-15", Path("model.tar"))
    return models.models_unpack.outcome(replace(session, data_dir=Path("other")), Path("model.tar"))


ROUND = Round(
    slot="lgbm",
    outcome="held",
    sentence="2025-10-16 of the slot lgbm is GO and was held: it is not clearly better than 2025-10-15",
    due="2025-10-16T02:00:00Z",
    next_due="2025-10-17T02:00:00Z",
    begun="2025-10-16T02:00:00Z",
    ended="2025-10-16T02:09:30Z",
    snapshot="2025-10-16T02-00-00Z",
    version="2025-10-16",
    notes=("keep_ledger_days 30 removed 2025-09-15",),
)
WAITING = WaitingEvent(
    "1760529600250-3f2a9c0d1e5b7a84",
    "2025-10-15T12:00:00Z",
    "halt",
    "serving is halted since 2025-10-15T12:00:00Z (halt 1, by ada@desk): wrong prices",
    2,
    "HTTP 503",
    overdue=False,
)
NOTIFIED = Delivery(("1760529600000-0123456789abcdef",), (WAITING,), ())

DRILL = DrillResult(
    version="2025-10-15",
    rounds=20,
    answers=3_456,
    refusals=123,
    wrong_answers=0,
    halt=DrillTimes(1.234, 2.25, 2.5),
    first_refusal=DrillTimes(1.5, 3.0, 3.25),
    resume=DrillTimes(2.345, 3.75, 4.0),
    first_answer=DrillTimes(2.5, 4.5, 4.75),
)


def without_halts(session):
    """Return the arguments of the functions of the kill switch, after its files were removed."""
    for name in ("halt.json", "halts.jsonl", "sentinel.json"):
        (session.data_dir / "models" / name).unlink(missing_ok=True)
    return {"data_dir": session.data_dir, "by": "me@host", "now_ms": NOW_MS}


def with_halts(session):
    """Return the arguments of the functions of the kill switch, after two halts, and an earlier one that was ended."""
    said = without_halts(session)
    folder, by = session.data_dir / "models", {"by": said["by"], "now_ms": NOW_MS}
    halt(folder, why="late candles", mode="reduce", symbols=["BTCUSDT", "ETHUSDT"], **by)
    resume(folder, why="they are in time again", **by)
    halt(folder, why="wrong prices since 14:00", **by)
    evidence = {"wealth": 1234.5, "level": 1000.0}
    halt(folder, why="the probabilities are wrong", trigger="calibration", evidence=evidence, **by)
    return said


def armed(session):
    """Return the status after arming, with a sentinel at work."""
    said = without_halts(session)
    beat(session.data_dir / "models", when="2025-10-15T12:00:00Z")
    return api_halts.halt_arm(**said)


def operated(*, is_late=False):
    """Return the status of a folder an hour after its first training; or a month later, halted and damaged."""
    store = Store(Path("operated"))
    shutil.rmtree(store.data_dir, ignore_errors=True)
    operate(store)
    publish(store, now_ms=NOW_MS + 3_600_000, held=HELD)
    now_ms = NOW_MS + 3_600_000
    if is_late:
        failed = [("skill", "0.4 pp, lower end -1.2"), ("calibration", "0.12")]
        publish(store, verdict="NO-GO", now_ms=now_ms + 86_400_000, failed=failed)
        record(store.data_dir, [answered(60 + minute, refused="stale") for minute in range(1, 31)])
        halt(store.models, why="wrong prices since 14:00", by="me@host", now_ms=NOW_MS)
        (store.models / "2025-10-15.2" / "manifest.json").write_text("{}")
        now_ms += 31 * 86_400_000
    limits = load_operate_config(None)
    return find_status(store, limits, now_ms=now_ms, boot_s=lambda: BEAT_S + (2_000 if is_late else 1))


def with_backtests(session):
    """Return the session, with two backtests in its data folder."""
    shutil.rmtree(session.data_dir / "backtests", ignore_errors=True)
    for seed in (1, 2):
        result = make_result(seed=seed)
        publish_backtest(session.data_dir, result, {}, now_ms=NOW_MS, named=lambda _: {"report.html": b"<html></html>"})
    return session


# The view of each command. It is made again for each width.
SCENES = {
    "snapshot": lambda s: s.first.view(),
    "snapshots": lambda s: snapshots.snapshots.outcome(s.session, SimpleNamespace(invoked_subcommand=None)).view(),
    "snapshots diff": lambda s: snapshots.snapshots_diff.outcome(s.session, ONE, OTHER).view(),
    "snapshots prune": lambda s: snapshots.snapshots_prune.outcome(s.session, keep=2).view(),
    "snapshots prune --dry-run": lambda s: snapshots.snapshots_prune.outcome(s.session, keep=0, dry_run=True).view(),
    "studies": lambda s: studies.studies.outcome(
        with_study(s.session), SimpleNamespace(invoked_subcommand=None)
    ).view(),
    "studies prune": lambda s: studies.studies_prune.outcome(with_study(s.session), older_than=90).view(),
    "ledger": lambda s: ledger.ledger.outcome(
        with_ledger(s.session), SimpleNamespace(invoked_subcommand=None), since="2025-10-14", newest=4
    ).view(),
    "ledger (damaged)": lambda s: ledger.ledger.outcome(
        with_ledger(s.session, damaged=True), SimpleNamespace(invoked_subcommand=None)
    ).view(),
    "ledger prune": lambda s: ledger.ledger_prune.outcome(with_ledger(s.session), keep_days=2, dry_run=True).view(),
    "cache info": lambda s: snapshots.cache_info.outcome(s.session).view(),
    "cache prune": lambda s: snapshots.cache_prune.outcome(s.session, everything=True).view(),
    "verify snapshot": lambda s: verify.verify_snapshot.outcome(s.session, "latest").view(),
    "verify model": lambda _: verify._verified(
        VerifyResult("model", "2025-10-15", sound=False, problems=(WRONG_SIZE,)), (WRONG_SIZE,)
    ).view(),
    "models": lambda s: models.models.outcome(s.session, SimpleNamespace(invoked_subcommand=None)).view(),
    "models history": lambda s: models.history.outcome(s.session).view(),
    "models prune": lambda s: models.models_prune.outcome(s.session, keep=3).view(),
    "models repair": lambda s: models.models_repair.outcome(copied(s.session)).view(),
    "models repair --dry-run": lambda s: models.models_repair.outcome(copied(s.session), dry_run=True).view(),
    "models pack": lambda s: models.models_pack.outcome(s.session, "2025-10-15", Path("model.tar")).view(),
    "models unpack": lambda s: unpacked(s.session).view(),
    "promote": lambda s: models._moved(
        promote_version(s.store, "2025-10-15.2", why="", by="", now_ms=NOW_MS, force=False)
    ).view(),
    "rollback": lambda s: models.rollback.outcome(s.session).view(),
    "card diff": lambda s: html_pages.card_diff.outcome(s.session, "2025-10-15", "2025-10-15.3").view(),
    "card report": lambda s: html_pages.card_report.outcome(s.session, "2025-10-15").view(),
    "card show": lambda s: models.card_show.outcome(s.session, "2025-10-15").view(),
    "card validate": lambda s: models.card_validate.outcome(s.session, [Path("good.json"), Path("bad.json")]).view(),
    "config show": lambda s: config.config_show.outcome(s.session, context(), seed=7).view(),
    "config init": lambda s: begun(s.session),
    "features info": lambda s: features.features_info.outcome(s.session).view(),
    "features info --snapshot": lambda _: features._view_profiles(read("profiles")),
    "features init": lambda s: begun_features(s.session),
    "features export": lambda _: features._view_export(EXPORTED),
    "features check": lambda s: features.features_check.outcome(s.session, Path("frame.csv")).view(),
    "features show": lambda s: features.features_show.outcome(
        s.session, "rsi_7", "2025-10-14T12:00:00Z", symbol="ETHUSDT", ref=ONE
    ).view(),
    "features audit": lambda _: features._view_audit(FeaturesAudit("latest", False, read("audit"))),
    "train": lambda _: train._view_training(read("train-go"), read_card("train-go")),
    "train (no-go)": lambda _: train._view_training(read("train-no-go"), read_card("train-no-go")),
    "train (held)": lambda _: train._view_training(read("train-held"), read_card("train-held")),
    "train --dry-run": lambda _: train._view_plan(read("plan")),
    "demo": lambda _: train._view_demo(demo(), [read_card("train-go"), read_card("train-held")]),
    "backtest run": lambda s: backtest.backtest_show.outcome(with_backtests(s.session), "latest").view(),
    "backtest list": lambda s: backtest.backtest_list.outcome(with_backtests(s.session)).view(),
    "backtest show": lambda s: backtest.backtest_show.outcome(with_backtests(s.session), "latest").view(),
    "backtest diff": lambda s: backtest.backtest_diff.outcome(
        with_backtests(s.session), f"2025-10-15-{day_name(NOW_MS)}", "latest"
    ).view(),
    "backtest prune": lambda s: backtest.backtest_prune.outcome(with_backtests(s.session), keep=1).view(),
    "bench": lambda _: bench._view_reports(read("bench")),
    "evaluate": lambda _: evaluate.view_evaluation(read("evaluate")),
    "notify": lambda _: notify._view(NOTIFIED),
    "cycle": lambda _: cycle._view(ROUND),
    "halt": lambda s: halts._view_halt(api_halts.halt("wrong prices", **without_halts(s.session))),
    "halt status": lambda s: halts._view_status(api_halts.halt_status(data_dir=with_halts(s.session)["data_dir"])),
    "halt history": lambda s: halts._view_history(api_halts.halt_history(data_dir=with_halts(s.session)["data_dir"])),
    "halt arm": lambda s: halts._view_status(armed(s.session)),
    "halt disarm": lambda s: halts._view_status(api_halts.halt_disarm(**without_halts(s.session))),
    "halt drill": lambda _: halts._view_drill(DRILL),
    "resume": lambda s: halts._view_resume(
        api_halts.resume("the feed is right again", acknowledge=["calibration"], **with_halts(s.session))
    ),
    "predict": lambda _: predict._view_result(predictions(), explain=False, quiet=False),
    "sentinel": lambda _: sentinel._view_evidence(WATCHED),
    "sentinel (quiet)": lambda _: sentinel._view_evidence(replace(WATCHED, evidence=(STALE,), halted=())),
    "status": lambda _: status._view(operated()),
    "status (alert)": lambda _: status._view(operated(is_late=True)),
    "status --check": lambda _: status._view_problems(operated(is_late=True)),
    "predict --explain": lambda _: predict._view_result(predictions(), explain=True, quiet=False),
}
# serve and sim print addresses, and only once they listen; card schema a file of the package, as it is.
WITHOUT = {"serve", "sim", "card schema"}


def leaves(command, path=()):
    """Yield the name of every command, also inside groups."""
    children = getattr(command, "commands", {})
    if path and (not children or getattr(command, "invoke_without_command", False)):
        yield " ".join(path)
    for name, child in children.items():
        yield from leaves(child, (*path, name))


def shown(view, width, *, terminal):
    out = io.StringIO()
    environment = {"TERM": "xterm-256color", "NO_COLOR": "1"}
    console = Console(
        file=out,
        width=width,
        force_terminal=terminal,
        color_system=None,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
        _environ=environment,
    )
    show_view(console, view)
    return out.getvalue()


def test_every_command_has_a_scene():
    """Every command has at least one golden file, except those in WITHOUT."""
    commands = set(leaves(typer.main.get_command(load_commands())))

    assert commands - WITHOUT <= set(SCENES)
    assert {name.partition(" -")[0].partition(" (")[0] for name in SCENES} <= commands


@pytest.mark.parametrize("name", SCENES)
def test_output_is_as_in_the_golden_file(name, shelf):
    """At each width the output equals the golden file, and no line is too long or ends with a space."""
    path = GOLDEN / f"{re.sub(r'[^a-z]+', '-', name).strip('-')}.txt"
    parts = []
    for width in WIDTHS:
        text = shown(SCENES[name](shelf), width, terminal=True)
        lines = text.splitlines()
        assert [line for line in lines if len(line) > width] == []
        parts.append(f"=== {width} columns\n" + "".join(f"{line.rstrip()}\n" for line in lines))
    found = "\n".join(parts)
    if os.environ.get("MLTRAIN_UPDATE_GOLDENS"):
        path.write_text(found, "utf-8")

    assert found == path.read_text("utf-8"), "MLTRAIN_UPDATE_GOLDENS=1 rewrites it: look at the difference"
