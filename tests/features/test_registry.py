"""A registry is read strictly, equals its stored forms, and one error lists every violation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import OPTIONAL
from mltrain.config.loading import packaged_config
from mltrain.errors import InputError
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import (
    describe_features,
    load_registry,
    parse_registry,
    read_registry,
    take_features,
)
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec

HEAD = "version: 1\ninterval: 1m\nlabel: {kind: direction, horizon: 1, ties: drop}\nfeatures:\n"
ANY_HEAD = "version: 1\nlabel: {kind: direction, horizon: 1, ties: drop}\nfeatures:\n"
PACKAGED = ("features.yml", "features-ohlcv.yml")


def read(*lines, head=HEAD):
    return parse_registry((head + "\n".join(f"  - {line}" for line in lines)).encode(), where="mine.yml")


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_registry_equals_its_stored_forms(name):
    """JSON and YAML read back as the same registry, with the same hash."""
    features = load_registry(Path(name), interval="1m")

    assert FeatureSet.from_json(features.to_json(), where="x") == features
    assert parse_registry(features.to_yaml(), where="x") == features
    assert parse_registry(features.to_yaml(), where="x").registry_sha256 == features.registry_sha256


BARS, TIES = st.integers(1, 1440), st.sampled_from(["drop", "down"])
LABELS = st.builds(LabelSpec, st.just("direction"), BARS, TIES) | st.builds(
    LabelSpec, st.just("threshold"), BARS, TIES, st.floats(0.01, 1000)
)
BPS, MULTIPLES = st.floats(0.01, 5000), st.floats(0.1, 100)
BARRIER = {"kind": st.just("barrier"), "horizon_bars": BARS}
LABELS |= st.builds(LabelSpec, **BARRIER, ties=st.just("drop"), upper_bps=BPS, lower_bps=BPS) | st.builds(
    LabelSpec,
    **BARRIER,
    ties=TIES,
    upper=MULTIPLES,
    lower=MULTIPLES,
    volatility_bars=st.integers(2, 1440),
    timeout=st.just("sign"),
)


@given(
    st.lists(st.sampled_from([("rsi", 7), ("gap_to_mean", 20), ("log_return", 3)]), min_size=1, max_size=5), st.data()
)
def test_any_registry_equals_its_stored_forms(chosen, data):
    """Registries of any interval, label and order read back as the same."""
    features = FeatureSet(
        version=1,
        interval=data.draw(st.sampled_from(["1m", "5m", "1h"])),
        label=data.draw(LABELS),
        features=tuple(
            FeatureSpec(f"{op}_{i}", op, {"bars": bars} | ({"lag": 0} if op == "log_return" else {}))
            for i, (op, bars) in enumerate(chosen)
        ),
    )

    assert FeatureSet.from_json(features.to_json(), where="x") == features
    assert parse_registry(features.to_yaml(), where="x") == features


def test_the_hash_ignores_only_the_layout():
    """Comments, quotes and order of keys do not change it; parameters, names and order of features do."""
    one = read("{name: a, op: rsi, params: {bars: 7}}", "{name: b, op: bar_range}")
    same = read('{op: rsi, params: {"bars": 7}, name: a} # why', "name: b\n    op: 'bar_range'")
    others = [
        read("{name: a, op: rsi, params: {bars: 8}}", "{name: b, op: bar_range}"),
        read("{name: c, op: rsi, params: {bars: 7}}", "{name: b, op: bar_range}"),
        read("{name: b, op: bar_range}", "{name: a, op: rsi, params: {bars: 7}}"),
        replace(one, interval="5m"),
        replace(one, label=replace(one.label, horizon_bars=2)),
        replace(one, label=replace(one.label, ties="down")),
    ]

    assert one.registry_sha256 == same.registry_sha256
    assert len({one.registry_sha256, *(other.registry_sha256 for other in others)}) == 7


def test_a_default_parameter_is_written_out():
    """An omitted lag equals a lag of 0."""
    short = read("{name: a, op: log_return, params: {bars: 1}}")

    assert short == read("{name: a, op: log_return, params: {bars: 1, lag: 0}}")
    assert short.features[0].params == {"bars": 1, "lag": 0}


WRONG = {
    "unknown op": ("{name: a, op: rsl, params: {bars: 7}}", ["features[0].op (line 5)", "did you mean rsi"]),
    "unknown param": ("{name: a, op: rsi, params: {bars: 7, lags: 1}}", ["features[0].params.lags (line 5)"]),
    "param missing": ("{name: a, op: rsi, params: {}}", ["features[0].params.bars", "is missing"]),
    "params missing": ("{name: a, op: rsi}", ["features[0].params", "is missing"]),
    "params for none": ("{name: a, op: bar_range, params: {bars: 7}}", ["params"]),
    "out of range": ("{name: a, op: rsi, params: {bars: 0}}", ["features[0].params.bars (line 5)", "at least 1"]),
    "too long": ("{name: a, op: rsi, params: {bars: 1441}}", ["at most 1440"]),
    "no number": ("{name: a, op: rsi, params: {bars: seven}}", ["must be an integer"]),
    "a truth": ("{name: a, op: rsi, params: {bars: true}}", ["must be an integer"]),
    "a fraction": ("{name: a, op: rsi, params: {bars: 7.5}}", ["must be an integer"]),
    "unknown choice": ("{name: a, op: zscore, params: {column: volumes, bars: 5}}", ["did you mean", "volume"]),
    "short above long": (
        "{name: a, op: volatility_ratio, params: {short: 60, long: 5}}",
        ["features[0].params (line 5)", "short (60) must be below long (5)"],
    ),
    "leader missing": ("{name: a, op: leader_return, params: {bars: 1}}", ["features[0].leader", "BTCUSDT"]),
    "leader unused": ("{name: a, op: rsi, params: {bars: 7}, leader: BTCUSDT}", ["reads no leader"]),
    "leader no symbol": ("{name: a, op: leader_return, params: {bars: 1}, leader: btc}", ["features[0].leader"]),
    "name no name": ("{name: A-b, op: bar_range}", ["features[0].name (line 5)"]),
    "unknown key": ("{name: a, op: bar_range, column: close}", ["features[0].column (line 5)", "unknown key"]),
    "name missing": ("{op: bar_range}", ["features[0].name", "is missing"]),
    "no mapping": ("bar_range", ["must be a mapping"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_feature_is_named_with_its_line(name):
    """Each violation is one line with the file, the field and the line number."""
    line, parts = WRONG[name]

    with pytest.raises(InputError) as caught:
        read(line)

    assert caught.value.message.startswith("mine.yml: ")
    assert all(part in caught.value.message for part in parts), caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_one_message_lists_all_violations():
    """Seven violations are seven lines of one message."""
    head = "version: 2\ninterval: 7m\nlabel: {kind: direction, horizon: 0, ties: keep}\nfeature: 1\nfeatures:\n"
    with pytest.raises(InputError) as caught:
        read("{name: a, op: rsi, params: {bars: 0}}", "{name: b, op: nothing}", head=head)

    assert len(caught.value.message.splitlines()) == 7


def test_names_are_unique():
    """The second feature of a name is an error."""
    with pytest.raises(InputError, match=r"features\[1\].name \(line 6\): a feature a is already defined above"):
        read("{name: a, op: bar_range}", "{name: a, op: open_gap}")


@pytest.mark.parametrize("features", ["[]", "{}", "null", "7"])
def test_a_registry_without_features_is_refused(features):
    """An empty list or another type is refused."""
    with pytest.raises(InputError, match="features"):
        parse_registry(HEAD.replace("features:\n", f"features: {features}\n").encode(), where="mine.yml")


def test_a_bare_packaged_name_is_found(tmp_path, monkeypatch):
    """It works in any folder, but a file of that name in the working directory takes precedence."""
    monkeypatch.chdir(tmp_path)
    packaged = load_registry(Path("features-ohlcv.yml"), interval="1m")
    (tmp_path / "features-ohlcv.yml").write_text(HEAD + "  - {name: mine, op: bar_range}\n")

    assert len(packaged.names) == 45
    assert load_registry(Path("features-ohlcv.yml"), interval="1m").names == ("mine",)


def test_a_missing_file_is_refused(tmp_path):
    """The error has its path."""
    with pytest.raises(InputError, match=r"other\.yml"):
        load_registry(tmp_path / "other.yml")


def test_ohlcv_registry_needs_one_symbol_and_five_columns():
    """It can be used where trades, taker volumes or a leader are missing."""
    features = load_registry(Path("features-ohlcv.yml"), interval="1m")

    assert features.leaders == ()
    assert {name for info in describe_features(features) for name in info.columns} <= {
        *("ts", "open", "high", "low", "close", "volume"),
    }


def test_default_registry_is_what_the_documentation_says():
    """It has 50 to 70 features, the leader BTCUSDT, and a lookback of at most 241 bars."""
    features = load_registry(interval="1m")

    assert 50 <= len(features.names) <= 70
    assert features.leaders == ("BTCUSDT",)
    assert features.lookback_bars <= 241
    assert features.interval == "1m"
    assert features.label == LabelSpec(kind="direction", horizon_bars=1, ties="drop")
    assert {name for info in describe_features(features) for name in info.columns} >= set(OPTIONAL) - {"trades"}


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize(
    ("interval", "constant"),
    [
        ("1s", ()),
        ("1m", ()),
        ("5m", ()),
        ("15m", ("quarter",)),
        ("1h", ("quarter",)),
        ("8h", ("quarter",)),
        # Midnight and noon: the sine of both is zero, the cosine distinguishes them.
        ("12h", ("day_sin", "quarter")),
        ("1d", ("day_sin", "day_cos", "quarter")),
        ("3d", ("day_sin", "day_cos", "quarter")),
        ("1w", ("day_sin", "day_cos", "quarter")),
    ],
)
def test_packaged_registries_are_for_any_interval(name, interval, constant):
    """At each interval they have all features but those of a clock that stands still there."""
    registry = read_registry(Path(name))
    features, warnings = take_features(Path(name), interval)

    assert features == load_registry(Path(name), interval=interval)
    assert features.interval == interval
    assert features.names == tuple(feature for feature in registry.names if feature not in constant)
    assert warnings == (
        (f"left out, because every {interval} candle has the same value: {', '.join(constant)}",) if constant else ()
    )


@pytest.mark.parametrize(
    ("interval", "clock", "is_constant"),
    [
        ("30m", "{period: hour, wave: saw}", False),
        ("1h", "{period: hour, wave: saw}", True),
        ("1h", "{period: day, wave: sin}", False),
        ("1d", "{period: week, wave: sin}", False),
        ("3d", "{period: week, wave: saw}", False),
        ("1w", "{period: week, wave: saw}", True),
    ],
)
def test_a_clock_is_left_out_where_it_stands_still(interval, clock, is_constant):
    """A period that a candle covers is left out; an hour, a day and a week each at their interval."""
    yaml = f"{ANY_HEAD}  - {{name: body, op: candle_body}}\n  - {{name: time, op: clock, params: {clock}}}\n"

    names = parse_registry(yaml.encode(), where="mine.yml", interval=interval).names

    assert names == (("body",) if is_constant else ("body", "time"))


def test_a_registry_of_clocks_alone_is_refused_where_they_stand_still():
    """A model needs a feature."""
    yaml = ANY_HEAD + "  - {name: time, op: clock, params: {period: day, wave: saw}}\n"

    with pytest.raises(InputError, match=r"mine\.yml: at 1d every feature has one value only: time"):
        parse_registry(yaml.encode(), where="mine.yml", interval="1d")


def test_a_stated_interval_is_kept_as_written():
    """Its registry keeps features that are constant there, is refused at others, and hashes as before."""
    yaml = ANY_HEAD.replace("label", "interval: 1d\nlabel", 1)
    yaml += "  - {name: time, op: clock, params: {period: day, wave: saw}}\n"
    features = parse_registry(yaml.encode(), where="mine.yml")

    assert (features.interval, features.names) == ("1d", ("time",))
    assert features == parse_registry(yaml.encode(), where="mine.yml", interval="1d")
    with pytest.raises(InputError, match=r"mine\.yml is for 1d candles, and these are 1h candles"):
        parse_registry(yaml.encode(), where="mine.yml", interval="1h")


def test_without_any_interval_a_registry_is_no_feature_set():
    """The packaged registry states none, so its reader must name one."""
    with pytest.raises(InputError, match=r"features\.yml states no interval"):
        load_registry()


def test_the_packaged_registry_has_the_hash_it_had_at_one_minute():
    """Models and studies of earlier versions, whose registry stated the interval, keep their identity."""
    stated = b"version: 1\ninterval: 1m\n"
    for name in PACKAGED:
        written = packaged_config(name).read_bytes().replace(b"version: 1\n", stated, 1)
        before = parse_registry(written, where=name)

        assert before.registry_sha256 == load_registry(Path(name), interval="1m").registry_sha256


@pytest.mark.parametrize("name", PACKAGED)
def test_a_description_has_what_a_feature_needs(name):
    """It has op, formula, lookback and columns, those of the leader separately."""
    features = load_registry(Path(name), interval="1m")

    for info, spec, window in zip(describe_features(features), features.features, features.windows(), strict=True):
        assert (info.name, info.op, info.params) == (spec.name, spec.op, spec.params)
        assert info.lookback_bars == window.lookback_bars
        assert info.summary
        assert info.columns or info.leader_columns
        assert bool(info.leader_columns) is (info.leader is not None)


def test_a_user_op_may_take_numbers_and_defaults(monkeypatch):
    """An op with a float parameter that has a default can be used without params."""

    def damped(*, share: float = 0.5) -> Window:
        return Window(OPS["log_return"](bars=1).expr * share, 2)

    monkeypatch.setitem(OPS, "damped", damped)
    monkeypatch.setitem(damped.__annotations__, "share", float)

    assert read("{name: a, op: damped}").features[0].params == {"share": 0.5}
    features = read("{name: a, op: damped, params: {share: 1}}")
    assert features.features[0].params == {"share": 1.0}
    assert parse_registry(features.to_yaml(), where="x") == features
