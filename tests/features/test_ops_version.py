"""The version of the ops: raised when a value of any op changes, and only then.

tests/data/ops holds candles with gaps, ties and zeros, and the value of every op at each of them.
MLTRAIN_UPDATE_GOLDENS=1 adds those of new ops, and records all again once the version was raised.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.card.lineage import read_lineage
from mltrain.features.computation import count_consecutive_bars, evaluate
from mltrain.features.op import LEADER_PREFIX, Window
from mltrain.features.ops.catalogue import IDENTIFIERS, OPS, OPS_VERSION, ops_sha256
from mltrain.times import MINUTE_MS
from support.op_cases import ALL_CASES, KINDS, LEADER_OF, START_MS, market, with_input

FOLDER = Path(__file__).parents[1] / "data" / "ops"
CANDLES, VALUES, ABOUT = FOLDER / "candles.parquet", FOLDER / "values.parquet", FOLDER / "about.json"
# Rows of each market of test_every_op; in "pauses" trading stops for longer than the longest window.
ROWS = {"ordinary": 70, "ticks": 70, "still": 10, "pauses": 260, "equal": 20, "spikes": 110, "tiny": 70}
GAP_BARS = 7
# Scores of nearly equal values: two orders of rounding differ by 1e-7 of them, as in test_every_op.
LOOSE = ("zscore", "leader_zscore", "input_zscore", "return_skew")


def make_candles():
    """Return a piece of each market with its leader's columns, separated by gaps in time."""
    parts, start_ms = [], START_MS
    for kind in KINDS:
        leader = market(LEADER_OF[kind]).drop("ts").rename(lambda name: LEADER_PREFIX + name)
        rows = pl.concat([market(kind), leader], how="horizontal").head(ROWS[kind])
        times = pl.Series("ts", start_ms + MINUTE_MS * np.arange(rows.height)).cast(rows.schema["ts"])
        parts.append(rows.with_columns(times))
        start_ms += MINUTE_MS * (rows.height + GAP_BARS)
    return pl.concat(parts)


def compute_values(candles, cases):
    """Return a column for each op with its parameters: null in the warm-up after the start and after each gap."""
    # The candles were recorded before there were inputs.
    candles = with_input(with_input(candles), LEADER_PREFIX)
    frame = candles.with_columns(pl.Series("in_a_row", count_consecutive_bars(times_ms(candles), MINUTE_MS)))
    windows = {f"{name} {json.dumps(params)}": OPS[name](**params) for name, params in cases}
    return evaluate(
        frame,
        [
            pl.when(pl.col("in_a_row") >= window.lookback_bars).then(window.expr.cast(pl.Float64)).alias(column)
            for column, window in windows.items()
        ],
    )


def made_with():
    """Return the libraries and the machine, on which the last bits depend."""
    here = read_lineage()
    libraries = dict(here.dependencies)
    return {"numpy": libraries["numpy"], "polars": libraries["polars"], "platform": here.platform, "cpu": here.cpu}


def bits(column):
    return column.to_numpy().view(np.int64).tolist()


def find_changed(candles, values, *, exact):
    """Return the columns whose op is missing or has other values, by more than rounding if not exact."""
    names = [(column, column.partition(" ")) for column in values.columns]
    cases = [(op, json.loads(params)) for _, (op, _, params) in names if op in OPS]
    found = compute_values(candles, cases)
    changed = [column for column in values.columns if column not in found.columns]
    for column in found.get_columns():
        recorded = values[column.name]
        rtol = 1e-7 if column.name.startswith(LOOSE) else 1e-9
        same = bits(column) == bits(recorded)
        if not same and not exact:
            same = np.allclose(column.to_numpy(), recorded.to_numpy(), rtol=rtol, atol=1e-12, equal_nan=True)
        changed += [] if same else [column.name]
    return changed


