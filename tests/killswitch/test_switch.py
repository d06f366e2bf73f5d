"""Halt and resume: what is in force is never laxer than what was asked for."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mltrain.errors import InputError, LockedError, MachineError, NoGoError, UsageError
from mltrain.killswitch import heartbeat, switch
from mltrain.killswitch.halts import HALT_FILE, LOG_FILE, HaltState
from mltrain.killswitch.switch import arm, disarm, halt, read_halts, read_history, resume
from mltrain.storage.locks import hold_lock
from support.disk_faults import memory_folder

NOW = {"by": "me@host", "now_ms": 1_760_529_600_000}
WHEN = "2025-10-15T12:00:00Z"


@pytest.fixture
def models(tmp_path):
    """A models folder without a halt."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def halted(models, why="a test", **options):
    """Halt, and return the result."""
    return halt(models, why=why, **NOW, **options)


class TestHalt:
    """It takes effect at once, and says what it did."""

    def test_a_halt_is_in_force_and_in_the_log(self, models):
        """The state names it, and the log has one line of it."""
        result = halted(models, trigger="latency", evidence={"p99_ms": 91.5})

        assert result.warnings == ()
        assert read_halts(models).halts == (result.halt,)
        assert (result.halt.serial, result.halt.mode, result.halt.when) == (1, "halt", WHEN)
        (line,) = read_history(models).lines
        assert (line.action, line.why, line.by, line.trigger) == ("halt", "a test", "me@host", "latency")
        assert line.evidence == {"p99_ms": 91.5}

    def test_no_folder_runs_and_none_is_made(self, tmp_path):
        """A folder that does not exist has nothing in force, and cannot be halted."""
        assert read_halts(tmp_path / "models") == HaltState()
        with pytest.raises(InputError, match="no models folder"):
            halted(tmp_path / "models")
        assert not (tmp_path / "models").exists()

    @pytest.mark.parametrize("why", ["", "  ", "a\nb", "a\x1b[31m", "x" * 1001])
    def test_a_reason_must_be_one_printable_line(self, models, why):
        """The log is read by people in a terminal."""
        with pytest.raises(UsageError, match="reason"):
            halted(models, why)
        with pytest.raises(UsageError, match="reason"):
            resume(models, why=why, **NOW)
        assert not list(models.iterdir())

    def test_the_strictest_halt_of_a_symbol_counts(self, models):
        """An answer whose symbol is unknown may be for any symbol."""
        halted(models, "shrink", mode="reduce")
        halted(models, "stop", symbols=["BTCUSDT"])
        state = read_halts(models)

        assert [state.mode_of(s) for s in ("BTCUSDT", "ETHUSDT", None)] == ["halt", "reduce", "halt"]
        assert state.strictest_of("BTCUSDT").why == "stop"

    @pytest.mark.parametrize(
        "options", [{"mode": "stop"}, {"symbols": ["btc"]}, {"symbols": ["../x"]}, {"symbols": [""]}]
    )
    def test_bad_arguments_are_refused(self, models, options):
        """Nothing is written."""
        with pytest.raises(UsageError):
            halted(models, **options)
        assert not list(models.iterdir())

    def test_the_lock_of_the_folder_does_not_hold_it_up(self, models):
        """A process that holds the lock may be the one to stop; a resume waits for it."""
        with hold_lock(models / ".lock", wait_s=0, purpose="a test"):
            halted(models)
            switch.FOLDER_WAIT_S, before = 0.0, switch.FOLDER_WAIT_S
            try:
                with pytest.raises(LockedError):
                    resume(models, why="again", **NOW)
            finally:
                switch.FOLDER_WAIT_S = before
        assert read_halts(models).mode == "halt"

    def test_a_temporary_file_that_another_writer_removes_is_written_again(self, models, monkeypatch):
        """A process that takes the lock of the folder removes those that are left."""
        replace, removed = Path.replace, []

        def replace_late(self, target):
            if len(removed) < 2:
                removed.append(self)
                self.unlink()
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", replace_late)
        assert halted(models).warnings == ()
        assert (len(removed), read_halts(models).mode) == (2, "halt")


