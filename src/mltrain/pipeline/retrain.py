"""Uses of an earlier version in training: as a warm start, to retrain it, or as the result itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mltrain.artifact import MODEL_FILE
from mltrain.artifact.bundle import Bundle
from mltrain.card.lineage import read_lineage
from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES
from mltrain.config.loading import load_config
from mltrain.config.train_config import IntRange
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.errors import InputError, UsageError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.pipeline.prepare import cut_samples, read_candles
from mltrain.pipeline.request import WarmStart
from mltrain.serving.model import open_model
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.store.listing import read_version_card
from mltrain.store.signature import MAX_SIGNATURE_BYTES, SIGNATURE
from mltrain.training.booster import fit_final
from mltrain.training.calibration import calibrate
from mltrain.training.samples import build_samples, keep_newest, matrix_sha256
from mltrain.training.search import refit_out_of_fold

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.config.train_config import SearchConfig, TrainConfig
    from mltrain.documents.values import Json
    from mltrain.pipeline.request import TrainRequest
    from mltrain.progress import Progress
    from mltrain.store.signature import Signer
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion


def read_warm_start(version: StoredVersion, plan: SearchConfig) -> WarmStart:
    """Read the hyperparameters of a version as a warm start, each clipped to its range in the search space.

    Raises:
        InputError: The card lacks them.
    """
    card = read_version_card(version)
    params: dict[str, float] = {}
    for name, searched in plan.space.items():
        value = card.number("hyperparameters", name)
        if value is None:
            raise InputError(f"the card of {version.name} lacks its {name}")
        value = min(max(value, searched.low), searched.high)
        params[name] = int(value) if isinstance(searched, IntRange) else value
    blocks = card.sections("splits", "blocks")
    starts = [block.time_ms("start") for block in blocks]
    ends = {block.text("name"): block.time_ms("last_label_end") for block in blocks}
    known_starts = [time for time in starts if time is not None]
    chosen = [time for name, time in ends.items() if time is not None and name != "holdout"]
    every = [time for time in ends.values() if time is not None]
    if not chosen or len(known_starts) < len(blocks) or len(every) < len(ends):
        raise InputError(f"the card of {version.name} does not say which rows its parameters were chosen on")
    return WarmStart(version.name, version.card_sha256, params, min(known_starts), max(chosen), max(every))


@dataclass(frozen=True, slots=True)
class Retraining:
    """The result of retraining a version from its card.

    Attributes:
        expected_sha256: Hash of its lgbm.pkl.
        found_sha256: Hash of the retrained lgbm.pkl.
        differences: What has changed since the version was trained, one sentence each.
    """

    expected_sha256: str
    found_sha256: str
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both are equal, to the last byte."""
        return self.expected_sha256 == self.found_sha256

    @property
    def problems(self) -> tuple[str, ...]:
        """The differences, one sentence each; empty if both are equal."""
        if self.same:
            return ()
        mismatch = f"made again, lgbm.pkl has SHA-256 {self.found_sha256}, not {self.expected_sha256}"
        return (mismatch, *self.differences)


def retrain_version(version: StoredVersion, data_dir: Path, *, progress: Progress) -> Retraining:
    """Refit a version from its snapshot and from the hyperparameters and rounds in its card, without a search.

    Args:
        version: The version.
        data_dir: The data folder with its snapshot.
        progress: Receives every stage.

    Raises:
        InputError: The snapshot is missing or damaged, or the card lacks what is needed.
        MachineError: The machine refuses.
    """
    card = read_version_card(version)
    feature_set, config = open_model(version).feature_set, _read_config(version, card)
    snapshot = open_snapshot(data_dir, card.snapshot_id)
    candles = read_candles(snapshot, progress)
    progress.stage("features and labels")
    samples, _ = build_samples(feature_set, keep_newest(candles, config.max_rows))
    samples, split = cut_samples(samples, feature_set, config, progress)
    progress.stage("fit again")
    hyperparameters: Any = card.value("hyperparameters")
    tuned = {name: hyperparameters[name] for name, _ in config.search.space.items()}
    rounds = int(hyperparameters["num_iterations"])
    oof = refit_out_of_fold(samples, split, config, params=tuned, rounds=rounds)
    choice = calibrate(config.calibration, oof.scores, samples.y[oof.rows], oof.fold)
    bundle = Bundle(
        model_text=fit_final(samples, split, config, tuned=tuned, rounds=rounds, final=card.fitted_on),
        calibrator=choice.calibrator,
        feature_set=feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=feature_set.user_ops(),
    )
    now = {
        "snapshot_manifest_sha256": snapshot.manifest_sha256,
        "matrix_sha256": matrix_sha256(samples),
        "ops_sha256": bundle.ops_sha256,
    }
    return Retraining(
        expected_sha256=next(entry.sha256 for entry in version.manifest.files if entry.path == MODEL_FILE),
        found_sha256=sha256_bytes(bundle.to_bytes()),
        differences=tuple(
            f"{name} is {value}, the card says {card.text('lineage', name)}"
            for name, value in now.items()
            if card.text("lineage", name) != value
        ),
    )


