"""Any sequence of promotions, rollbacks, prunings, copies, repairs and packings: what serves is what the log says."""

from __future__ import annotations

import contextlib
import shutil

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mltrain.errors import InputError, NoGoError
from mltrain.storage.writing import append_lines
from mltrain.store.history import Attribution, promotion_line
from mltrain.store.packing import pack_version, unpack_version
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.repair import repair_store
from mltrain.store.store import Store
from mltrain.store.version_pruning import prune_versions
from support.bare_versions import HAND, publish
from support.disk_faults import memory_folder

SLOTS = ("lgbm", "btc")
slots = st.sampled_from(SLOTS)


class TwoSlots(RuleBasedStateMachine):
    """A data folder with two slots, the machine that it moves to, and a second one that versions are carried to."""

    @initialize()
    def start(self):
        """Begin with an empty folder."""
        self.exit = contextlib.ExitStack()
        self.folder = self.exit.enter_context(memory_folder())
        self.store = Store(self.folder / "0", lock_wait_s=1)
        self.other = Store(self.folder / "other", lock_wait_s=1)
        self.copies = self.marks = 0
        self.live = dict.fromkeys(SLOTS)
        self.others_live = None
        # Per slot: whether the pointer was lost, and what a repair without anything left of it restores.
        self.lost = dict.fromkeys(SLOTS, False)
        self.last_line = dict.fromkeys(SLOTS)

    def teardown(self):
        """Remove the folder."""
        if hasattr(self, "exit"):
            self.exit.close()

    def names(self, slot):
        """Return the versions of a slot, oldest first."""
        return [row.name for row in self.store.versions() if row.version.slot == slot]

    def moved(self, slot, name):
        """Record a promotion or a rollback."""
        self.live[slot] = self.last_line[slot] = name
        self.lost[slot] = False

    @rule(slot=slots, verdict=st.sampled_from(["GO", "GO", "NO-GO"]))
    def publish(self, slot, verdict):
        """A slot without its pointer takes no version."""
        self.marks += 1
        if self.lost[slot]:
            with pytest.raises(InputError):
                publish(self.store.in_slot(slot), b"%d" % self.marks, verdict=verdict)
        else:
            publish(self.store.in_slot(slot), b"%d" % self.marks, verdict=verdict)

    @rule(slot=slots, data=st.data(), force=st.booleans())
    def promote(self, slot, data, force):
        """A NO-GO needs force; a lost pointer is restored, unless another file is in its place."""
        if not (names := self.names(slot)):
            return
        name = data.draw(st.sampled_from(names))
        if self.store.in_slot(slot).pointer.path.exists() and self.lost[slot]:
            with pytest.raises(InputError):
                promote_version(self.store, name, force=True, **HAND)
        elif self.store.open_named(name).verdict == "NO-GO" and not force:
            with pytest.raises(NoGoError):
                promote_version(self.store, name, **HAND)
        else:
            promote_version(self.store, name, force=force, **HAND)
            self.moved(slot, name)

    @rule(slot=slots, data=st.data())
    def roll_back(self, slot, data):
        """Only to a version that was live; not while the pointer is lost."""
        if not (names := self.names(slot)):
            return
        name = data.draw(st.sampled_from(names))
        if self.lost[slot] or not self.store.open_named(name).promoted:
            with pytest.raises(InputError):
                roll_back(self.store, name, **HAND)
        else:
            roll_back(self.store, name, **HAND)
            self.moved(slot, name)

    @rule(slot=slots)
    def roll_back_previous(self, slot):
        """It goes back to the version that the log names."""
        store = self.store.in_slot(slot)
        try:
            self.moved(slot, roll_back_previous(store, **HAND).to_version)
        except InputError:
            assert self.lost[slot] or store.history().previous() is None

    @rule(slot=slots, data=st.data())
    def interrupt(self, slot, data):
        """A promotion is killed between its line and the pointer: it never happened."""
        names = [name for name in self.names(slot) if name != self.live[slot]]
        if self.lost[slot] or self.live[slot] is None or not names:
            return
        version = self.store.open_named(data.draw(st.sampled_from(names)))
        line = promotion_line(
            self.store.read_promotions(),
            slot=slot,
            from_version=self.live[slot],
            to_version=version.name,
            verdict=version.verdict,
            card_sha256=version.card_sha256,
            attribution=Attribution("killed", "me@host", HAND["now_ms"]),
        )
        append_lines(self.store.promotions_path, [line])
        self.last_line[slot] = version.name

    @rule(slot=slots, keep=st.integers(0, 3))
    def prune(self, slot, keep):
        """The live version and its predecessor stay, and every version of the other slot."""
        store = self.store.in_slot(slot)
        if self.lost[slot]:
            with pytest.raises(InputError):
                prune_versions(store, keep=keep)
            return
        others = [name for other in SLOTS if other != slot for name in self.names(other)]
        needed = {store.history().best, store.history().previous()} & set(self.names(slot))
        prune_versions(store, keep=keep)
        assert needed <= set(self.names(slot))
        assert others == [name for other in SLOTS if other != slot for name in self.names(other)]

    @rule(kind=st.sampled_from(["whole", "no links", "links as text", "links followed"]))
    def copy(self, kind):
        """Move the folder to another machine; earlier losses remain."""
        if not self.store.models.is_dir():
            return
        self.copies += 1
        target = self.folder / str(self.copies)
        shutil.copytree(self.store.data_dir, target, symlinks=kind != "links followed")
        for link in [path for path in target.rglob("*") if path.is_symlink()]:
            text = str(link.readlink())
            if kind != "whole":
                link.unlink()
            if kind == "links as text":
                link.write_text(text)
        shutil.rmtree(self.store.data_dir)
        self.store = Store(target, lock_wait_s=1)
        for slot in SLOTS:
            had_pointer = self.live[slot] is not None and not self.lost[slot]
            if kind != "whole" and had_pointer:
                self.lost[slot] = True
                if kind == "no links":
                    self.live[slot] = self.last_line[slot]

    @rule()
    def repair(self):
        """Both slots are served again."""
        steps = repair_store(self.store, by="me@host", now_ms=HAND["now_ms"])
        assert all(step.left is None for step in steps)
        for slot in SLOTS:
            if self.lost[slot]:
                self.moved(slot, self.live[slot])
        assert repair_store(self.store, by="me@host", now_ms=HAND["now_ms"]) == ()

    @rule(slot=slots, data=st.data())
    def carry(self, slot, data):
        """A version that is carried to another machine is not live there."""
        if not (names := self.names(slot)):
            return
        name = data.draw(st.sampled_from(names))
        archive = self.folder / "model.tar"
        pack_version(self.store, name, archive)
        try:
            unpack_version(self.other, archive)
        except InputError:
            # The name is that of another version there.
            assert name in self.other.version_names() or self.others_live is not None
        else:
            assert self.other.open_named(name).manifest == self.store.open_named(name).manifest

    @precondition(lambda self: self.other.models.is_dir())
    @rule(slot=slots)
    def promote_there(self, slot):
        """Promote independently on the other machine."""
        store = self.other.in_slot(slot)
        rows = [row.version for row in store.versions() if row.version.slot == slot and row.version.verdict == "GO"]
        if rows:
            promote_version(store, rows[-1].name, **HAND)
            self.others_live = rows[-1].name
            assert store.live_version().name == rows[-1].name

    @invariant()
    def what_serves_is_what_the_log_says(self):
        """Or nothing serves, and the error names the repair."""
        if not hasattr(self, "store"):
            return
        for slot in SLOTS:
            store = self.store.in_slot(slot)
            if self.lost[slot]:
                with pytest.raises(InputError) as caught:
                    store.live_version()
                assert caught.value.hint == "run `mltrain models repair`"
                continue
            live, history = store.live_version(), store.history()
            assert (live and live.name) == self.live[slot] == history.best
            assert history.problems == ()
            happened = [entry.to_version for entry in history.entries if entry.happened]
            assert happened[-1:] == ([] if live is None else [live.name])


TestTwoSlots = TwoSlots.TestCase
TestTwoSlots.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
