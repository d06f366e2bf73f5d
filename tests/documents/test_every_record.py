"""Laws of every record of the package: it is read back from its document, and a wrong document is refused."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.policies import POLICIES, Policy
from mltrain.config.train_config import BoosterConfig, FloatRange, IntRange, SearchConfig, TrainConfig
from mltrain.documents.records import DERIVED, RAW, RECORDS, REST, Encoded, Limits, OneOf, read_record, to_json
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Located
from mltrain.errors import InputError, MltrainError
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.simulator.faults import KINDS, Fault
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, LAST_MS, day_name, format_duration, format_ms

PACKAGE = Path(__file__).parents[2] / "src" / "mltrain"
for path in PACKAGE.rglob("*.py"):
    if "@record\n" in path.read_text("utf-8"):
        import_module(".".join(("mltrain", *path.relative_to(PACKAGE).with_suffix("").parts)))

TIMES_MS = st.integers(0, LAST_MS // 1000).map(lambda time_s: 1000 * time_s)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
RAW_VALUES = st.none() | st.integers(-9, 9) | TEXT | st.lists(st.booleans(), max_size=2)
SOURCES = st.sampled_from([
    SourceSpec(name="binance"),
    SourceSpec(name="archive", base_url="http://127.0.0.1:1", archive_url="http://127.0.0.1:2"),
    SourceSpec(name="files", folder=Path("/candles")),
    SourceSpec(name="ccxt:kraken"),
    SourceSpec(name="sim", seed=3, signal="weak", end_ms=1_760_529_600_000),
])  # fmt: skip
FEATURES = [
    FeatureSpec("a", "rsi", {"bars": 7}),
    FeatureSpec("b", "bar_range"),
    FeatureSpec("c", "leader_return", {"bars": 1}, "BTCUSDT"),
]
ENCODED = {
    format_ms: TIMES_MS,
    day_name: st.integers(0, LAST_MS // DAY_MS).map(lambda day: day * DAY_MS),
    format_duration: st.integers(1, 9_999).map(lambda length_s: 1000 * length_s),
    str: st.just(Path("/candles")),
    dict: st.sampled_from([(), (("mltrain", "0.1.0"),)]),
    SourceSpec.to_dict: SOURCES,
}


def search_range(cls, number):
    """Draw a range whose ends and default are in order."""
    scales = st.sampled_from(["linear", "log"])
    return st.builds(
        lambda ends, scale: cls(ends[0], ends[2], scale, ends[1]),
        st.lists(number, min_size=3, max_size=3).map(sorted),
        scales,
    )


def values(hint, limits=None):  # noqa: C901, PLR0911 (one branch for each kind of annotation)
    """Draw a value that a field with this annotation may hold."""
    notes = ()
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
    codec = next((note for note in notes if isinstance(note, Encoded)), None)
    if codec is not None:
        return TIMES_MS.map(format_ms) if codec.decode is format_ms else ENCODED[codec.encode]
    limits = next((note for note in notes if isinstance(note, Limits)), limits) or Limits(-(2**60), 2**60)
    low, high = max(limits.minimum, -(2**60)), min(limits.maximum, 2**60)
    pattern = next((note for note in notes if isinstance(note, re.Pattern)), None)
    names = next((note.names for note in notes if isinstance(note, OneOf)), None)
    parts, origin = get_args(hint), get_origin(hint)
    if REST in notes:
        return st.dictionaries(st.text(string.ascii_uppercase, min_size=1, max_size=3), RAW_VALUES, max_size=2)
    if RAW in notes:
        return RAW_VALUES
    if origin in {Union, UnionType}:
        return st.one_of(st.none() if part is NoneType else values(part, limits) for part in parts)
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        some = {"max_size": 2} if parts[-1] is ... else {"min_size": len(parts), "max_size": len(parts)}
        return st.lists(values(parts[0], limits), **some).map(tuple)
    if origin is Mapping:
        return st.dictionaries(TEXT, values(parts[1], limits), max_size=2)
    if hint is int:
        return st.integers(int(low), int(high))
    if hint is float:
        return st.floats(low, high)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.from_regex(pattern, fullmatch=True) if pattern else st.sampled_from(names) if names else TEXT
    return instances(hint, limits)


def instances(cls, limits=None):
    """Draw a record whose fields do not contradict each other."""
    limits = limits or Limits(1, 9)
    chosen = {
        BoosterConfig: lambda: st.builds(
            lambda max_bin, dart, names, smooth: BoosterConfig(
                max_bin,
                boosting="dart" if dart else "gbdt",
                **(dart or {}),
                monotone_constraints=dict.fromkeys(names[0], -1),
                path_smooth=0.0 if names[0] else smooth,
                interaction_constraints=tuple(names[1:]),
            ),
            st.integers(3, 255),
            st.none()
            | st.fixed_dictionaries({"drop_rate": st.none() | st.floats(0, 1), "uniform_drop": st.booleans()}),
            st.lists(st.lists(TEXT, min_size=1, max_size=3, unique=True).map(tuple), min_size=1, max_size=3),
            st.floats(0, 9),
        ),
        IntRange: lambda: search_range(IntRange, st.integers(max(1, int(limits.minimum)), int(limits.maximum))),
        FloatRange: lambda: search_range(FloatRange, st.floats(max(1e-9, limits.minimum), limits.maximum)),
        SourceSpec: lambda: SOURCES,
        FeatureSpec: lambda: st.sampled_from(FEATURES),
        FeatureSet: lambda: st.builds(
            lambda label, features: FeatureSet(1, "5m", label, tuple(features)),
            instances(LabelSpec),
            st.permutations(FEATURES),
        ),
        LabelSpec: lambda: st.builds(
            lambda horizon, ties, cost: LabelSpec("threshold" if cost else "direction", horizon, ties, cost),
            st.integers(1, 1440),
            st.sampled_from(["drop", "down"]),
            st.just(0.0) | st.floats(0.01, 1000),
        ),
        Policy: lambda: st.builds(
            lambda name, ends, fraction, weight, side: Policy(name, ends[1], ends[0], fraction, weight, side),
            st.sampled_from(POLICIES),
            st.lists(st.floats(0.5, 1), min_size=2, max_size=2).map(sorted),
            st.floats(0.01, 1),
            st.floats(0.01, 9),
            st.sampled_from(["long", "both"]),
        ),
        Costs: lambda: st.builds(
            Costs,
            st.sampled_from(["spot", "perp"]),
            *[st.floats(0, 99)] * 5,
            st.none() | st.floats(0.01, 1),
            st.sampled_from(["next-open", "maker"]),
            st.integers(0, 9),
        ),
        Fault: lambda: st.builds(Fault, st.sampled_from(list(KINDS)), status=st.integers(200, 599), body=TEXT),
    }.get(cls)
    if chosen is not None:
        return chosen()
    hints = get_type_hints(cls, include_extras=True)
    kept = [f.name for f in fields(cls) if DERIVED not in getattr(hints[f.name], "__metadata__", ())]
    if cls is SearchConfig:
        kept.remove("rungs")
    drawn = st.fixed_dictionaries({name: values(hints[name], limits) for name in kept})
    if cls is TrainConfig:
        # The search may have any of the boosters' options.
        drawn = drawn.map(
            lambda options: {
                **options,
                "booster": BoosterConfig(63, boosting="dart"),
                "val_ratio": 0.2 if options["holdout_from_ms"] is None else None,
            }
        )
    return drawn.map(lambda options: attempt(cls, options)).filter(lambda found: found is not None)


def attempt(cls, options):
    """Return the record, or None if its fields contradict each other."""
    try:
        return cls(**options, **({"rungs": ()} if cls is SearchConfig else {}))
    except MltrainError:
        return None


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_a_record_comes_back_from_the_bytes_of_its_document(cls, data):
    """`read_record` returns an equal record from `to_json`, and refuses an extra key or a wrong type."""
    value = data.draw(instances(cls))
    document = parse_json(canonical_json(to_json(value)), where="x")

    assert read_record(Located(document, "x"), cls) == value
    with pytest.raises(InputError, match="x: must be a mapping"):
        read_record(Located([document], "x"), cls)
    if not any(REST in getattr(hint, "__metadata__", ()) for hint in get_type_hints(cls, include_extras=True).values()):
        with pytest.raises(InputError, match="x: surplus: unknown key"):
            read_record(Located({**document, "surplus": 1}, "x"), cls)
