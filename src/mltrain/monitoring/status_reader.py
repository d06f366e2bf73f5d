"""Find the state of operation of a data folder: what is live, how old everything is, what is overdue or wrong.

Nothing is written. Damage of one part is a problem of the result and hides no other part. Nothing heavy is imported,
and NumPy only where a live version has answers: a health check runs this every minute.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from mltrain.card.model_card import Section
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError, MltrainError
from mltrain.killswitch.gate import HALTED, HALTED_HINT, REDUCED, HaltGate
from mltrain.killswitch.halts import HaltState
from mltrain.killswitch.heartbeat import HEARTBEAT_FILE, boot_clock, find_silence, read_heartbeat
from mltrain.monitoring.events import EVENTS, list_events, queued_ms
from mltrain.monitoring.ledger import LEDGER, format_at, newest_rows
from mltrain.monitoring.rounds import read_rounds
from mltrain.monitoring.status import (
    KillSwitch,
    LastRound,
    LatestCandles,
    LedgerState,
    LiveAnswers,
    LiveVersion,
    Problem,
    SlotStatus,
    Status,
)
from mltrain.names import SNAPSHOT, show
from mltrain.snapshots import FOLDER, LATEST
from mltrain.storage.manifest import read_manifest
from mltrain.storage.reading import read_pointer
from mltrain.store.listing import read_card_without_schema
from mltrain.times import (
    DAY_MS,
    HOUR_MS,
    SECOND_MS,
    format_age,
    format_minutes,
    format_seconds,
    interval_ms,
    parse_time,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mltrain.card.model_card import ModelCard
    from mltrain.config.operate_config import OperateConfig
    from mltrain.monitoring.ledger import LedgerRow
    from mltrain.monitoring.live_quality import OutcomeScores, ScoreDrift
    from mltrain.monitoring.status import ProblemKind
    from mltrain.store.history import History
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion

# Newest versions that are read, so that a folder of a thousand takes no longer; live ones are read in any case.
_MOST_VERSIONS: Final = 100
_NUMBERS: Final = re.compile(r"[0-9]+")
# Of a card that does not state how many days a comparison needs: the default of `gates.champion_min_days`.
_COMPARED_DAYS: Final = 10
_BY_A_HALT: Final = frozenset({HALTED, REDUCED})
_EVALUATE: Final = "compare with `mltrain evaluate`"

_T = TypeVar("_T")


def find_status(
    store: Store,
    limits: OperateConfig,
    *,
    now_ms: int,
    slot: str | None = None,
    boot_s: Callable[[], float] = boot_clock,
) -> Status:
    """Return the state of operation of a data folder.

    Args:
        store: The store of the data folder; its slot does not matter.
        limits: From when on something is overdue or wrong.
        now_ms: The time, ms UTC.
        slot: The only slot to look at; None: every one.
        boot_s: Returns seconds by the boot clock, for the heartbeat.

    Raises:
        InputError: There is no data folder.
    """
    if not store.data_dir.is_dir():
        raise InputError(f"there is no data folder {store.data_dir}", hint="name the data folder with --data-dir")
    reader = _Reader(store, limits, now_ms)
    kill_switch = reader.read_kill_switch(boot_s)
    reader.read_versions()
    reader.read_rows()
    reader.read_candles()
    slots = tuple(map(reader.read_slot, reader.list_slots() if slot is None else [slot]))
    if not slots:
        reader.note_missing_version(None, f"{store.models} has no version")
    reader.check_events()
    rows = reader.rows
    return Status(
        when=format_seconds(now_ms),
        data_dir=str(store.data_dir),
        slots=slots,
        candles=reader.candles,
        ledger=LedgerState(len(rows), rows[0].at, rows[0].version, _newest_candle(rows)) if rows else None,
        kill_switch=kill_switch,
        problems=tuple(dict.fromkeys(reader.problems)),
    )


class _Reader:
    """Reads the parts of a status and collects the problems.

    Attributes:
        problems: What has been found to be overdue or wrong.
        versions: The newest versions of every slot, newest first.
        rows: The newest rows of the ledger, newest first, up to damage.
        candles: The latest snapshot.
    """

    def __init__(self, store: Store, limits: OperateConfig, now_ms: int) -> None:
        self._store = store
        self._limits = limits
        self._now_ms = now_ms
        self._log_problems: tuple[str, ...] = ()
        self._reads_whole_ledger = False
        self.problems: list[Problem] = []
        self.versions: list[StoredVersion] = []
        self.rows: list[LedgerRow] = []
        self.candles: LatestCandles | None = None

    def _try(self, slot: str | None, read: Callable[[], _T]) -> _T | None:
        """Return what a function returns; None if that is damaged, which is a problem then."""
        try:
            return read()
        except MltrainError as err:
            self._note("unreadable", slot, err.message, err.hint)
            return None

    def _note(self, kind: ProblemKind, slot: str | None, sentence: str, hint: str | None = None) -> None:
        self.problems.append(Problem(kind, slot, sentence, hint))

    def note_missing_version(self, slot: str | None, sentence: str) -> None:
        """Note that nothing is live, if that is wrong."""
        if self._limits.live.required:
            self._note("no-live-version", slot, f"{sentence}: nothing can be served")

    def _age_s(self, time: str) -> float:
        """Return the seconds since a time such as 2025-10-15T12:00:00Z."""
        return (self._now_ms - parse_time(time)) / SECOND_MS

    def read_kill_switch(self, boot_s: Callable[[], float]) -> KillSwitch:
        """Return the state of the kill switch."""
        models = self._store.models
        # Without the folder nothing can be served, and nothing was halted.
        state = HaltGate(models, clock=boot_s).state() if os.path.lexists(models) else HaltState()
        for halt in state.halts:
            self._note("halted" if halt.mode == "halt" else "reduced", None, halt.describe(), HALTED_HINT)
        heartbeat = silence = None
        has_run = os.path.lexists(models / HEARTBEAT_FILE)
        if has_run:
            with suppress(MltrainError):
                # `find_silence` says what is wrong with it.
                heartbeat = read_heartbeat(models).when
        most_s = self._limits.sentinel.max_silence_s if state.armed is None else state.armed.timeout_s
        if most_s is not None and (has_run or state.armed is not None):
            silence = find_silence(models, most_s, clock=boot_s)
        # That of an armed store is a halt.
        if silence is not None and state.armed is None:
            self._note("sentinel-silent", None, f"the sentinel is silent: {silence}", "start `mltrain sentinel`")
        words: dict[str | None, Literal["running", "reduced", "halted"]] = {
            None: "running", "reduce": "reduced", "halt": "halted"
        }  # fmt: skip
        return KillSwitch(words[state.mode], state.halts, state.armed, heartbeat, silence)

    def read_versions(self) -> None:
        """Read the newest versions of every slot, and check the log of promotions."""
        names = self._try(None, self._store.version_names) or []
        for name in sorted(names, key=_version_order, reverse=True)[:_MOST_VERSIONS]:
            row = self._try(None, partial(self._store.read_row, name))
            if row is not None and row.version is None:
                self._note("unreadable", None, str(row.problem), "`mltrain models` shows which ones are sound")
            elif row is not None and row.version is not None:
                self.versions.append(row.version)
        self.versions.sort(key=lambda version: version.serial, reverse=True)
        log = self._try(None, self._store.promotion_log)
        if log is not None:
            self._log_problems = log.problems
            for problem in log.problems:
                self._note("unreadable", None, problem)

    def list_slots(self) -> list[str]:
        """Return the names of every slot, sorted."""
        promoted = self._try(None, self._store.promoted_slots) or ()
        return sorted({*promoted, *(version.slot for version in self.versions)})

    def read_rows(self) -> None:
        """Read the newest rows of the ledger."""
        count, before = self._limits.ledger.rows, len(self.problems)
        self._try(None, lambda: self.rows.extend(islice(newest_rows(self._store.data_dir / LEDGER), count)))
        self._reads_whole_ledger = len(self.rows) < count and len(self.problems) == before

    def read_candles(self) -> None:
        """Read the latest snapshot."""
        self.candles = found = self._try(None, self._read_latest)
        most_h = self._limits.candles.max_age_h
        if found is not None and most_h is not None and found.age_s * SECOND_MS > most_h * HOUR_MS:
            age = format_age(found.age_s)
            self._note(
                "candles-old",
                None,
                f"the newest candle of the latest snapshot, {found.snapshot}, closed {age} ago; {most_h:g} h are too "
                "long",
                "take a new one: `mltrain snapshot`",
            )

    def _read_latest(self) -> LatestCandles | None:
        """Read the manifest of the latest snapshot: without the checks of its record, which need Polars."""
        folder = self._store.data_dir / FOLDER
        name = read_pointer(folder / LATEST)
        if name is None:
            return None
        if SNAPSHOT.fullmatch(name) is None:
            raise InputError(f"{folder / LATEST} points to {show(name)}, which is not a snapshot")
        manifest = read_manifest(folder / name, kind="snapshot")
        facts = (Section(dict(entry.facts)) for entry in manifest.files)
        newest_ms = max((each.time_ms("last") or 0 for each in facts if each.text("symbol")), default=None)
        if newest_ms is None:
            raise InputError(f"{folder / name}: its manifest lists no candles", hint="run `mltrain verify snapshot`")
        interval = Section(dict(manifest.head)).text("request", "interval") or ""
        age_s = (self._now_ms - newest_ms - interval_ms(interval)) / SECOND_MS
        return LatestCandles(name, format_seconds(newest_ms), age_s)

    def check_events(self) -> None:
        """Note events that have waited for their delivery for too long."""
        folder, most_h = self._store.data_dir / EVENTS, self._limits.events.max_age_h
        waiting = self._try(None, partial(list_events, folder))
        if not waiting or most_h is None:
            return
        age_s = (self._now_ms - queued_ms(waiting[0].name)) / SECOND_MS
        if age_s * SECOND_MS > most_h * HOUR_MS:
            self._note(
                "events-waiting",
                None,
                f"{len(waiting)} event(s) wait in {folder}, the oldest for {format_age(age_s)}; {most_h:g} h are too "
                "long",
                "`mltrain notify` shows why",
            )

    def read_slot(self, slot: str) -> SlotStatus:
        """Return the status of a slot."""
        store, before = self._store.in_slot(slot), len(self.problems)
        live = self._try(slot, store.live_version)
        history = self._try(slot, store.history)
        if history is not None and history.lost is None:
            for problem in history.problems:
                if problem not in self._log_problems:
                    self._note("unreadable", slot, problem)
        if live is None and len(self.problems) == before:
            self.note_missing_version(slot, "no version is live")
        newest = next((version for version in self.versions if version.slot == slot), live)
        last_round = next_round = None
        if newest is not None:
            is_live = live is not None and newest.name == live.name
            last_round = self._try(slot, partial(_describe_round, newest, is_live=is_live))
            next_round = self._try(slot, partial(self._find_next_round, newest))
        found = None if live is None else self._try(slot, partial(self._read_live, live, history))
        return SlotStatus(slot, found, last_round, next_round)

    def _find_next_round(self, newest: StoredVersion) -> str | None:
        """Return when the next round is due, UTC; None: none is expected."""
        rounds = self._limits.training
        if rounds.every_h is None:
            return None
        due_ms = parse_time(newest.created_at) + int(rounds.every_h * HOUR_MS)
        last = read_rounds(self._store.data_dir).last(newest.slot)
        if last is not None and (last.ended or last.next_due) >= newest.created_at:
            # `mltrain cycle` runs; this round may have given no version.
            due_ms = parse_time(last.next_due)
        if self._now_ms > due_ms + rounds.grace_h * HOUR_MS:
            late = format_age((self._now_ms - due_ms) / SECOND_MS)
            self._note(
                "round-overdue",
                newest.slot,
                f"a round of training was due at {format_minutes(due_ms)}, {late} ago; the last one gave {newest.name}",
            )
        return format_seconds(due_ms)

    def _read_live(self, live: StoredVersion, history: History | None) -> LiveVersion:
        """Return the live version of a slot."""
        slot, name = live.slot, live.name
        moves = () if history is None else history.entries
        since = next((each.when for each in reversed(moves) if each.happened and each.to_version == name), None)
        since_ms = 0 if since is None else parse_time(since)
        found = LiveVersion(name, live.created_at, self._age_s(live.created_at), since)
        most_days = self._limits.live.max_age_days
        if most_days is not None and found.age_s * SECOND_MS > most_days * DAY_MS:
            age = format_age(found.age_s)
            self._note("live-version-old", slot, f"{name} was trained {age} ago; {most_days:g} days are too long")
        answered = [row for row in self.rows if row.version == name and row.at >= format_at(since_ms)]
        if answered:
            found = replace(found, answers=self._count_answers(answered, since_ms))
        card = self._try(slot, partial(read_card_without_schema, live))
        if card is None:
            return found
        found = replace(
            found,
            interval=card.text("train", "interval"),
            symbols=card.symbols,
            fitted_on=card.fitted_on,
            valid_until=card.text("valid_until"),
            comparable_from=self._find_comparable(card),
        )
        if card.valid_until_ms is not None and self._now_ms >= card.valid_until_ms:
            until = format_minutes(card.valid_until_ms)
            self._note("expired", slot, f"{name} was valid until {until}", "train and promote a newer version")
        self._try(slot, partial(self._check_answers, found, slot, since_ms))
        if not answered:
            return found
        return self._try(slot, partial(self._add_quality, found, live, answered, card)) or found

    def _find_comparable(self, card: ModelCard) -> str | None:
        """Return the day whose candles a comparison needs, UTC; None: they are there, or that is not known."""
        try:
            seen_until_ms = card.last_label_end_ms()
        except InputError:
            # The card of another tool.
            return None
        days = card.number("lineage", "config", "gates", "champion_min_days") or _COMPARED_DAYS
        # Rows later than its last label must touch so many UTC days, that of the label included.
        from_ms = int(seen_until_ms // DAY_MS + days - 1) * DAY_MS
        newest_ms = self._now_ms if self.candles is None else parse_time(self.candles.newest)
        return format_seconds(from_ms) if from_ms > newest_ms else None

    def _count_answers(self, answered: Sequence[LedgerRow], since_ms: int) -> LiveAnswers:
        """Return what the answers of a live version since its promotion were, newest first."""
        reasons = Counter(row.refused for row in answered if row.refused is not None)
        by_halt = sum(reasons[reason] for reason in _BY_A_HALT)
        judged = len(answered) - by_halt
        return LiveAnswers(
            rows=len(answered),
            is_complete=self._reads_whole_ledger or self.rows[-1].at < format_at(since_ms),
            first_at=answered[-1].at,
            last_at=answered[0].at,
            age_s=self._age_s(answered[0].at),
            last_candle=_newest_candle(answered),
            refused=dict(reasons.most_common()),
            refused_share=(reasons.total() - by_halt) / judged if judged else None,
            missed=sum(row.missed for row in answered),
        )

    def _check_answers(self, found: LiveVersion, slot: str, since_ms: int) -> None:
        """Note answers that are missing, too old, or refused too often."""
        limits, answers = self._limits.ledger, found.answers
        own = {version.name for version in self.versions if version.slot == slot} | {found.version}
        last = next((row for row in self.rows if row.version in own), None)
        if last is None and limits.required:
            self._note("no-answers", slot, f"{found.version} has no answer in the ledger", "serve with --ledger")
        if last is not None and limits.max_age_bars is not None and found.interval is not None:
            most_s = limits.max_age_bars * interval_ms(found.interval) / SECOND_MS
            too_long = f"{limits.max_age_bars} bars of {found.interval} are too long"
            if answers is not None and answers.age_s > most_s:
                age = format_age(answers.age_s)
                self._note("answers-old", slot, f"the newest answer of {found.version} is {age} old; {too_long}")
            if answers is None and (self._now_ms - since_ms) / SECOND_MS > most_s:
                self._note(
                    "no-answers",
                    slot,
                    f"{found.version} has given no answer since its promotion, the newest one is by {last.version}; "
                    f"{too_long}",
                )
        if answers is None or answers.refused_share is None or limits.max_refused_share is None:
            return
        if answers.rows >= limits.min_rows and answers.refused_share > limits.max_refused_share:
            most = next(reason for reason in answers.refused if reason not in _BY_A_HALT)
            self._note(
                "refused",
                slot,
                f"{answers.refused_share:.1%} of the last {answers.rows:,} answers were refused, most of them as "
                f"{most}; more than {limits.max_refused_share:.0%} are too many",
            )

    def _add_quality(
        self, found: LiveVersion, live: StoredVersion, answered: Sequence[LedgerRow], card: ModelCard
    ) -> LiveVersion:
        """Return the live version with drift and calibration of its answers, newest first; note what is too much."""
        # They import NumPy.
        from mltrain.monitoring.live_quality import find_score_drift, score_outcomes
        from mltrain.monitoring.sentinel import facts_of_card

        drift = find_score_drift(answered, card)
        try:
            facts = facts_of_card(card, live.name, where=str(live.folder / CARD_FILE))
        except InputError:
            # The card of another tool, which does not state the label.
            scores = None
        else:
            scores = score_outcomes(answered[::-1], facts)
        self._check_quality(live.slot, drift, scores)
        return replace(found, drift=drift, calibration=scores)

    def _check_quality(self, slot: str, drift: ScoreDrift | None, scores: OutcomeScores | None) -> None:
        """Note drift and calibration errors that are too large, on enough rows."""
        drift_limit, ece_limit = self._limits.drift, self._limits.calibration
        most = drift_limit.max_distance
        if drift is not None and most is not None and drift.rows >= drift_limit.min_rows and drift.distance > most:
            self._note(
                "drift",
                slot,
                f"the distribution of {drift.rows:,} probabilities is {drift.distance:.2f} from that on the holdout; "
                f"more than {most:g} is too far",
                _EVALUATE,
            )
        most = ece_limit.max_ece
        if scores is None or most is None or scores.bars < ece_limit.min_bars * scores.horizon_bars:
            return
        if scores.ece > most:
            self._note(
                "calibration",
                slot,
                f"the expected calibration error of {scores.rows:,} answers is {scores.ece:.3f}: they said "
                f"{scores.mean_p:.3f} on average, and {scores.up_share:.3f} went up; more than {most:g} is too much",
                _EVALUATE,
            )


def _describe_round(newest: StoredVersion, *, is_live: bool) -> LastRound:
    """Return what the last round gave."""
    card = read_card_without_schema(newest)
    failed = tuple(
        f"{gate.text('name')}: {gate.text('reason') or gate.text('target')}"
        for gate in card.sections("gates", "outcomes")
        if gate.text("outcome") == "failed"
    )
    return LastRound(newest.name, newest.created_at, newest.verdict, card.text("gates", "held"), failed, is_live)


def _newest_candle(rows: Sequence[LedgerRow]) -> str | None:
    return max((row.ts for row in rows if row.ts is not None), default=None)


def _version_order(name: str) -> tuple[int, ...]:
    """Return the key by which names of versions are in the order of publication: 2025-10-15.10 is after .2."""
    return tuple(map(int, _NUMBERS.findall(name)))