def find_same_version(request: TrainRequest, store: Store) -> StoredVersion | None:
    """Return the version that a training would only repeat; None where it would make a new one.

    Compared are snapshot, registry, the whole configuration with its seed, the parameters of a warm start, the rows of
    the final fit, code, libraries and processor (another one sums in another order). A search that a timeout ended
    never counts as the same, because it might end elsewhere. Every file of the version and of the snapshot is hashed: a
    damaged version does not count.

    Args:
        request: The training.
        store: Where versions live; where it signs what is published, the version must have that signature.

    Returns:
        If there are several, the live version, or else the newest.

    Raises:
        InputError: The pointer or a log is not one, or the pointer was lost.
        MachineError: The machine refuses to read.
    """
    store.check_pointer()
    store.looks()
    wanted = _expected_lineage(request)
    versions = [row.version for row in store.versions() if row.version is not None]
    for version in sorted(versions, key=lambda v: (v.live, v.serial), reverse=True):
        if _card_matches(version, wanted, request) and _is_signed(version, store.signer) and not version.verify():
            return None if verify_snapshot(request.snapshot) else version
    return None


def _expected_lineage(request: TrainRequest) -> dict[str, Json]:
    """Return the fields that the card's lineage would have after this training and that decide the result."""
    lineage, user_ops = read_lineage(), request.feature_set.user_ops()
    return {
        "snapshot_manifest_sha256": request.snapshot.manifest_sha256,
        "registry_sha256": request.feature_set.registry_sha256,
        "config_sha256": sha256_bytes(canonical_json(request.config.to_json())),
        "ops_sha256": ops_sha256(),
        "own_ops": None if user_ops is None else asdict(user_ops),
        "package_sha256": lineage.package_sha256,
        "dependencies": dict(lineage.dependencies),
        "python": lineage.python,
        "platform": lineage.platform,
        "cpu": lineage.cpu,
    }


def _card_matches(version: StoredVersion, wanted: Mapping[str, Json], request: TrainRequest) -> bool:
    """Return whether the lineage in a version's card has these values; False if the card cannot be read."""
    try:
        data = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
        if request.snapshot.manifest_sha256.encode() not in data:
            # Rules out most versions without parsing the card.
            return False
        card = ModelCard.from_json(parse_json(data, where=CARD_FILE, max_bytes=MAX_CARD_BYTES))
    except InputError:
        return False
    return (
        {name: card.value("lineage", name) for name in wanted} == wanted
        and (card.fitted_on, card.text("search", "ended_by")) == (request.final, "trials")
        and card.value("search", "warm_start") == (request.warm_start and request.warm_start.to_json())
    )


def _is_signed(version: StoredVersion, signer: Signer | None) -> bool:
    if signer is None:
        return True
    path = version.folder / SIGNATURE
    try:
        found = read_file(path, max_bytes=MAX_SIGNATURE_BYTES, what="the signature")
    except InputError:
        return False
    # Ed25519 signatures are deterministic.
    return found == signer.sign(version.manifest)


def _read_config(version: StoredVersion, card: ModelCard) -> TrainConfig:
    config = card.value("lineage", "config")
    if not isinstance(config, dict):
        raise InputError(f"the card of {version.name} lacks the configuration that it was trained with")
    try:
        return load_config(None, overrides=config)
    except UsageError as err:
        raise InputError(f"the configuration in the card of {version.name}: {err.message}", hint=err.hint) from err
