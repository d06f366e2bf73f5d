"""Versions and files for `mltrain.predict` that the command line cannot name."""

from __future__ import annotations

import io

import mltrain as mt


def test_a_loaded_model_and_streams_are_taken(trained_dir, tmp_path):
    """A model, the candles of a stream and an output stream give what their names and files give."""
    model = mt.load(trained_dir / "models" / "best_lgbm.pkl")
    candles = mt.open_snapshot(data_dir=trained_dir).candles("BTCUSDT").tail(200)
    file, sink = tmp_path / "BTCUSDT-1m.csv", io.BytesIO()
    candles.write_csv(file)
    by_name = mt.predict("best", input=file, data_dir=trained_dir)
    by_object = mt.predict(model, input=file, data_dir=trained_dir)
    mt.predict_file(tmp_path / "p.csv", model, input=file, data_dir=trained_dir)
    with_symbol = io.BytesIO(file.read_bytes().replace(b"\n", b",BTCUSDT\n").replace(b",BTCUSDT", b",symbol", 1))
    written = mt.predict_file(sink, model, input=with_symbol, data_dir=trained_dir)

    assert by_object.predictions == by_name.predictions
    assert (written.output, written.rows) == ("-", 200)
    assert sink.getvalue() == (tmp_path / "p.csv").read_bytes()
    assert by_name.frame["p"].to_list() == [prediction.p for prediction in by_name.predictions]
