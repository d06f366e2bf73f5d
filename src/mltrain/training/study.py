"""The study: Optuna proposes trials, the journal stores their results, and an interrupted search resumes from it.

Each trial is proposed by a sampler seeded with the trial's number, in the same journal step that records the result of
an earlier trial (`max_in_flight`); the first ones are proposed when the study begins. So the proposals depend neither
on the number of workers nor on interruptions. The journal stores each trial's result in full, so that pruning
thresholds and the best trial are the same after a resumption, to the last bit.
"""

from __future__ import annotations

import hashlib
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from mltrain.config.search_ranges import IntRange
from mltrain.errors import InputError
from mltrain.training.journal import START_OVER, Journal
from mltrain.training.trial import Proposal, TrialRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages.journal import BaseJournalBackend

    from mltrain.config.search_ranges import FloatRange
    from mltrain.progress import Progress

# Completed trials before TPE replaces random sampling: half of a search of 20.
STARTUP_TRIALS: Final = 10
# Optuna user attributes, as written in journals: of a trial, and of the study.
_RESULT_KEY: Final = "told"
_IDENTITY_KEY: Final = "identity"


class SearchSpace(Protocol):
    """The searched hyperparameters."""

    def items(self) -> Iterable[tuple[str, IntRange | FloatRange]]:
        """Return the name and range of each, in the order in which a sampler draws them."""


class SearchSettings(Protocol):
    """What a study needs to know of the search of a model."""

    @property
    def trials(self) -> int:
        """Number of trials."""

    @property
    def batch(self) -> int:
        """Largest number of trials in flight."""

    @property
    def space(self) -> SearchSpace:
        """The searched hyperparameters."""


class Study:
    """A search as its journal stores it.

    Args:
        journal: The records of the study; empty for a new one.
        name: Name of the study in the journal.
        search_config: Its batch and space are used.
        seed: Random seed of the proposals.

    Attributes:
        proposed: The proposed trials, by number, from 0: the completed ones, then those in flight.
        completed: The results of the completed trials, by number, from 0.

    Raises:
        InputError: The journal holds another study, or a result that is invalid or out of order.
    """

    def __init__(self, journal: Journal, name: str, search_config: SearchSettings, *, seed: int) -> None:
        import optuna

        self._journal, self._batch, self._seed = journal, search_config.batch, seed
        self._distributions = {name: _as_distribution(range_) for name, range_ in search_config.space.items()}
        self._storage = optuna.storages.JournalStorage(cast("BaseJournalBackend", journal))
        try:
            make = optuna.create_study if journal.empty else optuna.load_study
            self._study = make(storage=self._storage, study_name=name)
        except KeyError as err:
            raise InputError(f"the journal does not hold the study {name}", hint=START_OVER) from err
        proposed = [trial for trial in self._study.trials if trial.state.name != "WAITING"]
        self.proposed: list[Proposal] = [Proposal(trial.number, trial.params) for trial in proposed]
        self.completed: list[TrialRecord] = [_read_record(t, name) for t in proposed if t.state.is_finished()]
        if [t.number for t in self.completed] != list(range(len(self.completed))):
            raise InputError(f"the study {name} has completed trials out of order", hint=START_OVER)

    def check_identity(self, identity: Mapping[str, str]) -> None:
        """Refuse a stored study whose trials depend on something else than `identity` lists, and name what differs."""
        stored = self._study.user_attrs.get(_IDENTITY_KEY)
        stored = stored if isinstance(stored, dict) else {}
        different = [name for name in identity if stored.get(name) != identity[name]]
        if different:
            raise InputError(
                f"the study {self._study.study_name} is of another {', '.join(different)}", hint=START_OVER
            )

    def begin(self, identity: Mapping[str, str], first_params: Sequence[Mapping[str, float]]) -> None:
        """Record what the trials of a new study depend on, and propose the first ones, which try `first_params`."""
        self._study.set_user_attr(_IDENTITY_KEY, dict(identity))
        for params in first_params:
            self._study.enqueue_trial(dict(params))
        self._propose(completed=0)
        self._journal.commit()

    def _propose(self, *, completed: int) -> None:
        """Propose trials until as many are in flight as `max_in_flight` allows, given how many have completed."""
        from optuna.samplers import TPESampler

        while len(self.proposed) < completed + max_in_flight(completed, self._batch):
            # A sampler per trial, seeded by its number: a resumed study proposes the same trials.
            seed = hashlib.sha256(f"{self._seed}:{len(self.proposed)}".encode()).digest()[:4]
            self._study.sampler = TPESampler(
                seed=int.from_bytes(seed, "big"), n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
            )
            trial = self._study.ask(self._distributions)
            self.proposed.append(Proposal(trial.number, trial.params))

    def report(self, record: TrialRecord) -> None:
        """Record the result of the next trial by number, and propose further trials, in one step of the journal."""
        from optuna.trial import TrialState

        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, record.number)
        stored = {
            "rounds": record.best_round,
            "loss": record.loss,
            "curve_rounds": record.rounds_run,
            "rung_losses": list(record.rung_losses),
            "state": record.state,
            "seconds": record.wall_s,
        }
        self._storage.set_trial_user_attr(trial_id, _RESULT_KEY, stored)
        if record.state == "pruned":
            # TPE ranks pruned trials by their loss at the last rung.
            self._storage.set_trial_intermediate_value(trial_id, len(record.rung_losses), record.loss)
        state = TrialState.COMPLETE if record.state == "complete" else TrialState.PRUNED
        self._storage.set_trial_state_values(trial_id, state, [record.loss])
        self._propose(completed=record.number + 1)
        self._journal.commit()
        self.completed.append(record)


