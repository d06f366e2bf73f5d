"""`cycle`: rounds of snapshot, training and promotion at fixed times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mltrain.api.notify import note_event, read_receiver
from mltrain.api.snapshots import snapshot, split_symbols
from mltrain.api.sources import CONNECTIONS, MAX_WAIT_S, read_source_spec
from mltrain.api.train import describe_result, train
from mltrain.api.train_result import ExistingVersion
from mltrain.api.workspace import DATA_DIR, check_path, current_user, open_store, read_progress, read_whole
from mltrain.errors import MltrainError, NoGoError, UsageError
from mltrain.names import DEFAULT_SLOT, check_slot
from mltrain.times import DAY_MS, format_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mltrain.api.snapshots import Symbols
    from mltrain.api.sources import Market, SimSignal
    from mltrain.api.train import FinalRows
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.features.spec import FeatureSet, Registry
    from mltrain.monitoring.event_delivery import Courier
    from mltrain.monitoring.events import Kind
    from mltrain.monitoring.receiver import Receiver
    from mltrain.monitoring.rounds import LiveScores, Round
    from mltrain.pipeline.cycle import RoundResult
    from mltrain.store.store import Store

#: Rounds once a day, at midnight UTC.
EVERY: Final = "24h"
AT: Final = "00:00"


def cycle(
    *,
    every: str = EVERY,
    at: str = AT,
    once: bool = False,
    source: str | None = None,
    market: Market | None = None,
    symbols: Symbols | None = None,
    days: int | None = None,
    interval: str | None = None,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    inputs: PathText | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    max_wait: float = MAX_WAIT_S,
    connections: int = CONNECTIONS,
    use_env_proxy: bool = False,
    trials: int | None = None,
    features: PathText | Mapping[str, Any] | Registry | FeatureSet | None = None,
    config: PathText | Mapping[str, Any] | None = None,
    workers: int | None = None,
    timeout_s: float | None = None,
    final: FinalRows = "inner",
    promote: bool = True,
    ops: str | None = None,
    sign: PathText | None = None,
    keep_versions: int | None = None,
    keep_ledger_days: int | None = None,
    keep_study_days: int | None = None,
    keep_backtest_days: int | None = None,
    keep_snapshot_days: int | None = None,
    notify: str | None = None,
    notify_secret_file: PathText | None = None,
    by: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Round]:
    """Run rounds at fixed times: snapshot, training, gates, promotion or hold, a look at the live version, events.

    Each round is recorded in `rounds.jsonl` with the reason for what it gave, and so are rounds that were missed. A
    round that fails ends nothing: the next one is tried at its time.

    Args:
        every: Time between two rounds, such as "24h", "6h" or "7d"; 1m to 4w.
        at: Time of day of a round, UTC, such as "02:00"; the times are counted from 1970-01-01 on.
        once: Run one round now, and end; for cron.
        source: This and the next: as in `snapshot`.
        market: As in `snapshot`.
        symbols: As in `snapshot`.
        days: As in `snapshot`.
        interval: As in `snapshot`.
        folder: As in `snapshot`.
        timezone: As in `snapshot`.
        sim_seed: As in `snapshot`.
        sim_signal: As in `snapshot`.
        inputs: As in `snapshot`; goes with `features`.
        base_url: As in `snapshot`.
        archive_url: As in `snapshot`.
        max_wait: As in `snapshot`.
        connections: As in `snapshot`.
        use_env_proxy: As in `snapshot`.
        trials: This and the next: as in `train`; an interrupted search on the same snapshot is continued.
        features: As in `train`.
        config: As in `train`.
        workers: As in `train`.
        timeout_s: As in `train`.
        final: As in `train`.
        promote: As in `train`.
        ops: As in `train`. **Importing the module runs its code.**
        sign: As in `train`.
        keep_versions: After each round, remove all but so many of the newest versions, except the live one, the one
            before it, the latest, and those in use; None: none.
        keep_ledger_days: After each round, remove days of the ledger that are older; None: none.
        keep_study_days: After each round, remove journals of searches that are older; None: none.
        keep_backtest_days: After each round, remove backtests that are older; None: none.
        keep_snapshot_days: After each round, remove snapshots that are older and that no version needs; None: none.
        notify: Queue events for this address, https or http to this machine, and deliver them in a thread; None: none.
        notify_secret_file: File with the secret that events are signed with.
        by: Who promotes, for the logs; None: user@host.
        data_dir: The data folder; created if absent.
        slot: The slot of the versions; None: "lgbm".
        progress: Receives the progress of each round, and warnings.
        clock: Returns seconds since 1970, as `time.time` does.
        wait: Called with the seconds to wait, at most 30.

    Returns:
        An iterator of rounds, and of gaps in which rounds were missed; without an end unless `once`.

    Raises:
        UsageError: An argument is wrong.
        InputError: There is no file of the secret, or it holds none; or, with the first round, the log of rounds cannot
            be read.
        LockedError: With the first round: another cycle runs in this slot.
        MachineError: The data folder cannot be written.
    """
    from mltrain.monitoring.rounds import Schedule
    from mltrain.pipeline.cycle import Cycle
    from mltrain.pipeline.study_pruning import list_studies
    from mltrain.storage.folders import make_folder

    shown, asked_by = read_progress(progress), by or current_user()
    schedule = Schedule.parse(every, at)
    limits = {
        # Before the snapshots, which the removed versions needed.
        "keep_versions": keep_versions,
        "keep_ledger_days": keep_ledger_days,
        "keep_study_days": keep_study_days,
        "keep_backtest_days": keep_backtest_days,
        "keep_snapshot_days": keep_snapshot_days,
    }
    _check_limits(limits)
    store = open_store(data_dir, check_slot(slot or DEFAULT_SLOT))
    place = store.data_dir
    receiver = read_receiver(notify, notify_secret_file)
    # What no round could do is an error now, and not at night.
    spec = read_source_spec(
        {
            "source": source,
            "market": market,
            "folder": folder,
            "timezone": timezone,
            "sim_seed": sim_seed,
            "sim_signal": sim_signal,
        },
        interval=interval,
        base_url=base_url,
        archive_url=archive_url,
    )
    if symbols is not None:
        split_symbols(symbols, market=spec.market if spec.name != "files" else "")
    _check_training(config, trials)
    make_folder(place)

    def report(kind: Kind, sentence: str, now_ms: int) -> None:
        noted = note_event(kind, sentence, notify=notify, by=asked_by, data_dir=place, now_ms=now_ms, slot=store.slot)
        for warning in noted:
            shown.warn(warning)

    def work(now_ms: int, result: RoundResult) -> None:
        taken = snapshot(
            source=source,
            market=market,
            symbols=symbols,
            days=days,
            interval=interval,
            folder=folder,
            timezone=timezone,
            sim_seed=sim_seed,
            sim_signal=sim_signal,
            features=features if inputs is not None else None,
            inputs=inputs,
            ops=ops if inputs is not None else None,
            base_url=base_url,
            archive_url=archive_url,
            max_wait=max_wait,
            connections=connections,
            use_env_proxy=use_env_proxy,
            data_dir=place,
            progress=shown,
            now_ms=now_ms,
        )
        result.snapshot = taken.snapshot.id
        before = store.live_name()
        # Without a search to continue, `resume` would warn in each round.
        has_search = any(row.study.startswith(f"{taken.snapshot.id}-") for row in list_studies(place))
        trained = train(
            taken.snapshot,
            trials=trials,
            features=features,
            config=config,
            workers=workers,
            resume=has_search,
            timeout_s=timeout_s,
            final=final,
            promote=promote,
            ops=ops,
            sign=sign,
            by=asked_by,
            notify=notify,
            data_dir=place,
            slot=slot,
            now_ms=now_ms,
            progress=shown,
        )
        result.version = trained.version
        if isinstance(trained, ExistingVersion):
            result.outcome = "unchanged"
            result.sentence = f"nothing new to train: {trained.version} is this training already"
        else:
            kind, result.sentence = describe_result(trained, store.slot)
            result.outcome = {"promotion": "promoted", "no-go": "no-go"}.get(kind or "", "held")  # type: ignore[assignment]
            result.exit_code = NoGoError.exit_code if kind == "no-go" else 0
            if kind == "promotion" and before is not None:
                result.notes.append(f"the live version before was {before}")
        _look_after(store, result, limits, now_ms=now_ms)

    courier = _open_courier(place, receiver, clock)

    def poll_and_wait(seconds: float) -> None:
        _deliver(courier, shown.warn)
        wait(seconds)

    def begin() -> Iterator[Round]:
        rounds = Cycle(place, store.slot, schedule, work=work, report=report, progress=shown, clock=clock)
        return rounds.run_once() if once else rounds.run(poll_and_wait)

    return _hold(place, store.slot, begin, courier, shown.warn)


def _hold(
    data_dir: Path,
    slot: str,
    begin: Callable[[], Iterator[Round]],
    courier: Courier | None,
    warn: Callable[[str], None],
) -> Iterator[Round]:
    """Yield rounds while no other cycle runs in the slot; deliver events after each."""
    from mltrain.storage.locks import hold_lock

    with hold_lock(data_dir / f"cycle-{slot}.lock", wait_s=0, purpose=f"rounds of training in the slot {slot}"):
        # The log is read under the lock: another cycle may just have written its last line.
        for made in begin():
            _deliver(courier, warn)
            yield made
    if courier is not None:
        for warning in (*courier.finish(), *courier.poll(), *courier.finish()):
            warn(warning)


def _open_courier(data_dir: Path, receiver: Receiver | None, clock: Callable[[], float]) -> Courier | None:
    if receiver is None:
        return None
    from mltrain.monitoring.event_delivery import Courier
    from mltrain.monitoring.events import EVENTS

    return Courier(data_dir / EVENTS, receiver, clock=clock)


def _deliver(courier: Courier | None, warn: Callable[[str], None]) -> None:
    for warning in () if courier is None else courier.poll():
        warn(warning)


def _check_limits(limits: Mapping[str, int | None]) -> None:
    for name, limit in limits.items():
        if limit is not None and read_whole(limit, name) < 1:
            raise UsageError(f"{name} is {limit}: expected 1 or more")


def _check_training(config: PathText | Mapping[str, Any] | None, trials: int | None) -> None:
    """Raise an error for settings that every training would refuse."""
    from mltrain.config.loading import load_config

    given = config if config is None or isinstance(config, Mapping) else check_path(config, "config")
    load_config(given, overrides={} if trials is None else {"search.trials": trials})


def _look_after(store: Store, result: RoundResult, limits: Mapping[str, int | None], *, now_ms: int) -> None:
    """Score the live version on the ledger and remove what is old; what does not work is a note."""
    try:
        result.live = _score_live(store)
    except MltrainError as err:
        result.notes.append(f"the live version could not be scored: {err.message}")
    if result.live is not None:
        result.notes.append(result.live.describe())
    for name, limit in limits.items():
        if limit is None:
            continue
        try:
            removed = _PRUNE[name](store, limit, now_ms)
        except MltrainError as err:
            result.notes.append(f"nothing was removed for {name}: {err.message}")
            continue
        if removed:
            result.notes.append(f"{name} {limit} removed {removed}")


def _score_live(store: Store) -> LiveScores | None:
    """Return how the answers of the live version came true since its promotion; None: none has an outcome."""
    from mltrain.monitoring.ledger import LEDGER, list_days, read_ledger
    from mltrain.monitoring.live_quality import score_outcomes
    from mltrain.monitoring.rounds import LiveScores
    from mltrain.monitoring.sentinel import read_facts

    if store.live_name() is None or not list_days(store.data_dir / LEDGER):
        return None
    facts, since_ms = read_facts(store)
    rows = (row for row in read_ledger(store.data_dir / LEDGER, since_ms=since_ms) if row.version == facts.version)
    scores = score_outcomes(rows, facts)
    if scores is None:
        return None
    return LiveScores(
        version=facts.version,
        since=format_ms(since_ms),
        rows=scores.rows,
        mean_p=scores.mean_p,
        up_share=scores.up_share,
        ece=scores.ece,
        log_loss=scores.log_loss,
        base_log_loss=scores.base_log_loss,
    )


def _prune_versions(store: Store, keep: int, now_ms: int) -> str:  # noqa: ARG001 -- as the others
    from mltrain.store.version_pruning import prune_versions

    return ", ".join(prune_versions(store, keep=keep).removed)


def _prune_ledger(store: Store, days: int, now_ms: int) -> str:
    from mltrain.monitoring.ledger import LEDGER, prune_ledger

    return ", ".join(prune_ledger(store.data_dir / LEDGER, keep_days=days, now_ms=now_ms).removed)


def _prune_studies(store: Store, days: int, now_ms: int) -> str:
    from mltrain.pipeline.study_pruning import prune_studies

    return ", ".join(prune_studies(store.data_dir, before_ms=now_ms - days * DAY_MS).removed)


def _prune_backtests(store: Store, days: int, now_ms: int) -> str:
    from mltrain.backtesting.stored import list_backtests, prune_backtests

    rows = list_backtests(store.data_dir)
    first = format_ms(now_ms - days * DAY_MS)
    # The rows are in the order of time; a damaged one counts as old.
    old = next((n for n, row in enumerate(rows) if row.backtest and row.backtest.created_at >= first), len(rows))
    return ", ".join(prune_backtests(store.data_dir, keep=len(rows) - old).removed)


def _prune_snapshots(store: Store, days: int, now_ms: int) -> str:
    from mltrain.pipeline.snapshot_pruning import prune_snapshots
    from mltrain.snapshots.snapshot import list_snapshots

    first = format_ms(now_ms - days * DAY_MS)
    young = [row for row in list_snapshots(store.data_dir) if row.problem is None and row.created_at >= first]
    return ", ".join(prune_snapshots(store.data_dir, keep=len(young)).removed)


_PRUNE: Final[Mapping[str, Callable[[Store, int, int], str]]] = {
    "keep_versions": _prune_versions,
    "keep_ledger_days": _prune_ledger,
    "keep_study_days": _prune_studies,
    "keep_backtest_days": _prune_backtests,
    "keep_snapshot_days": _prune_snapshots,
}