def hash_values(values):
    """Return the SHA-256 of names and bits, independent of the file format."""
    return hashlib.sha256(json.dumps([(c.name, bits(c)) for c in values.get_columns()]).encode()).hexdigest()


def record():
    """Rewrite the values; those of an existing op stay as they are unless the version was raised."""
    values = compute_values(pl.read_parquet(CANDLES), ALL_CASES)
    if json.loads(ABOUT.read_bytes())["ops_version"] == OPS_VERSION:
        recorded = pl.read_parquet(VALUES)
        new = [column for column in values.get_columns() if column.name not in recorded.columns]
        if not new:
            return
        values = recorded.hstack(new)
    values.write_parquet(VALUES, compression_level=22)
    ABOUT.write_text(json.dumps({"ops_version": OPS_VERSION, **made_with()}, indent=2) + "\n", "utf-8")


@pytest.fixture(scope="module")
def recorded():
    """Return the candles, the values recorded of them, and what those were made with."""
    if os.environ.get("MLTRAIN_UPDATE_GOLDENS"):
        record()
    return pl.read_parquet(CANDLES), pl.read_parquet(VALUES), json.loads(ABOUT.read_bytes())


def test_a_changed_value_raises_the_version(recorded):
    """No value of an op differs from the recorded one, to the last bit, while the version is the same."""
    candles, values, about = recorded
    assert about["ops_version"] == OPS_VERSION, "run this test with MLTRAIN_UPDATE_GOLDENS=1 to record the new values"

    changed = find_changed(candles, values, exact=about == {"ops_version": OPS_VERSION, **made_with()})

    version = OPS_VERSION + 1
    assert changed == [], (
        f"these values are not those of version {OPS_VERSION} of the ops. If that is meant, models trained before must "
        f"warn: in mltrain/features/ops/catalogue.py set OPS_VERSION = {version}, add to IDENTIFIERS "
        f'{version}: "{hash_values(compute_values(candles, ALL_CASES))}", and run this test with '
        "MLTRAIN_UPDATE_GOLDENS=1"
    )


def test_every_op_is_recorded(recorded):
    """A new op is recorded, without a raise; MLTRAIN_UPDATE_GOLDENS=1 does it."""
    _, values, _ = recorded

    assert {column.partition(" ")[0] for column in values.columns} == set(OPS)
    assert all(values[column].is_not_null().any() for column in values.columns)


def test_the_last_bit_counts(recorded, monkeypatch):
    """An op whose values differ by one rounding is found, and so are one without values and a longer lookback."""
    candles, values, _ = recorded
    original = OPS["range_position"]

    def shaken(bars):
        window = original(bars=bars)
        return Window((window.expr + 1e-16) * (1 + 2**-52), window.lookback_bars)

    def longer(bars):
        window = original(bars=bars)
        return Window(window.expr, window.lookback_bars + 1)

    of_it = {column for column in values.columns if column.startswith("range_position ")}
    for op in (shaken, longer):
        monkeypatch.setitem(OPS, "range_position", op)
        assert of_it <= set(find_changed(candles, values, exact=True))
    monkeypatch.delitem(OPS, "range_position")
    assert of_it <= set(find_changed(candles, values, exact=True))


def test_a_version_has_an_identifier_that_no_other_has():
    """Cards and models keep 64 hexadecimal digits; those of version 1 are what mltrain 0.1.0 wrote."""
    assert list(IDENTIFIERS) == list(range(1, OPS_VERSION + 1)), "give the new version its identifier"
    assert len(set(IDENTIFIERS.values())) == len(IDENTIFIERS)
    assert all(re.fullmatch("[0-9a-f]{64}", identifier) for identifier in IDENTIFIERS.values())
    assert ops_sha256() == IDENTIFIERS[OPS_VERSION]
    assert IDENTIFIERS[1] == "dad4d1147feaeda201fa8785b2672b5b73f225280d94ed8de5a4b58402412fef"
