"""Laws of the whole job at long intervals: from simulated candles to a prediction with the packaged registry."""

from __future__ import annotations

from mltrain.serving.model import load
from support.program import QUICK, call


def test_hours_of_a_year_go_from_candles_to_a_prediction(tmp_path):
    """They are trained on; what is left out is said, recorded, and left out when serving."""
    interval, days, symbols, left_out = "1h", 365, "BTCUSDT,ETHUSDT", ["quarter"]
    data_dir = tmp_path / "data"
    words = ["--source", "sim", "--sim-signal", "strong", "--interval", interval, "--days", days, "--symbols", symbols]
    taken = call("snapshot", *words, data_dir=data_dir)
    assert taken.code == 0, taken.err
    planned = call("train", "--json", "--dry-run", "--config", QUICK, data_dir=data_dir)
    trained = call("train", "--json", "--trials", 1, "--config", QUICK, data_dir=data_dir)
    warning = f"left out, because every {interval} candle has the same value: {', '.join(left_out)}"

    assert planned.code == 0, planned.err
    assert warning in planned.err
    rows = [block["stop_row"] - block["first_row"] for block in planned.document["blocks"]]
    assert min(rows) >= 200
    assert trained.code in {0, 4}, trained.err
    assert warning in trained.document["warnings"]
    card = call("card", "show", "--json", trained.document["version"], data_dir=data_dir)
    assert card.code == 0, card.err
    model = load(trained.document["folder"], allow_no_go=True, clock=None)
    assert model.interval == interval
    assert not set(left_out) & set(model.feature_set.names)
    predicted = call("predict", "--json", "--allow-no-go", trained.document["version"], data_dir=data_dir)
    assert predicted.code == 0, predicted.err
    assert [row["refused"] for row in predicted.document["predictions"]] == [None] * len(symbols.split(","))
    again = call("train", "--json", "--trials", 1, "--config", QUICK, data_dir=data_dir)
    assert (again.code, again.document["version"]) == (0, trained.document["version"])
    assert call("verify", "model", trained.document["version"], "--retrain", data_dir=data_dir).code == 0


def test_another_interval_is_refused_in_one_sentence(tmp_path):
    """A registry that states its interval refuses the snapshot, not each symbol of it."""
    registry = tmp_path / "mine.yml"
    registry.write_text(
        "version: 1\ninterval: 1m\nlabel: {kind: direction, horizon: 1, ties: drop}\n"
        "features:\n  - {name: body, op: candle_body}\n"
    )
    data_dir = tmp_path / "data"
    words = ["--source", "sim", "--interval", "1w", "--days", 700, "--symbols", "BTCUSDT,ETHUSDT"]
    assert call("snapshot", *words, data_dir=data_dir).code == 0
    done = call("train", "--features", registry, data_dir=data_dir)

    assert done.code == 3
    assert done.err.count("is for 1m candles, and these are 1w candles") == 1
    assert "BTCUSDT" not in done.err


def test_too_few_weekly_candles_say_what_helps(tmp_path):
    """No exchange has the decades of weeks that one symbol would need."""
    data_dir = tmp_path / "data"
    words = ["--source", "sim", "--interval", "1w", "--days", 3650, "--symbols", "BTCUSDT"]
    assert call("snapshot", *words, data_dir=data_dir).code == 0
    done = call("train", data_dir=data_dir)

    assert done.code == 3
    assert "take more symbols or a shorter interval" in done.err
