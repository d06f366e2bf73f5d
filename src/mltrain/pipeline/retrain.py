"""Use an earlier version in training: as a warm start, to retrain it, or as the result itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from mltrain.artifact import MODEL_FILES
from mltrain.artifact.bundle import Bundle
from mltrain.card.lineage import read_lineage
from mltrain.card.model_card import ModelCard
from mltrain.card.training_results import TrainingData
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES
from mltrain.config.loading import load_config
from mltrain.config.search_ranges import IntRange
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.errors import InputError, UsageError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.pipeline.fit_network import refit_network
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
from mltrain.training.samples import build_samples_and_ties, keep_newest, keep_symbols, matrix_sha256
from mltrain.training.search import refit_out_of_fold

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.artifact.sequence_bundle import SequenceBundle
    from mltrain.config.train_config import SearchConfig, TrainConfig
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet
    from mltrain.pipeline.request import TrainRequest
    from mltrain.progress import Progress
    from mltrain.store.signature import Signer
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split


def read_warm_start(version: StoredVersion, config: SearchConfig) -> WarmStart:
    """Read the hyperparameters of a version as a warm start, each clipped to its range in the search space.

    Raises:
        InputError: The card lacks a hyperparameter, or the times of the rows on which they were chosen.
    """
    card = read_version_card(version)
    optional = {item.name for item in fields(config.space) if item.default is None}
    params: dict[str, float] = {}
    for name, searched in config.space.items():
        value = card.number("hyperparameters", name)
        if value is None and name in optional:
            # That version's search did not have it.
            fixed = card.number("lineage", "config", "booster", name)
            value = searched.default if fixed is None else fixed
        if value is None:
            raise InputError(f"the card of {version.name} lacks its {name}")
        value = min(max(value, searched.low), searched.high)
        params[name] = int(value) if isinstance(searched, IntRange) else value
    blocks = [
        (block.text("name"), block.time_ms("start"), block.time_ms("last_label_end"))
        for block in card.sections("splits", "blocks")
    ]
    starts_ms = [start_ms for _, start_ms, _ in blocks if start_ms is not None]
    ends_ms = [end_ms for _, _, end_ms in blocks if end_ms is not None]
    # The holdout only judges the parameters.
    chosen_ends_ms = [end_ms for name, _, end_ms in blocks if end_ms is not None and name != "holdout"]
    if not chosen_ends_ms or len(starts_ms) < len(blocks) or len(ends_ms) < len(blocks):
        raise InputError(f"the card of {version.name} does not say which rows its parameters were chosen on")
    return WarmStart(
        version=version.name,
        card_sha256=version.card_sha256,
        params=params,
        start_ms=min(starts_ms),
        chosen_until_ms=max(chosen_ends_ms),
        end_ms=max(ends_ms),
    )


@dataclass(frozen=True, slots=True)
class Retraining:
    """The result of retraining a version from its card.

    Attributes:
        file: Name of the file of its model, which holds the hashes of others.
        expected_sha256: Hash of that file.
        found_sha256: Hash of the retrained one.
        differences: What has changed since the version was trained, one sentence each.
    """

    file: str
    expected_sha256: str
    found_sha256: str
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the retrained model has the same bytes."""
        return self.expected_sha256 == self.found_sha256

    @property
    def problems(self) -> tuple[str, ...]:
        """How the retrained model differs, and what has changed, one sentence each; empty if the bytes are equal."""
        if self.same:
            return ()
        mismatch = f"made again, {self.file} has SHA-256 {self.found_sha256}, not {self.expected_sha256}"
        return (mismatch, *self.differences)


def retrain_version(version: StoredVersion, data_dir: Path, *, progress: Progress) -> Retraining:
    """Refit a version from its snapshot and from the hyperparameters and rounds in its card, without a search.

    Raises:
        InputError: The data folder lacks the snapshot, the snapshot is damaged, or the card lacks what is needed.
    """
    card = read_version_card(version)
    feature_set, config = open_model(version).feature_set, read_training_config(version, card)
    snapshot = open_snapshot(data_dir, card.snapshot_id)
    candles = read_candles(snapshot, progress, feature_set)
    progress.stage("features and labels")
    samples, ties, quality = build_samples_and_ties(feature_set, keep_newest(candles, config.max_rows))
    samples, split = cut_samples(samples, feature_set, config, progress)
    ties = keep_symbols(ties, samples.symbols)
    progress.stage("fit again")
    hyperparameters: Any = card.value("hyperparameters")
    bundle: Bundle | SequenceBundle
    if config.model == "tft":
        data = TrainingData(snapshot, feature_set, candles, samples, quality, split, (), ties)
        bundle, samples = refit_network(data, config, hyperparameters, fitted_on=card.fitted_on, progress=progress)
    else:
        bundle = _refit_booster(samples, split, config, hyperparameters, feature_set, fitted_on=card.fitted_on)
    current_lineage = {
        "snapshot_manifest_sha256": snapshot.manifest_sha256,
        "matrix_sha256": matrix_sha256(samples),
        "ops_sha256": bundle.ops_sha256,
    }
    written = next(entry for entry in version.manifest.files if entry.path in MODEL_FILES)
    return Retraining(
        file=written.path,
        expected_sha256=written.sha256,
        found_sha256=sha256_bytes(bundle.to_files()[written.path]),
        differences=tuple(
            f"{name} is {value}, the card says {card.text('lineage', name)}"
            for name, value in current_lineage.items()
            if card.text("lineage", name) != value
        ),
    )


