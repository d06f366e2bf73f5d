"""The public functions give what the commands print: one test over all commands."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mltrain as mt
from mltrain.backtesting.stored import publish_backtest
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.times import day_name
from support.backtests import make_result
from support.commands import ARGUMENTS, COMMANDS
from support.ledgers import write_ledger
from support.program import MLTRAIN, NEUTRAL, QUICK, call
from support.record import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.documents.results import Result

FIRST = f"2025-10-15-{day_name(NOW_MS)}"
GRID = Path(__file__).parents[1] / "data" / "grid.yml"


@dataclass(frozen=True)
class Case:
    """A command, and the call of a function that does the same in the data folder `data`.

    Attributes:
        command: The command's words.
        function: Returns the result; called in a working directory with the data folder `data`.
        arguments: The command's options; None: those of ARGUMENTS. "LIVE" stands for the name of the live version.
        after: Commands that are run in the data folder before.
        prepare: Fills the data folder before.
    """

    command: str
    function: Callable[[], Result]
    arguments: tuple[str, ...] | None = None
    after: tuple[tuple[str, ...], ...] = ()
    prepare: Callable[[Path], None] = lambda _: None

    @property
    def words(self):
        """The words of the whole command line."""
        path = tuple(self.command.split())
        return (*path, *((ARGUMENTS.get(path) or ()) if self.arguments is None else self.arguments))


def with_backtests(data_dir):
    """Store two backtests that were never run."""
    for seed in (1, 2):
        publish_backtest(data_dir, make_result(seed=seed), {}, now_ms=NOW_MS, named=lambda _: {})


def with_ledger(data_dir):
    """Record some answers."""
    write_ledger(data_dir, now_ms=NOW_MS)


def with_limits(data_dir):
    """Write an operate.yml into the data folder."""
    data_dir.joinpath("own.yml").write_text("candles: {max_age_h: 1}\n", "utf-8")


def with_files(data_dir):
    """Write a small registry, and what `features check` reads, to the working directory."""
    data_dir.with_name("small.yml").write_text(SMALL, "utf-8")
    data_dir.with_name("frame.csv").write_text("rsi_7,extra\n1.5,2\n", "utf-8")


SMALL = """
version: 1
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: bar_range, op: bar_range}
"""
AUDIT = ("--features", "small.yml", "--report", "audit")
HALT = ("halt", "--why", "a test")
PACK = ("models", "pack", "best", "--output", "model.tar")
MARKET = {"source": "sim", "sim_signal": "strong", "symbols": ["BTCUSDT", "ETHUSDT"], "days": 6}
AT = dt.datetime(2025, 10, 12, 12, tzinfo=dt.UTC)
AS_OF = "2025-10-15T11:00:00Z"
# One block per module of mltrain.api.
CASES = [
    # backtest
    Case("backtest diff", partial(mt.backtest_diff, FIRST, "latest"), (FIRST, "latest"), prepare=with_backtests),
    Case("backtest list", mt.list_backtests, prepare=with_backtests),
    Case("backtest prune", partial(mt.backtest_prune, keep=1), prepare=with_backtests),
    Case(
        "backtest run",
        lambda: mt.backtest(mt.load("data/models/best_lgbm.pkl"), policy="hysteresis", grid={"enter": (0.52, 0.6)}),
        ("best", "--policy", "hysteresis", "--grid", str(GRID)),
    ),
    Case("backtest show", partial(mt.backtest_show, Path(f"data/backtests/{FIRST}")), (FIRST,), prepare=with_backtests),
    # bench
    Case("bench", partial(mt.bench, samples=10, budget_ms=6e4), ("--samples", "10", "--budget-ms", "60000")),
    # card
    Case("card schema", mt.card_schema),
    Case("card show", mt.card_show),
    Case("card validate", mt.card_validate),
    # evaluate
    Case("evaluate", lambda: mt.evaluate(mt.load("data/models/best_lgbm.pkl"), Path("data/snapshots/latest"))),
    # config
    Case("config init", mt.config_init),
    Case("config init", partial(mt.config_init, "own.yml", of="halt"), ("own.yml", "--of", "halt")),
    Case("config show", mt.config_show),
    Case("config show", partial(mt.config_show, model="tft", trials=3), ("--model", "tft", "--trials", "3")),
    Case("config show", partial(mt.config_show, holdout_from=dt.date(2026, 1, 1)), ("--holdout-from", "2026-01-01")),
    Case(
        "config show", partial(mt.config_show, trials=3, class_weight=2.5), ("--trials", "3", "--class-weight", "2.5")
    ),
    # halts
    Case("halt", partial(mt.halt, "a test", symbols=["BTCUSDT"]), ("--why", "a test", "--symbols", "BTCUSDT")),
    Case("halt status", mt.halt_status, after=(HALT,)),
    Case("halt history", mt.halt_history, after=(HALT,)),
    Case("halt arm", mt.halt_arm),
    Case("halt disarm", mt.halt_disarm),
    Case("halt drill", partial(mt.halt_drill, rounds=2), ("--rounds", "2")),
    Case("resume", partial(mt.resume, "again"), ("--why", "again"), after=(HALT,)),
    # features
    Case("features audit", partial(mt.features_audit, features="small.yml", report="audit"), AUDIT, prepare=with_files),
    Case("features check", partial(mt.features_check, "frame.csv"), ("frame.csv",), prepare=with_files),
    Case(
        "features export",
        partial(mt.features_export, "matrix.parquet", features="small.yml"),
        ("--output", "matrix.parquet", "--features", "small.yml"),
        prepare=with_files,
    ),
    Case("features info", mt.features_info),
    Case("features init", partial(mt.features_init, "5m"), ("--interval", "5m")),
    Case("features info", partial(mt.features_info, snapshot="latest"), ("--snapshot", "latest")),
    Case("features show", partial(mt.features_show, "rsi_7", AT, symbol="ETHUSDT")),
    # html_pages
    Case("card diff", partial(mt.card_diff, "best", "latest")),
    Case("card diff", partial(mt.card_diff_page, "best", "latest"), ("best", "latest", "--html")),
    Case("card report", mt.card_report),
    Case("models", mt.models_page, ("--html",)),
    # ledger
    Case("ledger", mt.ledger, prepare=with_ledger),
    Case(
        "ledger",
        partial(mt.ledger, since=dt.date(2025, 7, 1), symbols=["BTCUSDT"], newest=2),
        ("--since", "2025-07-01", "--symbols", "BTCUSDT", "--newest", "2"),
        prepare=with_ledger,
    ),
    Case("ledger prune", partial(mt.ledger_prune, keep_days=30), prepare=with_ledger),
    # models
    Case("models", mt.list_models),
    Case("models history", mt.models_history),
    Case("models pack", partial(mt.models_pack, "best", "model.tar"), ("best", "--output", "model.tar")),
    Case("models prune", partial(mt.models_prune, keep=1)),
    Case("models repair", mt.models_repair),
    Case(
        "models unpack",
        partial(mt.models_unpack, "model.tar"),
        ("model.tar",),
        after=(("models", "pack", "best", "--output", "model.tar"),),
    ),
    Case("promote", partial(mt.promote, "best")),
    Case("rollback", lambda: mt.rollback(mt.card_show().ref), ("LIVE",)),
    # notify
    Case("notify", mt.notify),
    # predict
    Case("predict", mt.predict),
    Case(
        "predict", partial(mt.predict, "latest", explain=True, as_of=AS_OF), ("latest", "--explain", "--as-of", AS_OF)
    ),
    Case("predict", partial(mt.predict_file, "p.csv"), ("--output", "p.csv")),
    # sentinel
    Case("sentinel", mt.sentinel),
    # snapshots
    Case("cache info", mt.cache_info),
    Case("cache prune", partial(mt.cache_prune, everything=True)),
    Case("snapshot", partial(mt.snapshot, **MARKET)),
    Case("snapshot", partial(mt.snapshot_plan, **MARKET), (*ARGUMENTS["snapshot",], "--dry-run")),
    Case("snapshot", partial(mt.snapshot_rebuild, "latest"), ("--rebuild", "latest")),
    Case("snapshots", mt.list_snapshots),
    Case("snapshots diff", partial(mt.snapshots_diff, "latest", "latest")),
    Case("snapshots prune", partial(mt.snapshots_prune, keep=1)),
    # status
    Case("status", mt.status),
    Case(
        "status",
        partial(mt.status, config={"candles": {"max_age_h": 1}}, slot="lgbm"),
        ("--config", "data/own.yml", "--slot", "lgbm"),
        prepare=with_limits,
    ),
    # studies
    Case("studies", mt.list_studies),
    Case("studies prune", partial(mt.studies_prune, older_than=90)),
    # train
    Case(
        "train",
        partial(mt.train, config=parse_yaml(QUICK.read_bytes(), where="quick.yml").value, trials=2),
        ("--trials", "2", "--config", str(QUICK)),
    ),
    Case(
        "train",
        partial(mt.train_plan, Path("data/snapshots/latest"), config=QUICK, val_ratio=0.3, workers=1),
        ("--dry-run", "--config", str(QUICK), "--val-ratio", "0.3", "--workers", "1"),
    ),
    # verify
    Case("verify model", mt.verify_model),
    Case("verify snapshot", mt.verify_snapshot),
]
# What differs between two runs of the same command: durations and the machine's clock.
VOLATILE = frozenset(
    {
        "when",
        "age_s",
        "answers",
        "refusals",
        "p50_ms",
        "p99_ms",
        "max_ms",
        "seen_sha256",
        "seconds",
        "minutes",
        "available_bytes",
        "latency",
        "load_ms",
        "first_ms",
        "memory_mb",
        "noise",
    }
)
# Trains twice: tests/pipeline/test_demo.py compares its function with its schema.
# These serve until a signal: sim is compared below, serve in tests/cli/test_serve_command.py.
# cycle is compared in tests/cli/test_cycle_command.py.
ELSEWHERE = {"cycle", "demo", "serve", "sim"}


def without_volatile(value):
    """Return a document with None for the values of the volatile keys, at any depth."""
    if isinstance(value, dict):
        return {key: None if key in VOLATILE else without_volatile(item) for key, item in value.items()}
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def test_every_command_has_a_function():
    """A new command needs a row."""
    covered = {case.command for case in CASES}

    assert covered | ELSEWHERE == set(map(" ".join, COMMANDS))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.words)))
def test_a_function_gives_the_document_of_its_command(case, trained_dir, tmp_path, monkeypatch):
    """`to_json()` is what the command prints with `--json`, and the warnings are the same."""
    for name in ("command", "function"):
        shutil.copytree(trained_dir, tmp_path / name / "data", symlinks=True)
        case.prepare(tmp_path / name / "data")
        for words in case.after:
            assert call(*words, cwd=tmp_path / name).code == 0
    live = (trained_dir / "models" / "best_lgbm").readlink().name
    done = call(*(live if word == "LIVE" else word for word in case.words), "--json", cwd=tmp_path / "command")
    monkeypatch.chdir(tmp_path / "function")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        document = case.function().to_json()

    assert without_volatile(document) == without_volatile(done.document)
    shown = [f"warning: {warning.message}" for warning in caught if warning.category is mt.MltrainWarning]
    assert shown == [line for line in done.err.splitlines() if not line.startswith("hint: ")]


def test_the_exchange_gives_the_document_of_its_command():
    """`mltrain sim` prints the same document, but for the port, and serves the same market at the same addresses."""
    words = ["sim", "--json", "--seed", "3", "--signal", "weak", "--clock", "2025-03-01T00:00:00Z"]
    with subprocess.Popen([MLTRAIN, *words], stdout=subprocess.PIPE, env=NEUTRAL, text=True) as run:
        printed = json.loads("".join(iter(run.stdout.readline, "}\n")) + "}")
        run.kill()
    with mt.sim(seed=3, signal="weak", clock=dt.date(2025, 3, 1)) as exchange:
        document = exchange.to_json()

    def without_port(found):
        return re.sub(r":[0-9]{4,5}(?=[/\"])", ":PORT", json.dumps(found))

    assert without_port(document) == without_port(printed)
    assert document["base_url"] == exchange.base_url
    assert document["archive_url"] == exchange.archive_url
