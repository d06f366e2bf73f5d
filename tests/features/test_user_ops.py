"""User ops: imported by module name, identified by their source, named when they fail."""

from __future__ import annotations

import sys

import pytest

from mltrain.errors import InputError, OwnOpsError, UsageError
from mltrain.features.computation import compute_features
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import FeatureSchemaValidator, describe_features, parse_registry
from mltrain.features.user_ops import UserOps, check_user_ops, import_user_ops, user_module_of, user_ops_of
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange
from support.user_ops import temporary_ops

GOOD = '''
"""Mine."""
import polars as pl
from mltrain.ops import Bars, Window


def drift(*, bars: Bars = 5) -> Window:
    """Mean body: mean ln(c / o)."""
    return Window((pl.col("close") / pl.col("open")).log().rolling_mean(bars), bars)


OPS = {"drift": drift}
'''
MINE = """
import polars as pl
from mltrain.ops import Window

def mine():
    {}

OPS = {{"mine": mine}}
"""
HEAD = "version: 1\ninterval: 1m\nlabel: {kind: direction, horizon: 1, ties: drop}\nfeatures:\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a module where Python finds it, for one test."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def make(name, source=GOOD):
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(source)
        names.append(name)
        return path

    with temporary_ops():
        yield make
    for name in names:
        sys.modules.pop(name, None)


def registry(line):
    return parse_registry(f"{HEAD}  - {line}\n".encode(), where="registry")


@pytest.fixture(scope="module")
def candles():
    span = TimeRange(CLOCK_MS - 300 * 60_000, CLOCK_MS)
    return {"BTCUSDT": SimSource().candles("BTCUSDT", span)}


def test_an_op_can_be_named_once_its_module_is_imported(write, candles):
    """It has the parameters, defaults and description of its function; without the import the registry is refused."""
    write("mine_a")
    with pytest.raises(InputError, match="drift"):
        registry("{name: x, op: drift}")
    used = import_user_ops("mine_a")
    features = registry("{name: x, op: drift}")

    assert used.module == user_module_of("drift") == "mine_a"
    assert user_ops_of(spec.op for spec in features.features) == used
    assert describe_features(features)[0].summary == "Mean body: mean ln(c / o)."
    assert features.features[0].params == {"bars": 5}
    assert compute_features(features, "BTCUSDT", candles)["x"].null_count() == 4
    assert user_ops_of(["rsi"]) is None
    assert user_module_of("rsi") is None


def test_the_hash_is_of_the_source(write):
    """It covers the file's bytes; of a package, every Python file and its name."""
    path = write("mine_b")
    one = import_user_ops("mine_b")
    write("pack_b.__init__", GOOD.replace('"drift"', '"drift_b"'))
    helper = write("pack_b.helper", "")
    two = import_user_ops("pack_b")
    helper.write_text("# changed\n")

    assert import_user_ops("mine_b") == one
    path.write_text(GOOD + "# changed\n")
    for name in ("mine_b", "pack_b"):
        with pytest.raises(InputError, match="has changed since"):
            import_user_ops(name)
    assert len({one.sha256, two.sha256}) == 2


def test_a_reloaded_module_replaces_its_ops(write):
    """After `importlib.reload` in a notebook, the new functions count and dropped ones are gone."""
    path = write("mine_c", GOOD.replace('OPS = {"drift": drift}', 'OPS = {"drift": drift, "old": drift}'))
    first = import_user_ops("mine_c")
    path.write_text(GOOD + "\n# another text\n")
    del sys.modules["mine_c"]
    second = import_user_ops("mine_c")

    assert second != first
    assert "old" not in OPS
    assert user_module_of("drift") == "mine_c"


def test_a_model_needs_the_ops_it_was_trained_with(write):
    """The same module and source pass; a missing module or another source is refused with a hint."""
    write("mine_d")
    with pytest.raises(OwnOpsError, match="mine_d, which is not imported") as caught:
        check_user_ops(UserOps("mine_d", "0" * 64), where="lgbm.pkl")
    assert "--ops mine_d" in caught.value.hint
    used = import_user_ops("mine_d")

    check_user_ops(used, where="lgbm.pkl")
    with pytest.raises(OwnOpsError, match="another source of mine_d"):
        check_user_ops(UserOps("mine_d", "0" * 64), where="lgbm.pkl")


@pytest.mark.parametrize("name", ["", "a b", "../x", "x.py/", "-m", "os;x", "é", "a..b", ".a"])
def test_an_invalid_module_name_is_a_usage_error(name):
    """Nothing is imported."""
    with pytest.raises(UsageError, match="not the name of a module"):
        import_user_ops(name)


