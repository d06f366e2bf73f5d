"""The check before each answer: cheap while nothing changes, and it notices every change."""

from __future__ import annotations

import json
import os
import resource

import pytest

from mltrain.errors import RefusedError
from mltrain.killswitch import gate as gate_module
from mltrain.killswitch.gate import HaltGate
from mltrain.killswitch.halts import HALT_FILE
from mltrain.killswitch.heartbeat import HEARTBEAT_FILE, beat, boot_clock, find_silence
from mltrain.killswitch.switch import arm, halt, resume

NOW = {"by": "me@host", "now_ms": 1_760_529_600_000}
WHEN = "2025-10-15T12:00:00Z"


class Clock:
    """A boot clock that is moved by hand."""

    def __init__(self):
        self.now_s = 1_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    """A boot clock that is moved by hand."""
    return Clock()


def reason(gate, symbol=None, **options):
    """Return the reason code of a refusal, or the permit."""
    try:
        return gate.check(symbol, **options)
    except RefusedError as err:
        return err.reason


class TestHaltGate:
    """What is in force is what is on the disk now."""

    def test_a_halt_and_a_resume_are_noticed(self, tmp_path):
        """Without a new gate."""
        gate = HaltGate(tmp_path)
        seen = [reason(gate)]
        for _ in range(20):
            halt(tmp_path, why="a test", **NOW)
            seen.append(reason(gate))
            resume(tmp_path, why="again", **NOW)
            seen.append(reason(gate))
        assert seen == [None, *["halted", None] * 20]

    def test_a_refusal_says_which_halt_why_and_what_to_do(self, tmp_path):
        """One message for every way to ask."""
        halt(tmp_path, why="wrong prices", **NOW)
        with pytest.raises(RefusedError) as err:
            HaltGate(tmp_path).check("BTCUSDT")
        assert err.value.message == f"serving is halted since {WHEN} (halt 1, by me@host): wrong prices"
        assert "mltrain resume" in err.value.hint

    def test_only_the_symbols_of_a_halt_are_refused(self, tmp_path):
        """An answer of an unknown symbol may be one of them."""
        gate = HaltGate(tmp_path)
        halt(tmp_path, why="delisted", symbols=["BTCUSDT"], **NOW)
        assert [reason(gate, symbol) for symbol in ("BTCUSDT", "ETHUSDT", None)] == ["halted", None, "halted"]

    def test_a_caller_that_heeds_no_permit_gets_no_restricted_answer(self, tmp_path):
        """A bare number cannot be marked."""
        gate = HaltGate(tmp_path)
        halt(tmp_path, why="shrink", mode="reduce", **NOW)
        assert (reason(gate), reason(gate, allow_reduce=False)) == ("reduce", "reduced")

    def test_the_files_are_read_when_they_change_alone(self, tmp_path, monkeypatch):
        """Otherwise a check costs two `lstat`."""
        reads = []
        monkeypatch.setattr(gate_module, "load_halts", lambda models: reads.append(models) or gate_module._RUNNING)
        gate = HaltGate(tmp_path)
        for _ in range(3):
            gate.check(None)
        (tmp_path / HALT_FILE).write_text("")
        gate.check(None)
        assert len(reads) == 2

    def test_a_folder_that_has_gone_is_lost(self, tmp_path):
        """It is halted elsewhere then, and this process would not see that."""
        (tmp_path / "models").mkdir()
        gate = HaltGate(tmp_path / "models")
        seen = [reason(gate)]
        (tmp_path / "models").rename(tmp_path / "elsewhere")
        seen.append(reason(gate))
        (tmp_path / "elsewhere").rename(tmp_path / "models")
        seen.append(reason(gate))
        assert seen == [None, "halted", None]

    def test_what_the_machine_failed_to_read_is_read_again(self, tmp_path):
        """A process that had no descriptor left is not halted until the next change."""
        halt(tmp_path, why="a test", **NOW)
        gate = HaltGate(tmp_path)
        resume(tmp_path, why="again", **NOW)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Below every descriptor that is open already.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            starved = gate.state()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in starved.halts[0].why
        assert gate.state().is_running

    def test_files_that_have_gone_are_lost(self, tmp_path):
        """As with a disk that was taken away; a process that starts then has never seen them."""
        (tmp_path / "models").mkdir()
        gate = HaltGate(tmp_path / "models")
        seen = [reason(gate)]
        halt(tmp_path / "models", why="a test", **NOW)
        resume(tmp_path / "models", why="again", **NOW)
        seen.append(reason(gate))
        (tmp_path / "models").rename(tmp_path / "elsewhere")
        seen.append(reason(gate))
        (tmp_path / "elsewhere").rename(tmp_path / "models")
        seen.append(reason(gate))
        assert seen == [None, None, "halted", None]

    def test_without_a_folder_everything_runs(self):
        """A model that was not published."""
        assert HaltGate(None).check("BTCUSDT") is None

    def test_a_folder_that_cannot_be_searched_is_halted(self, tmp_path):
        """Its files cannot be looked at."""
        (tmp_path / "file").write_text("")
        assert reason(HaltGate(tmp_path / "file")) == "halted"


