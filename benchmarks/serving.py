"""Latency of serving: one row, candles to probability, a stream, a hundred symbols, at the budgets' model size.

    python benchmarks/serving.py [--samples 2000] [--symbols 100]

For single rows, the model has 300 trees x 64 leaves x 40 features, trained on noise, and is compared with
`Booster.predict`, and with onnxruntime and treelite if they are installed (`pip install onnxruntime onnxmltools
treelite tl2cgen`); the output lists missing ones. The figures from candles are of a model on the default registry with
the same number of trees and leaves. All calls alternate in one process on one thread, so that load on the machine
affects all of them. Budgets: the call at most 1/3 of `Booster.predict` and below both others, `predict_one` at most
1/2, candles of a symbol and its leader to probability 4 ms at the 99th percentile, `stream.push` 2 ms, a hundred
symbols at once 60 ms. The same with a model that also reads two inputs, one per minute and symbol and one per hour for
all symbols, has no budget. A push that is recorded in a ledger has the same budget as one that is not, and an append of
one row 0.1 ms; the folder is one of `tempfile`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))
from features import walk
from mltrain.artifact.bundle import Bundle
from mltrain.card.machine import cpu_name
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.features.registry import load_registry, parse_registry
from mltrain.monitoring.ledger import Ledger, LedgerRow, read_ledger
from mltrain.serving.model import Model, model_from_bundle
from mltrain.training.booster import normalise_model_text
from mltrain.training.calibration import Calibrator, Knots
from mltrain.training.lightgbm_import import import_lightgbm

if TYPE_CHECKING:
    from collections.abc import Callable

TREES, LEAVES, FEATURES = 300, 64, 40
ROWS = 20_000
WARM_UP = 50
STEP_MS = 60_000
HOUR_MS = 60 * STEP_MS
CONFIGS = Path(__file__).parents[1] / "configs"
LEADER = "BTCUSDT"
INPUTS = """inputs:
  - {name: flow, file: flow.parquet, column: value, known_at: known_at, max_age: 30m}
  - {name: funding, file: funding.parquet, column: value, known_at: known_at, max_age: 9h}
features:
  - {name: flow_now, op: input_value, params: {input: flow}}
  - {name: flow_change_15, op: input_change, params: {input: flow, bars: 15}}
  - {name: flow_score_60, op: input_zscore, params: {input: flow, bars: 60}}
  - {name: funding_now, op: input_value, params: {input: funding}}
  - {name: funding_change_60, op: input_change, params: {input: funding, bars: 60}}
  - {name: funding_score_240, op: input_zscore, params: {input: funding, bars: 240}}
"""


def grow(names: list[str], seed: int) -> str:
    """Train a model of the budgets' size on noise and return its text."""
    lightgbm = import_lightgbm()
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, len(names))).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.standard_normal(ROWS) > 0).astype(np.uint8)
    params = {"objective": "binary", "num_leaves": LEAVES, "num_threads": 1, "verbosity": -1, "max_bin": 63}
    booster = lightgbm.train(params, lightgbm.Dataset(x, y, feature_name=names), TREES)
    return normalise_model_text(booster.model_to_string())


def small_registry() -> bytes:
    """Return a registry with as many features as the budgets' model."""
    lines = ["version: 1", "interval: 1m", "label: {kind: direction, horizon: 1, ties: drop}", "features:"]
    lines += [f"  - {{name: r{i}, op: log_return, params: {{bars: {i}}}}}" for i in range(1, FEATURES + 1)]
    return "\n".join(lines).encode()


def calibrator() -> Calibrator:
    """Return an isotonic calibrator with two thousand knots."""
    scores = np.linspace(0.001, 0.999, 2_000)
    return Calibrator("isotonic", Knots(tuple(scores.tolist()), tuple((0.1 + 0.8 * scores).tolist())))


def interleave(calls: dict[str, Callable[[int], object]], samples: int) -> dict[str, np.ndarray]:
    """Time calls in turn, so that load on the machine affects all of them; return ms per call."""
    spent: dict[str, list[int]] = {name: [] for name in calls}
    for number in range(WARM_UP + samples):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call(number)
            spent[name].append(time.perf_counter_ns() - start)
    return {name: np.array(series[WARM_UP:]) / 1e6 for name, series in spent.items()}