class TestResume:
    """It ends what was looked at, and nothing else."""

    def test_it_ends_every_halt_and_names_them(self, models):
        """The log keeps all of it."""
        halted(models, "one")
        halted(models, "two", symbols=["BTCUSDT"])
        result = resume(models, why="mended", **NOW)

        assert result.resumed
        assert [each.why for each in result.lifted] == ["one", "two"]
        assert read_halts(models).is_running
        assert read_history(models).lines[-1].lifted == (1, 2)
        assert read_history(models).problems == ()

    def test_what_runs_is_left_alone(self, models):
        """Nothing is written."""
        assert not resume(models, why="again", **NOW).resumed
        assert [path.name for path in models.iterdir()] == [".lock"]

    def test_a_trigger_must_be_acknowledged(self, models):
        """Nobody should resume without knowing what stopped it."""
        halted(models, "slow", trigger="latency")
        halted(models, "wrong", trigger="calibration")
        for known in ((), ("latency",)):
            with pytest.raises(NoGoError, match="calibration") as err:
                resume(models, why="again", acknowledge=known, **NOW)
        assert "--acknowledge calibration" in err.value.hint
        assert resume(models, why="again", acknowledge=("latency", "calibration"), **NOW).resumed

    def test_a_condition_that_holds_needs_force(self, models):
        """The log says that it was forced."""
        halted(models, trigger="stale")
        options = {"acknowledge": ("stale",), "still_holds": lambda each: f"{each.trigger}: 9 candles are missing"}
        with pytest.raises(NoGoError, match="still holds: stale: 9 candles are missing"):
            resume(models, why="again", **options, **NOW)
        assert read_halts(models).mode == "halt"
        assert resume(models, why="again", force=True, **options, **NOW).state.is_running
        assert read_history(models).lines[-1].forced

    def test_a_halt_that_comes_meanwhile_stays(self, models):
        """It was not one of those that were looked at."""
        halted(models, "first")

        def interrupt(_):
            halted(models, "meanwhile")

        result = resume(models, why="again", still_holds=interrupt, **NOW)
        assert [each.why for each in result.lifted] == ["first"]
        assert [each.why for each in read_halts(models).halts] == ["meanwhile"]

    def test_a_halt_after_its_line_stays(self, models, monkeypatch):
        """The state that the resume writes does not have it, but the log does."""
        halted(models, "first")
        write = switch._write_state

        def late(*args):
            monkeypatch.setattr(switch, "_write_state", write)
            halted(models, "meanwhile")
            write(*args)

        monkeypatch.setattr(switch, "_write_state", late)
        resume(models, why="again", **NOW)
        assert [each.why for each in read_halts(models).halts] == ["meanwhile"]

    def test_a_damaged_log_is_refused_and_a_halt_still_works(self, models):
        """What the damaged part held may still be in force."""
        halted(models, "first")
        halted(models, "second")
        log = models / LOG_FILE
        log.write_bytes(log.read_bytes().replace(b"first", b"furst"))

        with pytest.raises(InputError, match="log of halts is damaged"):
            resume(models, why="again", **NOW)
        assert halted(models, "third").state.mode == "halt"
        assert read_history(models).problems


class TestArm:
    """An armed folder needs the sentinel."""

    def test_a_resume_waits_for_the_sentinel(self, models):
        """Without its heartbeat nothing is served anyway."""
        halted(models)
        assert arm(models, timeout_s=5, **NOW).armed.timeout_s == 5
        with pytest.raises(NoGoError, match="the sentinel is silent"):
            resume(models, why="again", **NOW)
        heartbeat.beat(models, when=WHEN)
        state = resume(models, why="again", **NOW).state
        assert (state.is_running, state.armed.by) == (True, "me@host")
        assert disarm(models, **NOW) == HaltState()

    def test_arming_outlasts_halts_and_resumes(self, models):
        """It is no halt."""
        arm(models, timeout_s=5, **NOW)
        heartbeat.beat(models, when=WHEN)
        halted(models)
        assert read_halts(models).armed is not None
        assert resume(models, why="again", **NOW).state.armed is not None

    def test_an_armed_folder_without_its_state_is_halted(self, models):
        """Also after the last halt was ended."""
        arm(models, timeout_s=5, **NOW)
        (models / HALT_FILE).unlink()
        state = read_halts(models)
        assert (state.mode, state.halts[-1].trigger, state.armed.timeout_s) == ("halt", "state-unreadable", 5)