BAD = {
    "no OPS": ("x = 1", "has no OPS"),
    "empty": ("OPS = {}", "has no OPS"),
    "a list": ("OPS = [1]", "has no OPS"),
    "the built-in table": ("from mltrain.features.ops.catalogue import OPS", "has no OPS"),
    "a name that is taken": ('OPS = {"rsi": print}', "an op rsi already, of mltrain"),
    "a bad name": ('OPS = {"My Op": print}', "My Op"),
    "no function": ('OPS = {"mine": 3}', "mine is int"),
    "an annotation that is no Python": ('def mine(*, x: "int int"): ...\nOPS = {"mine": mine}', "cannot be read"),
    "an annotation that fails": ('def mine(*, x: "1 / 0"): ...\nOPS = {"mine": mine}', "cannot be read"),
    "an untyped parameter": ('def mine(*, bars):\n    pass\nOPS = {"mine": mine}', "its parameter bars"),
    "a list parameter": ('def mine(*, bars: list):\n    pass\nOPS = {"mine": mine}', "its parameter bars"),
    "open parameters": ('def mine(**bars: int):\n    pass\nOPS = {"mine": mine}', "its parameter bars"),
    "an unknown type": (
        'from __future__ import annotations\ndef mine(*, n: Nope):\n    pass\nOPS = {"mine": mine}',
        "Nope",
    ),
    "bad syntax": ("def (", "SyntaxError"),
    "a failure": ("1 / 0", "ZeroDivisionError"),
    "an exit": ("import sys\nsys.exit(0)", "SystemExit"),
    "a missing import": ("import no_such_thing", "No module named 'no_such_thing'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_module_without_valid_ops_is_refused(name, write):
    """One message names the module and the reason; the table of ops is unchanged."""
    source, part = BAD[name]
    module = f"bad_{list(BAD).index(name)}"
    write(module, source)
    table = dict(OPS)
    with pytest.raises(InputError) as caught:
        import_user_ops(module)

    assert part in f"{caught.value.message} {caught.value.hint}"
    assert module in caught.value.message
    assert table == OPS


def test_a_missing_module_is_refused(tmp_path, monkeypatch):
    """The message names the folder that was searched."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"no module nowhere_at_all .*{tmp_path}"):
        import_user_ops("nowhere_at_all")


FAULTY = {
    "no window": ("return 3", "returns no Window"),
    "lookback of nothing": ('return Window(pl.col("close"), 0)', "lookback is 0"),
    "an error when built": ("return Window(1 / 0, 1)", "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_an_op_that_cannot_be_built_is_named(name, write):
    """The message has the registry's line and the reason."""
    body, part = FAULTY[name]
    module = f"faulty_{list(FAULTY).index(name)}"
    write(module, MINE.format(body))
    import_user_ops(module)

    with pytest.raises(InputError, match=part):
        registry("{name: x, op: mine}")


FAILING = {
    "an error": 'pl.col("close").map_batches(lambda s: 1 / 0, return_dtype=pl.Float64)',
    "another length": 'pl.col("close").head(3)',
    "texts": 'pl.col("close").cast(pl.String) + "x"',
}


@pytest.mark.parametrize("name", FAILING)
def test_an_op_that_fails_is_named(name, write, candles):
    """An InputError names feature, op and module, with the reason that Polars gives."""
    module = f"failing_{list(FAILING).index(name)}"
    write(module, MINE.format(f"return Window({FAILING[name]}, 1)"))
    import_user_ops(module)

    with pytest.raises(InputError, match=f"x: op mine of {module} fails on 300 candles"):
        compute_features(registry("{name: x, op: mine}"), "BTCUSDT", candles)


def test_an_op_that_reads_an_unknown_column_is_refused(write, candles):
    """The message names the column, as for a built-in op."""
    write("columns", MINE.format('return Window(pl.col("vwap"), 1)'))
    import_user_ops("columns")

    with pytest.raises(InputError, match="mine reads 'vwap'"):
        compute_features(registry("{name: x, op: mine}"), "BTCUSDT", candles)


def test_the_validator_takes_ops(write, tmp_path):
    """A registry with user ops can be described."""
    write("mine_v")
    path = tmp_path / "features.yml"
    path.write_text(f"{HEAD}  - {{name: x, op: drift}}\n")

    assert FeatureSchemaValidator(path, ops="mine_v").get_schema_info()["features"][0]["op"] == "drift"