def show(name: str, ms: np.ndarray, budget: str = "") -> None:
    """Print the percentiles of a call."""
    p50, p95, p99 = np.percentile(ms, [50, 95, 99])
    print(f"{name:42s} p50 {p50:9.4f}  p95 {p95:9.4f}  p99 {p99:9.4f}  max {ms.max():9.4f} ms  {budget}")


def onnx_call(text: str) -> Callable[[np.ndarray], object] | str:
    """Return a call of onnxruntime, or the reason why it cannot be measured."""
    try:
        import onnxruntime
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        booster = import_lightgbm().Booster(model_str=text)
        model = convert_lightgbm(
            booster, initial_types=[("x", FloatTensorType([None, FEATURES]))], zipmap=False, target_opset=15
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        session.run(None, {name: np.zeros((1, FEATURES), np.float32)})
    except Exception as err:  # noqa: BLE001 -- any failure of the other package is reported
        return f"{type(err).__name__}: {str(err).splitlines()[0][:100]}"
    return lambda row: session.run(None, {name: row[None, :]})


def treelite_call(text: str) -> Callable[[np.ndarray], object] | str:
    """Return a call of treelite, compiled to C by tl2cgen, or the reason why it cannot be measured."""
    try:
        import tl2cgen
        import treelite

        path = Path(tempfile.mkdtemp()) / "model.txt"
        path.write_text(text)
        model = treelite.frontend.load_lightgbm_model(path)
        library = str(Path(tempfile.mkdtemp()) / "model.so")
        tl2cgen.export_lib(model, toolchain="gcc", libpath=library, params={"parallel_comp": 8}, nthread=1)
        predictor = tl2cgen.Predictor(library, nthread=1)
        predictor.predict(tl2cgen.DMatrix(np.zeros((1, FEATURES), np.float32)))
    except Exception as err:  # noqa: BLE001 -- any failure of the other package is reported
        return f"{type(err).__name__}: {str(err).splitlines()[0][:100]}"
    return lambda row: predictor.predict(tl2cgen.DMatrix(row[None, :]))


def gtil_call(text: str) -> Callable[[np.ndarray], object] | str:
    """Return a call of treelite's interpreter, or the reason why it cannot be measured."""
    try:
        import treelite

        path = Path(tempfile.mkdtemp()) / "model.txt"
        path.write_text(text)
        model = treelite.frontend.load_lightgbm_model(path)
        treelite.gtil.predict(model, np.zeros((1, FEATURES), np.float32), nthread=1)
    except Exception as err:  # noqa: BLE001 -- any failure of the other package is reported
        return f"{type(err).__name__}: {str(err).splitlines()[0][:100]}"
    return lambda row: treelite.gtil.predict(model, row[None, :], nthread=1)


def one_row(samples: int) -> None:
    """Compare the ways to score one row."""
    feature_set = parse_registry(small_registry(), where="registry")
    text = grow(list(feature_set.names), 1)
    model = model_from_bundle(Bundle(text, calibrator(), feature_set, ("BTCUSDT",), ops_sha256()))
    served = model._current()  # noqa: SLF001 -- the inner call is measured, too
    rows = np.random.default_rng(2).standard_normal((1_000, FEATURES)).astype(np.float32)
    named = [dict(zip(feature_set.names, row.tolist(), strict=True)) for row in rows]
    print(f"one row, {TREES} trees x {LEAVES} leaves x {FEATURES} features; path: {model.path}")
    if served.scorer.fast is None:
        raise SystemExit("the single-row call is not usable here")
    fast = served.scorer.fast
    calls: dict[str, Callable[[int], object]] = {
        "Booster.predict, 1 thread": lambda i: served.scorer.booster.predict(rows[i % 1_000][None, :], num_threads=1),
        "the call": lambda i: fast.score(rows[i % 1_000]),
        "predict_one(array)": lambda i: model.predict_one(rows[i % 1_000]),
        "predict_one(mapping)": lambda i: model.predict_one(named[i % 1_000]),
        "predict_proba(1 row)": lambda i: model.predict_proba(rows[i % 1_000][None, :]),
    }
    for name, found in (
        ("onnxruntime", onnx_call(text)),
        ("treelite, compiled by tl2cgen", treelite_call(text)),
        ("treelite, its interpreter (GTIL)", gtil_call(text)),
    ):
        if isinstance(found, str):
            print(f"{name}: not measured: {found}")
        else:
            calls[name] = lambda i, call=found: call(rows[i % 1_000])  # type: ignore[misc]
    spent = interleave(calls, samples)
    base = float(np.median(spent["Booster.predict, 1 thread"]))
    for name, ms in spent.items():
        budget = {"the call": " (budget 1/3)", "predict_one(array)": " (budget 1/2)"}.get(name, "")
        show(name, ms, f"{np.median(ms) / base:.3f} of Booster.predict{budget}")


def from_candles(samples: int, many: int) -> None:
    """Measure candles to probability, a stream, and many symbols at once, on the default registry."""
    feature_set = load_registry(CONFIGS / "features.yml", interval="1m")
    symbols = tuple(sorted({"BTCUSDT", *(f"S{i:03d}USDT" for i in range(1, many))}))
    bundle = Bundle(grow(list(feature_set.names), 3), calibrator(), feature_set, symbols, ops_sha256())
    model = model_from_bundle(bundle)
    bars = model.lookback_bars
    moments = min(samples, 400)
    tape = {symbol: walk(i, bars + moments) for i, symbol in enumerate(symbols)}
    print(f"from candles, default registry: {len(feature_set.names)} features, lookback {bars} bars")

    def window(symbol: str, i: int) -> dict[str, object]:
        wanted = {symbol: tape[symbol], "BTCUSDT": tape["BTCUSDT"]}
        return {name: frame.slice(i % moments, bars) for name, frame in wanted.items()}

    follower, leader = symbols[-1], "BTCUSDT"
    ready = [window(follower, i) for i in range(moments)]
    alone = [window(leader, i) for i in range(moments)]
    spent = interleave(
        {
            "candles -> p, a symbol and its leader": lambda i: model.predict_candles(ready[i % moments]),
            "candles -> p, the leader alone": lambda i: model.predict_candles(alone[i % moments]),
        },
        samples,
    )
    for name, ms in spent.items():
        show(name, ms, "(budget p99 4 ms)")
    rows = {symbol: tape[symbol].to_dicts() for symbol in (leader, follower)}
    with tempfile.TemporaryDirectory() as folder, Ledger(folder) as ledger:
        recorded = Model(model._current(), log=ledger)  # noqa: SLF001 -- the same model, with a ledger
        streams = {"": model.stream((leader, follower)), " and a ledger": recorded.stream((leader, follower))}
        for stream in streams.values():
            stream.warm_up({symbol: tape[symbol].head(bars - 1) for symbol in (leader, follower)})
        pushes: dict[tuple[str, str], list[int]] = {(symbol, name): [] for name in streams for symbol in rows}
        for i in range(bars - 1, bars + moments):
            for symbol in (leader, follower):
                for name, stream in streams.items():
                    start = time.perf_counter_ns()
                    stream.push(symbol, rows[symbol][i])
                    pushes[symbol, name].append(time.perf_counter_ns() - start)
    show("stream.push, the leader", np.array(pushes[leader, ""][WARM_UP:]) / 1e6, "(budget p99 2 ms)")
    for name in streams:
        ms = np.array(pushes[follower, name][WARM_UP:]) / 1e6
        show(f"stream.push, a symbol with a leader{name}", ms, "(budget p99 2 ms)")
    every = [{symbol: tape[symbol].slice(i, bars) for symbol in symbols} for i in range(20)]
    spent = interleave({f"{many} symbols at once": lambda i: model.predict_candles(every[i % 20])}, 60)
    for name, ms in spent.items():
        show(name, ms, "(budget 60 ms)")


def ledger_alone(samples: int) -> None:
    """Measure an append of one row, and the reading and checking of a line."""
    row = LedgerRow(
        at="2025-10-15T12:00:00.250Z",
        ts="2025-10-15T11:59:00Z",
        symbol="BTCUSDT",
        version="2025-10-14",
        code_sha256="0" * 64,
        p=0.53,
        raw=0.51,
        refused=None,
        permit=None,
        high=101.5,
        low=99.5,
        close=100.25,
        source_at="2025-10-15T12:00:00.100Z",
        latency_ms=3.5,
    )
    with tempfile.TemporaryDirectory() as folder, Ledger(folder) as ledger:
        spent = interleave({"ledger, an append": lambda _: ledger.append([row])}, samples)
        start = time.perf_counter_ns()
        lines = sum(1 for _ in read_ledger(folder))
        per_line_us = (time.perf_counter_ns() - start) / lines / 1e3
    for name, ms in spent.items():
        show(name, ms, "(budget p50 0.1 ms)")
    print(f"ledger, a line read and checked: {per_line_us:.1f} us")


def from_candles_and_inputs(samples: int) -> None:
    """Measure candles to probability, and a stream, of a model that reads two inputs besides."""
    text = (CONFIGS / "features.yml").read_text("utf-8").replace("\nfeatures:\n", f"\n{INPUTS}")
    feature_set = parse_registry(text.encode(), where="registry", interval="1m")
    symbols = (LEADER, "ETHUSDT")
    bundle = Bundle(grow(list(feature_set.names), 4), calibrator(), feature_set, symbols, ops_sha256())
    model = model_from_bundle(bundle)
    bars, moments = model.lookback_bars, min(samples, 400)
    tape = {symbol: walk(i, bars + moments) for i, symbol in enumerate(symbols)}
    rng = np.random.default_rng(5)
    # A value is known at the close of each minute, and some seconds after each hour.
    closes = tape[LEADER]["ts"].dt.epoch("ms").to_numpy() + STEP_MS
    hours = np.arange(closes[0] - 9 * HOUR_MS, closes[-1], HOUR_MS)
    flow = {symbol: rng.standard_normal(closes.size) for symbol in symbols}
    funding = pl.DataFrame({"known_at": hours + 4_000, "value": rng.standard_normal(hours.size)})

    def given(stop: int) -> dict[str, pl.DataFrame]:
        """Return the values that candles up to a position read."""
        kept = slice(max(0, stop - bars), stop)
        tables = [
            pl.DataFrame({"symbol": symbol, "known_at": closes[kept], "value": values[kept]})
            for symbol, values in flow.items()
        ]
        return {"flow": pl.concat(tables), "funding": funding}

    windows = [{symbol: tape[symbol].slice(i, bars) for symbol in symbols} for i in range(moments)]
    inputs = [given(i + bars) for i in range(moments)]
    name = "candles, 2 inputs -> p, symbol and leader"
    spent = interleave(
        {name: lambda i: model.predict_candles(windows[i % moments], inputs=inputs[i % moments])}, samples
    )
    print(f"with inputs: {len(feature_set.names)} features, lookback {bars} bars")
    show(name, spent[name])
    stream = model.stream(symbols)
    stream.warm_up({symbol: tape[symbol].head(bars - 1) for symbol in symbols}, inputs=given(bars - 1))
    rows = {symbol: tape[symbol].to_dicts() for symbol in symbols}
    values_ns, pushes_ns = [], []
    for i in range(bars - 1, bars + moments):
        for symbol in symbols:
            start = time.perf_counter_ns()
            stream.push_input("flow", flow[symbol][i], known_at=int(closes[i]), symbol=symbol)
            taken = time.perf_counter_ns()
            stream.push(symbol, rows[symbol][i])
            values_ns.append(taken - start)
            pushes_ns.append(time.perf_counter_ns() - taken)
    # Every second push is of the symbol with a leader.
    show("stream.push, 2 inputs, with a leader", np.array(pushes_ns[2 * WARM_UP + 1 :: 2]) / 1e6)
    show("stream.push_input", np.array(values_ns[2 * WARM_UP :]) / 1e6)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--symbols", type=int, default=100)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    one_row(options.samples)
    from_candles(min(options.samples, 1_000), options.symbols)
    ledger_alone(options.samples)
    from_candles_and_inputs(min(options.samples, 1_000))


if __name__ == "__main__":
    main()