class TestDamage:
    """What cannot be read counts as halted."""

    @pytest.fixture
    def resumed(self, models):
        """A folder that was halted and runs again."""
        halted(models)
        resume(models, why="again", **NOW)
        return models

    def test_every_cut_of_the_state_halts(self, resumed):
        """The hash inside covers every byte but the last newline."""
        data = (resumed / HALT_FILE).read_bytes()
        for length in range(len(data) - 1):
            (resumed / HALT_FILE).write_bytes(data[:length])
            assert read_halts(resumed).mode == "halt", length

    def test_every_changed_byte_of_the_state_halts_or_changes_nothing(self, resumed):
        """A space at the end is all that may differ."""
        data = (resumed / HALT_FILE).read_bytes()
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1
            (resumed / HALT_FILE).write_bytes(changed)
            assert read_halts(resumed).mode == "halt", position

    @pytest.mark.parametrize("name", [HALT_FILE, LOG_FILE])
    @pytest.mark.parametrize("kind", ["absent", "folder", "link", "fifo", "large"])
    def test_no_kind_of_file_is_taken_for_running(self, resumed, name, kind):
        """And none of them makes the reader wait."""
        path = resumed / name
        data = path.read_bytes()
        path.unlink()
        match kind:
            case "folder":
                path.mkdir()
            case "link":
                (resumed / "other").write_bytes(data)
                path.symlink_to("other")
            case "fifo":
                os.mkfifo(path)
            case "large":
                with path.open("wb") as file:
                    file.truncate(10 << 30)
        state = read_halts(resumed)
        assert (state.mode, state.halts[-1].trigger) == ("halt", "state-unreadable")

    @pytest.mark.parametrize("name", [HALT_FILE, LOG_FILE, "."])
    def test_a_file_or_folder_that_may_not_be_read_halts(self, resumed, name):
        """Another user's process must not take it for running."""
        mode, user = (resumed / name).stat().st_mode, os.geteuid()
        (resumed / name).chmod(0)
        try:
            # Root reads every file.
            os.seteuid(65_534 if user == 0 else user)
            state = read_halts(resumed)
        finally:
            os.seteuid(user)
            (resumed / name).chmod(mode)
        assert (state.mode, state.halts[-1].trigger) == ("halt", "state-unreadable")

    def test_a_newer_format_halts(self, resumed):
        """What it means is unknown here."""
        (resumed / HALT_FILE).write_text(json.dumps({"format": 2, "running": True}), "utf-8")
        assert "newer mltrain" in read_halts(resumed).halts[-1].why

    def test_a_removed_end_of_the_log_halts(self, resumed):
        """The state saw it."""
        log = (resumed / LOG_FILE).read_bytes()
        (resumed / LOG_FILE).write_bytes(log[: log.index(b"\n") + 1])
        assert "was changed or cut off" in read_halts(resumed).halts[-1].why

    def test_it_is_resumed_once_it_is_acknowledged(self, resumed):
        """The log still has what was in force."""
        (resumed / HALT_FILE).write_text("")
        with pytest.raises(NoGoError, match="state-unreadable"):
            resume(resumed, why="again", **NOW)
        assert resume(resumed, why="again", acknowledge=["state-unreadable"], **NOW).state == HaltState()

    def test_the_halts_of_a_lost_state_are_those_of_the_log(self, models):
        """Those that were ended are not in force again."""
        halted(models, "first")
        resume(models, why="again", **NOW)
        halted(models, "second", mode="reduce")
        (models / HALT_FILE).unlink()
        assert [each.why for each in read_halts(models).halts][:-1] == ["second"]

    @pytest.mark.parametrize("name", [HALT_FILE, LOG_FILE])
    @pytest.mark.parametrize("kind", ["empty", "cut", "absent", "foreign line"])
    def test_nothing_but_a_resume_ends_what_damage_halts(self, resumed, name, kind):
        """A halt of one symbol, an arming and a disarming write the state again, and the others stay halted."""
        path = resumed / name
        match kind:
            case "empty":
                path.write_bytes(b"")
            case "cut":
                path.write_bytes(path.read_bytes()[:-5])
            case "absent":
                path.unlink()
            case "foreign line":
                with path.open("ab") as file:
                    file.write(b"{}\n")
        before = read_halts(resumed)
        halted(resumed, symbols=["BTCUSDT"])
        after_halt = read_halts(resumed)
        with suppress(InputError):
            arm(resumed, timeout_s=1, **NOW)
            disarm(resumed, **NOW)

        assert [state.mode_of("ETHUSDT") for state in (before, after_halt, read_halts(resumed))] == ["halt"] * 3

    def test_the_first_halts_of_all_are_no_damage(self, models, monkeypatch):
        """The state is there before the log is, so that one that is missing was lost."""
        append, states = switch._append, []

        def append_and_look(folder, line):
            append(folder, line)
            if len(states) < 2:
                states.append(None)
                halted(folder, "another", symbols=["BTCUSDT"])

        monkeypatch.setattr(switch, "_append", append_and_look)
        halted(models, "first", symbols=["BTCUSDT"])
        assert [each.trigger for each in read_halts(models).halts] == [None] * 3
        assert read_halts(models).mode_of("ETHUSDT") is None


