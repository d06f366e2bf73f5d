"""The study: Optuna proposes, the journal keeps what became of it, and a search that was killed goes on from there.

Every trial is proposed by a sampler whose seed is of that trial alone, in the step in which an earlier one is told
(`on_their_way`), the first ones as the study begins. So what a study proposes depends on neither who runs its trials
nor when it was interrupted. What was told is kept with the trial, so that the bounds of the rungs and the best trial
are the same after a resumption, to the last bit.
"""

from __future__ import annotations

import hashlib
from itertools import count
from typing import TYPE_CHECKING, Any, Final, cast

from mltrain.config.train_config import IntRange
from mltrain.errors import InputError
from mltrain.training.journal import ANEW, Journal
from mltrain.training.trial import Proposal, TrialRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages.journal import BaseJournalBackend

    from mltrain.config.train_config import FloatRange, SearchConfig
    from mltrain.progress import Progress

STARTUP_TRIALS: Final = 10  # finished trials before TPE replaces random sampling: half of a search of 20
_RECORD: Final = "told"  # under this name a trial keeps what was told of it
_IDENTITY: Final = "identity"


class Study:
    """A search as it is kept.

    Args:
        journal: Its records.
        name: Its name among them.
        plan: Its batch and space count here.
        seed: Of its proposals.

    Attributes:
        asked: The trials that have been proposed, by number, from 0: those told, and those on their way.
        told: What became of the trials, by number, from 0.
    """

    def __init__(self, journal: Journal, name: str, plan: SearchConfig, *, seed: int) -> None:
        import optuna

        self._journal, self._plan, self._seed = journal, plan, seed
        self._distributions = {name: _distribution(searched) for name, searched in plan.space.items()}
        self._storage = optuna.storages.JournalStorage(cast("BaseJournalBackend", journal))
        try:
            make = optuna.create_study if journal.empty else optuna.load_study
            self._study = make(storage=self._storage, study_name=name)
        except KeyError as err:
            raise InputError(f"the journal does not hold the study {name}", hint=ANEW) from err
        self._id = self._storage.get_study_id_from_name(name)
        asked = [trial for trial in self._study.trials if trial.state.name != "WAITING"]
        self.asked: list[Proposal] = [Proposal(trial.number, trial.params) for trial in asked]
        self.told: list[TrialRecord] = [_read_record(t, name) for t in asked if t.state.is_finished()]
        if [t.number for t in self.told] != list(range(len(self.told))):
            raise InputError(f"the study {name} tells of trials out of their order", hint=ANEW)

    def check_identity(self, identity: Mapping[str, str]) -> None:
        """Refuse a study whose trials depend on something else.

        Raises:
            InputError: Names what is another.
        """
        kept = self._study.user_attrs.get(_IDENTITY)
        kept = kept if isinstance(kept, dict) else {}
        other = [name for name in identity if kept.get(name) != identity[name]]
        if other:
            raise InputError(f"the study {self._study.study_name} is of another {', '.join(other)}", hint=ANEW)

    def begin(self, identity: Mapping[str, str], first: Sequence[Mapping[str, float]]) -> None:
        """Write down what its trials depend on, and which parameters are tried before any is proposed."""
        self._study.set_user_attr(_IDENTITY, dict(identity))
        for params in first:
            self._study.enqueue_trial(dict(params))
        self._ask(told=0)
        self._journal.commit()

    def _ask(self, *, told: int) -> None:
        """Propose the trials that may be on their way when so many have been told."""
        while len(self.asked) < told + on_their_way(told, self._plan.batch):
            self._propose()

    def _propose(self) -> None:
        from optuna.samplers import TPESampler

        own_seed = hashlib.sha256(f"{self._seed}:{len(self.asked)}".encode()).digest()[:4]
        self._study.sampler = TPESampler(
            seed=int.from_bytes(own_seed, "big"), n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
        )
        trial = self._study.ask(self._distributions)
        self.asked.append(Proposal(trial.number, trial.params))

    def tell(self, record: TrialRecord) -> None:
        """Tell of a trial, and ask the next ones; of a pruned one, its loss at the last rung, by which TPE ranks it."""
        from optuna.trial import TrialState

        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, record.number)
        kept = {
            "rounds": record.rounds,
            "loss": record.loss,
            "curve_rounds": record.curve_rounds,
            "rung_losses": list(record.rung_losses),
            "state": record.state,
            "seconds": record.seconds,
        }
        self._storage.set_trial_user_attr(trial_id, _RECORD, kept)
        if record.state == "pruned":
            self._storage.set_trial_intermediate_value(trial_id, len(record.rung_losses), record.loss)
        state = TrialState.COMPLETE if record.state == "complete" else TrialState.PRUNED
        self._storage.set_trial_state_values(trial_id, state, [record.loss])
        self._ask(told=record.number + 1)
        self._journal.commit()
        self.told.append(record)


