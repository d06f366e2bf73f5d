from __future__ import annotations

import pytest

from mltrain.config.halt_config import HaltConfig, TriggersConfig
from mltrain.config.loading import load_halt_config
from mltrain.documents.records import to_json
from mltrain.errors import InputError


@pytest.fixture
def refused(tmp_path):
    """Return a function that gives the message about a user's file."""

    def refuse(text):
        path = tmp_path / "own.yml"
        path.write_text(text, "utf-8")
        with pytest.raises(InputError) as caught:
            load_halt_config(path)
        return caught.value.message.replace(f"{path}: ", "")

    return refuse


def test_the_defaults_are_the_documented_ones():
    """The packaged file loads, and every trigger halts but the one of latency."""
    config = load_halt_config(None)
    triggers = config.triggers

    assert (config.sentinel.every_s, config.sentinel.timeout_s) == (1.0, 10.0)
    assert (triggers.stale.bars, triggers.refused.share, triggers.refused.window_rows) == (3, 0.2, 60)
    assert (triggers.calibration.level, triggers.calibration.tolerance) == (1000, 0.01)
    assert (triggers.loss.per_day, triggers.loss.from_peak) == (0.02, 0.05)
    modes = {name: triggers.mode_of(name) for name in TriggersConfig.__dataclass_fields__}
    assert modes == dict.fromkeys(modes, "halt") | {"latency": "reduce"}


def test_a_file_overrides_key_by_key(tmp_path):
    """Everything else keeps its default; comments alone change nothing, and a configuration is read back equal."""
    path = tmp_path / "own.yml"
    path.write_text("triggers:\n  skill: {mode: off, level: 100}\nsentinel:\n  every_s: 0.5\n", "utf-8")
    config, defaults = load_halt_config(path), load_halt_config(None)

    assert (config.triggers.skill.mode, config.triggers.skill.level) == ("off", 100)
    assert config.triggers.skill.min_bars == defaults.triggers.skill.min_bars
    assert config.triggers.calibration == defaults.triggers.calibration
    assert load_halt_config(to_json(config)) == config
    path.write_text("# nothing\n", "utf-8")
    assert load_halt_config(path) == defaults
    assert isinstance(defaults, HaltConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("triggers: {stal: {bars: 2}}", "triggers.stal (line 1): unknown key; did you mean stale?"),
        ("triggers:\n  stale:\n    bars: 0", "triggers.stale.bars (line 3): must be at least 1, is 0"),
        ("triggers: {refused: {share: 1.5}}", "triggers.refused.share (line 1): must be at most 1, is 1.5"),
        ("triggers: {skill: {mode: stop}}", "triggers.skill.mode (line 1): 'stop' is unknown"),
        ("triggers: {skill: {level: .nan}}", "is not a finite number"),
        ("triggers: {skill: {tolerance: -0.1}}", "triggers.skill.tolerance (line 1): must be at least 0, is -0.1"),
        ("triggers: {skill: null}", "triggers.skill (line 1): must be a mapping, is null"),
        (
            "triggers: {latency: {min_rows: 1001}}",
            "latency.min_rows (line 1): must not be above window_rows, 1000; is 1001",
        ),
        ("sentinel: {every_s: 5}", "sentinel.timeout_s: must be at least 3 times every_s, 5.0; is 10.0"),
        ("sentinel: {}\nstale: {bars: 3}", "stale (line 2): unknown key"),
        ("- 1", "must be a mapping, is a list"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(refused, text, message):
    """Unknown keys, impossible values and contradictions name the path of the key, and its line if it has one."""
    assert message in refused(text)