class TestOddContent:
    """A halt takes effect with any evidence and any name, and its line can be read again."""

    @pytest.mark.parametrize(
        "evidence",
        [{"x": float("nan")}, {"x": object()}, {1: 1, "a": 2}, {"x": "y" * 70_000}, {"x": 1 << 70}, {"x": "\udcff"}],
    )
    def test_evidence_that_the_log_cannot_hold_is_left_out(self, models, evidence):
        """With a warning."""
        result = halted(models, trigger="loss", evidence=evidence)
        history = read_history(models)

        assert (len(result.warnings), result.halt.evidence) == (1, {})
        assert "evidence" in result.warnings[0]
        assert [line.trigger for line in history.lines] == ["loss"]
        assert (history.problems, history.notes) == ((), ())

    def test_an_odd_name_does_not_keep_it_from_taking_effect(self, models):
        """The name of a user may be in another encoding."""
        for by in ("m\udcfcller@host", "a\nb", "x" * 100_000):
            halt(models, why="a test", by=by, now_ms=NOW["now_ms"])
        assert [each.by[:12] for each in read_halts(models).halts] == ["m?ller@host", "a?b", "x" * 12]
        assert read_history(models).problems == ()

    def test_more_symbols_than_a_line_holds_are_refused(self, models):
        """The hint says how to stop them."""
        names = [f"SYMBOLSYMBOL{number}" for number in range(5_000)]
        with pytest.raises(UsageError, match="5000 symbols") as err:
            halted(models, symbols=names)
        assert "halt all" in err.value.hint
        assert halted(models, symbols=names[:2_000]).warnings == ()

    def test_thousands_of_halts_in_force_are_read(self, models):
        """Nobody resumed for a long time."""
        halted(models, "first", symbols=["BTCUSDT"])
        (one,) = read_halts(models).halts
        many = HaltState((replace(one, why="x" * 1_000),) * 5_000)
        switch._write_state(models, many, (models / LOG_FILE).read_bytes())
        state = read_halts(models)

        assert (len(state.halts), state.mode_of("ETHUSDT")) == (5_000, None)


class TestTornLines:
    """A crash in the middle of a line does no harm."""

    def test_the_next_writer_goes_on_after_it(self, models):
        """The torn line is proven by the next one, and is only noted."""
        halted(models, "first")
        with (models / LOG_FILE).open("ab") as log:
            log.write(b'{"action":"hal')
        assert len(read_halts(models).halts) == 1
        halted(models, "second")

        history = read_history(models)
        assert [line.why for line in history.lines] == ["first", "second"]
        assert (history.problems, len(history.notes)) == ((), 1)
        assert [each.why for each in read_halts(models).halts] == ["first", "second"]
        assert resume(models, why="again", **NOW).state.is_running

    def test_a_whole_line_that_cannot_be_read_halts(self, models):
        """It may have been a halt."""
        halted(models, "first")
        resume(models, why="again", **NOW)
        with (models / LOG_FILE).open("ab") as log:
            log.write(b"{}\n")
        assert read_halts(models).mode == "halt"