class TestSilence:
    """An armed folder is halted without the heartbeat of the sentinel, by the boot clock."""

    def test_it_is_noticed_and_ends_with_the_next_heartbeat(self, tmp_path, clock):
        """No resume is needed: nobody halted it."""
        gate = HaltGate(tmp_path, clock=clock)
        beat(tmp_path, when=WHEN, clock=clock)
        arm(tmp_path, timeout_s=5, **NOW)
        seen = [reason(gate)]
        for pause_s, beats in ((4.0, False), (1.5, False), (0.2, True)):
            clock.now_s += pause_s
            if beats:
                beat(tmp_path, when=WHEN, clock=clock)
            seen.append(reason(gate))
        assert seen == [None, None, "halted", None]

    def test_a_process_that_slept_looks_again(self, tmp_path, clock):
        """What it read before it was stopped counts for a tenth of a second."""
        gate = HaltGate(tmp_path, clock=clock)
        beat(tmp_path, when=WHEN, clock=clock)
        arm(tmp_path, timeout_s=5, **NOW)
        assert reason(gate) is None
        clock.now_s += 600
        with pytest.raises(RefusedError, match=r"600\.0 s old"):
            gate.check(None)

    def test_it_is_read_ten_times_a_second_at_most(self, tmp_path, clock, monkeypatch):
        """A check stays cheap."""
        reads = []
        monkeypatch.setattr(gate_module, "find_silence", lambda *_, **__: reads.append(1))
        arm(tmp_path, timeout_s=5, **NOW)
        gate = HaltGate(tmp_path, clock=clock)
        for _ in range(100):
            clock.now_s += 0.01
            gate.check(None)
        assert 9 <= len(reads) <= 11

    def test_a_heartbeat_of_an_earlier_start_of_the_machine_does_not_count(self, tmp_path):
        """Its clock was another one."""
        beat(tmp_path, when=WHEN)
        assert find_silence(tmp_path, 5) is None
        path = tmp_path / HEARTBEAT_FILE
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "boot_id": "another"}), "utf-8")
        assert "started again" in find_silence(tmp_path, 5)

    def test_one_from_the_future_does_not_count(self, tmp_path):
        """Nobody can have written it."""
        beat(tmp_path, when=WHEN, clock=lambda: boot_clock() + 60)
        assert find_silence(tmp_path, 5)

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"at_s": 1e999}'])
    def test_a_damaged_one_does_not_count(self, tmp_path, content):
        """As if there were none."""
        (tmp_path / HEARTBEAT_FILE).write_text(content)
        assert find_silence(tmp_path, 5)

    def test_it_leaves_no_temporary_file(self, tmp_path):
        """It is written every second."""
        for _ in range(3):
            beat(tmp_path, when=WHEN)
        assert os.listdir(tmp_path) == [HEARTBEAT_FILE]  # noqa: PTH208 (names)