def on_their_way(told: int, batch: int) -> int:
    """Return how many trials run, or wait to be run, when so many have been told.

    As many as were told, so that there is something to judge each by, but two at least and a batch at most.

    >>> [on_their_way(told, 8) for told in (0, 1, 2, 3, 4, 8, 100)]
    [2, 2, 2, 3, 4, 8, 8]
    """
    return min(batch, max(2, told))


def told_before(number: int, batch: int) -> int:
    """Return how many trials had been told when a trial was asked.

    >>> [told_before(number, 8) for number in (0, 1, 2, 3, 4, 6, 7, 16, 100)]
    [0, 0, 1, 2, 3, 4, 4, 9, 93]
    """
    return next(told for told in count(max(0, number - batch)) if told + on_their_way(told, batch) > number)


def open_study(
    path: Path,
    plan: SearchConfig,
    *,
    seed: int,
    identity: Mapping[str, str],
    first: Sequence[Mapping[str, float]],
    resume: bool,
    progress: Progress,
) -> Study:
    """Open the study of a journal, or begin one.

    Args:
        path: The journal. The caller holds the study's lock.
        plan: Its trials, batch and space count here.
        seed: Of its proposals.
        identity: What its trials depend on: one that is there and depends on something else is not this study.
        first: Parameters that are tried before any is proposed.
        resume: Whether an unfinished one goes on. Without it, it is kept as `<name>.old` and begun anew; a finished
            one is taken as it is either way.
        progress: Told of what a user may not expect.

    Raises:
        InputError: It was to be resumed, and is damaged or of other data.
        MachineError: The machine refuses.
    """
    if path.exists():
        study = _open_own(path, plan, seed=seed, identity=identity, resume=resume, progress=progress)
        if study is not None and (resume or len(study.told) >= plan.trials):
            return study
    elif resume:
        progress.warn(f"there is no study {path.stem} to resume: it begins now")
    study = Study(Journal.begin(path), path.stem, plan, seed=seed)
    study.begin(identity, first)
    return study


def _open_own(
    path: Path, plan: SearchConfig, *, seed: int, identity: Mapping[str, str], resume: bool, progress: Progress
) -> Study | None:
    """Return the study that is there; None where it is not this one and need not be."""
    try:
        journal, cut = Journal.open(path)
        if journal.empty:
            if resume:
                progress.warn(f"the study {path.stem} had not begun when it was interrupted: it begins now")
            return None
        if cut:
            progress.warn(f"the study's last step was not written whole: {cut} bytes were cut off")
        study = Study(journal, path.stem, plan, seed=seed)
        study.check_identity(identity)
    except InputError as err:
        if not resume:
            return None
        raise InputError(
            err.message, hint=f"without --resume it is begun anew, and what is there kept as {path.name}.old"
        ) from err
    return study


def _read_record(trial: optuna.trial.FrozenTrial, name: str) -> TrialRecord:
    kept: Any = trial.user_attrs.get(_RECORD)
    try:
        return TrialRecord(
            number=trial.number,
            params=trial.params,
            rounds=int(kept["rounds"]),
            loss=float(kept["loss"]),
            curve_rounds=int(kept["curve_rounds"]),
            rung_losses=tuple(float(loss) for loss in kept["rung_losses"]),
            state="complete" if kept["state"] == "complete" else "pruned",
            seconds=float(kept["seconds"]),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"the study {name} does not tell what became of trial {trial.number}") from err


def _distribution(searched: IntRange | FloatRange) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(searched, IntRange):
        return IntDistribution(searched.low, searched.high, log=searched.is_log)
    return FloatDistribution(searched.low, searched.high, log=searched.is_log)
