"""The sentinel: reads the ledger, evaluates the triggers of every live version, halts serving, and beats.

What keeps it from judging is a breach, too: a ledger or a card that cannot be read halts as `error`. A heartbeat is
written only after the triggers were evaluated and every halt that they asked for is in force, so that an armed store
stops serving if the sentinel cannot do its work.

The rows since the last resume count, or since the version became live if that is later. No Polars and no LightGBM: the
process stays small.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES
from mltrain.documents.records import read_record
from mltrain.documents.results import Result
from mltrain.documents.strict_json import parse_json
from mltrain.documents.values import Located
from mltrain.errors import InputError, MachineError, MltrainError
from mltrain.features.label_spec import LabelSpec
from mltrain.killswitch.halts import LOG_FILE
from mltrain.killswitch.heartbeat import beat
from mltrain.killswitch.switch import halt, read_halts, read_history
from mltrain.monitoring.ledger import LEDGER, LedgerTail, format_at
from mltrain.monitoring.triggers import VersionFacts, VersionTriggers, error_evidence
from mltrain.storage.disk_errors import disk_errors
from mltrain.store import REPAIR_HINT
from mltrain.store.pointer import pointer_at
from mltrain.times import DAY_MS, format_seconds, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.config.halt_config import HaltConfig
    from mltrain.killswitch.halts import Halt
    from mltrain.killswitch.switch import HaltResult
    from mltrain.monitoring.triggers import Evidence
    from mltrain.progress import Progress
    from mltrain.store.store import Store

#: Who asks for a halt, in the log.
BY: Final = "mltrain sentinel"

# Rows that are read between two heartbeats: about a second of work.
_BATCH_ROWS: Final = 10_000
_MAX_WHY: Final = 1_000
# The base rate of a card that lacks the rows is kept away from certainty.
_SMALLEST_BASE: Final = 0.001


@dataclass(frozen=True, slots=True)
class SentinelStep(Result):
    """The result of one evaluation.

    Attributes:
        when: When it was made by the machine's clock, UTC, such as 2025-10-15T12:00:00Z.
        evidence: What each trigger of each live version sees.
        halted: The triggers whose halts were put in force by this evaluation.
        rows: Number of new rows of the ledger.
        is_current: Whether the ledger was read to its end; if not, nothing was evaluated yet.
        warnings: What did not work although serving is halted, one sentence each.
    """

    SCHEMA: ClassVar[str] = "sentinel/1"

    when: str
    evidence: tuple[Evidence, ...]
    halted: tuple[str, ...]
    rows: int
    is_current: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def fired(self) -> tuple[Evidence, ...]:
        """The evidence that is a breach."""
        return tuple(evidence for evidence in self.evidence if evidence.fired)


@dataclass(slots=True)
class _Slot:
    """The live version of a slot.

    Attributes:
        begin_ms: Only answers from this time on count, ms UTC.
        triggers: Its triggers.
    """

    begin_ms: int
    triggers: VersionTriggers


class Sentinel:
    """Evaluates the triggers of every live version of a store.

    Args:
        store: The store; its slot does not matter.
        config: The settings.
        now_ms: The time, ms UTC, by the machine's clock.
        is_running: Whether it keeps running: candles that were due before it began are then not missed.
        begin_ms: Only answers from this time on count, ms UTC; None: from the last resume on.

    Raises:
        InputError: There is no models folder, or it has no live version.
        MachineError: The machine refuses to read.
    """

    def __init__(
        self, store: Store, config: HaltConfig, *, now_ms: int, is_running: bool, begin_ms: int | None = None
    ) -> None:
        self._store = store
        self._models = store.models
        self._config = config
        self._stale_from_ms = now_ms if is_running else None
        self._tail = LedgerTail(store.data_dir / LEDGER, since_ms=now_ms - config.sentinel.history_days * DAY_MS)
        self._given_begin_ms = begin_ms
        self._begin_ms = begin_ms or 0
        self._log_size = -1
        self._slots: dict[str, _Slot] = {}
        if not self._models.is_dir():
            raise InputError(f"{self._models} does not exist", hint="train a model: `mltrain train`")
        if not self._list_slots():
            raise InputError(f"{self._models} has no live version", hint="promote one: `mltrain promote VERSION`")

    def step(self, now_ms: int) -> SentinelStep:
        """Read new rows, evaluate, halt where a trigger fires, and beat.

        Raises:
            MachineError: A halt or the heartbeat could not be written.
        """
        found = self.evaluate(now_ms)
        results = self._halt(found, now_ms)
        beat(self._models, when=format_seconds(now_ms))
        halted = tuple(str(result.halt.trigger) for result in results)
        return replace(found, halted=halted, warnings=tuple(text for result in results for text in result.warnings))

    def evaluate(self, now_ms: int) -> SentinelStep:
        """Read new rows and evaluate; nothing is written."""
        try:
            self._follow_resumes()
            rows = list(islice(self._tail.new_rows(), _BATCH_ROWS))
            # After the rows, so that those of a version that has just been promoted find its triggers.
            self._follow_promotions(now_ms)
        except MltrainError as err:
            return SentinelStep(
                format_seconds(now_ms), (error_evidence(f"cannot watch what is served: {err.message}"),), (), 0
            )
        for slot in self._slots.values():
            begin = format_at(slot.begin_ms)
            slot.triggers.feed_earlier([row for row in rows if row.at < begin])
            slot.triggers.feed([row for row in rows if row.at >= begin])
        if len(rows) == _BATCH_ROWS:
            return SentinelStep(format_seconds(now_ms), (), (), len(rows), is_current=False)
        evidence = [each for slot in self._slots.values() for each in slot.triggers.evaluate(now_ms)]
        return SentinelStep(format_seconds(now_ms), tuple(evidence), (), len(rows))

    def _halt(self, found: SentinelStep, now_ms: int) -> list[HaltResult]:
        """Put a halt in force for each trigger that fires and has none."""
        results = []
        for evidence in found.fired:
            mode = self._config.triggers.mode_of(evidence.trigger)
            if mode == "off" or self._has_halt(evidence.trigger, mode):
                continue
            # Of an error, the sentence may be any text.
            why = "".join(c if c.isprintable() else " " for c in f"{evidence.trigger}: {evidence.sentence}")[:_MAX_WHY]
            trigger, seen = evidence.trigger, evidence.to_json()
            results.append(halt(self._models, why=why, by=BY, now_ms=now_ms, mode=mode, trigger=trigger, evidence=seen))
        return results

    def _has_halt(self, trigger: str, mode: str) -> bool:
        """Return whether a trigger has a halt in force that is as strict as this mode."""
        return any(each.trigger == trigger and each.mode in {"halt", mode} for each in read_halts(self._models).halts)

    def _follow_resumes(self) -> None:
        """Begin again after a resume: what the triggers saw before has been acknowledged."""
        if self._given_begin_ms is not None:
            return
        try:
            with disk_errors(self._models / LOG_FILE, "read"):
                size = os.stat(self._models / LOG_FILE).st_size  # noqa: PTH116 (each second)
        except MachineError as err:
            if not isinstance(err.__cause__, FileNotFoundError):
                raise
            size = 0
        if size == self._log_size:
            return
        resumes = [parse_time(line.when) for line in read_history(self._models).lines if line.action == "resume"]
        begin_ms = max(resumes, default=0)
        # The first call finds the resumes of the past.
        is_new, self._log_size = begin_ms > self._begin_ms and self._log_size >= 0, size
        self._begin_ms = max(self._begin_ms, begin_ms)
        if is_new:
            self._stale_from_ms = None if self._stale_from_ms is None else begin_ms
            for name, slot in self._slots.items():
                self._slots[name] = self._begin(slot.triggers.facts, begin_ms, slot.triggers)

    def _list_slots(self) -> list[str]:
        """Return every slot that has a pointer."""
        with disk_errors(self._models, "list"):
            pointers = (pointer_at(self._models / name) for name in os.listdir(self._models))  # noqa: PTH208
            return sorted({pointer.slot for pointer in pointers if pointer is not None})

    def _follow_promotions(self, now_ms: int) -> None:
        """Begin with the triggers of each version that has become live; raise InputError for a pointer that is lost."""
        slots = self._list_slots()
        lost = sorted(self._slots.keys() - set(slots))
        if lost:
            raise InputError(f"{self._store.in_slot(lost[0]).pointer.path} is missing", hint=REPAIR_HINT)
        for name in slots:
            store = self._store.in_slot(name)
            known = self._slots.get(name)
            if known is not None and store.live_name() == known.triggers.facts.version:
                continue
            facts, promoted_ms = read_facts(store)
            if known is not None:
                promoted_ms = max(promoted_ms, known.begin_ms)
                self._stale_from_ms = now_ms if self._stale_from_ms is not None else None
            begin_ms = max(self._begin_ms, promoted_ms) if self._given_begin_ms is None else self._given_begin_ms
            self._slots[name] = self._begin(facts, begin_ms, None if known is None else known.triggers)

    def _begin(self, facts: VersionFacts, begin_ms: int, before: VersionTriggers | None) -> _Slot:
        """Return the triggers of a version before any row; `before` are those of the slot until now."""
        newest_ms = None
        if before is not None and before.facts.step_ms == facts.step_ms:
            newest_ms = before.stale.newest_ms
        triggers = self._config.triggers
        made = VersionTriggers(facts, triggers, from_ms=self._stale_from_ms, newest_ms=newest_ms)
        return _Slot(begin_ms, made)


def read_facts(store: Store) -> tuple[VersionFacts, int]:
    """Return what the triggers need to know of the live version of a store's slot, and since when it is live, ms UTC.

    Raises:
        InputError: There is none, or its card is damaged or lacks what they need.
        MachineError: The machine refuses to read.
    """
    version = store.live_version()
    if version is None:
        raise InputError(f"the slot {store.slot} has no live version")
    where = str(version.folder / CARD_FILE)
    data = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
    card = ModelCard.from_json(parse_json(data, where=where, max_bytes=MAX_CARD_BYTES))
    entries = [entry for entry in store.history().entries if entry.happened and entry.to_version == version.name]
    live_since_ms = parse_time(entries[-1].when) if entries else 0
    return facts_of_card(card, version.name, where=where), live_since_ms


def facts_of_card(card: ModelCard, version: str, *, where: str) -> VersionFacts:
    """Return what the triggers need to know of a version; `where` is the name of its card in messages.

    Raises:
        InputError: The card lacks what they need.
    """
    label, interval = dict(card.entries("train", "label")), card.text("train", "interval")
    budget_ms = card.number("lineage", "config", "gates", "latency_p95_ms")
    if not label or interval is None or budget_ms is None or not card.symbols:
        raise InputError(
            f"{where}: does not state label, interval, symbols and the latency gate, which the triggers need"
        )
    # In the card the key is that of the result, in a registry that of the file.
    label["horizon"] = label.pop("horizon_bars", None)
    share = {prior.text("symbol"): prior.number("up_share") for prior in card.sections("baselines", "priors")}
    bases = {
        symbol: min(max(share.get(symbol) or card.train_up_share, _SMALLEST_BASE), 1 - _SMALLEST_BASE)
        for symbol in card.symbols
    }
    read_label = read_record(Located(label, f"{where}: train.label"), LabelSpec)
    return VersionFacts(version, interval_ms(interval), read_label, bases, budget_ms)


def find_condition(store: Store, config: HaltConfig, halted: Halt, *, now_ms: int) -> str | None:
    """Return what still holds of the condition of a halt that a trigger asked for; None: nothing, or a person asked.

    The triggers are evaluated on the rows since the halt: a feed that stands still and code that differs are seen while
    answers are refused as halted. What needs answers cannot be seen then, and is no obstacle.

    Raises:
        InputError: There is no models folder, or it has no live version.
        MachineError: The machine refuses to read.
    """
    if halted.trigger is None or not halted.when:
        return None
    sentinel = Sentinel(store, config, now_ms=now_ms, is_running=False, begin_ms=parse_time(halted.when))
    found = sentinel.evaluate(now_ms)
    while not found.is_current:
        found = sentinel.evaluate(now_ms)
    return next((each.sentence for each in found.fired if each.trigger == halted.trigger), None)


def run(
    sentinel: Sentinel,
    progress: Progress,
    *,
    every_s: float,
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> Iterator[SentinelStep]:
    """Evaluate forever, and yield each evaluation that halted; where one fails, warn and go on without a heartbeat.

    Args:
        sentinel: The sentinel.
        progress: Receives a warning when an evaluation fails in another way than the one before.
        every_s: Seconds between two evaluations.
        clock: Returns seconds since 1970, as `time.time` does.
        wait: Waits for seconds, as `time.sleep` does.
    """
    problem = None
    while True:
        found = None
        try:
            found = sentinel.step(int(clock() * 1000))
            problem = None
        except MltrainError as err:
            if err.message != problem:
                progress.warn(f"{err.message}; no heartbeat is written")
            problem = err.message
        for warning in () if found is None else found.warnings:
            progress.warn(warning)
        if found is not None and found.halted:
            yield found
        if found is None or found.is_current:
            wait(every_s)