def refuse_writes(monkeypatch):
    """Let every write of the kill switch fail, as on a read-only disk."""
    open_file = os.open

    def refuse(*_):
        raise MachineError("cannot write: Read-only file system")

    def refuse_to_write(path, flags, *mode, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open_file(path, flags, *mode, **options)

    monkeypatch.setattr(switch, "write_without_lock", refuse)
    monkeypatch.setattr(switch, "_append", refuse)
    monkeypatch.setattr(switch.os, "open", refuse_to_write)


class TestFullDisk:
    """A halt takes effect where nothing can be written."""

    def test_the_state_is_emptied_where_it_cannot_be_written(self, models, monkeypatch):
        """An empty state is unreadable, so serving halts."""
        halted(models, "before")
        resume(models, why="again", **NOW)
        full = MachineError("cannot write halt.json: No space left on device")

        def refuse(*_):
            raise full

        monkeypatch.setattr(switch, "write_without_lock", refuse)
        monkeypatch.setattr(switch, "_append", refuse)
        result = halted(models, "full")
        assert result.state.mode == "halt"
        assert len(result.warnings) == 2
        assert (models / HALT_FILE).read_bytes() == b""

    @pytest.mark.parametrize("before", [{"mode": "reduce"}, {"symbols": ["BTCUSDT"]}])
    def test_a_laxer_halt_in_force_does_not_hide_that_it_failed(self, models, monkeypatch, before):
        """Serving goes on, and must not be said to be halted."""
        halted(models, "before", **before)
        refuse_writes(monkeypatch)
        with pytest.raises(MachineError, match=r"^serving is not halted: the state could not be written: "):
            halted(models)

    def test_files_that_it_alone_cannot_read_do_not_hide_that_it_failed(self, models, monkeypatch):
        """The processes that serve read them."""
        halted(models, "before")
        resume(models, why="again", **NOW)
        refuse_writes(monkeypatch)

        def refuse(*_, **__):
            raise MachineError("cannot read: Permission denied")

        monkeypatch.setattr(switch, "read_file", refuse)
        with pytest.raises(MachineError, match=r"^serving is not halted: the state could not be written: "):
            halted(models)

    def test_it_says_so_where_nothing_helps(self, models, monkeypatch):
        """Then the processes must be stopped."""
        refuse_writes(monkeypatch)
        with pytest.raises(MachineError, match="serving is not halted") as err:
            halted(models)
        assert "stop the processes" in err.value.hint


class Writers(RuleBasedStateMachine):
    """Halts and resumes in any order, with crashes between their writes and damage: never laxer than it should be."""

    @initialize()
    def start(self):
        """Begin with a folder that runs."""
        self.memory = memory_folder()
        self.models = self.memory.__enter__()
        # The reasons of the halts that must be in force.
        self.expected = set()
        self.count = 0

    def teardown(self):
        """Remove the folder."""
        if hasattr(self, "memory"):
            self.memory.__exit__(None, None, None)

    @rule(symbols=st.sampled_from([[], ["BTCUSDT"]]), mode=st.sampled_from(["halt", "reduce"]))
    def halt(self, symbols, mode):
        """Halt."""
        self.count += 1
        halted(self.models, f"halt {self.count}", symbols=symbols, mode=mode)
        self.expected.add(f"halt {self.count}")

    @rule()
    def halt_and_crash_before_the_state(self):
        """The line is in the log, and that is enough."""
        self.count += 1
        before = (self.models / HALT_FILE).read_bytes() if (self.models / HALT_FILE).exists() else None
        halted(self.models, f"halt {self.count}")
        self.expected.add(f"halt {self.count}")
        if before is None:
            (self.models / HALT_FILE).unlink()
        else:
            (self.models / HALT_FILE).write_bytes(before)

    @rule()
    def resume(self):
        """Resume everything."""
        state = resume(self.models, why="again", acknowledge=["state-unreadable"], **NOW).state
        assert state.is_running
        self.expected = set()

    @rule()
    def resume_and_crash_before_the_state(self):
        """It has not taken effect."""
        if not (self.models / HALT_FILE).exists():
            return
        before = (self.models / HALT_FILE).read_bytes()
        resume(self.models, why="again", acknowledge=["state-unreadable"], **NOW)
        (self.models / HALT_FILE).write_bytes(before)

    @rule(torn=st.binary(max_size=20).filter(lambda data: b"\n" not in data))
    def tear(self, torn):
        """A writer was killed in the middle of its line."""
        with (self.models / LOG_FILE).open("ab") as log:
            log.write(torn)

    @rule()
    def arm(self):
        """Arming changes no halt."""
        heartbeat.beat(self.models, when=WHEN)
        arm(self.models, timeout_s=3600, **NOW)

    @invariant()
    def is_never_laxer(self):
        """Every halt that was not ended is in force, and a log that was only torn is whole."""
        state = read_halts(self.models)
        assert self.expected <= {each.why for each in state.halts}
        damage = [p for p in read_history(self.models).problems if "is missing" not in p]
        assert damage == []


Writers.TestCase.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWriters = Writers.TestCase