def _refit_booster(
    samples: Samples,
    split: Split,
    config: TrainConfig,
    hyperparameters: Mapping[str, Any],
    feature_set: FeatureSet,
    *,
    fitted_on: Literal["inner", "all"],
) -> Bundle:
    """Return the model of boosted trees with these hyperparameters and rounds."""
    tuned = {name: hyperparameters[name] for name, _ in config.search.space.items()}
    rounds = int(hyperparameters["num_iterations"])
    oof = refit_out_of_fold(samples, split, config, params=tuned, rounds=rounds)
    choice = calibrate(config.calibration, oof.scores, samples.y[oof.rows], oof.fold)
    return Bundle(
        model_text=fit_final(samples, split, config, tuned=tuned, rounds=rounds, fitted_on=fitted_on),
        calibrator=choice.calibrator,
        feature_set=feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=feature_set.user_ops(),
    )


def find_same_version(request: TrainRequest, store: Store) -> StoredVersion | None:
    """Return the stored version of the slot that a training would only repeat; None if it would give a new one.

    Compared are snapshot, registry, the whole configuration with its seed, the parameters of a warm start, the rows of
    the final fit, code, libraries and processor (another one sums in another order). A search that a timeout ended
    never counts as the same, because it might end elsewhere. Every file of the version and of the snapshot is hashed: a
    damaged version does not count. If the store has a signer, the version must have its signature. Of several versions,
    the live one is returned, or else the newest.
    """
    # Raise if the pointer to the live version was lost, or if a log is damaged.
    store.check_pointer()
    store.looks()
    expected = _collect_lineage(request)
    versions = [row.version for row in store.versions() if row.version and row.version.slot == store.slot]
    for version in sorted(versions, key=lambda v: (v.live, v.serial), reverse=True):
        if _card_matches(version, expected, request) and _is_signed(version, store.signer) and not version.verify():
            return None if verify_snapshot(request.snapshot) else version
    return None


def _collect_lineage(request: TrainRequest) -> dict[str, Json]:
    """Return the fields of a card's lineage that decide a training's result, with their values for this training."""
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


def _card_matches(version: StoredVersion, lineage: Mapping[str, Json], request: TrainRequest) -> bool:
    """Return whether a version's card has these values of the lineage and the request's warm start and final fit.

    False if the card cannot be read, or if a timeout ended the search.
    """
    try:
        card_json = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
        if request.snapshot.manifest_sha256.encode() not in card_json:
            # Rules out most versions without parsing the card.
            return False
        card = ModelCard.from_json(parse_json(card_json, where=CARD_FILE, max_bytes=MAX_CARD_BYTES))
    except InputError:
        return False
    return (
        {name: card.value("lineage", name) for name in lineage} == lineage
        and (card.fitted_on, card.text("search", "ended_by")) == (request.final, "trials")
        and card.value("search", "warm_start") == (request.warm_start and request.warm_start.to_json())
    )


def _is_signed(version: StoredVersion, signer: Signer | None) -> bool:
    """Return whether a version has the signature that this signer would make; True without a signer."""
    if signer is None:
        return True
    try:
        signature = read_file(version.folder / SIGNATURE, max_bytes=MAX_SIGNATURE_BYTES, what="the signature")
    except InputError:
        return False
    # Ed25519 signatures are deterministic.
    return signature == signer.sign(version.manifest)


def read_training_config(version: StoredVersion, card: ModelCard) -> TrainConfig:
    """Return the configuration that the card says the version was trained with; raise InputError if it is invalid."""
    config = card.value("lineage", "config")
    if not isinstance(config, dict):
        raise InputError(f"the card of {version.name} lacks the configuration that it was trained with")
    try:
        return load_config(None, overrides=config)
    except UsageError as err:
        raise InputError(f"the configuration in the card of {version.name}: {err.message}", hint=err.hint) from err
