"""`mltrain backtest` refuses bad input with one clear message, and writes nothing then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mltrain.features.registry import parse_registry
from support.bare_versions import tree
from support.program import call
from support.workshop import REGISTRY, Workshop

LATER = "2025-10-16T12:00:00Z"
FUNDING = "ts,rate\n" + "".join(
    f"2025-10-{day}T{hour:02d}:00:00Z,0.0001\n" for day in (15, 16) for hour in (0, 8, 16) if (day, hour) != (16, 0)
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a data folder with a live version, one of a threshold label, and snapshots; read only.

    The snapshots: that of the training, one of later candles, one of another symbol, one of another interval.
    """
    workshop = Workshop(tmp_path_factory.mktemp("command") / "data")
    trained_on = workshop.snapshot()
    live = workshop.train(trained_on)
    request = workshop.request(trained_on, promote=False)
    registry = (REGISTRY % b"1m").replace(b"kind: direction, horizon: 1", b"kind: threshold, cost_bps: 2, horizon: 1")
    other = workshop.train_request(replace(request, feature_set=parse_registry(registry, where="registry")))
    later = workshop.snapshot(days=1, end=LATER)
    foreign = workshop.snapshot(days=1, end=LATER, symbols=("ETHUSDT",))
    slower = workshop.snapshot(days=9, end=LATER, interval="5m")
    earlier = workshop.snapshot(days=1, end="2025-06-01T00:00:00Z")
    folder = workshop.folder.parent
    (folder / "funding.csv").write_text(FUNDING)
    (folder / "no_rate.csv").write_text("ts,price\n2025-10-15T00:00:00Z,1\n")
    (folder / "nan.csv").write_text("ts,rate\n2025-10-15T00:00:00Z,nan\n")
    for name, text in (
        ("unknown.yml", "entry: [0.5]"),
        ("no_list.yml", "enter: 0.5"),
        ("broken.yml", "enter: [0.5"),
        ("empty.yml", "enter: []"),
        ("none.yml", "enter: [0.4, 1.2]"),
        ("huge.yml", "enter: [" + ", ".join(["0.55"] * 1_001) + "]"),
        ("overflow.yml", "".join(
            f"{key}: [{', '.join([value] * 2_048)}]\n"
            for key, value in (("enter", "0.6"), ("exit", "0.5"), ("max-weight", "1.0"), ("kelly-fraction", "0.1"),
                               ("policy", "sign"), ("side", "long"))
        )),
    ):  # fmt: skip
        (folder / name).write_text(text)
    names = {
        "live": live.version, "threshold": other.version, "trained": trained_on.id, "later": later.id,
        "foreign": foreign.id, "slower": slower.id, "earlier": earlier.id, "folder": str(folder),
    }  # fmt: skip
    return workshop.folder, names


PERP = "--market perp --funding 1"
# Options, exit code, and what the message says.
REFUSED = [
    # Costs.
    ("--taker-bps -1", 2, "taker-bps is -1.0: expected 0 or above"),
    ("--taker-bps nan", 2, "taker-bps is nan"),
    ("--maker-bps -0.5", 2, "maker-bps is -0.5"),
    ("--spread-bps -1", 2, "spread-bps is -1.0"),
    ("--slippage-bps nan", 2, "slippage-bps is nan"),
    ("--slippage-bps inf", 2, "slippage-bps is inf"),
    ("--impact -1", 2, "impact is -1.0"),
    ("--participation 0", 2, "participation is 0.0"),
    ("--participation nan", 2, "participation is nan"),
    ("--participation much", 2, "participation much is not a share"),
    ("--spread-bps 20000", 2, "spread and slippage together exceed the price"),
    ("--delay-bars -1", 2, "delay-bars"),
    ("--fees binanse", 2, "binance"),
    ("--fees binance-usdm --market spot", 2, "binance-usdm"),
    ("--fill later", 2, "--fill"),
    # Policies.
    ("--policy luck", 2, "--policy"),
    ("--policy hysteresis --enter 0.51 --exit 0.52", 2, "exit is 0.52"),
    ("--enter 0.4", 2, "enter is 0.4"),
    ("--enter nan", 2, "enter is nan"),
    ("--max-weight 0", 2, "max-weight is 0.0"),
    ("--max-weight -1", 2, "max-weight is -1.0"),
    ("--max-weight nan", 2, "max-weight is nan"),
    ("--policy kelly --kelly-fraction 1.5", 2, "kelly-fraction is 1.5"),
    ("--policy kelly --kelly-fraction 0", 2, "kelly-fraction is 0.0"),
    ("--side both", 2, "a spot account cannot be short"),
    ("--market spot --side both", 2, "a spot account cannot be short"),
    ("--policy sign --tune", 2, "--tune"),
    ("{threshold} --policy sign", 2, "needs a direction label"),
    ("{threshold} --policy cost-aware", 2, "needs a direction label"),
    ("{threshold} --policy kelly", 2, "needs a direction label"),
    # What belongs together.
    ("--funding 1", 2, "--funding goes with --market perp"),
    ("--capacity", 2, "--capacity needs --impact"),
    ("--in-sample --gate", 2, "--gate refuses --in-sample"),
    ("--equity 0", 2, "equity is 0.0"),
    ("--equity nan", 2, "equity is nan"),
    ("--train-days 5", 2, "--walk-forward"),
    # Range.
    ("--from 2025-10-01", 2, "learned from earlier candles"),
    ("--from whenever", 2, "whenever"),
    ("--to 2025-10-14", 2, "--to 2025-10-14T00:00:00Z is not after"),
    ("--from 2025-10-16T11:00Z --to 2025-10-16T10:00Z", 2, "is not after 2025-10-16T11:00:00Z"),
    ("--from 2025-10-16T11:59Z", 3, "no candles of BTCUSDT to trade"),
    ("--snapshot {earlier}", 3, "no candles of BTCUSDT to trade"),
    ("--snapshot {foreign}", 3, "BTCUSDT"),
    ("--snapshot {slower}", 3, "5m"),
    ("--snapshot nowhere", 2, "nowhere"),
    ("2024-01-01", 3, "2024-01-01"),
    # Funding.
    (f"{PERP}x", 3, "1x"),
    ("--market perp --funding {folder}/none.csv", 3, "none.csv"),
    ("--market perp --funding {folder}/no_rate.csv", 3, "expected ts, rate"),
    ("--market perp --funding {folder}/nan.csv", 3, "missing"),
    (
        "--market perp --funding {folder}/funding.csv",
        3,
        "BTCUSDT has no funding between 2025-10-15T16:00:00Z and 2025-10-16T08:00:00Z: a missing rate is not zero",
    ),
    # Grids.
    ("--grid {folder}/none", 3, "none"),
    ("--grid {folder}/unknown.yml", 3, "entry"),
    ("--grid {folder}/no_list.yml", 3, "expected lists of values"),
    ("--grid {folder}/broken.yml", 3, "broken.yml"),
    ("--grid {folder}/empty.yml", 3, "expected lists of values"),
    ("--grid {folder}/none.yml", 3, "gives no policy"),
    ("--grid {folder}/huge.yml", 3, "1,001 policies"),
    ("--grid {folder}/overflow.yml", 3, "policies, at most 1,000"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "code", "message"), REFUSED, ids=[options for options, _, _ in REFUSED])