def max_in_flight(completed: int, batch: int) -> int:
    """Return how many trials may be proposed and not yet completed, from the number of completed trials.

    As many as have completed, so that each has results to be compared with; at least two, at most a batch.

    >>> [max_in_flight(completed, 8) for completed in (0, 1, 2, 3, 4, 8, 100)]
    [2, 2, 2, 3, 4, 8, 8]
    """
    return min(batch, max(2, completed))


def completed_when_proposed(number: int, batch: int) -> int:
    """Return how many trials had completed when the trial of this number, from 0, was proposed.

    >>> [completed_when_proposed(number, 8) for number in (0, 1, 2, 3, 4, 6, 7, 16, 100)]
    [0, 0, 1, 2, 3, 4, 4, 9, 93]
    """
    return next(n for n in count(max(0, number - batch)) if n + max_in_flight(n, batch) > number)


def open_study(
    path: Path,
    search_config: SearchSettings,
    *,
    seed: int,
    identity: Mapping[str, str],
    first_params: Sequence[Mapping[str, float]],
    resume: bool,
    progress: Progress,
) -> Study:
    """Open the study of a journal, or begin one.

    Args:
        path: The journal. The caller holds the study's lock.
        search_config: Its trials, batch and space are used.
        seed: Random seed of the proposals.
        identity: A text or hash of each thing that the trials depend on, by name; a stored study must have the same.
        first_params: Hyperparameters of the first trials; the sampler proposes the later ones.
        resume: Whether to continue an unfinished study. Without it, the file is kept as `<name>.old` and a new study
            begins; a finished study is used as it is either way.
        progress: Receives warnings.
    """
    if path.exists():
        study = _open_existing(path, search_config, seed=seed, identity=identity, resume=resume, progress=progress)
        if study is not None and (resume or len(study.completed) >= search_config.trials):
            return study
    elif resume:
        progress.warn(f"there is no study {path.stem} to resume: a new one begins")
    study = Study(Journal.begin(path), path.stem, search_config, seed=seed)
    study.begin(identity, first_params)
    return study


def _open_existing(
    path: Path,
    search_config: SearchSettings,
    *,
    seed: int,
    identity: Mapping[str, str],
    resume: bool,
    progress: Progress,
) -> Study | None:
    """Return the stored study; None if it is empty, or if it is unusable and `resume` is False."""
    try:
        journal, bytes_dropped = Journal.open(path)
        if journal.empty:
            if resume:
                progress.warn(f"the study {path.stem} was interrupted before its first step: a new one begins")
            return None
        if bytes_dropped:
            progress.warn(f"the study's last step was incomplete: {bytes_dropped} bytes were cut off")
        study = Study(journal, path.stem, search_config, seed=seed)
        study.check_identity(identity)
    except InputError as err:
        if not resume:
            return None
        hint = f"run the same command without --resume: the old journal is kept as {path.name}.old"
        raise InputError(err.message, hint=hint) from err
    return study


def _read_record(trial: optuna.trial.FrozenTrial, study_name: str) -> TrialRecord:
    """Return the result that `Study.report` stored with a trial."""
    stored: Any = trial.user_attrs.get(_RESULT_KEY)
    try:
        return TrialRecord(
            number=trial.number,
            params=trial.params,
            best_round=int(stored["rounds"]),
            loss=float(stored["loss"]),
            rounds_run=int(stored["curve_rounds"]),
            rung_losses=tuple(float(loss) for loss in stored["rung_losses"]),
            state="complete" if stored["state"] == "complete" else "pruned",
            wall_s=float(stored["seconds"]),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"the study {study_name} has no valid result of trial {trial.number}") from err


def _as_distribution(range_: IntRange | FloatRange) -> BaseDistribution:
    """Return the range of a hyperparameter as Optuna's distribution."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(range_, IntRange):
        return IntDistribution(range_.low, range_.high, log=range_.is_log)
    return FloatDistribution(range_.low, range_.high, log=range_.is_log)