def test_bad_input_is_refused_and_nothing_is_written(made, options, code, message):
    """The exit code, one message that names what is wrong, no traceback, and the same files as before."""
    folder, names = made
    before = tree(folder)
    words = options.format(**names).split()
    if "--snapshot" not in words:
        words += ["--snapshot", names["later"]]
    done = call("backtest", "run", *words, data_dir=folder, timeout=60)

    assert done.code == code, done.err
    assert message in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err
    assert done.out == ""
    assert tree(folder) == before


def test_a_perpetual_without_funding_rates_is_refused(made):
    """The snapshot has none, and a missing rate is not zero."""
    folder, names = made
    before = tree(folder)
    done = call("backtest", "--market", "perp", "--snapshot", names["later"], data_dir=folder)

    assert done.code == 3, done.err
    assert "has no funding rates" in done.err
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["show"], 3, "there is no backtest"),
        (["show", "2025-10-15-2025-11-01"], 3, "there is no backtest"),
        (["show", "../models/best_lgbm"], 3, "there is no backtest"),
        (["diff", "latest", "latest"], 3, "there is no backtest"),
        (["prune", "--keep", "-1"], 2, "--keep"),
        (["prune"], 2, "--keep"),
    ],
)
def test_stored_backtests_that_are_not_there(made, words, code, message):
    """An error with its exit code, and nothing is written."""
    folder, _ = made
    before = tree(folder)
    done = call("backtest", *words, data_dir=folder)

    assert done.code == code, done.err
    assert message in " ".join(done.err.replace("│", " ").split())
    assert tree(folder) == before


def test_no_backtests_is_no_error(made):
    """The list is empty, and there is nothing to remove."""
    folder, _ = made
    listed, pruned = (
        call("backtest", "list", "--json", data_dir=folder),
        call("backtest", "prune", "--keep", 1, data_dir=folder),
    )

    assert (listed.code, pruned.code) == (0, 0)
    assert listed.document["backtests"] == []
    assert not (folder / "backtests").exists()


def test_a_result_goes_where_output_says(data_dir, tmp_path):
    """The data folder's list does not have it; `show` takes its path and notices damage."""
    done = call("backtest", "--json", "--output", tmp_path / "mine", data_dir=data_dir)
    assert done.code == 0, done.err
    folder = tmp_path / "mine" / done.document["backtest"]
    shown = call("backtest", "show", "--json", folder, data_dir=data_dir)
    (folder / "daily.parquet").write_bytes(b"PAR1")
    damaged = call("backtest", "show", "--json", folder, data_dir=data_dir)

    assert done.document["folder"] == str(folder)
    assert call("backtest", "list", "--json", data_dir=data_dir).document["backtests"] == []
    assert (shown.code, shown.document["result"]) == (0, done.document["result"])
    assert damaged.code == 3
    assert "daily.parquet" in damaged.document["problems"][0]
